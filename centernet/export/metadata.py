"""What an exported file says of itself: text by key, JSON where it is more than a word."""

import json
import platform
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from detectron2.config import CfgNode

from ..errors import UserError
from .pictures import ResizeRule
from .request import Request

__all__ = ["KEYS", "check_shapes", "describe", "score_threshold"]

_PACKAGES = ("torch", "torchvision", "detectron2", "onnx", "onnxscript", "onnxruntime")
KEYS = (
    "model",
    "weights",
    "class_names",
    "input_format",
    "inputs",
    "outputs",
    "canvas",
    "batch",
    "divisor",
    "smallest",
    "resize",
    "pixel_mean",
    "pixel_std",
    "score_threshold",
    "preprocess",
    "postprocess",
    "check",
    "versions",
    "date",
    "config",
)


def describe(
    cfg: CfgNode,
    request: Request,
    *,
    model: str,
    class_names: Sequence[str],
    divisor: int,
    smallest: int,
    check: dict[str, Any],
) -> dict[str, str]:
    """One entry for each of :data:`KEYS`.

    Args:
        model: a name for people.
        divisor, smallest: of height and width of the network input, pixels.
        check: figures of :func:`~.checking.check_program`.
    """
    rule = ResizeRule.of(cfg)
    entries: dict[str, Any] = {
        "model": model,
        "weights": cfg.MODEL.WEIGHTS,
        "class_names": list(class_names),
        "input_format": cfg.INPUT.FORMAT,
        "inputs": request.inputs,
        "outputs": request.outputs,
        "canvas": None if request.dynamic else [request.height, request.width],
        "batch": None if request.dynamic else request.batch,
        "divisor": divisor,
        "smallest": smallest,
        "resize": rule._asdict(),
        "pixel_mean": list(cfg.MODEL.PIXEL_MEAN),
        "pixel_std": list(cfg.MODEL.PIXEL_STD),
        "score_threshold": score_threshold(cfg),
        "preprocess": request.preprocess,
        "postprocess": request.postprocess,
        "check": check,
        "versions": _versions(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "config": cfg.dump(),
    }
    assert tuple(entries) == KEYS
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in entries.items()}


def check_shapes(metadata: Mapping[str, str], pixels: Sequence[int], sizes: Sequence[Sequence[int]]) -> None:
    """Whether inputs of these shapes are what a file takes.

    Args:
        metadata: of the file.
        pixels: shape of its first input.
        sizes: shapes of the others.

    Raises:
        UserError: another layout, batch, height or width.
    """
    known = {key: json.loads(metadata[key]) for key in ("canvas", "batch", "divisor", "smallest", "preprocess")}
    layout = "[B, H, W, 3]" if known["preprocess"] else "[B, 3, H, W]"
    if len(pixels) != 4 or pixels[3 if known["preprocess"] else 1] != 3:
        raise UserError(f"the first input is {layout}, not of shape {list(pixels)}")
    batch, (height, width) = pixels[0], pixels[1:3] if known["preprocess"] else pixels[2:]
    if any(list(shape) != [batch, 2] for shape in sizes):
        raise UserError(f"sizes are [{batch}, 2] (height, width) for {batch} images, not {[list(s) for s in sizes]}")
    if known["batch"] not in (None, batch):
        raise UserError(f"this file takes {known['batch']} images a call, not {batch}: export with a free batch")
    if known["canvas"] not in (None, [height, width]):
        fixed = " x ".join(map(str, known["canvas"]))
        raise UserError(f"this file is for images of {fixed} pixels, not {height} x {width}: export with free sizes")
    divisor, smallest = known["divisor"], known["smallest"]
    if not known["preprocess"] and (height % divisor or width % divisor or min(height, width) < smallest):
        raise UserError(
            f"this model takes heights and widths from {smallest} on that are multiples of {divisor}, not {height} x "
            f"{width}: pad the images on the right and below, and give the sizes without padding as image_sizes"
        )


def score_threshold(cfg: CfgNode) -> float:
    """The smallest score that a detection of the model can have."""
    if cfg.MODEL.META_ARCHITECTURE == "CenterNetDetector":
        return float(cfg.MODEL.CENTERNET.INFERENCE_TH)
    return float(cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST)


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
