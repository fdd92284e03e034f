"""Precision, accumulation and clipping from a config to metrics.json and through a checkpoint."""

import pytest
import torch
from small_run import metric_rows

from centernet.config_file import load_config
from centernet.engine import run
from centernet.engine.step import step_options


def configured(small, folder, *opts):
    options = ("SOLVER.CLIP_GRADIENTS.ENABLED", "True", "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "full_model",
               "SOLVER.AMP.ENABLED", "True", "SOLVER.GRADIENT_ACCUMULATION", "2", "SOLVER.CHECKPOINT_PERIOD", "2",
               "DATASETS.TEST", "()", "SEED", "7", "OUTPUT_DIR", str(folder))  # fmt: skip
    return load_config(str(small), [*options, *opts])


def test_defaults(small):
    options = step_options(load_config(str(small)))
    assert (options["parts"], options["largest_norm"], options["precision"].dtype) == (1, None, None)


@pytest.mark.parametrize("precision", ["bfloat16", pytest.param("float16", marks=pytest.mark.slow)])
def test_all_of_it_and_resumed_exactly(small, tmp_path, precision):
    amp = "SOLVER.AMP.PRECISION", precision
    run(configured(small, tmp_path / "whole", *amp, "SOLVER.MAX_ITER", "4"))
    run(configured(small, tmp_path / "parts", *amp, "SOLVER.MAX_ITER", "4", "SOLVER.TRAIN_ITER", "2"))
    run(configured(small, tmp_path / "parts", *amp, "SOLVER.MAX_ITER", "4"), resume=True)
    (whole,), parts = metric_rows(tmp_path / "whole"), metric_rows(tmp_path / "parts")
    assert whole == parts[-1]
    assert whole["gradient_norm"] > 0
    assert ("gradient_scale" in whole) == (precision == "float16")
    one, other = (torch.load(tmp_path / name / "model_final.pth") for name in ("whole", "parts"))
    assert all(torch.equal(value, other["model"][name]) for name, value in one["model"].items())
    assert one["trainer"]["precision"] == other["trainer"]["precision"]
    assert (one["trainer"]["precision"]["scaler"] is None) == (precision == "bfloat16")
