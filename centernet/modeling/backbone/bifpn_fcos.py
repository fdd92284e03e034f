"""BiFPN in the form known from real-time FCOS detectors: projections are shared by the nodes of a level.

Source: EfficientDet (arXiv 1911.09070), section 3, with differences: 3x3 pooling, projections with bias, extra levels
in the body. Used by the published CenterNet2_DLA-BiFPN-P3 and DLA-fcosBiFPN-P5 models ("Probabilistic two-stage
detection", arXiv 2103.07461). Weights of :mod:`.bifpn` do not fit.
"""

import re
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.layers import Conv2d, ShapeSpec
from detectron2.modeling.backbone import BACKBONE_REGISTRY, Backbone
from torch import Tensor, nn

from ...errors import UserError
from ...registration import register_once
from .bifpn_fusion import FUSION_NODES, BiFPNNeck, FusionNode, fuse, node_levels, norm_layer, swish, upsample
from .dla import build_dla_body
from .resnet_dcn import build_resnet_body


def _conv(in_channels: int, out_channels: int, kernel_size: int, norm: str, bias: bool) -> Conv2d:
    return Conv2d(
        in_channels,
        out_channels,
        kernel_size,
        padding=kernel_size // 2,
        bias=bias,
        norm=norm_layer(norm, out_channels),
    )


def _downsample(x: Tensor) -> Tensor:
    return F.max_pool2d(x, kernel_size=3, stride=2, padding=1)


class _TopLevel(nn.Module):
    """The next coarser level: 1x1 conv and norm if channels change, then pooling."""

    def __init__(self, in_channels: int, out_channels: int, norm: str):
        super().__init__()
        self.reduction = (
            _conv(in_channels, out_channels, 1, norm, bias=norm == "") if in_channels != out_channels else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        return _downsample(self.reduction(x))


class _BodyWithTopLevels(Backbone):
    """A body and ``num_top`` coarser levels, named on from its last one (``dla5``: ``dla6``, ``dla7``)."""

    def __init__(self, backbone: Backbone, in_features: Sequence[str], num_top: int, out_channels: int, norm: str):
        super().__init__()
        shapes = backbone.output_shape()
        self.backbone = backbone
        self.top_names = _names_after(in_features[-1], num_top)
        self._out_features = [*in_features, *self.top_names]
        self._out_feature_channels = {name: shapes[name].channels for name in in_features}
        self._out_feature_strides = {name: shapes[name].stride for name in in_features}
        previous = in_features[-1]
        for name in self.top_names:
            self.add_module(name, _TopLevel(self._out_feature_channels[previous], out_channels, norm))
            self._out_feature_channels[name] = out_channels
            self._out_feature_strides[name] = 2 * self._out_feature_strides[previous]
            previous = name

    @property
    def size_divisibility(self) -> int:
        return self.backbone.size_divisibility

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = dict(self.backbone(x))
        for previous, name in zip(self._out_features[-len(self.top_names) - 1 :], self.top_names, strict=False):
            features[name] = getattr(self, name)(features[previous])
        return features


def _names_after(name: str, count: int) -> list[str]:
    match = re.fullmatch(r"(.*?)(\d+)", name)
    if count and not match:
        raise UserError(f"the body's level {name} has no number to count on from; rename it, for example to {name}5")
    return [f"{match[1]}{int(match[2]) + i}" for i in range(1, count + 1)] if match else []


class _Repeat(nn.Module):
    """One repeat: all levels to all levels. Child and parameter names are those of published weights."""

    def __init__(self, channels: Sequence[int], out_channels: int, norm: str):
        super().__init__()
        self.nodes = FUSION_NODES[len(channels)]
        self.levels = node_levels(len(channels))
        self.projected = [width != out_channels for width in channels] + [False] * len(self.nodes)
        for node in self.nodes:
            self.register_parameter(f"weights_{_name(node)}", nn.Parameter(torch.ones(len(node.inputs))))
            self.add_module(f"outputs_{_name(node)}", _conv(out_channels, out_channels, 3, norm, bias=norm == ""))
            for i in node.inputs:
                lateral = f"lateral_{i}_f{node.level}"
                if self.projected[i] and not hasattr(self, lateral):
                    self.add_module(lateral, _conv(channels[i], out_channels, 1, norm, bias=True))

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        maps = list(features)
        outputs = list(features)
        projections: dict[tuple[int, int], Tensor] = {}  # two nodes of a level share them
        for node in self.nodes:
            inputs = []
            for i in node.inputs:
                key = (i, node.level)
                if self.projected[i] and key not in projections:
                    projections[key] = getattr(self, f"lateral_{i}_f{node.level}")(maps[i])
                inputs.append(self._to_level(projections.get(key, maps[i]), self.levels[i], node.level))
            fused = fuse(inputs, getattr(self, f"weights_{_name(node)}"), divide_weights=True)
            outputs[node.level] = getattr(self, f"outputs_{_name(node)}")(swish(fused))
            maps.append(outputs[node.level])
        return outputs

    @staticmethod
    def _to_level(x: Tensor, source: int, target: int) -> Tensor:
        if source == target:
            return x
        return _downsample(x) if source < target else upsample(x)


def _name(node: FusionNode) -> str:
    return f"f{node.level}_{'_'.join(map(str, node.inputs))}"


class BiFPN(BiFPNNeck):
    """Body plus BiFPN: levels p3 to p5 or p3 to p7, all of ``out_channels``, for a body whose first level has stride 8.

    Attributes:
        bottom_up: the body with its extra levels (the body itself is ``bottom_up.backbone``).
        repeated_bifpn: the repeats.
    """

    def __init__(
        self,
        bottom_up: Backbone,
        in_features: Sequence[str],
        out_channels: int,
        norm: str = "",
        num_levels: int = 5,
        num_bifpn: int = 4,
        size_divisibility: int = 128,
    ):
        """
        Args:
            bottom_up: any detectron2 ``Backbone``; levels beyond its own are pooled from its last one.
            in_features: consecutive levels of ``bottom_up``, finest first; usually of strides 8, 16 and 32.
            out_channels: channels of every output.
            norm: norm after every convolution, '' for none.
            num_levels: levels of the pyramid, 3 or 5.
            num_bifpn: repeats.
            size_divisibility: images are padded to a multiple of this many pixels.

        Raises:
            UserError: missing levels, another number of levels, or a norm that does not fit.
        """
        super().__init__(bottom_up, in_features, out_channels, num_levels, (3, 5), size_divisibility)
        body = _BodyWithTopLevels(bottom_up, in_features, num_levels - len(in_features), out_channels, norm)
        shapes = body.output_shape()
        self.bottom_up = body
        self.in_features = tuple(shapes)
        channels = [shapes[name].channels for name in self.in_features]
        self.repeated_bifpn = nn.ModuleList()
        for _ in range(num_bifpn):
            self.repeated_bifpn.append(_Repeat(channels, out_channels, norm))
            channels = [out_channels] * num_levels

    def pyramid(self, features: dict[str, Tensor]) -> list[Tensor]:
        levels = [features[name] for name in self.in_features]
        for repeat in self.repeated_bifpn:
            levels = repeat(levels)
        return levels


def _from_config(cfg: CfgNode, body: Backbone, in_features: Sequence[str], num_levels: int) -> BiFPN:
    node = cfg.MODEL.BIFPN
    return BiFPN(
        bottom_up=body,
        in_features=in_features,
        out_channels=node.OUT_CHANNELS,
        norm=node.NORM,
        num_levels=num_levels,
        num_bifpn=node.NUM_BIFPN,
        size_divisibility=node.SIZE_DIVISIBILITY,
    )


@register_once(BACKBONE_REGISTRY)
def build_fcos_resnet_bifpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """ResNet (levels ``MODEL.FPN.IN_FEATURES``) with FCOS-style BiFPN (``MODEL.BIFPN``): p3 to p7."""
    return _from_config(cfg, build_resnet_body(cfg, input_shape), cfg.MODEL.FPN.IN_FEATURES, num_levels=5)


@register_once(BACKBONE_REGISTRY)
def build_p35_fcos_resnet_bifpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """ResNet (levels ``MODEL.FPN.IN_FEATURES``) with FCOS-style BiFPN (``MODEL.BIFPN``): p3 to p5."""
    return _from_config(cfg, build_resnet_body(cfg, input_shape), cfg.MODEL.FPN.IN_FEATURES, num_levels=3)


@register_once(BACKBONE_REGISTRY)
def build_p35_fcos_dla_bifpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """DLA-34 (``MODEL.DLA``) with FCOS-style BiFPN (``MODEL.BIFPN``, its ``NUM_LEVELS`` aside): p3 to p5."""
    return _from_config(cfg, build_dla_body(cfg), ("dla3", "dla4", "dla5"), num_levels=3)


@register_once(BACKBONE_REGISTRY)
def build_p37_fcos_dla_bifpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """DLA-34 (``MODEL.DLA``) with FCOS-style BiFPN (``MODEL.BIFPN``): p3 to p7."""
    if cfg.MODEL.BIFPN.NUM_LEVELS != 5:
        raise UserError(
            f"build_p37_fcos_dla_bifpn_backbone has 5 levels, but MODEL.BIFPN.NUM_LEVELS is "
            f"{cfg.MODEL.BIFPN.NUM_LEVELS}; set it to 5, or use build_p35_fcos_dla_bifpn_backbone for 3"
        )
    return _from_config(cfg, build_dla_body(cfg), ("dla3", "dla4", "dla5"), num_levels=5)
