"""The models: backbones, the two stages and the meta-architectures. Importing this package registers them with
detectron2."""

from .backbone.fpn_p5 import build_p35_resnet_fpn_backbone, build_p67_resnet_fpn_backbone
from .dense_heads.centernet import CenterNet
from .meta_arch.centernet_detector import CenterNetDetector
from .roi_heads.probabilistic_heads import ProbabilisticCascadeROIHeads, ProbabilisticROIHeads

__all__ = [
    "CenterNet",
    "CenterNetDetector",
    "ProbabilisticCascadeROIHeads",
    "ProbabilisticROIHeads",
    "build_p35_resnet_fpn_backbone",
    "build_p67_resnet_fpn_backbone",
]
