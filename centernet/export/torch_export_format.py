"""torch.export: a graph of ATen and torchvision operators, captured in strict mode; loads without this package."""

import io
import warnings
from typing import Any

import torch
import torchvision  # noqa: F401  # its operators are in the files
from torch import Tensor, nn

from ..ops.capture import capturing
from .metadata import KEYS
from .pictures import CoreProgram, PictureProgram, ResizeRule
from .request import Request
from .torch_program import TorchProgram, resizer

__all__ = ["capture", "load", "resizer", "serialise"]


def capture(program: CoreProgram, example: tuple[Tensor, ...], request: Request, rule: ResizeRule) -> Any:
    """The model as a ``torch.export.ExportedProgram``."""
    captured: nn.Module = program
    if request.preprocess:
        captured = PictureProgram(program, rule, program.divisor, to_pictures=request.postprocess)
        example = (torch.zeros((request.batch, request.height, request.width, 3), dtype=torch.uint8),)
    shapes = request.dynamic_shapes(program.divisor, program.coarsest, len(example))
    with torch.no_grad(), capturing("export"):
        return torch.export.export(captured.eval(), example, dynamic_shapes=shapes, strict=True)


def serialise(model: Any, metadata: dict[str, str]) -> bytes:
    """The file, with ``metadata`` in it."""
    stream = io.BytesIO()
    torch.export.save(model, stream, extra_files=metadata)
    return stream.getvalue()


def load(file: bytes | str) -> TorchProgram:
    """The program of a file (its content or its path)."""
    extra_files = dict.fromkeys(KEYS, "")
    stream = io.BytesIO(file) if isinstance(file, bytes) else file
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given buffer is not writable")  # nobody writes to weights
        program = torch.export.load(stream, extra_files=extra_files)
    return TorchProgram(program.module(), extra_files)
