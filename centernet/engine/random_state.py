"""The state of every random generator of a process, as tensors and plain numbers.

Training is a function of (config, seed, data) only if what is drawn at iteration i does not depend on how
often the run was stopped or evaluated before. So the states are saved with each checkpoint, and put back
after each evaluation. Plain types, because checkpoints are read with ``torch.load(weights_only=True)``.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

__all__ = ["capture_random_state", "keep_random_state", "restore_random_state", "seed_random_state"]


def capture_random_state() -> dict[str, Any]:
    """States of python's, numpy's, torch's and, where CUDA is in use, the current GPU's generator.

    Returns:
        ``python`` (version, list of int, gaussian), ``numpy`` (name, int64 tensor [624], position, has_gauss,
        gaussian), ``torch`` uint8 tensor and ``cuda`` uint8 tensor or None, all on the CPU.
    """
    version, internal, gaussian = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()
    in_use = torch.cuda.is_available() and torch.cuda.is_initialized()
    return {
        "python": (version, list(internal), gaussian),
        "numpy": (
            str(name),
            torch.from_numpy(np.asarray(keys, np.int64)),
            int(position),
            int(has_gauss),
            float(cached),
        ),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if in_use else None,
    }


def restore_random_state(state: dict[str, Any]) -> None:
    """Put back what :func:`capture_random_state` returned. A GPU state is left out where there is no GPU."""
    version, internal, gaussian = state["python"]
    random.setstate((version, tuple(internal), gaussian))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())


@contextmanager
def keep_random_state() -> Iterator[None]:
    """Whatever is drawn inside leaves the generators as they were."""
    state = capture_random_state()
    try:
        yield
    finally:
        restore_random_state(state)


def seed_random_state(seed: int) -> None:
    """Seed all generators with ``seed`` (taken modulo 2**32, numpy's range)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)  # every GPU too
