"""ResNet + FPN backbones whose extra levels come from P5 (RetinaNet-style p6 and p7, but on the FPN output).

Source: FPN (arXiv 1612.03144); extra levels as in FCOS (arXiv 1904.01355).
"""

from collections.abc import Sequence

import fvcore.nn.weight_init as weight_init
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import BACKBONE_REGISTRY, Backbone
from detectron2.modeling.backbone.fpn import FPN
from torch import Tensor, nn

from ...registration import register_once
from .resnet_dcn import build_resnet_body


class LastLevelP6P7_P5(nn.Module):
    """Levels of stride 64 and 128 from the FPN's p5. p6 is handed on before its ReLU."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.num_levels = 2
        self.in_feature = "p5"
        self.p6 = nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=2, padding=1)
        self.p7 = nn.Conv2d(out_channels, out_channels, kernel_size=3, stride=2, padding=1)
        for module in (self.p6, self.p7):
            weight_init.c2_xavier_fill(module)

    def forward(self, p5: Tensor) -> list[Tensor]:
        """``[B, C, H, W]`` at stride 32 to ``[p6, p7]``."""
        p6 = self.p6(p5)
        return [p6, self.p7(F.relu(p6))]


def build_fpn(
    cfg: CfgNode, bottom_up: Backbone, top_block: nn.Module | None, in_features: Sequence[str] | None = None
) -> FPN:
    """detectron2's FPN (``MODEL.FPN``) on ``bottom_up``; ``top_block`` makes the levels above. ``in_features`` None:
    ``MODEL.FPN.IN_FEATURES``."""
    return FPN(
        bottom_up=bottom_up,
        in_features=list(in_features or cfg.MODEL.FPN.IN_FEATURES),
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=top_block,
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )


@register_once(BACKBONE_REGISTRY)
def build_p67_resnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """ResNet (``MODEL.RESNETS``) with FPN (``MODEL.FPN``): p3 to p7, strides 8 to 128."""
    channels = cfg.MODEL.FPN.OUT_CHANNELS
    return build_fpn(cfg, build_resnet_body(cfg, input_shape), LastLevelP6P7_P5(channels, channels))


@register_once(BACKBONE_REGISTRY)
def build_p35_resnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """ResNet (``MODEL.RESNETS``) with FPN (``MODEL.FPN``): p3 to p5, strides 8 to 32."""
    return build_fpn(cfg, build_resnet_body(cfg, input_shape), None)
