"""detectron2's ResNet with deformable stages on torchvision's operator: CPU and GPU, nothing to compile.

Sources: ResNet (arXiv 1512.03385), ResNeXt (arXiv 1611.05431), Deformable ConvNets v1 (arXiv 1703.06211) and v2
(arXiv 1811.11168).
"""

import torch
from detectron2.config import CfgNode
from detectron2.layers import CNNBlockBase, Conv2d, ShapeSpec
from detectron2.modeling.backbone.resnet import BottleneckBlock, ResNet, build_resnet_backbone
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

from ...errors import UserError
from ..layers.deform_conv import DeformConvKernel


class DeformConvNorm(DeformConvKernel):
    """A deformable convolution without bias at given offsets, then a norm; computed in at least float32.

    Parameter names are those of detectron2's ``DeformConv`` / ``ModulatedDeformConv``: ``weight`` and ``norm.*``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int,
        padding: int,
        dilation: int,
        groups: int,
        norm: nn.Module | None = None,
    ):
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
            bias=False,
        )
        self.norm = norm

    def forward(self, x: Tensor, offset: Tensor, mask: Tensor | None = None) -> Tensor:
        """``[B, in, H, W]`` to ``[B, out, H', W']`` in the type of ``x``.

        Args:
            offset: ``[B, 2 * 9 * G, H', W']``, pixels, ``(dy, dx)`` per kernel tap.
            mask: factor of each tap in [0, 1], ``[B, 9 * G, H', W']``.
        """
        out = self._convolve(x, offset, mask)
        return out if self.norm is None else self.norm(out)

    def _convolve(self, x: Tensor, offset: Tensor, mask: Tensor | None) -> Tensor:
        # the operator knows no bfloat16, no autocast on a CPU, and half precision would round the offsets
        wide = torch.promote_types(x.dtype, torch.float32)
        arguments = (x.to(wide), offset.to(wide), None if mask is None else mask.to(wide))
        if not torch.is_autocast_enabled(x.device.type):
            return self._operator(*arguments).to(x.dtype)
        with torch.autocast(x.device.type, enabled=False):
            return self._operator(*arguments).to(x.dtype)

    def _operator(self, x: Tensor, offset: Tensor, mask: Tensor | None) -> Tensor:
        weight = self.weight.to(x.dtype)
        return deform_conv2d(x, offset, weight, None, self.stride, self.padding, self.dilation, mask)


def offset_channels(modulated: bool, deform_groups: int) -> int:
    """Channels that steer a 3x3 deformable convolution: ``(dy, dx)`` per tap, and a mask logit when modulated."""
    return (27 if modulated else 18) * deform_groups


def offsets_and_mask(raw: Tensor, modulated: bool) -> tuple[Tensor, Tensor | None]:
    """Split ``[B, 27 * G, H, W]`` into offsets (18 * G) and mask in [0, 1] (9 * G); unmodulated: all are offsets."""
    if not modulated:
        return raw, None
    offset, mask = raw.split([raw.shape[1] // 3 * 2, raw.shape[1] // 3], dim=1)
    return offset, mask.sigmoid()


class DeformableBottleneck(CNNBlockBase):
    """detectron2's ``BottleneckBlock`` with a deformable 3x3 convolution.

    State dict and arithmetic are those of detectron2's ``DeformBottleneckBlock``.
    """

    def __init__(self, block: BottleneckBlock, *, modulated: bool, deform_groups: int = 1):
        """``block`` gives its layers and initial weights; do not use it afterwards."""
        super().__init__(block.in_channels, block.out_channels, block.stride)
        self.modulated = modulated
        plain = block.conv2
        stride, padding, dilation = plain.stride[0], plain.padding[0], plain.dilation[0]
        self.shortcut = block.shortcut
        self.conv1 = block.conv1
        self.conv2_offset = Conv2d(
            plain.in_channels,
            offset_channels(modulated, deform_groups),
            kernel_size=3,
            stride=stride,
            padding=padding,
            dilation=dilation,
        )
        nn.init.zeros_(self.conv2_offset.weight)
        nn.init.zeros_(self.conv2_offset.bias)
        self.conv2 = DeformConvNorm(
            plain.in_channels,
            plain.out_channels,
            3,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=plain.groups,
            norm=plain.norm,
        )
        self.conv2.weight = plain.weight
        self.conv3 = block.conv3

    def forward(self, x: Tensor) -> Tensor:
        """``[B, in, H, W]`` to ``[B, out, H / stride, W / stride]``."""
        inner = self.conv1(x).relu_()
        offset, mask = offsets_and_mask(self.conv2_offset(inner), self.modulated)
        inner = self.conv2(inner, offset, mask).relu_()
        shortcut = x if self.shortcut is None else self.shortcut(x)
        return (self.conv3(inner) + shortcut).relu_()


def check_deformable_depth(cfg: CfgNode) -> None:
    """Raise :class:`UserError` if ``MODEL.RESNETS`` asks for deformable stages at a depth without bottlenecks."""
    node = cfg.MODEL.RESNETS
    if any(node.DEFORM_ON_PER_STAGE) and node.DEPTH < 50:
        raise UserError(
            f"MODEL.RESNETS.DEFORM_ON_PER_STAGE needs bottleneck blocks, which MODEL.RESNETS.DEPTH {node.DEPTH} does "
            "not have; take DEPTH 50, 101 or 152, or set all four stages to False"
        )


def build_resnet_body(cfg: CfgNode, input_shape: ShapeSpec) -> ResNet:
    """detectron2's ``build_resnet_backbone`` without compiled operators: ``MODEL.RESNETS``, ``MODEL.BACKBONE``.

    Returns:
        The same model by state dict and output, ``{res2 .. res5}`` of ``MODEL.RESNETS.OUT_FEATURES``.

    Raises:
        UserError: deformable stages at depth 18 or 34.
    """
    node = cfg.MODEL.RESNETS
    deform = node.DEFORM_ON_PER_STAGE
    if not any(deform):
        return build_resnet_backbone(cfg, input_shape)
    check_deformable_depth(cfg)
    plain = cfg.clone()
    plain.defrost()
    plain.MODEL.RESNETS.DEFORM_ON_PER_STAGE = [False] * len(deform)
    plain.MODEL.BACKBONE.FREEZE_AT = 0
    body = build_resnet_backbone(plain, input_shape)
    for stage, deformable in zip(body.stages, deform, strict=False):  # stages beyond OUT_FEATURES are not built
        for i, block in enumerate(stage if deformable else ()):
            stage[i] = DeformableBottleneck(
                block, modulated=node.DEFORM_MODULATED, deform_groups=node.DEFORM_NUM_GROUPS
            )
    return body.freeze(cfg.MODEL.BACKBONE.FREEZE_AT)
