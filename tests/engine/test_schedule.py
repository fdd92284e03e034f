"""Schedules that cannot be are refused in a sentence; the rate of any iteration is that of the config."""

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.solver import build_lr_scheduler

from centernet.config import add_centernet_config
from centernet.engine.schedule import check_schedule, move_schedule
from centernet.errors import UserError


def config(**options):
    cfg = get_cfg()
    add_centernet_config(cfg)
    cfg.SOLVER.merge_from_other_cfg(type(cfg)({"MAX_ITER": 100, "STEPS": (50,), "WARMUP_ITERS": 10} | options))
    return cfg


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"MAX_ITER": 0}, "SOLVER.MAX_ITER is 0: it is a number of iterations"),
        ({"CHECKPOINT_PERIOD": 0}, "SOLVER.CHECKPOINT_PERIOD is 0: it is a number of iterations"),
        ({"TRAIN_ITER": 120}, "SOLVER.TRAIN_ITER is 120, but the schedule ends at SOLVER.MAX_ITER 100"),
        ({"STEPS": (50, 40)}, r"SOLVER.STEPS \(50, 40\) is no schedule"),
        ({"LR_SCHEDULER_NAME": "Nope"}, "SOLVER.LR_SCHEDULER_NAME Nope with"),
    ],
)
def test_refuses(options, sentence):
    check_schedule(config())
    with pytest.raises(UserError, match=sentence):
        check_schedule(config(**options))


@pytest.mark.parametrize("name", ["WarmupMultiStepLR", "WarmupCosineLR"])
def test_moved_is_as_if_it_had_been_stepped(name):
    cfg = config(LR_SCHEDULER_NAME=name)
    optimizers = [torch.optim.SGD([torch.ones(1, requires_grad=True)], 0.3) for _ in range(2)]
    stepped, moved = (build_lr_scheduler(cfg, optimizer) for optimizer in optimizers)
    for iteration in range(1, 101):
        optimizers[0].step()
        stepped.step()
        moved.base_lrs = [7.0]  # of a checkpoint
        move_schedule(moved, iteration)
        assert optimizers[0].param_groups[0]["lr"] == optimizers[1].param_groups[0]["lr"]
