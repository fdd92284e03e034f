"""The learning rate: detectron2's schedules, a function of the iteration and the config."""

import torch
from detectron2.config import CfgNode
from detectron2.solver import build_lr_scheduler

from ..errors import UserError

__all__ = ["check_schedule", "move_schedule"]


def check_schedule(cfg: CfgNode) -> None:
    """Raise :class:`UserError` for iterations, periods and steps of SOLVER that cannot be."""
    node = cfg.SOLVER
    for key in ("MAX_ITER", "CHECKPOINT_PERIOD"):
        if node[key] < 1:
            raise UserError(f"SOLVER.{key} is {node[key]}: it is a number of iterations, 1 or more")
    if node.TRAIN_ITER > node.MAX_ITER:
        raise UserError(
            f"SOLVER.TRAIN_ITER is {node.TRAIN_ITER}, but the schedule ends at SOLVER.MAX_ITER {node.MAX_ITER}: raise "
            "that, or set TRAIN_ITER to -1"
        )
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 1.0)
    try:
        build_lr_scheduler(cfg, optimizer)
    except ValueError as error:
        raise UserError(
            f"SOLVER.LR_SCHEDULER_NAME {node.LR_SCHEDULER_NAME} with SOLVER.STEPS {tuple(node.STEPS)} is no schedule "
            f"({error}): use WarmupMultiStepLR with steps that rise, or WarmupCosineLR"
        ) from error


def move_schedule(scheduler: torch.optim.lr_scheduler.LRScheduler, iteration: int) -> None:
    """Give the learning rate the value that the config says for ``iteration``, whatever a checkpoint had."""
    scheduler.base_lrs = [group["initial_lr"] for group in scheduler.optimizer.param_groups]
    scheduler.last_epoch = iteration
    for group, rate in zip(scheduler.optimizer.param_groups, scheduler.get_lr(), strict=True):
        group["lr"] = rate
