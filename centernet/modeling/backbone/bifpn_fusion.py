"""What the two BiFPN necks share: the graph of fusion nodes, the weighted fusion, and the checks of what comes in.

Source: EfficientDet (arXiv 1911.09070), section 3.2 (cross-scale connections) and 3.3 (fast normalised fusion).
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch.nn.functional as F
from detectron2.layers import ShapeSpec, get_norm
from detectron2.modeling.backbone import Backbone
from torch import Tensor, nn

from ...errors import UserError

_EPSILON = 1e-4  # keeps the fusion finite when every edge weight is 0


class FusionNode(NamedTuple):
    """One node of a repeat: it lives at pyramid level ``level`` (0 is the finest) and fuses ``inputs``.

    Inputs below the number of levels are the repeat's own inputs; from there on nodes count in the order of the table.
    """

    level: int
    inputs: tuple[int, ...]


# top-down (coarse to fine), then bottom-up; the last node of a level is that level's output
FUSION_NODES: dict[int, tuple[FusionNode, ...]] = {
    3: (
        FusionNode(1, (1, 2)),
        FusionNode(0, (0, 3)),
        FusionNode(1, (1, 3, 4)),
        FusionNode(2, (2, 5)),
    ),
    5: (
        FusionNode(3, (3, 4)),
        FusionNode(2, (2, 5)),
        FusionNode(1, (1, 6)),
        FusionNode(0, (0, 7)),
        FusionNode(1, (1, 7, 8)),
        FusionNode(2, (2, 6, 9)),
        FusionNode(3, (3, 5, 10)),
        FusionNode(4, (4, 11)),
    ),
}


def node_levels(num_levels: int) -> list[int]:
    """Pyramid level of every input and every node of a repeat, in the order of their numbers."""
    return [*range(num_levels), *(node.level for node in FUSION_NODES[num_levels])]


def fuse(features: Sequence[Tensor], edge_weights: Tensor, divide_weights: bool) -> Tensor:
    """Fast normalised fusion: ``sum_i relu(w_i) x_i / (sum_j relu(w_j) + 1e-4)``.

    The two published necks round differently, and where a uniform background gives equal scores, the last bit decides
    which boxes come first.

    Args:
        features: tensors of one shape.
        edge_weights: ``[len(features)]``, learnable.
        divide_weights: divide the weights by their sum, not the weighted features (cheaper; else the same).
    """
    weights = F.relu(edge_weights)
    total = weights.sum() + _EPSILON
    if divide_weights:
        weights = weights / total
    fused: Tensor | None = None
    for i, feature in enumerate(features):
        term = feature * weights[i]
        term = term if divide_weights else term / total
        fused = term if fused is None else fused + term
    assert fused is not None
    return fused


def swish(x: Tensor) -> Tensor:
    """``x * sigmoid(x)``, with the published rounding (``F.silu`` differs in the last bit)."""
    return x * x.sigmoid()


def upsample(x: Tensor) -> Tensor:
    """One level finer: every cell becomes 2x2 equal ones."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def norm_layer(norm: str, channels: int) -> nn.Module | None:
    """detectron2's ``get_norm``, with one sentence for what it would refuse with a traceback."""
    if norm == "GN" and channels % 32:
        raise UserError(f"norm GN needs a multiple of 32 channels, not {channels}; change MODEL.BIFPN.OUT_CHANNELS")
    try:
        return get_norm(norm, channels)
    except KeyError:
        raise UserError(f"{norm!r} is no norm; set MODEL.BIFPN.NORM to GN, BN, SyncBN, FrozenBN or ''") from None


def body_levels(body: Backbone, in_features: Sequence[str]) -> list[ShapeSpec]:
    """Channels and stride of the levels that a neck takes from its body, finest first.

    Raises:
        UserError: a level is missing, none is named, or strides do not double from one level to the next.
    """
    if not isinstance(body, Backbone):
        raise UserError(f"the body of a BiFPN must be a detectron2 Backbone, not {type(body).__name__}")
    shapes = body.output_shape()
    missing = [name for name in in_features if name not in shapes]
    if missing or not in_features:
        wanted = f"asks for {', '.join(missing)}" if missing else "names no feature of its body"
        raise UserError(
            f"the BiFPN {wanted}, but {type(body).__name__} gives {', '.join(shapes)}; mend in_features "
            "(MODEL.FPN.IN_FEATURES) or the body's OUT_FEATURES"
        )
    levels = [shapes[name] for name in in_features]
    strides = [level.stride for level in levels]
    if any(fine * 2 != coarse for fine, coarse in zip(strides, strides[1:], strict=False)):
        raise UserError(
            f"the BiFPN's levels {', '.join(in_features)} have strides {strides}, but each must be twice the one "
            "before; name consecutive levels, finest first"
        )
    return levels


class BiFPNNeck(Backbone):
    """A body and what makes a pyramid of it. Subclasses say how in :meth:`pyramid`.

    Attributes:
        bottom_up: the body.
        size_divisibility: detectron2 pads images to a multiple of this many pixels. 128 is published, also for the neck
            that ends at stride 32; how much is padded changes what is computed.
    """

    def __init__(
        self,
        bottom_up: Backbone,
        in_features: Sequence[str],
        out_channels: int,
        num_levels: int,
        accepted_levels: Sequence[int],
        size_divisibility: int = 128,
    ):
        super().__init__()
        levels = body_levels(bottom_up, in_features)
        if num_levels not in accepted_levels or num_levels < len(levels):
            raise UserError(
                f"this BiFPN joins {' or '.join(map(str, accepted_levels))} levels, {len(levels)} of them from its "
                f"body, and not {num_levels}; change num_levels (MODEL.BIFPN.NUM_LEVELS)"
            )
        self.bottom_up = bottom_up
        self.in_features = tuple(in_features)
        strides = [levels[0].stride * 2**i for i in range(num_levels)]
        self._out_features = [f"p{stride.bit_length() - 1}" for stride in strides]
        self._out_feature_strides = dict(zip(self._out_features, strides, strict=True))
        self._out_feature_channels = dict.fromkeys(self._out_features, out_channels)
        if size_divisibility % strides[-1]:
            raise UserError(
                f"MODEL.BIFPN.SIZE_DIVISIBILITY is {size_divisibility}, but must be a multiple of {strides[-1]}, "
                f"the stride of {self._out_features[-1]}"
            )
        self._size_divisibility = size_divisibility

    @property
    def size_divisibility(self) -> int:
        return self._size_divisibility

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """``[B, 3, H, W]`` images to ``{level: [B, C, H / stride, W / stride]}``, finest level first.

        Raises:
            UserError: H or W is not a multiple of the coarsest stride.
        """
        multiple = max(self._out_feature_strides.values())
        height, width = x.shape[-2:]
        if height % multiple or width % multiple:
            to_height, to_width = (-(-size // multiple) * multiple for size in (height, width))
            raise UserError(
                f"the BiFPN got a {height}x{width} image, but height and width must be multiples of {multiple} pixels "
                f"(the stride of {self._out_features[-1]}); pad it to {to_height}x{to_width}"
            )
        return dict(zip(self._out_features, self.pyramid(self.bottom_up(x)), strict=True))

    def pyramid(self, features: dict[str, Tensor]) -> list[Tensor]:
        """The body's features to the levels of the pyramid, finest first."""
        raise NotImplementedError
