"""ROIAlign of boxes of any size, with cell values at cell corners, as the published models pool.

torchvision's ``aligned=False`` enlarges boxes below one cell; its ``aligned=True`` does not, but moves every box by
half a cell. Moving the boxes half a cell the other way first leaves exactly the published samples.
"""

import torch
from detectron2.layers import ROIAlign
from detectron2.modeling.poolers import ROIPooler
from torch import Tensor, nn

from ...modeling.layers.roi_pooler import ParallelROIAlign

__all__ = ["CornerROIAlign", "build_pooler"]


class CornerROIAlign(ParallelROIAlign):
    """ROIAlign without the half-cell shift and without a smallest box."""

    def __init__(self, output_size: tuple[int, int], spatial_scale: float, sampling_ratio: int):
        super().__init__(output_size, spatial_scale, sampling_ratio, aligned=True)

    def forward(self, input: Tensor, rois: Tensor) -> Tensor:
        """``[B, C, H, W]`` and ``[R, 5]`` (image index, continuous xyxy in pixels) to ``[R, C, height, width]``."""
        half_cell = 0.5 / self.spatial_scale
        shift = rois.new_tensor((0.0, half_cell, half_cell, half_cell, half_cell), dtype=torch.float32)
        return super().forward(input, rois + shift)


def build_pooler(resolution: int, strides: list[int], sampling_ratio: int, pooler_type: str) -> ROIPooler:
    """detectron2's pooler; with ``"ROIAlign"`` it pools by :class:`CornerROIAlign`."""
    pooler = ROIPooler(resolution, [1.0 / stride for stride in strides], sampling_ratio, pooler_type)
    if pooler_type == "ROIAlign":
        layers: list[ROIAlign] = list(pooler.level_poolers)
        pooler.level_poolers = nn.ModuleList(
            CornerROIAlign(layer.output_size, layer.spatial_scale, layer.sampling_ratio) for layer in layers
        )
    return pooler
