"""The aggregation of a body's levels towards the finest one, and the stride-4 backbone built with it.

Source: Deep Layer Aggregation (arXiv 1707.06484), iterative aggregation; with deformable convolutions as in Objects as
Points (arXiv 1904.07850).
"""

from collections.abc import Callable, Sequence

import torch
from detectron2.layers import get_norm
from detectron2.modeling.backbone import Backbone
from torch import Tensor, nn

from ..layers.deform_conv import DFConv2d

__all__ = ["NODES", "DLASeg", "DLAUp", "DLAUpBackbone", "IDAUp", "bilinear_upsampling"]

# (input channels, output channels, norm) to a layer that keeps the size
Node = Callable[[int, int, str], nn.Module]


class DeformableNode(DFConv2d):
    """Modulated deformable 3x3 conv, norm, ReLU."""

    def __init__(self, in_channels: int, out_channels: int, norm: str):
        super().__init__(in_channels, out_channels, bias=True)
        self.actf = nn.Sequential(get_norm(norm, out_channels), nn.ReLU(inplace=True))

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """``[B, in, H, W]`` to ``[B, out, H, W]``."""
        return self.actf(super().forward(x))


class ConvNode(nn.Module):
    """1x1 conv, norm, ReLU."""

    def __init__(self, in_channels: int, out_channels: int, norm: str):
        super().__init__()
        conv = nn.Conv2d(in_channels, out_channels, kernel_size=1, bias=False)
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        self.conv = nn.Sequential(conv, get_norm(norm, out_channels), nn.ReLU(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        """``[B, in, H, W]`` to ``[B, out, H, W]``."""
        return self.conv(x)


# what MODEL.DLA.DLAUP_NODE names
NODES: dict[str, Node] = {"conv": ConvNode, "dcn": DeformableNode}


def bilinear_upsampling(channels: int, factor: int) -> nn.ConvTranspose2d:
    """A depth-wise transposed conv, trainable, that starts as bilinear interpolation; ``factor`` is even."""
    size = 2 * factor
    layer = nn.ConvTranspose2d(
        channels, channels, size, stride=factor, padding=factor // 2, groups=channels, bias=False
    )
    distance = (torch.arange(size) - (size - 1) / 2).abs()  # from the middle of the kernel, in output pixels
    row = 1 - distance / factor
    with torch.no_grad():
        layer.weight.copy_(row[:, None] * row[None, :])
    return layer


class IDAUp(nn.Module):
    """Iterative aggregation: brings levels to the size of the finest one and adds them up from fine to coarse."""

    def __init__(self, out_channels: int, in_channels: Sequence[int], factors: Sequence[int], node: Node, norm: str):
        """``in_channels`` of all levels, the finest first; ``factors`` of size of all but the finest."""
        super().__init__()
        for i, (channels, factor) in enumerate(zip(in_channels[1:], factors, strict=True), start=1):
            self.add_module(f"proj_{i}", node(channels, out_channels, norm))
            self.add_module(f"up_{i}", bilinear_upsampling(out_channels, factor))
            self.add_module(f"node_{i}", node(out_channels, out_channels, norm))

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """The same levels; all but the first are new, with ``out_channels`` channels and the size of the first."""
        out = [levels[0]]
        for i, level in enumerate(levels[1:], start=1):
            raised = getattr(self, f"up_{i}")(getattr(self, f"proj_{i}")(level))
            out.append(getattr(self, f"node_{i}")(raised + out[-1]))
        return out


class DLAUp(nn.Module):
    """For each level an aggregate of it and all coarser ones."""

    def __init__(self, channels: Sequence[int], node: Node, norm: str, finest: int = 0):
        """``channels`` of the levels, the finest first; each level has half the size of the one before.

        Levels before number ``finest`` are not wanted: their layers exist, as in published files, but are neither
        computed nor trained.
        """
        super().__init__()
        self.steps = len(channels) - 1 - finest
        for i in range(len(channels) - 1):
            target = len(channels) - 2 - i
            # whatever is coarser has the channels and the size of the level after the target by now
            coarser = [channels[target + 1]] * (i + 1)
            step = IDAUp(channels[target], [channels[target], *coarser], [2] * len(coarser), node, norm)
            self.add_module(f"ida_{i}", step.requires_grad_(i < self.steps))

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """From ``finest`` on, levels with the sizes and channels of the given ones; the coarsest is unchanged."""
        current, out = list(levels), [levels[-1]]
        for i in range(self.steps):
            target = len(levels) - 2 - i
            current[target:] = getattr(self, f"ida_{i}")(current[target:])
            out.insert(0, current[-1])
        return out


class DLASeg(Backbone):
    """A body with the deformable up-sampling path: one output, ``dla2`` at stride 4, or several levels."""

    UP_LEVELS = ("dla2", "dla3", "dla4", "dla5")

    def __init__(
        self,
        base: Backbone,
        norm: str,
        out_features: Sequence[str] = ("dla2",),
        *,
        use_dla_up: bool = True,
        ms_output: bool = False,
    ):
        """``base`` gives ``UP_LEVELS`` (without ``use_dla_up``: ``out_features``, which are handed on as they are)."""
        super().__init__()
        shapes = base.output_shape()
        self.base = base
        self.dla_up: DLAUp | None = None
        self.ida_up: IDAUp | None = None
        if use_dla_up:
            channels = [shapes[name].channels for name in self.UP_LEVELS]
            finest = min(self.UP_LEVELS.index(name) for name in out_features)
            self.dla_up = DLAUp(channels, DeformableNode, norm, finest)
            if not ms_output:
                self.ida_up = IDAUp(channels[0], channels[:3], [2, 4], DeformableNode, norm)
        self._out_features = list(out_features)
        self._out_feature_channels = {name: shapes[name].channels for name in out_features}
        self._out_feature_strides = {name: shapes[name].stride for name in out_features}

    @property
    def size_divisibility(self) -> int:
        return 32

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """``[B, 3, H, W]``, H and W divisible by 32, to ``{name: [B, C, H / stride, W / stride]}``."""
        outputs = self.base(x)
        if self.dla_up is not None:
            levels = self.dla_up([outputs[name] for name in self.UP_LEVELS])
            if self.ida_up is not None:
                return {"dla2": self.ida_up(levels[:3])[-1]}
            outputs = dict(zip(self.UP_LEVELS[-len(levels) :], levels, strict=True))
        return {name: outputs[name] for name in self._out_features}


class DLAUpBackbone(DLAUp, Backbone):
    """A body with an up-sampling path over ``in_features``: ``dla3`` becomes ``dlaup3`` of the same shape."""

    def __init__(self, bottom_up: Backbone, in_features: Sequence[str], node: Node, norm: str):
        """``in_features``: consecutive levels, the finest first."""
        shapes = bottom_up.output_shape()
        super().__init__([shapes[name].channels for name in in_features], node, norm)
        self.bottom_up = bottom_up
        self.in_features = tuple(in_features)
        self._out_features = [name.replace("dla", "dlaup") for name in in_features]
        both = list(zip(self._out_features, in_features, strict=True))
        self._out_feature_channels = {new: shapes[old].channels for new, old in both}
        self._out_feature_strides = {new: shapes[old].stride for new, old in both}

    @property
    def size_divisibility(self) -> int:
        return 32

    def forward(self, x: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        """``[B, 3, H, W]``, H and W divisible by 32, to ``{name: [B, C, H / stride, W / stride]}``."""
        outputs = self.bottom_up(x)
        levels = super().forward([outputs[name] for name in self.in_features])
        return dict(zip(self._out_features, levels, strict=True))
