"""From first-stage maps to proposals or detections, in tensors of fixed size.

Source: "Probabilistic two-stage detection" (arXiv 2103.07461) sections 3 and 4. No loop over images or classes, no
data-dependent shape, no host synchronisation.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .capture import capture_target
from .detections import PaddedDetections, best_first, clip_boxes, take
from .nms import nms_best

_MIN_SIDE = 0.01  # pixels; keeps every box non-empty


class DecodeRules(NamedTuple):
    """Constants of the decoder; the fields are config keys of ``MODEL.CENTERNET`` in lower case.

    Attributes:
        inference_th: smallest candidate probability (before the product with the class-agnostic map).
        pre_nms_topk: candidates a level and image.
        post_nms_topk: detections an image.
        nms_th: IoU of NMS; not positive: no NMS.
        center_nms: keep 3x3 local maxima of the map instead of box NMS.
        not_nms: no box NMS.
        sqrt_score: the score is the square root of the probability, so that the second stage, which takes a root again,
            ends at ``P(object) ** (1 / 4)``, as published.
        clip: clip boxes to the image (the published models do not).
        order_equals: boxes of equal score come in the published order (see :func:`.nms.nms_best`); for inference.
    """

    inference_th: float
    pre_nms_topk: int
    post_nms_topk: int
    nms_th: float
    center_nms: bool = False
    not_nms: bool = False
    sqrt_score: bool = True
    clip: bool = False
    order_equals: bool = False


def decode(
    heatmaps: Sequence[Tensor],
    ltrbs: Sequence[Tensor],
    strides: Sequence[int],
    image_sizes: Tensor | None,
    rules: DecodeRules,
    agnostic: Sequence[Tensor] | None = None,
) -> PaddedDetections:
    """Best boxes of every image.

    Args:
        heatmaps: logits, one ``[B, C, H_l, W_l]`` a level.
        ltrbs: box distances in strides, one ``[B, 4, H_l, W_l]`` a level, >= 0.
        strides: pixels a cell, one a level.
        image_sizes: ``[B, 2]`` ``(height, width)`` in pixels; needed with ``clip`` only.
        agnostic: logits of the class-agnostic map, one ``[B, 1, H_l, W_l]`` a level: multiplies the probability.

    Returns:
        ``min(post_nms_topk, candidates)`` slots an image, best first. Boxes may reach outside the image unless
        ``clip``.
    """
    return decode_with_objectness(heatmaps, ltrbs, strides, image_sizes, rules, agnostic)[0]


def decode_with_objectness(
    heatmaps: Sequence[Tensor],
    ltrbs: Sequence[Tensor],
    strides: Sequence[int],
    image_sizes: Tensor | None,
    rules: DecodeRules,
    agnostic: Sequence[Tensor] | None = None,
) -> tuple[PaddedDetections, Tensor]:
    """:func:`decode`, and the probability of the class-agnostic map at each box, 1 without one: float32 ``[B, K]``, 0
    in padding."""
    levels = [
        _level_candidates(heatmap, ltrb, stride, rules, None if agnostic is None else agnostic[level])
        for level, (heatmap, ltrb, stride) in enumerate(zip(heatmaps, ltrbs, strides, strict=True))
    ]
    *fields, objectness = (torch.cat(field, dim=1) for field in zip(*levels, strict=True))
    candidates = PaddedDetections(*fields)
    if rules.clip:
        assert image_sizes is not None
        candidates = candidates._replace(boxes=clip_boxes(candidates.boxes, image_sizes))
    if not (rules.center_nms or rules.not_nms) and rules.nms_th > 0:
        # half precision makes equals of what the published order never saw
        order_equals = rules.order_equals and heatmaps[0].dtype == torch.float32
        best = nms_best(*candidates, rules.nms_th, rules.post_nms_topk, order_equals)
    else:
        best = best_first(candidates.scores, candidates.valid, rules.post_nms_topk)
    found = take(candidates, best)
    return found, torch.where(found.valid, objectness.gather(1, best.clamp(min=0)), torch.zeros_like(found.scores))


def _level_candidates(
    heatmap: Tensor, ltrb: Tensor, stride: int, rules: DecodeRules, agnostic: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The ``pre_nms_topk`` best (cell, class) pairs of one level: the fields of ``PaddedDetections``, and the
    probability of the class-agnostic map."""
    height, width = heatmap.shape[2:]
    probability = heatmap.float().sigmoid()
    if rules.center_nms:
        peak = F.max_pool2d(probability, kernel_size=3, stride=1, padding=1)
        probability = torch.where(peak == probability, probability, torch.zeros_like(probability))
    objectness = None if agnostic is None else agnostic.float().sigmoid()
    value = probability if objectness is None else probability * objectness
    # padding slots rank below every candidate and are recognised by their sign
    value = torch.where(probability > rules.inference_th, value, torch.full_like(value, -1.0)).flatten(1)
    value, index = _top(value, rules.pre_nms_topk)
    cell = index % (height * width)
    valid = value >= 0
    value = torch.where(valid, value, torch.zeros_like(value))
    # of cell_centers, without a grid
    center = (torch.stack((cell % width, cell // width), dim=-1) * stride + stride // 2).float()
    sides = ltrb.float().flatten(2).gather(2, cell[:, None].expand(-1, 4, -1)).transpose(1, 2) * stride
    top_left = center - sides[..., :2]
    bottom_right = torch.maximum(center + sides[..., 2:], top_left + _MIN_SIDE)
    return (
        torch.cat((top_left, bottom_right), dim=-1),
        value.sqrt() if rules.sqrt_score else value,
        index // (height * width),
        valid,
        torch.ones_like(value) if objectness is None else objectness.flatten(1).gather(1, cell),
    )


def _top(value: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The ``k`` largest of each row and their indices, in no order; a row of no more than ``k`` as it stands.

    Later stages keep the order of equal scores (also of those that only the root made equal), so it decides between
    boxes of the same score. This is the published order, hence not sorted.

    While a graph is captured, whose maps may have any number of cells, there are always ``k``; those without a cell
    have the value -1.
    """
    if capture_target() is not None:
        value = F.pad(value, (0, k), value=-1.0)
    elif value.shape[1] <= k:
        return value, torch.arange(value.shape[1], device=value.device).expand_as(value)
    value, index = value.topk(k, dim=1, sorted=False)
    return value, index
