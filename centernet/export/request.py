"""What is asked of an export: the format, what is fixed, what is inside."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from ..errors import UserError

__all__ = ["CORE_INPUTS", "CORE_OUTPUTS", "SUFFIXES", "Format", "Request", "missing_package"]

Format = Literal["onnx", "torchscript", "torch_export"]
FORMATS: tuple[Format, ...] = get_args(Format)
SUFFIXES: dict[Format, str] = {"onnx": ".onnx", "torchscript": ".ts", "torch_export": ".pt2"}
_LARGEST_SIDE = 16384  # pixels
CORE_INPUTS = ["images", "image_sizes", "picture_sizes"]
CORE_OUTPUTS = ["boxes", "scores", "classes", "valid"]


@dataclass(frozen=True)
class Request:
    """
    Attributes:
        format: of the file.
        dynamic: any batch, height and width; otherwise exactly the following.
        height, width: of the network input, pixels; with ``preprocess`` of the pictures.
        batch: pictures a call.
        preprocess: pictures in, resized inside as evaluation resizes them; otherwise the network input.
        postprocess: boxes come in pixels of the original pictures.
    """

    format: Format = "onnx"
    dynamic: bool = True
    height: int = 512
    width: int = 640
    batch: int = 1
    preprocess: bool = False
    postprocess: bool = False

    def check(self, path: Path, divisor: int) -> None:
        """
        Raises:
            UserError: what is asked does not go together.
        """
        if self.format not in FORMATS:
            raise UserError(f"there is no export format '{self.format}': use one of {', '.join(FORMATS)}")
        if path.suffix != SUFFIXES[self.format]:
            raise UserError(f"{path} must end in {SUFFIXES[self.format]}, the ending of {self.format} files")
        if min(self.height, self.width, self.batch) < 1:
            raise UserError(
                f"height, width and batch must be at least 1, not {self.height}, {self.width}, {self.batch}"
            )
        if not self.preprocess and (self.height % divisor or self.width % divisor):
            raise UserError(
                f"this model takes heights and widths that are multiples of {divisor}, not {self.height} x "
                f"{self.width}: give such, or have the file resize the pictures (preprocess)"
            )
        if self.format == "torch_export" and self.preprocess and self.dynamic:
            raise UserError(
                "torch_export cannot resize pictures of any size, as the size of its tensors would depend on rounding: "
                "fix height and width, leave preprocess out, or use onnx or torchscript"
            )

    @property
    def inputs(self) -> list[str]:
        """Names of the file's inputs."""
        if self.preprocess:
            return ["pictures"]
        return CORE_INPUTS if self.postprocess else CORE_INPUTS[:2]

    @property
    def outputs(self) -> list[str]:
        """Names of the file's outputs."""
        return [*CORE_OUTPUTS, "image_sizes"] if self.preprocess else CORE_OUTPUTS

    @staticmethod
    def inputs_of(metadata: Mapping[str, str]) -> list[str]:
        """Names of the inputs, from a file's metadata.

        Raises:
            UserError: the file is none of ours.
        """
        if "inputs" not in metadata:
            raise UserError("the file was not written by tools/export_model.py: it does not say what its inputs are")
        return list(json.loads(metadata["inputs"]))

    def picture_dims(self) -> tuple[int | str, int | str, int | str]:
        """Batch, height and width of the input, names where they are free."""
        return ("batch", "height", "width") if self.dynamic else (self.batch, self.height, self.width)

    def smallest(self, coarsest: int) -> int:
        """Least height and width of the network input, pixels, where they are free.

        Args:
            coarsest: stride of the coarsest map, pixels. torch.export takes a map of one row for a different program.
        """
        return coarsest + 1 if self.dynamic and self.format == "torch_export" else 1

    def dynamic_shapes(self, divisor: int, coarsest: int, count: int) -> tuple[dict[int, Any], ...] | None:
        """For ``torch.export``: what is free in ``count`` inputs of the core."""
        if not self.dynamic:
            return None
        batch = torch.export.Dim("batch", min=1, max=1024)
        least = -(-self.smallest(coarsest) // divisor)
        rows, columns = (
            divisor * torch.export.Dim(name, min=least, max=_LARGEST_SIDE // divisor) for name in ("rows", "columns")
        )
        return ({0: batch, 2: rows, 3: columns}, *({0: batch} for _ in range(count - 1)))


def missing_package(what: str, error: ImportError) -> UserError:
    """The sentence for a package that is not installed."""
    return UserError(f"{what} needs the package {error.name}: pip install -e '.[export]'")
