"""detectron2's ResNet with deformable stages on torchvision's operator: CPU and GPU, nothing to compile.

Sources: ResNet (arXiv 1512.03385), ResNeXt (arXiv 1611.05431), Deformable ConvNets v1 (arXiv 1703.06211) and v2
(arXiv 1811.11168).
"""

from detectron2.config import CfgNode
from detectron2.layers import CNNBlockBase, ShapeSpec
from detectron2.modeling.backbone.resnet import BottleneckBlock, ResNet, build_resnet_backbone
from torch import Tensor, nn

from ...errors import UserError
from ..layers.deform_conv import DeformConvKernel
from .stem import pool_in_channels_last


class DeformConvNorm(DeformConvKernel):
    """A plain convolution made deformable, at given offsets, then a norm.

    Parameter names are those of detectron2's ``DeformConv`` / ``ModulatedDeformConv``: ``weight`` and ``norm.*``.
    """

    def __init__(self, plain: nn.Conv2d, norm: nn.Module | None = None):
        """``plain`` (square, no bias) gives geometry and initial weight."""
        super().__init__(
            plain.in_channels,
            plain.out_channels,
            plain.kernel_size[0],
            stride=plain.stride[0],
            padding=int(plain.padding[0]),
            dilation=plain.dilation[0],
            groups=plain.groups,
            bias=False,
        )
        self.weight = nn.Parameter(plain.weight.detach())
        self.norm = norm

    def forward(self, x: Tensor, offset: Tensor, mask: Tensor | None = None) -> Tensor:
        """``[B, in, H, W]`` to ``[B, out, H', W']``.

        Args:
            offset: ``[B, 2 * 9 * G, H', W']``, pixels, ``(dy, dx)`` per kernel tap.
            mask: factor of each tap in [0, 1], ``[B, 9 * G, H', W']``.
        """
        out = super().forward(x, offset, mask)
        return out if self.norm is None else self.norm(out)


def offset_conv(plain: nn.Conv2d, modulated: bool, deform_groups: int, bias: bool) -> nn.Conv2d:
    """The convolution that steers ``plain``, of its geometry and zero at first.

    A tap of a group has the channels ``(dy, dx)``, and a mask logit when ``modulated``: 18 or 27 a group for 3x3.
    """
    taps = plain.kernel_size[0] * plain.kernel_size[1] * deform_groups
    channels = (3 if modulated else 2) * taps
    conv = nn.Conv2d(
        plain.in_channels,
        channels,
        plain.kernel_size[0],
        stride=plain.stride[0],
        padding=plain.padding[0],
        dilation=plain.dilation[0],
        bias=bias,
    )
    for parameter in conv.parameters():
        nn.init.zeros_(parameter)
    return conv


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
        self.shortcut = block.shortcut
        self.conv1 = block.conv1
        self.conv2_offset = offset_conv(block.conv2, modulated, deform_groups, bias=True)
        self.conv2 = DeformConvNorm(block.conv2, block.conv2.norm)
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
        body = build_resnet_backbone(cfg, input_shape)
        pool_in_channels_last(body.stem)
        return body
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
    pool_in_channels_last(body.stem)
    return body.freeze(cfg.MODEL.BACKBONE.FREEZE_AT)
