"""Deep layer aggregation: the body DLA-34 / DLA-60, and the backbones with a deformable up-sampling path.

Source: Deep Layer Aggregation (arXiv 1707.06484). Names of the state dict are those of the published ImageNet files.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec, get_norm
from detectron2.modeling.backbone import BACKBONE_REGISTRY, Backbone
from detectron2.modeling.backbone.fpn import FPN, LastLevelP6P7
from torch import Tensor, cat, nn
from torch.nn.functional import relu

from ...errors import UserError
from ...registration import register_once
from .dla_up import DLASeg
from .fpn_p5 import build_fpn

__all__ = [
    "DLA",
    "DLASeg",
    "build_dla_backbone",
    "build_dla_body",
    "build_retinanet_dla_fpn_backbone",
    "dla_fpn",
    "dla_norm",
]

IMAGENET_CLASSES = 1000
LEVELS = 6  # dla0 to dla5, strides 1 to 32


def _conv(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> nn.Conv2d:
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv


def _conv_norm_relu(in_channels: int, out_channels: int, kernel_size: int, stride: int, norm: str) -> list[nn.Module]:
    conv = _conv(in_channels, out_channels, kernel_size, stride)
    return [conv, get_norm(norm, out_channels), nn.ReLU(inplace=True)]


class BasicBlock(nn.Module):
    """Two 3x3 convs."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, norm: str):
        super().__init__()
        self.conv1 = _conv(in_channels, out_channels, 3, stride)
        self.bn1 = get_norm(norm, out_channels)
        self.conv2 = _conv(out_channels, out_channels, 3)
        self.bn2 = get_norm(norm, out_channels)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        out = relu(self.bn1(self.conv1(x)))
        return relu(self.bn2(self.conv2(out)) + residual)


class BottleneckBlock(nn.Module):
    """1x1, 3x3 and 1x1 conv, the first two with half the channels."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, norm: str):
        super().__init__()
        middle = out_channels // 2
        self.conv1 = _conv(in_channels, middle, 1)
        self.bn1 = get_norm(norm, middle)
        self.conv2 = _conv(middle, middle, 3, stride)
        self.bn2 = get_norm(norm, middle)
        self.conv3 = _conv(middle, out_channels, 1)
        self.bn3 = get_norm(norm, out_channels)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        out = relu(self.bn1(self.conv1(x)))
        out = relu(self.bn2(self.conv2(out)))
        return relu(self.bn3(self.conv3(out)) + residual)


class Layout(NamedTuple):
    depths: tuple[int, ...]  # of each level: plain convs in dla0 and dla1, depth of the tree above
    channels: tuple[int, ...]
    block: Callable[[int, int, int, str], nn.Module]


LAYOUTS = {
    34: Layout((1, 1, 1, 2, 2, 1), (16, 32, 64, 128, 256, 512), BasicBlock),
    60: Layout((1, 1, 1, 2, 3, 1), (16, 32, 128, 256, 512, 1024), BottleneckBlock),
}


class Root(nn.Module):
    """Joins feature maps of one size: a 1x1 conv over their channels."""

    def __init__(self, in_channels: int, out_channels: int, norm: str):
        super().__init__()
        self.conv = _conv(in_channels, out_channels, 1)
        self.bn = get_norm(norm, out_channels)

    def forward(self, *features: Tensor) -> Tensor:
        return relu(self.bn(self.conv(cat(features, dim=1))))


class Tree(nn.Module):
    """What trees of every depth share: how the input gets to the size and the channels of the output."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, level_root: bool, norm: str):
        super().__init__()
        self.level_root = level_root  # the input, downsampled, is one of the features that the root joins
        self.pool = nn.MaxPool2d(stride, stride) if stride > 1 else nn.Identity()
        self.project: nn.Module = nn.Identity()
        if in_channels != out_channels:
            self.project = nn.Sequential(_conv(in_channels, out_channels, 1), get_norm(norm, out_channels))


class LeafTree(Tree):
    """Depth 1: two blocks and the root that joins them with what the trees above collected (``children``)."""

    def __init__(
        self,
        block: Callable[[int, int, int, str], nn.Module],
        in_channels: int,
        out_channels: int,
        stride: int,
        level_root: bool,
        root_channels: int,
        norm: str,
    ):
        super().__init__(in_channels, out_channels, stride, level_root, norm)
        self.tree1 = block(in_channels, out_channels, stride, norm)
        self.tree2 = block(out_channels, out_channels, 1, norm)
        self.root = Root(root_channels, out_channels, norm)

    def forward(self, x: Tensor, children: tuple[Tensor, ...] = ()) -> Tensor:
        bottom = self.pool(x)
        if self.level_root:
            children = (*children, bottom)
        x1 = self.tree1(x, self.project(bottom))
        x2 = self.tree2(x1, x1)
        return self.root(x2, x1, *children)


class NestedTree(Tree):
    """Depth 2 and more: two trees in a row; the root of the second one joins all.

    ``project`` is dead: published files hold it, no output depends on it, and it is not computed.
    """

    def __init__(
        self,
        first: Tree,
        second: Tree,
        in_channels: int,
        out_channels: int,
        stride: int,
        level_root: bool,
        norm: str,
    ):
        super().__init__(in_channels, out_channels, stride, level_root, norm)
        self.tree1, self.tree2 = first, second

    def forward(self, x: Tensor, children: tuple[Tensor, ...] = ()) -> Tensor:
        if self.level_root:
            children = (*children, self.pool(x))
        x1 = self.tree1(x)
        if self.training:
            # The published gradient of the dead projection is zero rather than absent, and DDP waits for it. The sum
            # of no elements is 0 even where a weight is infinite.
            for parameter in self.project.parameters():
                if parameter.requires_grad:
                    x1 = x1 + parameter.flatten()[:0].sum()
        return self.tree2(x1, (*children, x1))


def _tree(
    layout: Layout,
    depth: int,
    in_channels: int,
    out_channels: int,
    stride: int,
    norm: str,
    *,
    level_root: bool = False,
    root_channels: int = 0,
) -> Tree:
    """``root_channels`` is what the innermost root joins without the input of this tree; 0: its two blocks."""
    root_channels = (root_channels or 2 * out_channels) + (in_channels if level_root else 0)
    if depth == 1:
        return LeafTree(layout.block, in_channels, out_channels, stride, level_root, root_channels, norm)
    first = _tree(layout, depth - 1, in_channels, out_channels, stride, norm)
    second = _tree(layout, depth - 1, out_channels, out_channels, 1, norm, root_channels=root_channels + out_channels)
    return NestedTree(first, second, in_channels, out_channels, stride, level_root, norm)


class DLA(Backbone):
    """The body. Outputs ``dla<i>`` of stride ``2 ** i``, i from 0 to 5.

    All six levels are built, as in the published files; those above the last one asked for are neither computed nor
    trained.
    """

    def __init__(
        self,
        num_layers: int = 34,
        norm: str = "BN",
        out_features: Sequence[str] = ("dla3", "dla4", "dla5"),
    ):
        """``norm`` is a name of detectron2's ``get_norm``.

        Raises:
            UserError: there is no such depth, norm or level.
        """
        super().__init__()
        _check(num_layers, norm, out_features)
        layout = LAYOUTS[num_layers]
        channels = layout.channels
        self._out_features = list(out_features)
        self._out_feature_channels = {f"dla{i}": c for i, c in enumerate(channels)}
        self._out_feature_strides = {f"dla{i}": 2**i for i in range(LEVELS)}
        self.base_layer = nn.Sequential(*_conv_norm_relu(3, channels[0], 7, 1, norm))
        self.level0 = _plain_level(channels[0], channels[0], 1, layout.depths[0], norm)
        self.level1 = _plain_level(channels[0], channels[1], 2, layout.depths[1], norm)
        for i in range(2, LEVELS):
            tree = _tree(layout, layout.depths[i], channels[i - 1], channels[i], 2, norm, level_root=i > 2)
            self.add_module(f"level{i}", tree)
        self.last_level = max(int(name[3:]) for name in out_features)
        for i in range(self.last_level + 1, LEVELS):
            getattr(self, f"level{i}").requires_grad_(False)

    @property
    def size_divisibility(self) -> int:
        return 2 ** (LEVELS - 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """``[B, 3, H, W]``, H and W divisible by 32, to ``{name: [B, C, H / stride, W / stride]}``."""
        x = self.base_layer(x)
        outputs = {}
        for i in range(self.last_level + 1):
            x = getattr(self, f"level{i}")(x)
            outputs[f"dla{i}"] = x
        return {name: outputs[name] for name in self._out_features}

    def freeze_dead_projections(self) -> None:
        """Give the projections that no output depends on no gradient at all."""
        for module in self.modules():
            if isinstance(module, NestedTree):
                module.project.requires_grad_(False)


def _plain_level(in_channels: int, out_channels: int, stride: int, depth: int, norm: str) -> nn.Sequential:
    layers = _conv_norm_relu(in_channels, out_channels, 3, stride, norm)
    for _ in range(depth - 1):
        layers += _conv_norm_relu(out_channels, out_channels, 3, 1, norm)
    return nn.Sequential(*layers)


def _check(num_layers: int, norm: str, out_features: Sequence[str]) -> None:
    if num_layers not in LAYOUTS:
        known = " and ".join(map(str, LAYOUTS))
        raise UserError(f"MODEL.DLA.NUM_LAYERS is {num_layers}: there are DLA bodies with {known} layers only")
    try:
        layer = get_norm(norm, LAYOUTS[num_layers].channels[0])
    except (KeyError, ValueError):  # ValueError: GroupNorm
        layer = None
    if layer is None:
        raise UserError(f"MODEL.DLA.NORM is '{norm}': DLA needs a norm for any width, 'BN', 'SyncBN' or 'FrozenBN'")
    unknown = sorted(set(out_features) - {f"dla{i}" for i in range(LEVELS)})
    if unknown or not out_features:
        raise UserError(f"DLA cannot give the levels {list(out_features)}: choose from dla0 to dla{LEVELS - 1}")


def dla_norm(cfg: CfgNode) -> str:
    """``MODEL.DLA.NORM``. PyTorch synchronises on GPUs only, so 'SyncBN' on a CPU is detectron2's own.

    Both compute plain batch norm in inference and in a single process; their state dicts are equal.
    """
    norm = cfg.MODEL.DLA.NORM
    return "naiveSyncBN" if norm == "SyncBN" and cfg.MODEL.DEVICE == "cpu" else norm


def build_dla_body(cfg: CfgNode, out_features: Sequence[str] = ("dla3", "dla4", "dla5")) -> DLA:
    """The body that ``MODEL.DLA.NUM_LAYERS`` and ``MODEL.DLA.NORM`` describe, with random weights.

    Raises:
        UserError: there is no such depth, norm or level.
    """
    return DLA(cfg.MODEL.DLA.NUM_LAYERS, dla_norm(cfg), out_features)


@register_once(BACKBONE_REGISTRY)
def build_dla_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> DLASeg:
    """``dla2`` at stride 4; with ``MODEL.DLA.MS_OUTPUT`` the levels ``MODEL.DLA.OUT_FEATURES``.

    Raises:
        UserError: keys of ``MODEL.DLA`` contradict each other.
    """
    dla = cfg.MODEL.DLA
    _check_outputs(dla)
    body = build_dla_body(cfg, DLASeg.UP_LEVELS if dla.USE_DLA_UP else dla.OUT_FEATURES)
    # the ImageNet classifier, which published files hold and nothing uses
    body.fc = nn.Conv2d(LAYOUTS[dla.NUM_LAYERS].channels[-1], IMAGENET_CLASSES, kernel_size=1).requires_grad_(False)
    body.freeze_dead_projections()
    return DLASeg(body, dla_norm(cfg), dla.OUT_FEATURES, use_dla_up=dla.USE_DLA_UP, ms_output=dla.MS_OUTPUT)


def _check_outputs(dla: CfgNode) -> None:
    wanted = list(dla.OUT_FEATURES)
    if not dla.MS_OUTPUT:
        if not dla.USE_DLA_UP:
            raise UserError(
                "MODEL.DLA.USE_DLA_UP False needs MODEL.DLA.MS_OUTPUT True: the single output at stride 4 is made by "
                "the up-sampling path"
            )
        if wanted != ["dla2"]:
            raise UserError(
                f"MODEL.DLA.OUT_FEATURES {wanted} needs MODEL.DLA.MS_OUTPUT True: the single output is ['dla2']"
            )
    elif dla.USE_DLA_UP and not (wanted and set(wanted) <= set(DLASeg.UP_LEVELS)):
        raise UserError(
            f"MODEL.DLA.OUT_FEATURES {wanted}: the up-sampling path gives {list(DLASeg.UP_LEVELS)}; choose from these, "
            "or set MODEL.DLA.USE_DLA_UP False for the body's own levels"
        )


@register_once(BACKBONE_REGISTRY)
def build_retinanet_dla_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """:func:`build_dla_backbone` with FPN (``MODEL.FPN``), p6 and p7 from ``dla5``: p3 to p7, strides 8 to 128.

    Raises:
        UserError: keys of ``MODEL.DLA`` or ``MODEL.FPN`` contradict each other.
    """
    return dla_fpn(cfg, build_dla_backbone(cfg, input_shape), extra_levels=True)


def dla_fpn(cfg: CfgNode, bottom_up: Backbone, *, extra_levels: bool) -> FPN:
    """FPN as in ``MODEL.FPN``; with ``extra_levels`` also p6 and p7, from ``dla5``.

    Raises:
        UserError: ``bottom_up`` does not give ``MODEL.FPN.IN_FEATURES``, or they do not suit the extra levels.
    """
    shapes = bottom_up.output_shape()
    levels, channels = list(cfg.MODEL.FPN.IN_FEATURES), cfg.MODEL.FPN.OUT_CHANNELS
    if not levels or not set(levels) <= set(shapes):
        raise UserError(f"MODEL.FPN.IN_FEATURES is {levels}: the body gives {list(shapes)}, so name levels of these")
    if extra_levels and levels[-1] != "dla5":
        raise UserError(f"MODEL.FPN.IN_FEATURES is {levels}: p6 and p7 come from 'dla5', so it must be the last one")
    top_block = LastLevelP6P7(shapes["dla5"].channels, channels, "dla5") if extra_levels else None
    return build_fpn(cfg, bottom_up, top_block)
