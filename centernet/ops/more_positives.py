"""Extra heatmap positives: cells next to a centre that already predict its box well.

Source: the released CenterNet2 one-stage models (``MODEL.CENTERNET.MORE_POS``).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .assign import CENTER, Objects, Positives, assign_levels, center_cells
from .grid import Pyramid
from .losses import iou_loss
from .targets import TargetRules

_NEVER = 1e8  # loss of a candidate that does not exist


class MorePositiveRules(NamedTuple):
    """Attributes: ``loss_type`` and ``offset`` of :func:`~centernet.ops.losses.iou_loss`; ``threshold``: the box loss
    below which a neighbour counts; ``topk``: the rank of the candidate whose loss bounds the others."""

    loss_type: str = "giou"
    offset: float = 1.0
    threshold: float = 0.2
    topk: int = 9


@torch.no_grad()
def more_positives(
    objects: Objects, predicted_ltrb: Tensor, pyramid: Pyramid, targets: TargetRules, rules: MorePositiveRules
) -> Positives:
    """Heatmap positives among the 3x3 cells around each centre, on every level.

    A candidate is positive when its box loss is below the ``topk``-th smallest of the object's candidates and below
    ``threshold``. The centre cell of a responsible level counts as loss 0 and is always positive (the original loses
    all positives of an object when ``topk`` candidates are perfect).

    Args:
        predicted_ltrb: float ``[num_cells, 4]``, in strides.

    Returns:
        Positives, object-major, then level, then row by row.
    """
    if len(objects.boxes) == 0:
        return Positives(*(objects.classes.new_zeros(0) for _ in range(3)))
    cells = center_cells(objects, pyramid)
    nearest_side = cells.ltrb.amin(dim=-1)
    loss = iou_loss(predicted_ltrb.float()[cells.flat], cells.ltrb.clamp(min=0), rules.loss_type, offset=rules.offset)
    loss = torch.where(cells.inside & (nearest_side >= 0), loss, loss.new_full((), _NEVER))
    center = assign_levels(objects.boxes, targets.sizes_of_interest) & (nearest_side[..., CENTER] >= 0)
    center &= cells.inside[..., CENTER]
    loss[..., CENTER] = torch.where(center, 0.0, loss[..., CENTER])
    flat_loss = loss.flatten(1)
    rank = min(rules.topk, flat_loss.shape[1])
    limit = flat_loss.topk(rank, dim=1, largest=False).values[:, -1].clamp(max=rules.threshold)
    positive = loss < limit[:, None, None]
    positive[..., CENTER] |= center
    owners = torch.arange(len(loss), device=loss.device)[:, None, None].expand_as(cells.flat)[positive]
    return Positives(cells.flat[positive], objects.classes[owners], owners)
