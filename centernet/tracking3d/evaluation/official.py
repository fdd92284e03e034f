"""The benchmarks' own tools, run by a Python that has them.

``nuscenes-devkit`` needs numpy below 2 and ``trackeval`` numpy 2, so that each may live in an environment of its own:
every function takes the Python to use. Scores are fractions, not percent.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...errors import UserError, writing
from .nuscenes_process import MISSING

KITTI_CLASSES = ("car", "pedestrian")
"""What KITTI's tracking benchmark scores."""


def nuscenes_detection(
    submission: str | Path, dataroot: str | Path, version: str, split: str, python: str | Path = sys.executable
) -> dict[str, Any]:
    """``mAP``, ``NDS``, errors of true positives and ``AP`` by class, by the rules ``detection_cvpr_2019``.

    Args:
        submission: JSON file.
        dataroot: folder with the tables.
        version, split: such as v1.0-mini and mini_val.
        python: an executable that imports ``nuscenes``.

    Raises:
        UserError: that Python has no ``nuscenes-devkit``, or the devkit refuses the files; the sentence says why.
    """
    return _nuscenes("detection", submission, dataroot, version, split, python, {})


def nuscenes_tracking(
    submission: str | Path,
    dataroot: str | Path,
    version: str,
    split: str,
    python: str | Path = sys.executable,
    alphas: Sequence[float] = (1.0, 0.2),
) -> dict[str, Any]:
    """``AMOTA`` (alpha 1), ``AMOTA@0.2`` (as the devkit had it until December 2019), ``AMOTP`` and the other means.

    Args and errors as :func:`nuscenes_detection`; ``alphas``: of AMOTA.
    """
    return _nuscenes("tracking", submission, dataroot, version, split, python, {"alphas": list(alphas)})


def _nuscenes(
    task: str,
    submission: str | Path,
    dataroot: str | Path,
    version: str,
    split: str,
    python: str | Path,
    more: dict[str, Any],
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="nuscenes_scores_") as output:
        request = {
            "task": task,
            "submission": str(Path(submission).absolute()),
            "dataroot": str(Path(dataroot).absolute()),
            "version": version,
            "split": split,
            "output": output,
            **more,
        }
        return _ask("nuscenes_process.py", request, Path(output), python, "nuscenes-devkit", "numpy below 2")


def kitti_tracking(
    truth: dict[str, str],
    tracked: dict[str, str],
    lengths: dict[str, int],
    python: str | Path = sys.executable,
    classes: Sequence[str] = KITTI_CLASSES,
) -> dict[str, dict[str, float]]:
    """HOTA, MOTA, IDF1, id switches and more by class, over all sequences of ``truth``.

    Args:
        truth: text of KITTI's label files by sequence.
        tracked: text of the tracker's files by sequence; a missing one counts as empty.
        lengths: number of frames by sequence.
        python: an executable that imports ``trackeval``.
        classes: of :data:`KITTI_CLASSES`.

    Raises:
        UserError: that Python has no ``trackeval``, or it refuses the files; the sentence says why.
    """
    with tempfile.TemporaryDirectory(prefix="kitti_scores_") as output:
        folder = Path(output)
        with writing(folder):
            labels, data = folder / "truth" / "label_02", folder / "trackers" / "tracked" / "data"
            labels.mkdir(parents=True)
            data.mkdir(parents=True)
            for name, text in truth.items():
                (labels / f"{name}.txt").write_text(text, "utf-8")
                (data / f"{name}.txt").write_text(tracked.get(name, ""), "utf-8")
            rows = "".join(f"{name} empty 000000 {lengths[name]:06d}\n" for name in truth)
            (folder / "truth" / "evaluate_tracking.seqmap.training").write_text(rows, "utf-8")
        request = {
            "truth": str(folder / "truth"),
            "trackers": str(folder / "trackers"),
            "tracker": "tracked",
            "output": output,
            "split": "training",
            "classes": list(classes),
        }
        return _ask("trackeval_process.py", request, folder, python, "trackeval", "numpy 2 or above")


def _ask(
    script: str, request: dict[str, Any], folder: Path, python: str | Path, package: str, needs: str
) -> dict[str, Any]:
    """Run a script of this folder by another Python and read its scores."""
    scores = folder / "scores.json"
    command = [str(python), "-I", str(Path(__file__).with_name(script))]
    try:
        process = subprocess.run(
            command, input=json.dumps(request | {"scores": str(scores)}), capture_output=True, text=True, check=False
        )
    except OSError as error:
        raise UserError(
            f"the Python '{python}' cannot be run ({error.strerror}): name an executable that has {package}"
        ) from error
    last = next((line.strip() for line in reversed(process.stderr.splitlines()) if line.strip()), "no message")
    if process.returncode == MISSING:
        raise UserError(
            f"{python} cannot import what {package} needs ({last}): install {package} (with {needs}) there, or name "
            "the Python of an environment that has it"
        )
    if process.returncode or not scores.is_file():
        raise UserError(f"{package} gave no scores ({last}): mend the result files, or try another version of it")
    return dict(json.loads(scores.read_text("utf-8")))
