"""What an exported file says of itself: text by key, JSON where it is more than a word."""

import json
import platform
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from detectron2.config import CfgNode

from .pictures import ResizeRule
from .request import Request

__all__ = ["KEYS", "describe", "score_threshold"]

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
