"""The detector of the wing: backbones, proposals, heads and the meta-architecture. Importing this package registers
them with detectron2, and makes the package know their config keys and their published weights."""

from ...config import register_keys
from ...weights.layouts import register_layout
from ..config import add_tracking3d_config
from ..weights import LAYOUT
from .anchors import LegacyAnchorGenerator
from .backbone import DLAUpPyramid, build_tracking3d_dla_backbone, build_tracking3d_resnet_fpn_backbone
from .meta_arch import QD3DT
from .roi_heads import QD3DTROIHeads
from .rpn import LegacyRPN

register_keys(add_tracking3d_config)
register_layout(LAYOUT)

__all__ = [
    "QD3DT",
    "DLAUpPyramid",
    "LegacyAnchorGenerator",
    "LegacyRPN",
    "QD3DTROIHeads",
    "build_tracking3d_dla_backbone",
    "build_tracking3d_resnet_fpn_backbone",
]
