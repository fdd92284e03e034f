"""Losses of the first stage (heatmap focal, box IoU) and classification losses of the second. All in float32, none in
place.

Heatmap loss: CenterNet (arXiv 1904.07850) equation 1. GIoU: arXiv 1902.09630 algorithm 1.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

LOC_LOSS_TYPES = ("giou", "linear_iou", "iou")
_TINY = 1e-7


class FocalRules(NamedTuple):
    """Constants of the heatmap focal loss.

    Attributes:
        alpha: weight of positives, ``1 - alpha`` of negatives; negative: neither is weighted.
        beta: exponent of ``1 - heatmap`` on negatives.
        gamma: focal exponent.
        clamp: probabilities are clamped to ``[clamp, 1 - clamp]``; beyond it there is no gradient.
        ignore_high_fp: negatives predicted at or above this probability carry no loss; not positive: off.
    """

    alpha: float = 0.25
    beta: float = 4.0
    gamma: float = 2.0
    clamp: float = 1e-4
    ignore_high_fp: float = -1.0


def heatmap_focal_loss(
    logits: Tensor,
    heatmap: Tensor,
    cells: Tensor,
    labels: Tensor,
    rules: FocalRules,
    positive_weight: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Focal loss of a heatmap, summed.

    Negatives are all entries, weighted ``(1 - heatmap)^beta``: a peak has weight 0, an extra positive beside it keeps a
    reduced negative term.

    Args:
        logits: float ``[M, C]``.
        heatmap: float32 ``[M, C]`` targets in [0, 1].
        cells, labels: int64 ``[P]``: the positives are ``(cells[p], labels[p])``; duplicates count twice.
        positive_weight: float ``[P]``, weight of each positive's own term (negatives are not touched), or None.

    Returns:
        ``(positive, negative)``, float32 scalars >= 0, not normalised.
    """
    limit = math.log((1 - rules.clamp) / rules.clamp)
    x = logits.float().clamp(-limit, limit)
    at_positives = x[cells, labels]
    terms = F.logsigmoid(at_positives) * torch.sigmoid(-at_positives).pow(rules.gamma)
    positive = -(terms if positive_weight is None else terms * positive_weight).sum()
    probability = torch.sigmoid(x)
    negative = F.softplus(x) * probability.pow(rules.gamma) * (1 - heatmap.float()).pow(rules.beta)
    if rules.ignore_high_fp > 0:
        negative = negative * (probability < rules.ignore_high_fp)
    negative = negative.sum()
    if rules.alpha >= 0:
        positive, negative = rules.alpha * positive, (1 - rules.alpha) * negative
    return positive, negative


def iou_loss(predicted: Tensor, target: Tensor, loss_type: str, *, offset: float = 1.0) -> Tensor:
    """Elementwise IoU loss of boxes seen from one point.

    Args:
        predicted, target: float ``[..., 4]`` distances to the left, top, right, bottom side, in strides, >= 0.
        loss_type: ``'giou'`` (1 - GIoU), ``'linear_iou'`` (1 - IoU) or ``'iou'`` (-log IoU).
        offset: added to intersection and union, in square strides. The published models use 1.

    Returns:
        float32 ``[...]``; finite for all finite input, two empty boxes included.

    Raises:
        ValueError: unknown ``loss_type``.
    """
    if loss_type not in LOC_LOSS_TYPES:
        raise ValueError(f"unknown IoU loss '{loss_type}': use one of {', '.join(LOC_LOSS_TYPES)}")
    predicted, target = predicted.float(), target.float()
    inner, outer = torch.minimum(predicted, target), torch.maximum(predicted, target)
    intersection = (inner[..., 0] + inner[..., 2]) * (inner[..., 1] + inner[..., 3])
    union = _area(predicted) + _area(target) - intersection
    # without the offset two empty boxes would give 0 / 0
    iou = (intersection + offset) / (union + offset if offset > 0 else union.clamp(min=_TINY))
    if loss_type == "linear_iou":
        return 1 - iou
    if loss_type == "iou":
        return -iou.clamp(min=_TINY).log()
    hull = (outer[..., 0] + outer[..., 2]) * (outer[..., 1] + outer[..., 3])
    return 1 - (iou - (hull - union) / hull.clamp(min=_TINY))


def _area(ltrb: Tensor) -> Tensor:
    return (ltrb[..., 0] + ltrb[..., 2]) * (ltrb[..., 1] + ltrb[..., 3])


def sigmoid_cross_entropy(
    logits: Tensor, labels: Tensor, class_weight: Tensor | None = None, proposal_weight: Tensor | None = None
) -> Tensor:
    """Per-class binary cross entropy of the second stage: summed over classes, averaged over proposals.

    Args:
        logits: float ``[R, C + 1]``; the last column (background) carries no loss.
        labels: int64 ``[R]`` in ``[0, C]``; ``C`` is background, a row of zeros.
        class_weight: float ``[C]``, 0 for classes left out this step (federated loss), or None.
        proposal_weight: float ``[R]``, weight of each proposal's terms (the mean is over all ``R``), or None.

    Returns:
        float32 scalar; zero (with a gradient path) for ``R = 0``.
    """
    if logits.shape[0] == 0:
        return logits.sum() * 0.0
    num_classes = logits.shape[1] - 1
    target = F.one_hot(labels, num_classes + 1)[:, :num_classes].to(torch.float32)
    loss = F.binary_cross_entropy_with_logits(logits[:, :num_classes].float(), target, reduction="none")
    if class_weight is not None:
        loss = loss * class_weight
    if proposal_weight is not None:
        loss = loss * proposal_weight[:, None]
    return loss.sum() / logits.shape[0]


def softmax_cross_entropy(
    logits: Tensor, labels: Tensor, class_weight: Tensor | None = None, proposal_weight: Tensor | None = None
) -> Tensor:
    """Softmax cross entropy of the second stage, averaged over proposals.

    Args:
        logits: float ``[R, C + 1]``; labels: int64 ``[R]``.
        class_weight: float ``[C]`` or None; background always weighs 1 and the mean is weighted.
        proposal_weight: float ``[R]`` or None; it weighs the terms but not the number that they are divided by.

    Returns:
        float32 scalar; zero (with a gradient path) for ``R = 0``.
    """
    if logits.shape[0] == 0:
        return logits.sum() * 0.0
    if class_weight is not None:
        class_weight = torch.cat((class_weight, class_weight.new_ones(1)))
    if proposal_weight is None:
        return F.cross_entropy(logits.float(), labels, weight=class_weight)
    terms = F.cross_entropy(logits.float(), labels, weight=class_weight, reduction="none")
    return (terms * proposal_weight).sum() / (len(labels) if class_weight is None else class_weight[labels].sum())
