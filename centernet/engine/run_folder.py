"""OUTPUT_DIR: what is in it, and what a fresh start and a resume do with what they find there.

``config.yaml`` the whole config, with the class names; ``seed`` of the run; ``run.json`` and ``summary.md``
(:mod:`.run_record`); ``log.txt``; ``metrics.json`` one row of scalars every 20 iterations; TensorBoard events;
checkpoints ``model_<iteration>.pth`` and ``last_checkpoint``; ``model_best.pth``; ``inference_*``.
"""

import json
import logging
from pathlib import Path

from detectron2.config import CfgNode

from ..data.datasets import class_names
from ..errors import UserError
from .atomic_file import TEMPORARY_SUFFIX, write_text_atomically

__all__ = ["METRICS_FILE", "prepare_run_folder", "read_seed"]

METRICS_FILE = "metrics.json"
_SEED_FILE = "seed"
_OF_ONE_RUN = ("last_checkpoint", "wandb.id", "mlflow.id")  # a fresh run must not go on with them
_KEPT = (METRICS_FILE, "run.json", "model_best.pth", "model_final_ema.pth")
_WRITTEN_WHOLE = ("*.pth", "*.json", "*.jsonl", "*.yaml", "*.md", "*.diff", _SEED_FILE, "last_checkpoint")
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
    keeps the earlier curve as ``metrics.<n>.json`` (``run.json``, ``model_best.pth`` and ``model_final_ema.pth``
    likewise) and forgets which checkpoint was the last, so that a later resume cannot pick up the earlier run's.

    Raises:
        UserError: the folder cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"OUTPUT_DIR {folder} cannot be made: {error.strerror}") from error
    for name in _WRITTEN_WHOLE:
        for leftover in folder.glob(name + TEMPORARY_SUFFIX):
            leftover.unlink()
    if not resume:
        _set_earlier_run_aside(folder)
    write_text_atomically(folder / _SEED_FILE, f"{seed}\n")
    write_text_atomically(folder / "config.yaml", _with_class_names(cfg).dump())
    _drop_rows_from(folder / METRICS_FILE, start_iter)


def _with_class_names(cfg: CfgNode) -> CfgNode:
    """With the names of what is learnt, so that they are known where the data set is not."""
    names = class_names(cfg.DATASETS.TRAIN[0]) if cfg.DATASETS.TRAIN else None
    if names:
        cfg = cfg.clone()
        cfg.defrost()
        cfg.MODEL.CLASS_NAMES = names
    return cfg


def _set_earlier_run_aside(folder: Path) -> None:
    for name in _OF_ONE_RUN:
        (folder / name).unlink(missing_ok=True)
    kept = [folder / name for name in _KEPT if (folder / name).exists() and (folder / name).stat().st_size]
    if not kept:
        return
    number = 1
    while any(_aside(folder / name, number).exists() for name in _KEPT):
        number += 1
    for file in kept:
        file.rename(_aside(file, number))
    _logger.info(
        "%s was used before: %s of that run got the number %d", folder, ", ".join(file.name for file in kept), number
    )


def _aside(file: Path, number: int) -> Path:
    return file.with_suffix(f".{number}{file.suffix}")


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
