"""Res2Net bodies (v1b: deep stem, average pooling in the shortcuts), with deformable stages if wanted, and their necks.

Sources: Res2Net (arXiv 1904.01169); v1b after ResNet-D (arXiv 1812.01187); Deformable ConvNets v2 (arXiv 1811.11168).
"""

from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.layers import CNNBlockBase, Conv2d, ShapeSpec, get_norm
from detectron2.modeling.backbone import BACKBONE_REGISTRY, Backbone
from detectron2.modeling.backbone.resnet import BasicBlock, ResNet
from fvcore.nn.weight_init import c2_msra_fill
from torch import Tensor, nn

from ...errors import UserError
from ...registration import register_once
from .bifpn import bifpn_from_config
from .fpn_p5 import LastLevelP6P7_P5, build_fpn
from .resnet_dcn import DeformConvNorm, check_deformable_depth, offset_conv, offsets_and_mask

SCALE = 4  # splits of a block; the published weights have no other number
_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


class Res2NetStem(CNNBlockBase):
    """Three 3x3 convolutions and a max pooling: ``[B, in, H, W]`` to ``[B, out, H / 4, W / 4]``."""

    def __init__(self, in_channels: int = 3, out_channels: int = 64, norm: str = "BN"):
        super().__init__(in_channels, out_channels, 4)
        half = out_channels // 2
        self.conv1 = nn.Sequential(
            nn.Conv2d(in_channels, half, 3, stride=2, padding=1, bias=False),
            _norm(norm, half),
            nn.ReLU(inplace=True),
            nn.Conv2d(half, half, 3, padding=1, bias=False),
            _norm(norm, half),
            nn.ReLU(inplace=True),
            nn.Conv2d(half, out_channels, 3, padding=1, bias=False),
        )
        self.bn1 = _norm(norm, out_channels)
        _fill(self)

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(self.bn1(self.conv1(x)).relu_(), kernel_size=3, stride=2, padding=1)


class Res2NetBottleneck(CNNBlockBase):
    """1x1, a chain of 3x3 convolutions over ``SCALE - 1`` splits of the channels, 1x1, and a shortcut.

    A block that changes the number of channels does not chain: each split is convolved alone.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        bottleneck_channels: int,
        stride: int = 1,
        num_groups: int = 1,
        norm: str = "BN",
        stride_in_1x1: bool = False,
        dilation: int = 1,
    ):
        """
        Args:
            bottleneck_channels: channels of all splits together.
            num_groups: groups of each 3x3 convolution.
            stride_in_1x1: the first 1x1 takes the stride; else the 3x3 convolutions and, for the split that has
                none, an average pooling.
            dilation: of the 3x3 convolutions.
        """
        super().__init__(in_channels, out_channels, stride)
        width = bottleneck_channels // SCALE
        self.chained = in_channels == out_channels
        stride_1x1, stride_3x3 = (stride, 1) if stride_in_1x1 else (1, stride)
        self.shortcut = None if self.chained else _shortcut(in_channels, out_channels, stride, norm)
        self.conv1 = _conv1x1(in_channels, width * SCALE, norm, stride_1x1)
        self.convs = nn.ModuleList(
            nn.Conv2d(
                width, width, 3, stride=stride_3x3, padding=dilation, dilation=dilation, groups=num_groups, bias=False
            )
            for _ in range(SCALE - 1)
        )
        self.bns = nn.ModuleList(_norm(norm, width) for _ in range(SCALE - 1))
        # ImageNet's networks pool the last split of these blocks at stride 1 too; with the stride in the 1x1 the
        # published detectors were trained without
        pooled = not (self.chained or stride_in_1x1)
        self.pool = nn.AvgPool2d(3, stride_3x3, padding=1) if pooled else nn.Identity()
        self.conv3 = _conv1x1(width * SCALE, out_channels, norm)
        _fill(self)

    def _spatial(self, i: int, x: Tensor) -> Tensor:
        out: Tensor = self.convs[i](x)
        return out

    def forward(self, x: Tensor) -> Tensor:
        """``[B, in, H, W]`` to ``[B, out, H / stride, W / stride]``."""
        *splits, last = self.conv1(x).relu_().chunk(SCALE, dim=1)
        outputs: list[Tensor] = []
        for i, split in enumerate(splits):
            split = split + outputs[-1] if self.chained and outputs else split
            outputs.append(self.bns[i](self._spatial(i, split)).relu_())
        out = self.conv3(torch.cat((*outputs, self.pool(last)), dim=1))
        return (out + (x if self.shortcut is None else self.shortcut(x))).relu_()


class DeformableRes2NetBottleneck(Res2NetBottleneck):
    """The same with deformable 3x3 convolutions; each predicts its own offsets."""

    def __init__(
        self, in_channels: int, out_channels: int, *, modulated: bool = True, deform_groups: int = 1, **kwargs: Any
    ):
        """
        Args:
            modulated: with a mask (v2).
            deform_groups: groups of channels with offsets of their own.
            kwargs: those of :class:`Res2NetBottleneck`.
        """
        super().__init__(in_channels, out_channels, **kwargs)
        self.modulated = modulated
        plain = [conv for conv in self.convs if isinstance(conv, nn.Conv2d)]
        self.conv2_offsets = nn.ModuleList(offset_conv(conv, modulated, deform_groups, bias=False) for conv in plain)
        self.convs = nn.ModuleList(DeformConvNorm(conv) for conv in plain)

    def _spatial(self, i: int, x: Tensor) -> Tensor:
        out: Tensor = self.convs[i](x, *offsets_and_mask(self.conv2_offsets[i](x), self.modulated))
        return out


def _norm(norm: str, channels: int) -> nn.Module:
    return get_norm(norm, channels) or nn.Identity()


def _conv1x1(in_channels: int, out_channels: int, norm: str, stride: int = 1) -> Conv2d:
    return Conv2d(
        in_channels, out_channels, kernel_size=1, stride=stride, bias=False, norm=get_norm(norm, out_channels)
    )


def _shortcut(in_channels: int, out_channels: int, stride: int, norm: str) -> nn.Sequential:
    pool = nn.AvgPool2d(stride, stride, ceil_mode=True, count_include_pad=False)
    return nn.Sequential(pool, _conv1x1(in_channels, out_channels, norm))


def _fill(block: nn.Module) -> None:
    for module in block.modules():
        if isinstance(module, nn.Conv2d):
            c2_msra_fill(module)


@register_once(BACKBONE_REGISTRY)
def build_res2net_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> ResNet:
    """Res2Net (``MODEL.RESNETS``): ``{stem, res2 .. res5}`` of ``MODEL.RESNETS.OUT_FEATURES``, strides 4 to 32.

    The width of a split is ``NUM_GROUPS * WIDTH_PER_GROUP`` in res2 and doubles with every stage. Depth 18 and 34
    have plain residual blocks.

    Raises:
        UserError: an unknown depth; deformable stages at depth 18 or 34.
    """
    node = cfg.MODEL.RESNETS
    if node.DEPTH not in _BLOCKS:
        raise UserError(f"MODEL.RESNETS.DEPTH is {node.DEPTH}, must be one of {', '.join(map(str, _BLOCKS))}")
    check_deformable_depth(cfg)
    stem = Res2NetStem(input_shape.channels, node.STEM_OUT_CHANNELS, node.NORM)
    stages, in_channels = [], node.STEM_OUT_CHANNELS
    for index, blocks in enumerate(_BLOCKS[node.DEPTH]):
        dilation = node.RES5_DILATION if index == 3 else 1
        stride = 1 if index == 0 or dilation > 1 else 2
        out_channels = node.RES2_OUT_CHANNELS * 2**index
        stages.append(
            ResNet.make_stage(
                num_blocks=blocks,
                stride_per_block=[stride] + [1] * (blocks - 1),
                in_channels=in_channels,
                out_channels=out_channels,
                norm=node.NORM,
                **_block_arguments(node, index, dilation),
            )
        )
        in_channels = out_channels
    return ResNet(stem, stages, out_features=node.OUT_FEATURES, freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT)


def _block_arguments(node: CfgNode, index: int, dilation: int) -> dict[str, Any]:
    """Class and arguments of the blocks of stage ``res{index + 2}``."""
    if node.DEPTH < 50:
        return {"block_class": BasicBlock}
    arguments = {
        "block_class": Res2NetBottleneck,
        "bottleneck_channels": node.NUM_GROUPS * node.WIDTH_PER_GROUP * SCALE * 2**index,
        "stride_in_1x1": node.STRIDE_IN_1X1,
        "dilation": dilation,
        "num_groups": node.NUM_GROUPS,
    }
    if not node.DEFORM_ON_PER_STAGE[index]:
        return arguments
    deformable = {"modulated": node.DEFORM_MODULATED, "deform_groups": node.DEFORM_NUM_GROUPS}
    return {**arguments, **deformable, "block_class": DeformableRes2NetBottleneck}


@register_once(BACKBONE_REGISTRY)
def build_p67_res2net_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """Res2Net (``MODEL.RESNETS``) with FPN (``MODEL.FPN``): p3 to p7, strides 8 to 128."""
    channels = cfg.MODEL.FPN.OUT_CHANNELS
    return build_fpn(cfg, build_res2net_backbone(cfg, input_shape), LastLevelP6P7_P5(channels, channels))


@register_once(BACKBONE_REGISTRY)
def build_res2net_bifpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """Res2Net (``MODEL.RESNETS``) with BiFPN (``MODEL.BIFPN``): p3 to p7, strides 8 to 128."""
    return bifpn_from_config(cfg, build_res2net_backbone(cfg, input_shape), cfg.MODEL.FPN.IN_FEATURES)
