"""OUTPUT_DIR: what is in it, and what a fresh start and a resume do with what they find there.

``config.yaml`` the whole config; ``seed`` of the run; ``log.txt``; ``metrics.json`` one row of scalars every
20 iterations; TensorBoard events; checkpoints ``model_<iteration>.pth`` and ``last_checkpoint``;
``inference_*``.
"""

import json
import logging
from pathlib import Path

from detectron2.config import CfgNode

from ..errors import UserError
from .atomic_file import TEMPORARY_SUFFIX, write_text_atomically

__all__ = ["METRICS_FILE", "prepare_run_folder", "read_seed"]

METRICS_FILE = "metrics.json"
_SEED_FILE = "seed"
_logger = logging.getLogger(__name__)


def read_seed(folder: Path) -> int | None:
    """Seed of the run in ``folder``, None if there is none."""
    try:
        return int((folder / _SEED_FILE).read_text())
    except (OSError, ValueError):
        return None


def prepare_run_folder(folder: Path, cfg: CfgNode, *, resume: bool, start_iter: int, seed: int) -> None:
    """Make the folder and bring it to the state that it had when iteration ``start_iter`` began.

    A resumed run drops the metric rows that it will write again. A fresh run in a folder that was used before
    keeps the earlier curve as ``metrics.<n>.json`` and forgets which checkpoint was the last, so that a later
    resume cannot pick up the earlier run's.

    Raises:
        UserError: the folder cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"OUTPUT_DIR {folder} cannot be made: {error.strerror}") from error
    for leftover in folder.glob("*" + TEMPORARY_SUFFIX):
        leftover.unlink()
    if not resume:
        _set_earlier_run_aside(folder)
    write_text_atomically(folder / _SEED_FILE, f"{seed}\n")
    write_text_atomically(folder / "config.yaml", cfg.dump())
    _drop_rows_from(folder / METRICS_FILE, start_iter)


def _set_earlier_run_aside(folder: Path) -> None:
    (folder / "last_checkpoint").unlink(missing_ok=True)
    metrics = folder / METRICS_FILE
    if metrics.exists() and metrics.stat().st_size:
        number = 1
        while (aside := folder / f"metrics.{number}.json").exists():
            number += 1
        metrics.rename(aside)
        _logger.info("%s was used before: its metrics are now %s", folder, aside.name)


def _drop_rows_from(metrics: Path, start_iter: int) -> None:
    """Keep the rows before ``start_iter``. A row that a kill cut off is dropped too."""
    if not metrics.exists():
        return
    kept = []
    for line in metrics.read_text().splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(row, dict) and row.get("iteration", start_iter) < start_iter:
            kept.append(line + "\n")
    write_text_atomically(metrics, "".join(kept))
