"""The first layers of a ResNet in inference on a CPU."""

import torch
import torch.nn.functional as F
from detectron2.modeling.backbone.resnet import BasicStem
from torch import Tensor

from ...ops.capture import capture_target


class ChannelsLastPoolStem(BasicStem):
    """detectron2's stem; in inference on a CPU its pooling goes through channels-last memory.

    PyTorch's kernel for that is ten times as fast and gives the same bits.
    """

    def forward(self, x: Tensor) -> Tensor:
        """``[B, 3, H, W]`` to ``[B, C, H / 4, W / 4]``."""
        plain = x.device.type == "cpu" and not torch.is_grad_enabled() and capture_target() is None
        if not plain or torch.compiler.is_compiling():
            return super().forward(x)  # type: ignore[no-any-return]
        x = F.relu_(self.conv1(x))
        if not x.is_contiguous():
            return F.max_pool2d(x, kernel_size=3, stride=2, padding=1)
        return F.max_pool2d(x.contiguous(memory_format=torch.channels_last), 3, stride=2, padding=1).contiguous()


def pool_in_channels_last(stem: BasicStem) -> None:
    """Turn a plain stem into a :class:`ChannelsLastPoolStem`, in place: the same layers, names and numbers."""
    if type(stem) is BasicStem:
        stem.__class__ = ChannelsLastPoolStem
