"""Tracks of objects that drive along bends, as a noisy monocular detector sees them: to train and score motion models
without any data.
"""

import math

import torch
from torch import Tensor

from ..ops.geometry import wrap_angle
from .tracks import Track

__all__ = ["curved_tracks"]


def curved_tracks(
    count: int,
    length: int = 20,
    *,
    seed: int = 0,
    step_seconds: float = 0.5,
    noise: float = 0.6,
    dropped: float = 0.1,
    flipped: float = 0.03,
) -> list[Track]:
    """Objects of 3 to 12 m/s on bends whose curvature drifts.

    Args:
        count: of tracks.
        length: moments each.
        seed: of everything random.
        step_seconds: between moments.
        noise: standard deviation of an observed place in metres where confidence is 0.5; a third of that at 0.9.
        dropped: share of moments, but for the first two, at which the detector misses the object.
        flipped: share of observations that look the other way.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    def uniform(low: float, high: float, *size: int) -> Tensor:
        return low + (high - low) * torch.rand(*size, generator=generator, dtype=torch.float64)

    speed = uniform(3, 12, count, 1) * torch.exp(0.05 * normal(count, length).cumsum(1))
    turn = uniform(-0.35, 0.35, count, 1) + 0.05 * normal(count, length).cumsum(1)  # rad/s
    yaw = uniform(-math.pi, math.pi, count, 1) + (turn * step_seconds).cumsum(1)
    moved = speed * step_seconds
    flat = torch.stack((moved * yaw.cos(), moved * yaw.sin()), 2).cumsum(1) + uniform(-40, 40, count, 1, 2)
    dims = torch.tensor([1.6, 1.8, 4.2], dtype=torch.float64) * uniform(0.85, 1.2, count, 1, 3)
    dims = dims.expand(-1, length, -1)
    truth = torch.cat((flat, dims[..., :1] / 2, wrap_angle(yaw)[..., None], dims), 2)
    confidence = uniform(0.3, 0.95, count, length)
    scale = noise * (1.1 - confidence) / 0.6
    spread = torch.tensor([1.0, 1.0, 0.15, 0.1, 0.08, 0.08, 0.2], dtype=torch.float64)
    observed = truth + scale[..., None] * spread * normal(count, length, 7)
    half_turn = math.pi * (uniform(0, 1, count, length) < flipped)
    observed[..., 3] = wrap_angle(observed[..., 3] + half_turn)
    seen = uniform(0, 1, count, length) >= dropped
    seen[:, :2] = True
    seconds = torch.arange(length, dtype=torch.float64) * step_seconds
    observed = torch.where(seen[..., None], observed, truth)
    return [
        Track(truth[k], observed[k], confidence[k], seen[k], seconds, torch.zeros(length, 3, dtype=torch.float64))
        for k in range(count)
    ]
