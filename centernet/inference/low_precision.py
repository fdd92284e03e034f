"""The heavy layers of a detector in half precision or channels-last, all that decides about pixels in float32.

Weights are cast once; autocast would do it at every call. In half precision are the backbone, the towers of the first
stage's head and the box heads. In float32 stay the layers that end in numbers with a meaning (heatmap logits, box
distances, class logits, box deltas), what decodes them, ROI corners, deformable sampling, and norms that were not
folded.
"""

import platform
from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..modeling.fixed_size import FixedSizeDetector
from ..modeling.layers.deform_conv import DeformConvKernel

__all__ = ["DTYPES", "fastest_precision", "place_in_memory", "use_precision"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def fastest_precision(device: torch.device) -> str:
    """bfloat16 where the hardware multiplies it, float16 on older GPUs with tensor cores, else float32."""
    if device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        return "bfloat16" if capability >= (8, 0) else "float16" if capability >= (7, 0) else "float32"
    if device.type == "cpu" and platform.machine() in ("aarch64", "arm64"):
        fast = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    else:  # oneDNN also emulates it, more slowly than float32
        fast = device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return "bfloat16" if fast and torch.backends.mkldnn.is_available() else "float32"


def use_precision(detector: FixedSizeDetector, dtype: torch.dtype) -> None:
    """Cast the heavy layers of ``detector`` to ``dtype``, in place.

    Raises:
        UserError: the device has no convolutions in ``dtype``.
    """
    if dtype == torch.float32:
        return
    _check_computes(detector.model.pixel_mean.device, dtype)  # type: ignore[union-attr, arg-type]
    head: Any = detector.model.proposal_generator.centernet_head  # type: ignore[union-attr]
    stages = list(detector.model.roi_heads._stages()) if detector.two_stage else []  # type: ignore[union-attr, operator]
    for module in (detector.model.backbone, *(box_head for box_head, _ in stages)):
        _cast(module.modules(), dtype)  # type: ignore[union-attr]
        _takes(module, dtype)  # type: ignore[arg-type]
    for tower in (head.share_tower, head.cls_tower, head.bbox_tower):
        _cast(tower.modules(), dtype)
    for layer in (head.bbox_pred, head.agn_hm, head.cls_logits, *(predictor for _, predictor in stages)):
        if layer is not None:
            _takes(layer, torch.float32)


def place_in_memory(detector: FixedSizeDetector) -> None:
    """Channels-last weights and input of the backbone; the maps follow."""
    detector.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    detector.model.backbone.register_forward_pre_hook(_channels_last)  # type: ignore[union-attr, operator]


def _check_computes(device: torch.device, dtype: torch.dtype) -> None:
    try:
        nn.Conv2d(4, 4, 3, device=device, dtype=dtype)(torch.ones(1, 4, 4, 4, device=device, dtype=dtype))
    except RuntimeError as error:
        name = str(dtype).removeprefix("torch.")
        raise UserError(
            f"PyTorch has no {name} convolutions for this device ({device.type}): use precision 'float32' or 'auto'"
        ) from error


def _cast(modules: Iterable[nn.Module], dtype: torch.dtype) -> None:
    for module in modules:
        if isinstance(module, DeformConvKernel) or hasattr(module, "running_mean"):
            continue
        for tensors in (module._parameters, module._buffers):
            for tensor in tensors.values():
                if tensor is not None and tensor.is_floating_point():
                    tensor.data = tensor.data.to(dtype)


def _takes(module: nn.Module, dtype: torch.dtype) -> None:
    """Have ``module`` given its first input in ``dtype``."""
    module.register_forward_pre_hook(partial(_in_dtype, dtype))


def _in_dtype(dtype: torch.dtype, _module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (args[0].to(dtype), *args[1:])


def _channels_last(_module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (args[0].contiguous(memory_format=torch.channels_last), *args[1:])
