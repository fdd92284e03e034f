"""BiFPN in the form of EfficientDet: every fusion node has a projection of its own for each input.

Source: EfficientDet (arXiv 1911.09070), section 3. Used by the published CenterNet2_DLA-BiFPN-P5 and R2-101-DCN-BiFPN
models ("Probabilistic two-stage detection", arXiv 2103.07461).
"""

from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import BACKBONE_REGISTRY, Backbone
from torch import Tensor, nn

from ...errors import UserError
from ...registration import register_once
from .bifpn_fusion import FUSION_NODES, BiFPNNeck, FusionNode, fuse, node_levels, norm_layer, swish, upsample
from .dla import build_dla_body
from .resnet_dcn import build_resnet_body


def _add_norm(module: nn.Module, norm: str, channels: int) -> None:
    layer = norm_layer(norm, channels)
    if layer is not None:
        module.add_module("bn", layer)


class _ConvNorm(nn.Sequential):
    """Convolution and norm under the names ``conv`` and ``bn``."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, norm: str, bias: bool = False):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=bias)
        _add_norm(self, norm, out_channels)


class _SeparableConvNorm(nn.Sequential):
    """3x3 depth-wise convolution, 1x1 convolution and norm."""

    def __init__(self, channels: int, norm: str):
        super().__init__()
        self.conv_dw = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.conv_pw = nn.Conv2d(channels, channels, 1, bias=norm == "")
        _add_norm(self, norm, channels)


class _Resample(nn.Sequential):
    """From one level to the same or a neighbouring one: 1x1 conv and norm if channels change, then the resizing."""

    def __init__(self, in_channels: int, out_channels: int, norm: str, levels_up: int):
        super().__init__()
        if in_channels != out_channels:
            self.conv = _ConvNorm(in_channels, out_channels, 1, norm)
        self.levels_up = levels_up  # 1: to the next coarser level, -1: to the next finer one, 0: stay

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        if self.levels_up > 0:
            return F.max_pool2d(x, kernel_size=2, stride=2)
        return upsample(x) if self.levels_up < 0 else x


class _Combine(nn.Module):
    """Bring a node's inputs to its level and width, and fuse them."""

    def __init__(self, node: FusionNode, levels: Sequence[int], channels: Sequence[int], out_channels: int, norm: str):
        super().__init__()
        self.resample = nn.ModuleDict(
            {str(i): _Resample(channels[i], out_channels, norm, node.level - levels[i]) for i in node.inputs}
        )
        self.edge_weights = nn.Parameter(torch.ones(len(node.inputs)))

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        inputs = [resample(features[int(i)]) for i, resample in self.resample.items()]
        return fuse(inputs, self.edge_weights, divide_weights=False)


class _Swish(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return swish(x)


class _Cell(nn.Module):
    """One repeat: all levels to all levels."""

    def __init__(self, channels: Sequence[int], out_channels: int, norm: str, separable_conv: bool):
        super().__init__()
        nodes = FUSION_NODES[len(channels)]
        levels = node_levels(len(channels))
        widths = [*channels, *(out_channels for _ in nodes)]
        self.fnode = nn.ModuleList()
        for node in nodes:
            if separable_conv:
                conv: nn.Module = _SeparableConvNorm(out_channels, norm)
            else:
                conv = _ConvNorm(out_channels, out_channels, 3, norm, bias=norm == "")
            combine = _Combine(node, levels, widths, out_channels, norm)
            after_combine = nn.Sequential(OrderedDict(act=_Swish(), conv=conv))
            self.fnode.append(nn.Sequential(OrderedDict(combine=combine, after_combine=after_combine)))

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        maps = list(features)
        for node in self.fnode:
            maps.append(node(maps))
        return maps[-len(features) :]


class BiFPN(BiFPNNeck):
    """Body plus BiFPN: levels p3 to p7, all of ``out_channels``, for a body whose first level has stride 8.

    Attributes:
        resample: the levels beyond the body's, each made from the one before.
        cell: the repeats.
    """

    def __init__(
        self,
        cfg: CfgNode | None,
        bottom_up: Backbone,
        in_features: Sequence[str],
        out_channels: int,
        norm: str = "",
        num_levels: int = 5,
        num_bifpn: int = 4,
        separable_conv: bool = False,
    ):
        """
        Args:
            cfg: unused; published clients pass it.
            bottom_up: any detectron2 ``Backbone``.
            in_features: consecutive levels of ``bottom_up``, finest first; usually of strides 8, 16 and 32.
            out_channels: channels of every output.
            norm: norm after every convolution, '' for none.
            num_levels: levels of the pyramid; only 5 exist.
            num_bifpn: repeats.
            separable_conv: depth-wise and point-wise 3x3 convolutions instead of full ones.

        Raises:
            UserError: missing levels, another number of levels, or a norm that does not fit.
        """
        super().__init__(bottom_up, in_features, out_channels, num_levels, accepted_levels=(5,))
        shapes = bottom_up.output_shape()
        channels = [shapes[name].channels for name in in_features]
        self.resample = nn.ModuleDict()
        for level in range(len(channels), num_levels):
            self.resample[str(level)] = _Resample(channels[-1], out_channels, norm, levels_up=1)
            channels.append(out_channels)
        self.cell = nn.ModuleList()
        for _ in range(num_bifpn):
            self.cell.append(_Cell(channels, out_channels, norm, separable_conv))
            channels = [out_channels] * num_levels

    def pyramid(self, features: dict[str, Tensor]) -> list[Tensor]:
        levels = [features[name] for name in self.in_features]
        for resample in self.resample.values():
            levels.append(resample(levels[-1]))
        for cell in self.cell:
            levels = cell(levels)
        return levels


def bifpn_from_config(cfg: CfgNode, body: Backbone, in_features: Sequence[str]) -> BiFPN:
    """The BiFPN of ``MODEL.BIFPN`` on ``body``.

    Raises:
        UserError: ``SIZE_DIVISIBILITY`` is not that of its five levels.
    """
    node = cfg.MODEL.BIFPN
    if node.SIZE_DIVISIBILITY != 128:
        raise UserError(
            f"MODEL.BIFPN.SIZE_DIVISIBILITY is {node.SIZE_DIVISIBILITY}: this BiFPN has levels up to stride 128, so it "
            "must be 128; other values are for the FCOS-style one"
        )
    return BiFPN(
        cfg=cfg,
        bottom_up=body,
        in_features=in_features,
        out_channels=node.OUT_CHANNELS,
        norm=node.NORM,
        num_levels=node.NUM_LEVELS,
        num_bifpn=node.NUM_BIFPN,
        separable_conv=node.SEPARABLE_CONV,
    )


@register_once(BACKBONE_REGISTRY)
def build_resnet_bifpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """ResNet (``MODEL.RESNETS``, levels ``MODEL.FPN.IN_FEATURES``) with BiFPN (``MODEL.BIFPN``): p3 to p7."""
    return bifpn_from_config(cfg, build_resnet_body(cfg, input_shape), cfg.MODEL.FPN.IN_FEATURES)


@register_once(BACKBONE_REGISTRY)
def build_p37_dla_bifpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """DLA-34 (``MODEL.DLA``) with BiFPN (``MODEL.BIFPN``): p3 to p7."""
    return bifpn_from_config(cfg, build_dla_body(cfg), ("dla3", "dla4", "dla5"))
