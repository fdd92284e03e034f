"""SOLVER.REFERENCE_WORLD_SIZE: one factor for batch, rate and lengths."""

import pytest
from small_run import write_config

from centernet.config_file import load_config, resolve_output_dir
from centernet.engine import check_run, train
from centernet.engine.scaling import scale_to_processes
from centernet.errors import UserError

OPTS = ["SOLVER.REFERENCE_WORLD_SIZE", "8", "SOLVER.IMS_PER_BATCH", "16", "SOLVER.BASE_LR", "0.02"]
LENGTHS = ["SOLVER.MAX_ITER", "90000", "SOLVER.STEPS", "(60000, 80000)", "SOLVER.WARMUP_ITERS", "1000"]
PERIODS = ["SOLVER.CHECKPOINT_PERIOD", "5000", "TEST.EVAL_PERIOD", "1", "SOLVER.TRAIN_ITER", "900"]


def test_scaled_to_half_and_double():
    cfg = load_config("", [*OPTS, *LENGTHS, *PERIODS])
    before = cfg.dump()
    small, large = scale_to_processes(cfg, 2), scale_to_processes(cfg, 16)
    assert cfg.dump() == before
    solver = small.SOLVER
    assert (solver.IMS_PER_BATCH, solver.BASE_LR, solver.MAX_ITER, solver.STEPS) == (4, 0.005, 360000, (240000, 320000))
    assert (solver.WARMUP_ITERS, solver.CHECKPOINT_PERIOD, solver.TRAIN_ITER) == (4000, 20000, 3600)
    assert small.TEST.EVAL_PERIOD == 4
    solver = large.SOLVER
    assert (solver.IMS_PER_BATCH, solver.BASE_LR, solver.MAX_ITER, solver.TRAIN_ITER) == (32, 0.04, 45000, 450)
    assert large.TEST.EVAL_PERIOD == 1  # not 0, which is never
    assert scale_to_processes(large, 16) is large


def test_nothing_to_scale(caplog):
    for opts in (OPTS[2:], [*OPTS, "SOLVER.REFERENCE_WORLD_SIZE", "3", "SOLVER.IMS_PER_BATCH", "3"]):
        cfg = load_config("", opts)
        assert scale_to_processes(cfg, 3) is cfg
    del cfg.SOLVER["REFERENCE_WORLD_SIZE"]  # older detectron2
    assert scale_to_processes(cfg, 3) is cfg
    assert not caplog.messages


@pytest.mark.parametrize("reference", [-1, 5])
def test_refuses(reference):
    with pytest.raises(UserError, match=f"SOLVER.REFERENCE_WORLD_SIZE is {reference}: .* must divide it"):
        scale_to_processes(load_config("", [*OPTS, "SOLVER.REFERENCE_WORLD_SIZE", str(reference)]), 2)


def test_frozen_stays_frozen():
    cfg = load_config("", OPTS)
    cfg.freeze()
    assert scale_to_processes(cfg, 4).is_frozen()


def test_run_of_a_scaled_config(tmp_path):
    """Meant for 2 processes, run in 1: half the batch and rate, twice the iterations, the same data."""
    file = write_config(tmp_path)
    cfg = load_config(file, ["SOLVER.REFERENCE_WORLD_SIZE", "2", "DATASETS.TEST", "()", "SOLVER.TRAIN_ITER", "2"])
    resolve_output_dir(cfg, file)
    check_run(cfg)
    train(cfg)
    done = load_config(tmp_path / "output" / "small" / "config.yaml")
    node = done.SOLVER
    assert (node.REFERENCE_WORLD_SIZE, node.IMS_PER_BATCH, node.MAX_ITER, node.BASE_LR) == (1, 1, 24, 0.005)
    log = (tmp_path / "output" / "small" / "log.txt").read_text()
    assert "Training from iteration 0 to 4" in log
    assert "batch_size=1, learning_rate=0.005, max_iter=24, warmup=8" in log
