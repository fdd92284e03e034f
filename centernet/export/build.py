"""Export a detector to one file, and load such a file."""

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from PIL import Image
from torch import Tensor

from ..errors import UserError
from ..inference.outputs import atomic_path, check_writable
from ..modeling.fixed_size import FixedSizeDetector
from ..ops.detections import PaddedDetections
from . import onnx_format, torch_export_format, torchscript_format
from .checking import check_program
from .metadata import check_shapes, describe, score_threshold
from .pictures import CoreProgram, ResizeRule, resized_size, round_up
from .request import SUFFIXES, Format, Request

__all__ = ["ExportedDetector", "export_model", "load_exported"]

_FORMATS: dict[str, ModuleType] = {
    "onnx": onnx_format,
    "torchscript": torchscript_format,
    "torch_export": torch_export_format,
}
_OWN_PICTURES = Path(__file__).with_name("photos")


def export_model(
    detector: FixedSizeDetector,
    path: str | Path,
    *,
    cfg: CfgNode,
    format: Format = "onnx",
    dynamic: bool = True,
    height: int = 512,
    width: int = 640,
    batch: int = 1,
    preprocess: bool = False,
    postprocess: bool = False,
    model: str = "",
    class_names: Sequence[str] = (),
    pictures: Sequence[np.ndarray] | None = None,
) -> dict[str, str]:
    """Write a file that finds what ``detector`` finds; nothing is written before it was seen to do so.

    Args:
        detector: in evaluation mode, on the CPU.
        path: ends in ``.onnx``, ``.ts`` (TorchScript) or ``.pt2`` (torch.export).
        cfg: of the model: resizing of evaluation, channel order; goes into the metadata.
        format, dynamic, height, width, batch, preprocess, postprocess: see :class:`.request.Request`.
        model, class_names: for the metadata.
        pictures: uint8 ``[H, W, 3]`` RGB to compare on; None: a few photographs that come with the package.

    Returns:
        The metadata in the file, see :func:`.metadata.describe`; the figures of the comparison are in ``check``.

    Raises:
        UserError: this is not to be had in this format, a package is missing, the file cannot be written, or it finds
            something else than the model.
    """
    path = Path(path)
    request = Request(format, dynamic, height, width, batch, preprocess, postprocess)
    request.check(path, detector.divisor)
    _check_model(detector, cfg)
    check_writable(path)
    rule = ResizeRule.of(cfg)
    program = CoreProgram(detector, to_pictures=postprocess).eval()
    maker = _FORMATS[format]
    captured = maker.capture(program, _example(request, rule, program), request, rule)
    loaded = maker.load(maker.serialise(captured, {}))
    figures = check_program(
        loaded,
        program,
        request,
        rule,
        _as_model_reads(pictures, cfg),
        resizer=maker.resizer(program, request, rule) if preprocess else None,
        threshold=score_threshold(cfg),
    )
    canvas = {"divisor": detector.divisor, "smallest": request.smallest(program.coarsest)}
    metadata = describe(cfg, request, model=model, class_names=class_names, check=figures, **canvas)
    data = maker.serialise(captured, metadata)
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)
    return metadata


def _as_model_reads(pictures: Sequence[np.ndarray] | None, cfg: CfgNode) -> list[np.ndarray]:
    """The pictures to compare on, in the model's channel order."""
    if pictures is None:
        pictures = [np.asarray(Image.open(file).convert("RGB")) for file in sorted(_OWN_PICTURES.glob("*.jpg"))]
    if cfg.INPUT.FORMAT == "BGR":
        pictures = [picture[:, :, ::-1] for picture in pictures]
    return [np.ascontiguousarray(picture) for picture in pictures]


class ExportedDetector:
    """An exported file, called like :class:`~centernet.modeling.fixed_size.FixedSizeDetector`.

    Attributes:
        metadata: of the file.
        inputs: names of its inputs.
    """

    def __init__(self, path: str | Path):
        """
        Raises:
            UserError: there is no such file, or it is none of an export.
        """
        path = Path(path)
        formats = {suffix: name for name, suffix in SUFFIXES.items()}
        if path.suffix not in formats:
            raise UserError(f"{path} is no exported model: their names end in {', '.join(formats)}")
        if not path.is_file():
            raise UserError(f"there is no file {path}")
        try:
            self._program = _FORMATS[formats[path.suffix]].load(str(path))
        except UserError:
            raise
        except Exception as error:  # each runtime has its own
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
            raise UserError(f"{path} cannot be read as {formats[path.suffix]}: {reason}") from error
        self.metadata: dict[str, str] = self._program.metadata
        self.inputs = Request.inputs_of(self.metadata)

    def __call__(self, *inputs: Tensor | np.ndarray) -> PaddedDetections:
        """
        Args:
            inputs: in the order of :attr:`inputs`: ``images`` (uint8 or float ``[B, 3, H, W]``) and ``image_sizes``
                (``[B, 2]``), with postprocessing also ``picture_sizes``; or ``pictures`` (uint8 ``[B, H, W, 3]``).

        Raises:
            UserError: another number of inputs, or shapes that the file does not take.
        """
        if len(inputs) != len(self.inputs):
            wanted = ", ".join(self.inputs)
            raise UserError(f"this file takes {wanted}, but {len(inputs)} inputs were given: give {len(self.inputs)}")
        pixels, *sizes = (torch.as_tensor(value).cpu().contiguous() for value in inputs)
        if pixels.dtype != torch.uint8:
            pixels = pixels.round().clamp(0, 255).to(torch.uint8)
        check_shapes(self.metadata, pixels.shape, [value.shape for value in sizes])
        outputs = self._program(pixels.numpy(), *(value.to(torch.int64).numpy() for value in sizes))
        return PaddedDetections(*(torch.from_numpy(np.asarray(value)) for value in outputs[:4]))


def load_exported(path: str | Path) -> ExportedDetector:
    """The detector in a file of :func:`export_model`, on the CPU."""
    return ExportedDetector(path)


def _check_model(detector: FixedSizeDetector, cfg: CfgNode) -> None:
    if cfg.MODEL.MASK_ON or cfg.MODEL.KEYPOINT_ON:
        part = "MASK_ON" if cfg.MODEL.MASK_ON else "KEYPOINT_ON"
        raise UserError(f"only boxes are exported: set MODEL.{part} to False to leave that part of the model out")
    device = next(detector.parameters()).device
    if device.type != "cpu":
        raise UserError(f"the model is on {device}, and files are made and checked on the CPU: set MODEL.DEVICE to cpu")


def _example(request: Request, rule: ResizeRule, program: CoreProgram) -> tuple[Tensor, ...]:
    """Inputs of the core to capture it with."""
    height, width, batch = request.height, request.width, request.batch
    if request.preprocess and not request.dynamic:
        height, width = resized_size(height, width, *rule)
    if request.dynamic:  # a batch of one, or a map of one row, would be taken for a constant
        height, width = (max(side, program.coarsest + 1) for side in (height, width))
        batch = max(2, batch)
    canvas = round_up(height, program.divisor), round_up(width, program.divisor)
    images = torch.zeros((batch, 3, *canvas), dtype=torch.uint8)
    sizes: list[Any] = [torch.tensor([canvas]).repeat(batch, 1) for _ in range(2 if request.postprocess else 1)]
    return images, *sizes
