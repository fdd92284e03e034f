"""detectron2's ROI pooler with the ROIAlign of :mod:`centernet.ops.roi_align`."""

from detectron2.layers import ROIAlign
from detectron2.modeling.poolers import ROIPooler
from torch import Tensor, nn

from ...ops.roi_align import roi_align


class ParallelROIAlign(ROIAlign):
    """detectron2's layer on all cores of a CPU."""

    def forward(self, input: Tensor, rois: Tensor) -> Tensor:
        """``[B, C, H, W]`` and ``[R, 5]`` (image index, xyxy in pixels) to ``[R, C, height, width]``."""
        size = self.output_size if isinstance(self.output_size, tuple) else (self.output_size,) * 2
        return roi_align(input, rois.to(input.dtype), size, self.spatial_scale, self.sampling_ratio, self.aligned)


def use_all_cores(pooler: ROIPooler) -> ROIPooler:
    """Replace every plain ``ROIAlign`` of ``pooler``, in place; other kinds of pooling stay as they are."""
    pooler.level_poolers = nn.ModuleList(
        ParallelROIAlign(p.output_size, p.spatial_scale, p.sampling_ratio, p.aligned) if type(p) is ROIAlign else p
        for p in pooler.level_poolers
    )
    return pooler
