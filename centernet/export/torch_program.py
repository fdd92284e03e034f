"""A program of PyTorch that was loaded from a file, as the other formats are called."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from .pictures import CoreProgram, PictureProgram, ResizeRule
from .request import Request

__all__ = ["TorchProgram", "resizer"]


def resizer(program: CoreProgram, request: Request, rule: ResizeRule) -> Callable[[np.ndarray], np.ndarray]:
    """The resizing of a file alone: ``pictures`` to ``images``."""
    pictures = PictureProgram(program, rule, program.divisor, to_pictures=request.postprocess)
    return lambda batch: pictures.resize(torch.from_numpy(batch))[0].numpy()


class TorchProgram:
    """
    Attributes:
        metadata: of the file.
    """

    def __init__(self, function: Callable[..., Any], extra_files: Mapping[str, str | bytes]):
        self._function = function
        texts = {key: text.decode() if isinstance(text, bytes) else text for key, text in extra_files.items()}
        self.metadata = texts if any(texts.values()) else {}

    def __call__(self, *inputs: np.ndarray) -> Sequence[np.ndarray]:
        """Inputs and outputs in the order of the file, on the CPU."""
        with torch.inference_mode():
            return [value.numpy() for value in self._function(*(torch.from_numpy(value) for value in inputs))]
