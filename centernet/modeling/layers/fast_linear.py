"""Fully connected layers of a box head in inference on a CPU."""

import torch
from torch import Tensor, nn

from ...ops.capture import capture_target

_WORTH_IT = 1 << 26  # products; below, the choice of the kernel does not matter


def run_box_head(head: nn.Module, pooled: Tensor) -> Tensor:
    """``head(pooled)``; large linear layers of a chain of layers run in oneDNN.

    PyTorch gives a float32 product to MKL, which is half as fast on CPUs that are not Intel's.
    """
    as_it_is = bool(head._forward_pre_hooks or "forward" in vars(head))  # cast or compiled by somebody
    if as_it_is or not (isinstance(head, nn.Sequential) and _eager(pooled)):
        return head(pooled)  # type: ignore[no-any-return]
    for layer in head:
        pooled = _linear(layer, pooled) if type(layer) is nn.Linear else layer(pooled)
    return pooled


def _eager(x: Tensor) -> bool:
    """Ordinary float32 inference on a CPU, neither compiled nor captured."""
    return bool(
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and capture_target() is None
        and torch.backends.mkldnn.is_available()
        and torch.backends.mkldnn.enabled
    )


def _linear(layer: nn.Linear, x: Tensor) -> Tensor:
    large = x.dim() == 2 and x.shape[0] * layer.weight.numel() >= _WORTH_IT
    plain = layer.weight.dtype == torch.float32 and not (layer._forward_hooks or layer._forward_pre_hooks)
    if not (large and plain and hasattr(torch.ops.mkldnn, "_linear_pointwise")):
        return layer(x)  # type: ignore[no-any-return]
    return torch.ops.mkldnn._linear_pointwise(x, layer.weight, layer.bias, "none", [], "")  # type: ignore[no-any-return]
