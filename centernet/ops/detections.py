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


def take_best(detections: PaddedDetections, keep: Tensor, k: int) -> PaddedDetections:
    """The ``k`` best-scored detections among those of the mask ``keep`` (bool ``[B, N]``), padded to ``min(k, N)``
    slots."""
    ranked = torch.where(keep, detections.scores, torch.full_like(detections.scores, -1.0))
    scores, index = ranked.topk(min(k, ranked.shape[1]), dim=1)
    valid = scores >= 0
    boxes = detections.boxes.gather(1, index[..., None].expand(-1, -1, 4))
    return PaddedDetections(
        boxes=torch.where(valid[..., None], boxes, torch.zeros_like(boxes)),
        scores=torch.where(valid, scores, torch.zeros_like(scores)),
        classes=torch.where(valid, detections.classes.gather(1, index), torch.zeros_like(index)),
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
