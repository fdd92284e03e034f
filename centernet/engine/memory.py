"""How much memory a training took at its peak."""

import resource
import sys

import torch

__all__ = ["peak_memory"]


def peak_memory() -> int:
    """Bytes: of the GPU, as PyTorch has allocated them, if one is in use; else of this process."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return int(torch.cuda.max_memory_allocated())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
