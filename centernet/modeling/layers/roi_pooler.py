"""detectron2's ROI pooler with the ROIAlign of :mod:`centernet.ops.roi_align`, in float32 at least."""

import torch
from detectron2.layers import ROIAlign
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes
from torch import Tensor, nn

from ...ops.roi_align import roi_align, roi_align_levels


class ParallelROIAlign(ROIAlign):
    """detectron2's layer on all cores of a CPU.

    Boxes stay float32 and so does the arithmetic: in bfloat16 a corner at 1,000 pixels is known to 4 pixels.
    """

    def forward(self, input: Tensor, rois: Tensor) -> Tensor:
        """``[B, C, H, W]`` and ``[R, 5]`` (image index, xyxy in pixels) to ``[R, C, height, width]`` of the type of
        ``input``."""
        size = self.output_size if isinstance(self.output_size, tuple) else (self.output_size,) * 2
        dtype = torch.promote_types(input.dtype, torch.float32)
        options = size, self.spatial_scale, self.sampling_ratio, self.aligned
        return roi_align(input.to(dtype), rois.to(dtype), *options).to(input.dtype)


def use_all_cores(pooler: ROIPooler) -> ROIPooler:
    """Replace every plain ``ROIAlign`` of ``pooler``, in place; other kinds of pooling stay as they are."""
    pooler.level_poolers = nn.ModuleList(
        ParallelROIAlign(p.output_size, p.spatial_scale, p.sampling_ratio, p.aligned) if type(p) is ROIAlign else p
        for p in pooler.level_poolers
    )
    return pooler


def pool_boxes(pooler: ROIPooler, maps: list[Tensor], boxes: Tensor, *, fast: bool = False) -> Tensor:
    """What ``pooler`` makes of padded boxes ``[B, K, 4]`` (xyxy, pixels): ``[B * K, C, height, width]``.

    By one operator of fixed shape; kinds of pooling other than ROIAlign go through ``pooler`` itself. ``fast``: see
    :func:`centernet.ops.roi_align.roi_align_levels`.
    """
    layers = list(pooler.level_poolers)
    if not all(isinstance(layer, ROIAlign) for layer in layers):
        return pooler(maps, [Boxes(b) for b in boxes.unbind()])  # type: ignore[no-any-return]
    size, scales = tuple(pooler.output_size), [layer.spatial_scale for layer in layers]
    rules = layers[0].sampling_ratio, layers[0].aligned, pooler.canonical_level, float(pooler.canonical_box_size)
    return roi_align_levels(maps, boxes, size, scales, *rules, fast=fast)
