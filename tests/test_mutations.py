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
    "overlap in the config": ("config.py", "HM_MIN_OVERLAP = 0.8", "HM_MIN_OVERLAP = 0.7"),
    "radius in the config": ("config.py", "MIN_RADIUS = 4", "MIN_RADIUS = 5"),
    "the one in the config": ("config.py", "IOU_OFFSET = 1.0", "IOU_OFFSET = 0.5"),
    "SOI in the constructor": ("modeling/dense_heads/centernet.py", "(64, 160)", "(64, 150)"),
    "SOI in the config": ("config.py", "[64, 160]", "[64, 150]"),
    "prior in the config": ("config.py", "node.PRIOR_PROB = 0.01  # heatmap", "node.PRIOR_PROB = 0.02  # heatmap"),
    "bias of the boxes": ("modeling/dense_heads/centernet_head.py", "_BOX_BIAS = 8.0", "_BOX_BIAS = 6.0"),
}


OPERATOR_TESTS = ["tests/ops"]
OTHER_TESTS = ["tests/test_config.py", "tests/modeling/test_centernet.py"]  # where the operators cannot notice


def run_tests(folder, where, mutation=None):
    """Exit status and output of the tests of a copy of the package with one text replaced."""
    for name in ("centernet", "configs", "tests"):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPOSITORY / "pyproject.toml", folder)
    if mutation is not None:
        path, old, new = mutation
        target = folder / "centernet" / path
        text = target.read_text()
        assert text.count(old) == 1, f"{old!r} is not in {path} once: mend the mutation"
        target.write_text(text.replace(old, new))
    verdict = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *where],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
    )
    return verdict.returncode, verdict.stdout


@pytest.mark.slow
def test_the_copy_passes_unchanged(tmp_path):
    status, output = run_tests(tmp_path, OPERATOR_TESTS + OTHER_TESTS)
    assert status == 0, output[-2000:]


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTATIONS)
def test_a_test_notices(name, tmp_path):
    mutation = MUTATIONS[name]
    where = OPERATOR_TESTS if mutation[0].startswith("ops") else OTHER_TESTS
    status, output = run_tests(tmp_path, where, mutation)
    assert status == 1, f"no test noticed: {mutation}\n{output[-2000:]}"
