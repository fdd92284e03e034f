"""The models: backbones, the two stages and the meta-architectures. Importing this package registers them with
detectron2."""

from .backbone.bifpn import build_p37_dla_bifpn_backbone, build_resnet_bifpn_backbone
from .backbone.bifpn_fcos import (
    build_fcos_resnet_bifpn_backbone,
    build_p35_fcos_dla_bifpn_backbone,
    build_p35_fcos_resnet_bifpn_backbone,
    build_p37_fcos_dla_bifpn_backbone,
)
from .backbone.dla import build_dla_backbone, build_retinanet_dla_fpn_backbone
from .backbone.dlafpn import build_dla_fpn3_backbone, build_dla_fpn5_backbone, build_dlaup_backbone
from .backbone.fpn_p5 import build_p35_resnet_fpn_backbone, build_p67_resnet_fpn_backbone
from .backbone.res2net import (
    build_p67_res2net_fpn_backbone,
    build_res2net_backbone,
    build_res2net_bifpn_backbone,
)
from .backbone.timm_body import build_timm_bifpn_backbone, build_timm_fpn_backbone
from .dense_heads.centernet import CenterNet
from .meta_arch.centernet_detector import CenterNetDetector
from .roi_heads.probabilistic_heads import ProbabilisticCascadeROIHeads, ProbabilisticROIHeads

__all__ = [
    "CenterNet",
    "CenterNetDetector",
    "ProbabilisticCascadeROIHeads",
    "ProbabilisticROIHeads",
    "build_dla_backbone",
    "build_dla_fpn3_backbone",
    "build_dla_fpn5_backbone",
    "build_dlaup_backbone",
    "build_fcos_resnet_bifpn_backbone",
    "build_p35_fcos_dla_bifpn_backbone",
    "build_p35_fcos_resnet_bifpn_backbone",
    "build_p35_resnet_fpn_backbone",
    "build_p37_dla_bifpn_backbone",
    "build_p37_fcos_dla_bifpn_backbone",
    "build_p67_res2net_fpn_backbone",
    "build_p67_resnet_fpn_backbone",
    "build_res2net_backbone",
    "build_res2net_bifpn_backbone",
    "build_resnet_bifpn_backbone",
    "build_retinanet_dla_fpn_backbone",
    "build_timm_bifpn_backbone",
    "build_timm_fpn_backbone",
]
