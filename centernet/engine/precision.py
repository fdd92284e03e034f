"""Mixed precision of a training step: autocast and, for float16, loss scaling.

What needs float32 casts its own inputs wherever it is called (:mod:`centernet.ops`, ROI pooling, deformable sampling,
box coding): autocast decides about convolutions and matrix products only. Evaluation never runs under autocast: scores
do not depend on how a model was trained. Source: "Mixed Precision Training" (arXiv 1710.03740).
"""

import logging
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from torch import Tensor, nn

from ..errors import UserError

__all__ = ["Precision"]

_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
_MOST_OVERFLOWS = 30  # in a row: the scale is then below 1e-4, and it is not the scale that overflows
_logger = logging.getLogger(__name__)


class Precision:
    """How one training step computes forward, backward and update.

    Args:
        device: where the model lives.
        dtype: of autocast, ``torch.bfloat16`` or ``torch.float16``; None: float32, and nothing is changed.

    Attributes:
        skipped: steps so far whose float16 gradients overflowed, so that the weights stayed as they were.
    """

    def __init__(self, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> None:
        self._device = torch.device(device).type
        self.dtype = dtype
        self.skipped = 0
        self._in_a_row = 0
        # bfloat16 has the range of float32: its gradients do not vanish, so it needs no scale
        self._scaler = torch.amp.GradScaler(self._device) if dtype == torch.float16 else None

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "Precision":
        """What SOLVER.AMP says, on MODEL.DEVICE.

        Raises:
            UserError: an unknown SOLVER.AMP.PRECISION, or one that the device cannot compute.
        """
        node, device = cfg.SOLVER.AMP, torch.device(cfg.MODEL.DEVICE)
        if node.PRECISION not in ("auto", *_DTYPES):
            raise UserError(f"SOLVER.AMP.PRECISION is '{node.PRECISION}': use 'auto', 'bfloat16' or 'float16'")
        if not node.ENABLED:
            return cls(device)
        name = node.PRECISION if node.PRECISION != "auto" else _best_of(device)
        if not _computes(device, _DTYPES[name]):
            raise UserError(
                f"SOLVER.AMP.PRECISION {name}: PyTorch has no {name} convolutions for this device "
                f"(MODEL.DEVICE {cfg.MODEL.DEVICE}); use bfloat16 or set SOLVER.AMP.ENABLED False"
            )
        return cls(device, _DTYPES[name])

    def prepare(self, model: nn.Module) -> None:
        """Work round oneDNN, which leaves weight gradients of bfloat16 convolutions with stride 2 uninitialised where
        their input is one cell wide (as in p7 of an image of 64 pixels): such input gets a column of its zero padding.
        """
        if self._device == "cpu" and self.dtype == torch.bfloat16:
            for module in model.modules():
                if isinstance(module, nn.Conv2d) and _keeps_size(module) and module.stride[1] == 2:
                    module.register_forward_pre_hook(_widened)

    @property
    def scale(self) -> float | None:
        """What losses are multiplied with before backward; None without scaling."""
        return None if self._scaler is None else float(self._scaler.get_scale())

    def autocast(self) -> AbstractContextManager:
        """For the forward pass, losses included."""
        return nullcontext() if self.dtype is None else torch.autocast(self._device, self.dtype)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of ``loss``, scaled, to those of the parameters."""
        (loss if self._scaler is None else self._scaler.scale(loss)).backward()

    def unscale(self, optimizer: torch.optim.Optimizer) -> None:
        """Make the gradients those of the losses, for whoever looks at them before :meth:`step`."""
        if self._scaler is not None:
            self._scaler.unscale_(optimizer)

    def step(self, optimizer: torch.optim.Optimizer) -> bool:
        """Step ``optimizer`` with unscaled gradients; False if they overflowed and nothing was changed but the scale.

        Clipping that lives in the optimiser's ``step`` (detectron2's) sees unscaled gradients, too.

        Raises:
            UserError: the gradients overflow at any scale.
        """
        if self._scaler is None:
            optimizer.step()
            return True
        before = self._scaler.get_scale()
        self._scaler.step(optimizer)
        self._scaler.update()
        if self._scaler.get_scale() >= before:
            self._in_a_row = 0
            return True
        self.skipped += 1
        self._in_a_row += 1
        if self._in_a_row >= _MOST_OVERFLOWS:
            raise UserError(
                f"the gradients of {_MOST_OVERFLOWS} steps in a row are not finite in float16, however small the loss "
                "scale: set SOLVER.AMP.PRECISION bfloat16 or SOLVER.AMP.ENABLED False, or lower SOLVER.BASE_LR"
            )
        return False

    def state_dict(self) -> dict[str, Any]:
        """The state of the scaler and the counts."""
        scaler = None if self._scaler is None else self._scaler.state_dict()
        return {"scaler": scaler, "skipped": self.skipped, "in_a_row": self._in_a_row}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` returned. A run that goes on in another precision has a fresh scaler."""
        self.skipped, self._in_a_row = state["skipped"], state["in_a_row"]
        if self._scaler is not None and state["scaler"]:
            self._scaler.load_state_dict(state["scaler"])


def _keeps_size(layer: nn.Conv2d) -> bool:
    """Whether its zero padding is half its kernel, so that one column more of it makes no other output."""
    padding = layer.padding[1] if layer.padding_mode == "zeros" and not isinstance(layer.padding, str) else 0
    return padding > 0 and 2 * int(padding) == layer.dilation[1] * (layer.kernel_size[1] - 1)


def _widened(_layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (F.pad(inputs[0], (0, 1)), *inputs[1:]) if inputs[0].shape[-1] == 1 else inputs


def _best_of(device: torch.device) -> str:
    """bfloat16 where it is native: on CPUs and on GPUs from compute capability 8.0 (Ampere)."""
    if device.type == "cuda" and torch.cuda.is_available() and torch.cuda.get_device_capability(device) < (8, 0):
        return "float16"
    return "bfloat16"


def _computes(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether ``device`` has forward and backward kernels of a convolution in ``dtype``; true if there is no such
    device to ask."""
    if device.type == "cuda" and not torch.cuda.is_available():
        return True  # building the model says so
    layer = nn.Conv2d(4, 4, 3).to(device)
    try:
        with torch.autocast(device.type, dtype):
            layer(torch.ones(1, 4, 4, 4, device=device)).float().sum().backward()
    except RuntimeError as error:
        _logger.debug("A convolution in %s failed: %s", dtype, error)
        return False
    return True
