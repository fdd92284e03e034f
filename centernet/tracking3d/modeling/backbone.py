"""Backbones with five levels, p2 to p6 at strides 4 to 64: ResNet with FPN, and DLA-34 with iterative aggregation.

Source: QD-3DT (arXiv 2103.07351) section 4; Deep Layer Aggregation (arXiv 1707.06484); FPN (arXiv 1612.03144).
"""

from collections.abc import Sequence

import torch
from detectron2.config import CfgNode
from detectron2.layers import Conv2d, ShapeSpec
from detectron2.modeling.backbone import BACKBONE_REGISTRY, Backbone
from detectron2.modeling.backbone.fpn import FPN, LastLevelMaxPool, build_resnet_fpn_backbone
from torch import Tensor, nn

from ...errors import UserError
from ...modeling.backbone.dla import build_dla_body
from ...modeling.backbone.dla_up import bilinear_upsampling
from ...registration import register_once
from .norm import fix_statistics

__all__ = ["DLAUpPyramid", "build_tracking3d_dla_backbone", "build_tracking3d_resnet_fpn_backbone"]

_FROZEN_PARTS = ("stem", "res2", "res3", "res4", "res5")


def _conv_relu(in_channels: int, out_channels: int, kernel_size: int) -> Conv2d:
    conv = Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, activation=nn.ReLU())
    nn.init.xavier_uniform_(conv.weight)
    nn.init.zeros_(conv.bias)
    return conv


class ConcatenatingIDA(nn.Module):
    """Iterative aggregation of levels, the finest first: a coarser one is brought to size and joined by a 3x3 conv.

    Layers have the names of the published files; a level that has the right channels already needs no projection.
    """

    def __init__(self, in_channels: Sequence[int], out_channels: int):
        super().__init__()
        self.count = len(in_channels)
        for i, channels in enumerate(in_channels):
            if channels != out_channels:
                self.add_module(f"proj_{i}", _conv_relu(channels, out_channels, 1))
            if i:
                self.add_module(f"up_{i}", bilinear_upsampling(out_channels, 2))
                self.add_module(f"node_{i}", _conv_relu(2 * out_channels, out_channels, 3))

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """The results of all nodes, each of the size of ``levels[0]``; the other levels have half that size."""
        running, results = self._projected(0, levels[0]), []
        for i in range(1, self.count):
            raised = getattr(self, f"up_{i}")(self._projected(i, levels[i]))
            running = getattr(self, f"node_{i}")(torch.cat((running, raised), dim=1))
            results.append(running)
        return results

    def _projected(self, i: int, level: Tensor) -> Tensor:
        projection = getattr(self, f"proj_{i}", None)
        return level if projection is None else projection(level)


class DLAUpPyramid(Backbone):
    """A body with four levels (strides 4 to 32) below three stages of aggregation: p2 to p5, and p6 by subsampling."""

    IN_FEATURES = ("dla2", "dla3", "dla4", "dla5")

    def __init__(self, bottom_up: Backbone, out_channels: int = 256):
        super().__init__()
        shapes = bottom_up.output_shape()
        x4, x8, x16, x32 = (shapes[name].channels for name in self.IN_FEATURES)
        self.bottom_up = bottom_up
        self.ida_0 = ConcatenatingIDA([x16, x32], out_channels)
        self.ida_1 = ConcatenatingIDA([x8, x16, out_channels], out_channels)
        self.ida_2 = ConcatenatingIDA([x4, x8, out_channels, out_channels], out_channels)
        self.last_conv = _conv_relu(x32, out_channels, 1)
        self.top_block = LastLevelMaxPool()
        self._out_features = [f"p{i}" for i in range(2, 7)]
        self._out_feature_channels = dict.fromkeys(self._out_features, out_channels)
        self._out_feature_strides = {f"p{i}": 2**i for i in range(2, 7)}

    @property
    def size_divisibility(self) -> int:
        return 32

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """``[B, 3, H, W]``, H and W divisible by 32, to ``{name: [B, C, H / stride, W / stride]}``; p6 rounds up."""
        outputs = self.bottom_up(x)
        x4, x8, x16, x32 = (outputs[name] for name in self.IN_FEATURES)
        (a16,) = self.ida_0([x16, x32])
        first8, second8 = self.ida_1([x8, x16, a16])
        p2 = self.ida_2([x4, x8, first8, second8])[-1]
        p5 = self.last_conv(x32)
        levels = [p2, second8, a16, p5, *self.top_block(p5)]
        return dict(zip(self._out_features, levels, strict=True))


@register_once(BACKBONE_REGISTRY)
def build_tracking3d_resnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """detectron2's ``build_resnet_fpn_backbone``; with ``MODEL.TRACKING3D.FIXED_STATISTICS`` batch norms keep their
    statistics and train their scales, but for the parts that ``MODEL.BACKBONE.FREEZE_AT`` keeps constant altogether.

    Raises:
        UserError: FIXED_STATISTICS goes with MODEL.RESNETS.NORM 'BN' only.
    """
    if not cfg.MODEL.TRACKING3D.FIXED_STATISTICS:
        return build_resnet_fpn_backbone(cfg, input_shape)
    if cfg.MODEL.RESNETS.NORM != "BN":
        raise UserError(
            f"MODEL.TRACKING3D.FIXED_STATISTICS needs MODEL.RESNETS.NORM 'BN', not '{cfg.MODEL.RESNETS.NORM}': "
            "set one of them"
        )
    own = cfg.clone()
    own.defrost()
    own.MODEL.BACKBONE.FREEZE_AT = 0  # detectron2 would turn the norms of constant parts into buffers
    backbone = fix_statistics(build_resnet_fpn_backbone(own, input_shape))
    assert isinstance(backbone, FPN)
    for part in _FROZEN_PARTS[: cfg.MODEL.BACKBONE.FREEZE_AT]:
        getattr(backbone.bottom_up, part).requires_grad_(False)
    return backbone


@register_once(BACKBONE_REGISTRY)
def build_tracking3d_dla_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> DLAUpPyramid:
    """DLA (``MODEL.DLA.NUM_LAYERS``, ``MODEL.DLA.NORM``) with :class:`DLAUpPyramid` of ``MODEL.FPN.OUT_CHANNELS``.

    Raises:
        UserError: there is no such depth or norm.
    """
    body = build_dla_body(cfg, DLAUpPyramid.IN_FEATURES)
    body.freeze_dead_projections()
    if cfg.MODEL.TRACKING3D.FIXED_STATISTICS:
        fix_statistics(body)
    return DLAUpPyramid(body, cfg.MODEL.FPN.OUT_CHANNELS)
