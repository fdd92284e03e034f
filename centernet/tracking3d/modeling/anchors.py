"""Anchors as the published models have them: corners on whole pixels, ratios before sizes."""

import math
from collections.abc import Sequence

import torch
from detectron2.modeling.anchor_generator import ANCHOR_GENERATOR_REGISTRY, BufferList, DefaultAnchorGenerator
from torch import Tensor

from ...registration import register_once

__all__ = ["LegacyAnchorGenerator", "legacy_cell_anchors"]


def legacy_cell_anchors(stride: int, sizes: Sequence[float], aspect_ratios: Sequence[float]) -> Tensor:
    """Anchors of the first cell of a level.

    Args:
        stride: pixels a cell; anchors are centred half a stride in, then their corners are rounded to whole pixels.
        sizes: square roots of the areas, pixels.
        aspect_ratios: height / width.

    Returns:
        float32 ``[len(aspect_ratios) * len(sizes), 4]``, continuous ``xyxy``, all sizes of a ratio beside each other.
    """
    middle, rows = stride / 2, []
    for ratio in aspect_ratios:
        for size in sizes:
            half_w, half_h = size / math.sqrt(ratio) / 2, size * math.sqrt(ratio) / 2
            rows.append([middle - half_w, middle - half_h, middle + half_w - 1, middle + half_h - 1])
    # the last pixel inside is what is rounded
    return torch.tensor(rows).round() + torch.tensor([0.0, 0.0, 1.0, 1.0])


@register_once(ANCHOR_GENERATOR_REGISTRY)
class LegacyAnchorGenerator(DefaultAnchorGenerator):
    """detectron2's generator with :func:`legacy_cell_anchors`; ``MODEL.ANCHOR_GENERATOR.OFFSET`` must be 0."""

    def _calculate_anchors(
        self, sizes: Sequence[Sequence[float]], aspect_ratios: Sequence[Sequence[float]]
    ) -> BufferList:
        levels = zip(self.strides, sizes, aspect_ratios, strict=True)
        return BufferList([legacy_cell_anchors(*level) for level in levels])
