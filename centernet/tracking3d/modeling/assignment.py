"""Which annotated box each anchor or proposal stands for.

Source: Faster R-CNN (arXiv 1506.01497) section 3.1.2.
"""

import torch
from torch import Tensor

__all__ = ["IGNORED", "NEGATIVE", "assign_boxes", "spare_regions"]

NEGATIVE = -1
IGNORED = -2


def assign_boxes(overlaps: Tensor, negative_below: float, positive_from: float, claim_from: float) -> Tensor:
    """Assign candidates to annotated boxes.

    Each candidate goes to the box that it overlaps most. Besides, each box claims the candidates that overlap it most
    (all of them, if several are equal), and takes them from others; of two boxes with the same claim the later wins.

    Args:
        overlaps: float ``[G, N]``, IoU of boxes and candidates.
        negative_below: a candidate whose greatest IoU is less is background.
        positive_from: one whose greatest IoU is at least this is an object; between the two it is ignored.
        claim_from: a box claims nothing that overlaps it less, above 0.

    Returns:
        int64 ``[N]``: index of the box, :data:`NEGATIVE` or :data:`IGNORED`.
    """
    if overlaps.shape[0] == 0 or overlaps.shape[1] == 0:
        return torch.full((overlaps.shape[1],), NEGATIVE, dtype=torch.int64, device=overlaps.device)
    greatest, nearest = overlaps.max(dim=0)
    assigned = torch.where(greatest >= positive_from, nearest, torch.full_like(nearest, IGNORED))
    assigned = assigned.masked_fill(greatest < negative_below, NEGATIVE)
    best = overlaps.amax(dim=1, keepdim=True)
    claims = (overlaps == best) & (best >= claim_from)
    number = torch.arange(1, overlaps.shape[0] + 1, device=overlaps.device)
    claimant = (claims * number[:, None]).amax(dim=0) - 1
    return torch.where(claimant >= 0, claimant, assigned)


def spare_regions(assigned: Tensor, candidates: Tensor, regions: Tensor | None) -> Tensor:
    """Background candidates that mostly lie in regions where nothing is annotated become ignored.

    Args:
        assigned: int64 ``[N]``, see :func:`assign_boxes`.
        candidates: float ``[N, 4]``, xyxy.
        regions: float ``[M, 4]``, xyxy, or None.

    Returns:
        int64 ``[N]``; :data:`IGNORED` where more than half of a background candidate is in one region.
    """
    if regions is None or len(regions) == 0:
        return assigned
    low = torch.maximum(candidates[:, None, :2], regions[None, :, :2])
    high = torch.minimum(candidates[:, None, 2:], regions[None, :, 2:])
    shared = (high - low).clamp(min=0).prod(-1).amax(1)
    inside = shared > 0.5 * (candidates[:, 2:] - candidates[:, :2]).clamp(min=0).prod(-1)
    return assigned.masked_fill(inside & (assigned == NEGATIVE), IGNORED)
