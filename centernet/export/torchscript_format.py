"""TorchScript: one file that libtorch and PyTorch load without this package; torchvision's operators must be there."""

import io
import warnings
from typing import Any

import torch
import torchvision  # noqa: F401  # its operators are in the files
from torch import Tensor

from ..ops.capture import capturing
from .metadata import KEYS
from .pictures import CoreProgram, PictureProgram, ResizeRule
from .request import Request
from .torch_program import TorchProgram, resizer

__all__ = ["capture", "load", "resizer", "serialise"]


def capture(program: CoreProgram, example: tuple[Tensor, ...], request: Request, rule: ResizeRule) -> Any:
    """The traced model, around it a scripted resize where asked for. A trace takes any batch, height and width."""
    with torch.no_grad(), capturing("torchscript"), warnings.catch_warnings():
        # of Python numbers that become constants: strides and numbers of levels
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(program.eval(), example, check_trace=False)
        if not request.preprocess:
            return traced
        divisor = program.divisor
        return torch.jit.script(PictureProgram(traced, rule, divisor, to_pictures=request.postprocess).eval())


def serialise(model: Any, metadata: dict[str, str]) -> bytes:
    """The file, with ``metadata`` in it."""
    stream = io.BytesIO()
    torch.jit.save(model, stream, _extra_files={key: value.encode() for key, value in metadata.items()})
    return stream.getvalue()


def load(file: bytes | str) -> TorchProgram:
    """The program of a file (its content or its path)."""
    extra_files = dict.fromkeys(KEYS, "")
    stream = io.BytesIO(file) if isinstance(file, bytes) else file
    model = torch.jit.load(stream, map_location="cpu", _extra_files=extra_files)
    return TorchProgram(model, extra_files)
