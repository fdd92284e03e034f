"""Front and back of a car look alike: headings are compared after a half turn where that is nearer."""

import math

import torch
from torch import Tensor

from ..ops.geometry import wrap_angle


def align_yaw(yaw: Tensor, observed: Tensor) -> Tensor:
    """``yaw`` turned by pi if that is nearer to ``observed``, and by 2 pi so that their plain difference is small.

    Args:
        yaw: float ``[...]``, of a state, radians.
        observed: float ``[...]`` in [-pi, pi).

    Returns:
        float ``[...]`` with ``|observed - result| <= pi / 2`` up to rounding; it may lie outside [-pi, pi).

    Source: QD-3DT's tracker and the training of its motion models.
    """
    yaw = wrap_angle(yaw)
    apart = (observed - yaw).abs()
    yaw = torch.where((apart > math.pi / 2) & (apart < 1.5 * math.pi), wrap_angle(yaw + math.pi), yaw)
    around = (observed - yaw).abs() >= 1.5 * math.pi
    return torch.where(around, torch.where(observed > 0, yaw + 2 * math.pi, yaw - 2 * math.pi), yaw)
