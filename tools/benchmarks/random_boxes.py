"""Boxes of random objects, the same at every call."""

import numpy as np
import torch

__all__ = ["random_boxes"]


def random_boxes(count: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    """Boxes with log-uniform sides from 12 px to 90 % of the image, clipped to it: float32 ``[count, 4]``."""
    random = np.random.RandomState(seed)
    sides = np.exp(random.uniform(np.log(12), np.log(0.9 * min(height, width)), (count, 2)))
    centers = random.uniform(0, 1, (count, 2)) * (width, height)
    corners = np.concatenate([centers - sides / 2, centers + sides / 2], axis=1)
    return torch.from_numpy(np.clip(corners, 0, (width, height, width, height)).astype(np.float32))
