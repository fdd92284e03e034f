"""A deformable convolution that predicts its own offsets, on torchvision's operator: CPU and GPU, nothing to compile.

Source: Deformable ConvNets v1 (arXiv 1703.06211) and v2 (arXiv 1811.11168).
"""

import torch
from detectron2.layers import Conv2d
from torch import Tensor, nn
from torchvision.ops import deform_conv2d


class DeformConvKernel(nn.Module):
    """The weight (and bias) of a deformable convolution, applied at given offsets.

    Parameter names and shapes are those of detectron2's ``DeformConv`` / ``ModulatedDeformConv``.
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
        bias: bool,
    ):
        super().__init__()
        self.stride, self.padding, self.dilation = stride, padding, dilation
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels // groups, kernel_size, kernel_size))
        nn.init.kaiming_uniform_(self.weight, nonlinearity="relu")
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None

    def forward(self, x: Tensor, offset: Tensor, mask: Tensor | None) -> Tensor:
        """``[B, in, H, W]``, offsets ``[B, 2 * taps, H', W']`` in cells and masks ``[B, taps, H', W']``.

        Computed in float32 at least, returned in the type of ``x``: half precision would place the samples only to
        1/8 of a cell at 128 cells from the corner, and torchvision wants all types equal.
        """
        dtype = torch.promote_types(x.dtype, torch.float32)
        out = deform_conv2d(
            x.to(dtype),
            offset.to(dtype),
            self.weight.to(dtype),
            None if self.bias is None else self.bias.to(dtype),
            self.stride,
            self.padding,
            self.dilation,
            None if mask is None else mask.to(dtype),
        )
        return out.to(x.dtype)


class DFConv2d(nn.Module):
    """Deformable convolution with its offset convolution.

    Offset channels are ordered ``(dy, dx)`` per kernel tap; the modulated form adds one mask logit per tap.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        with_modulated_dcn: bool = True,
        kernel_size: int = 3,
        stride: int = 1,
        groups: int = 1,
        dilation: int = 1,
        deformable_groups: int = 1,
        bias: bool = False,
        padding: int | None = None,
    ):
        """``padding`` None keeps the size at stride 1: ``dilation * (kernel_size - 1) // 2`` pixels."""
        super().__init__()
        padding = dilation * (kernel_size - 1) // 2 if padding is None else padding
        taps = kernel_size * kernel_size * deformable_groups
        self.offset_channels = 2 * taps
        self.with_modulated_dcn = with_modulated_dcn
        self.offset = Conv2d(
            in_channels,
            3 * taps if with_modulated_dcn else 2 * taps,
            kernel_size,
            stride=stride,
            padding=padding,
            dilation=dilation,
        )
        nn.init.zeros_(self.offset.weight)
        nn.init.zeros_(self.offset.bias)
        self.conv = DeformConvKernel(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
            bias=bias,
        )

    def forward(self, x: Tensor, return_offset: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """``[B, in, H, W]`` to ``[B, out, H', W']``; with ``return_offset`` also the raw map of offsets and masks."""
        raw = self.offset(x)
        mask = raw[:, self.offset_channels :].sigmoid() if self.with_modulated_dcn else None
        out = self.conv(x, raw[:, : self.offset_channels], mask)
        return (out, raw) if return_offset else out
