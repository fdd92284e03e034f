"""Whole-network comparison with the published code's dumps: detections, losses in five cases, gradients.

The dumps are not part of the project; without the folder the test is skipped.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
DUMPS = Path(os.environ.get("CENTERNET_GOLDEN", REPOSITORY.parent / "shared" / "golden"))
CONFIGS = sorted(path.stem for path in DUMPS.glob("*.npz"))


@pytest.mark.slow
@pytest.mark.skipif(not CONFIGS, reason="reference dumps are not here")
@pytest.mark.parametrize("name", CONFIGS)
def test_same_as_the_reference(name, tmp_path):
    ours, reference = tmp_path / f"{name}.npz", DUMPS / f"{name}.npz"
    config = REPOSITORY / "configs" / f"{name}.yaml"
    subprocess.run(
        [
            sys.executable,
            DUMPS / "run_model.py",
            "--pkg",
            REPOSITORY,
            "--config",
            config,
            "--like",
            reference,
            "--out",
            ours,
        ],
        check=True,
    )
    verdict = subprocess.run([sys.executable, DUMPS / "compare.py", reference, ours], capture_output=True, text=True)
    assert verdict.returncode == 0, verdict.stdout
    assert verdict.stdout.strip().endswith("same")
