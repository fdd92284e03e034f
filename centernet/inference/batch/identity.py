"""What tells one run over many pictures from another: the model, and whether a file belongs to this run."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.structures import Instances
from torch import nn

from ...errors import UserError
from ..predictor import Predictor
from ..thresholds import filter_predictions

__all__ = [
    "check_same_run",
    "config_digest",
    "fingerprint",
    "instances_of",
    "weights_digest",
]


def fingerprint(predictor: Predictor) -> str:
    """Hexadecimal digest of a model: its weights as loaded, wherever they came from, and its config."""
    digest = hashlib.sha256(_config_text(predictor.cfg))
    _add_weights(digest, predictor.model)
    return digest.hexdigest()


def config_digest(cfg: CfgNode) -> str:
    """Hexadecimal digest of what a config says about the results, whatever the device and the file of weights."""
    return hashlib.sha256(_config_text(cfg)).hexdigest()


def weights_digest(model: nn.Module) -> str:
    """Hexadecimal digest of a model's weights as loaded, wherever they came from."""
    digest = hashlib.sha256()
    _add_weights(digest, model)
    return digest.hexdigest()


def _config_text(cfg: CfgNode) -> bytes:
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.WEIGHTS = cfg.MODEL.DEVICE = ""
    return "".join(node.dump() for node in (cfg.MODEL, cfg.INPUT, cfg.TEST)).encode()


def _add_weights(digest: Any, model: nn.Module) -> None:
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(value.detach().cpu().numpy()).tobytes())


def check_same_run(place: Path, wanted: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Refuse what another run left at ``place``.

    Args:
        wanted: what this run is; its keys are words for the user.
        found: what the run was that wrote there.

    Raises:
        UserError: they differ; the sentence names the keys.
    """
    changed = sorted(key for key in {**wanted, **found} if found.get(key) != wanted.get(key))
    if changed:
        raise UserError(
            f"{place} is of another run (its {', '.join(changed)} differ): delete it or give another --output"
        )


def instances_of(prediction: Mapping[str, Any], threshold: float) -> Instances:
    """The detections of a picture with at least the score ``threshold``.

    Raises:
        UserError: the model gives none, but proposals or a segmentation.
    """
    if "instances" not in prediction:
        raise UserError("the model gives no detections, but proposals or a segmentation: give a detector")
    return filter_predictions(dict(prediction), threshold)["instances"]
