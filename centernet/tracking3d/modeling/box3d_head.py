"""The 3D head: depth and its confidence, sizes, orientation and projected centre of each box, for every class.

Source: QD-3DT (arXiv 2103.07351) section 3.1.
"""

from dataclasses import dataclass

from detectron2.layers import Conv2d
from torch import Tensor, nn

from ..ops.codecs import OrientationCodec
from ..ops.losses import Box3DOutputs

__all__ = ["Box3DHead", "Box3DHeadOptions", "conv_relus"]


def conv_relus(in_channels: int, out_channels: int, count: int) -> nn.Sequential:
    """``count`` 3x3 convs with ReLU."""
    layers = []
    for i in range(count):
        conv = Conv2d(in_channels if i == 0 else out_channels, out_channels, 3, padding=1, activation=nn.ReLU())
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(conv.bias)
        layers.append(conv)
    return nn.Sequential(*layers)


@dataclass(frozen=True)
class Box3DHeadOptions:
    """Sizes of the head.

    Attributes:
        shared_convs: before the branches.
        branch_convs: of each of the four branches.
        channels: of all convs.
    """

    shared_convs: int = 2
    branch_convs: int = 4
    channels: int = 256


class Box3DHead(nn.Module):
    """Four branches over shared convs; layers have the names of the published files. Classes have no background."""

    def __init__(self, in_channels: int, resolution: int, num_classes: int, options: Box3DHeadOptions | None = None):
        super().__init__()
        options = options or Box3DHeadOptions()
        width, depth = options.channels, options.branch_convs
        self.num_classes = num_classes
        self.shared_convs = conv_relus(in_channels, width, options.shared_convs)
        inner = width if options.shared_convs else in_channels
        self.dep_convs, self.dim_convs, self.rot_convs, self.cen_2d_convs = (
            conv_relus(inner, width, depth) for _ in range(4)
        )
        flat = (width if depth else inner) * resolution**2
        self.fc_dep = nn.Linear(flat, num_classes)
        self.fc_dep_uncer = nn.Linear(flat, num_classes)
        self.fc_dim = nn.Linear(flat, 3 * num_classes)
        self.fc_rot = nn.Linear(flat, 8 * num_classes)
        self.fc_2dc = nn.Linear(flat, 2 * num_classes)
        for layer in (self.fc_dep, self.fc_dep_uncer, self.fc_dim, self.fc_rot, self.fc_2dc):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, pooled: Tensor) -> Box3DOutputs:
        """Outputs in the slots of all ``C`` classes, so every field has shape ``[R, C, ...]``.

        Args:
            pooled: float ``[R, channels, resolution, resolution]``.
        """
        shared = self.shared_convs(pooled)
        depth, dims, rotation, center = (
            convs(shared).flatten(1) for convs in (self.dep_convs, self.dim_convs, self.rot_convs, self.cen_2d_convs)
        )
        return Box3DOutputs(
            self.fc_dep(depth).float(),
            self.fc_dep_uncer(depth).float(),
            self._by_class(self.fc_dim(dims)),
            OrientationCodec.normalise(self._by_class(self.fc_rot(rotation))),
            self._by_class(self.fc_2dc(center)),
        )

    def _by_class(self, outputs: Tensor) -> Tensor:
        return outputs.float().unflatten(1, (self.num_classes, -1))
