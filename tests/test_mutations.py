"""The tests guard the constants: each line below changes one of them, and some test must fail."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]

MUTATIONS = {
    "delta of the Gaussian": ("ops/heatmap.py", "(1 - min_overlap) / (1 + min_overlap)", "(1 - min_overlap) / 1.7"),
    "two in the squared radius": ("ops/heatmap.py", "2 * delta**2", "1.9 * delta**2"),
    "minimum radius": ("ops/heatmap.py", "clamp(min=min_radius**2)", "clamp(min=min_radius)"),
    "floor of the heatmap": ("ops/heatmap.py", "FLOOR = 1e-4", "FLOOR = 1e-3"),
    "reach of the window": ("ops/heatmap.py", "* 1.0001)", "* 0.9)"),
    "lower end of a level": ("ops/assign.py", ">= ranges[None, :, 0]", "> ranges[None, :, 0]"),
    "upper end of a level": ("ops/assign.py", "<= ranges[None, :, 1]", "< ranges[None, :, 1]"),
    "half of the diagonal": ("ops/assign.py", ".sqrt() / 2", ".sqrt()"),
    "offset of the cells": ("ops/grid.py", "* stride + stride // 2\n    y", "* stride\n    y"),
    "strictly inside": ("ops/targets.py", "amin(dim=-1) > 0", "amin(dim=-1) > 0.3"),
    "peak distance": ("ops/targets.py", "u[..., CENTER] = 0", "u[..., CENTER] += 0"),
    "one in the IoU": ("ops/losses.py", "(intersection + offset) /", "intersection /"),
    "default of the one": (
        "ops/losses.py",
        "loss_type: str, *, offset: float = 1.0",
        "loss_type: str, *, offset: float = 0.0",
    ),
    "sign in GIoU": ("ops/losses.py", "(iou - (hull - union)", "(iou + (hull - union)"),
    "alpha": ("ops/losses.py", "alpha: float = 0.25", "alpha: float = 0.3"),
    "beta": ("ops/losses.py", "beta: float = 4.0", "beta: float = 3.0"),
    "gamma": ("ops/losses.py", "gamma: float = 2.0", "gamma: float = 1.5"),
    "clamp of probabilities": ("ops/losses.py", "clamp: float = 1e-4", "clamp: float = 1e-2"),
    "strictness of extra positives": ("ops/more_positives.py", "loss < limit", "loss <= limit"),
    "root of the first stage": ("ops/decode.py", "value.sqrt() if rules.sqrt_score", "value if rules.sqrt_score"),
    "root of the second stage": ("ops/second_stage.py", "[..., None]).sqrt()", "[..., None])"),
    "smallest side": ("ops/decode.py", "_MIN_SIDE = 0.01", "_MIN_SIDE = 0.1"),
    "SOI in the config": ("config.py", "[64, 160]", "[64, 150]"),
    "prior in the config": ("config.py", "node.PRIOR_PROB = 0.01  # heatmap", "node.PRIOR_PROB = 0.02  # heatmap"),
    "bias of the boxes": ("modeling/dense_heads/centernet_head.py", "_BOX_BIAS = 8.0", "_BOX_BIAS = 6.0"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTATIONS)
def test_a_test_notices(name, tmp_path):
    path, old, new = MUTATIONS[name]
    for folder in ("centernet", "configs", "tests"):
        shutil.copytree(REPOSITORY / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    target = tmp_path / "centernet" / path
    text = target.read_text()
    assert text.count(old) == 1, f"{old!r} is not in {path} once: mend the mutation"
    target.write_text(text.replace(old, new))
    # configs and models only where the operators cannot notice
    where = ["tests/ops"] if path.startswith("ops") else ["tests/test_config.py", "tests/modeling/test_centernet.py"]
    verdict = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *where],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert verdict.returncode == 1, f"no test noticed: {new!r} for {old!r}\n{verdict.stdout[-2000:]}"
