"""What a machine does to a run: out of memory, a worker or a disk gone. One sentence each, and nothing is lost."""

import errno
import logging
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm

from ..errors import UserError, writing
from .checkpoint import TrainingCheckpointer
from .trainer import Trainer

__all__ = ["check_limits", "explained_faults", "saved_where_it_is"]

# of allocators that raise a plain RuntimeError: PyTorch's on the CPU, cuDNN, cuBLAS, C++
_NO_MEMORY = re.compile(
    r"can't allocate memory|not enough memory: you tried|out of memory|_STATUS_ALLOC_FAILED|std::bad_alloc"
)
_AMOUNT = re.compile(r"[Tt]ried to allocate ([\d.]+) ([KMG]i?B|bytes)")
_NO_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
_logger = logging.getLogger(__name__)


def check_limits(cfg: CfgNode) -> None:
    """Raise :class:`UserError` for values of SOLVER.CHECKPOINTS_KEPT and DATALOADER.BAD_IMAGE_LIMIT below 0."""
    for node, key in (("SOLVER", "CHECKPOINTS_KEPT"), ("DATALOADER", "BAD_IMAGE_LIMIT")):
        if cfg[node][key] < 0:
            raise UserError(f"{node}.{key} is {cfg[node][key]}: it is a number of files, 0 or more")


@contextmanager
def explained_faults(cfg: CfgNode) -> Iterator[None]:
    """Out of memory inside becomes one sentence that names the settings to lower; likewise a disk that is full or gone.

    Raises:
        UserError: instead of PyTorch's and Python's errors.
    """
    with _silent_writer_threads():
        try:
            yield
        except (RuntimeError, MemoryError, OSError) as error:
            if _is_out_of_memory(error):
                raise UserError(_out_of_memory(cfg, error)) from error
            if isinstance(error, OSError) and _is_about_output(cfg, error):
                with writing(error.filename or f"OUTPUT_DIR {cfg.OUTPUT_DIR}"):
                    raise
            raise


@contextmanager
def saved_where_it_is(trainer: Trainer, checkpointer: TrainingCheckpointer) -> Iterator[None]:
    """An error while the next batch is fetched leaves a checkpoint of the last finished iteration.

    With several processes the others are in the middle of a step, and the last periodic checkpoint has to do.
    """
    try:
        yield
    except Exception:
        done = trainer.iter - 1
        file = Path(checkpointer.save_dir) / f"model_{done:07d}.pth"
        unsaved = trainer.between_steps and trainer.start_iter <= done < trainer.max_iter - 1 and not file.exists()
        if unsaved and comm.get_world_size() == 1:
            trainer.iter = done
            try:
                checkpointer.save(file.stem, iteration=done)
                _logger.info("Iteration %d is saved; go on with --resume", done)
            except UserError as error:  # the disk, on top of it
                _logger.error("Iteration %d is not saved: %s", done, error)
        raise


@contextmanager
def _silent_writer_threads() -> Iterator[None]:
    """TensorBoard's thread tells the main thread of its errors, and then prints a traceback as well."""
    before = threading.excepthook

    def hook(fault: Any) -> None:
        known = fault.exc_type is not None and issubclass(fault.exc_type, OSError)
        if not (known and type(fault.thread).__name__ == "_AsyncWriterThread"):
            before(fault)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = before


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return bool(_NO_MEMORY.search(str(error)))


def _is_about_output(cfg: CfgNode, error: OSError) -> bool:
    if error.errno in _NO_DISK:
        return True
    if not isinstance(error.filename, str):
        return False
    file = Path(error.filename).absolute()
    return Path(cfg.OUTPUT_DIR).absolute() in (file, *file.parents)


def _out_of_memory(cfg: CfgNode, error: BaseException) -> str:
    on_gpu = isinstance(error, torch.OutOfMemoryError) or "CUDA" in str(error)
    amount = _AMOUNT.search(str(error))
    tried = f" (tried to allocate {_readable(*amount.groups())} more)" if amount else ""
    place = "on the GPU" if on_gpu else "on this machine"
    size = ("TRAIN_SIZE",) if cfg.INPUT.CUSTOM_AUG not in ("", "ResizeShortestEdge") else ("MIN_SIZE_TRAIN",)
    lower: list[tuple[str, Any]] = [("SOLVER.IMS_PER_BATCH", cfg.SOLVER.IMS_PER_BATCH)]
    lower += [(f"INPUT.{key}", cfg.INPUT[key]) for key in (*size, "MAX_SIZE_TRAIN", "MAX_SIZE_TEST")]
    if not on_gpu:
        lower.append(("DATALOADER.NUM_WORKERS", cfg.DATALOADER.NUM_WORKERS))
    switches = [
        ("SOLVER.GRADIENT_ACCUMULATION", cfg.SOLVER.GRADIENT_ACCUMULATION),
        ("SOLVER.AMP.ENABLED", cfg.SOLVER.AMP.ENABLED),
        ("MODEL.ACTIVATION_CHECKPOINTING", cfg.MODEL.ACTIVATION_CHECKPOINTING),
    ]
    return (
        f"out of memory {place}{tried}: lower {_listed(lower)}, or raise or switch on {_listed(switches)}; what was "
        "saved is whole: go on with --resume"
    )


def _readable(number: str, unit: str) -> str:
    return f"{float(number) / 2**20:.0f} MiB" if unit == "bytes" else f"{number} {unit}"


def _listed(settings: list[tuple[str, Any]]) -> str:
    return ", ".join(f"{key} (now {value})" for key, value in settings)
