"""The memory of a training: how much it took at its peak, and how a CPU keeps it."""

import ctypes
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["kept_memory", "peak_memory"]

# of malloc.h; the defaults are those of mallopt(3)
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
_DEFAULTS = {_TRIM_THRESHOLD: 128 * 1024, _MMAP_MAX: 65536}
_KEEP = {_TRIM_THRESHOLD: 2**31 - 1, _MMAP_MAX: 0}


def peak_memory() -> int:
    """Bytes: of the GPU, as PyTorch has allocated them, if one is in use; else of this process."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return int(torch.cuda.max_memory_allocated())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


@contextmanager
def kept_memory(device: str) -> Iterator[None]:
    """Inside, memory that tensors free stays with the process; afterwards it goes back to the system.

    A training step asks for the same large blocks again and again. glibc gives each back when it is freed, and every
    page of the next one costs a fault: a tenth to a fifth of a step. Other C libraries are left as they are, and so is
    all of it when ``device`` is not "cpu".
    """
    libc = ctypes.CDLL(None) if device == "cpu" and sys.platform == "linux" else None
    if libc is None or not (hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim")):
        yield
        return
    _set(libc, _KEEP)
    try:
        yield
    finally:
        _set(libc, _DEFAULTS)
        libc.malloc_trim(0)


def _set(libc: ctypes.CDLL, options: dict[int, int]) -> None:
    for option, value in options.items():
        libc.mallopt(option, value)
