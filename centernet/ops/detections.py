"""Detections of a batch in tensors of fixed size."""

from typing import NamedTuple

import torch
from torch import Tensor


class PaddedDetections(NamedTuple):
    """``K`` slots an image, best score first; slots past the last detection are padding.

    Attributes:
        boxes: float32 ``[B, K, 4]`` xyxy in network-input pixels; zeros in padding.
        scores: float32 ``[B, K]``, descending; zeros in padding.
        classes: int64 ``[B, K]``; zeros in padding.
        valid: bool ``[B, K]``, False in padding.
    """

    boxes: Tensor
    scores: Tensor
    classes: Tensor
    valid: Tensor


def best_first(scores: Tensor, keep: Tensor, k: int) -> Tensor:
    """Indices of the ``k`` best scores ``[B, N]`` among those of the mask ``keep`` ``[B, N]``, best first (the first
    one of equal scores), -1 in padding: int64 ``[B, min(k, N)]``."""
    ranked = torch.where(keep & (scores >= 0), scores, torch.full_like(scores, -1.0))
    ranked, index = ranked.sort(dim=1, descending=True, stable=True)
    return torch.where(ranked >= 0, index, torch.full_like(index, -1))[:, :k]


def take(detections: PaddedDetections, index: Tensor) -> PaddedDetections:
    """The detections at ``index`` (int64 ``[B, K]``, -1 in padding)."""
    valid = index >= 0
    slot = index.clamp(min=0)
    boxes = detections.boxes.gather(1, slot[..., None].expand(-1, -1, 4))
    return PaddedDetections(
        boxes=torch.where(valid[..., None], boxes, torch.zeros_like(boxes)),
        scores=torch.where(valid, detections.scores.gather(1, slot), torch.zeros_like(slot, dtype=torch.float32)),
        classes=torch.where(valid, detections.classes.gather(1, slot), torch.zeros_like(slot)),
        valid=valid,
    )


def clip_boxes(boxes: Tensor, image_sizes: Tensor) -> Tensor:
    """Boxes moved into their images.

    Args:
        boxes: float ``[B, K, 4]`` xyxy, pixels.
        image_sizes: ``[B, 2]`` ``(height, width)``, pixels.
    """
    limit = image_sizes.to(boxes).flip(1).repeat(1, 2)[:, None]
    return torch.minimum(boxes.clamp(min=0), limit)
