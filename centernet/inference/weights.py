"""Trained weights into a model, for inference: what does not fit is said, never silently left random."""

import logging
import pickle
from typing import Any

from detectron2.checkpoint import DetectionCheckpointer
from torch import nn

from ..errors import UserError

__all__ = ["load_weights"]

logger = logging.getLogger(__name__)

# what reading a file without weights raises, and what a failed download does (an OSError)
_UNREADABLE = (
    pickle.UnpicklingError,
    EOFError,
    OSError,
    RuntimeError,
    ValueError,
    KeyError,
    AssertionError,
    AttributeError,
    TypeError,
)


class _Checkpointer(DetectionCheckpointer):
    """detectron2's checkpointer, reading every format it knows, keeping its findings unlogged."""

    incompatible: Any = None

    def _log_incompatible_keys(self, incompatible: Any) -> None:
        self.incompatible = incompatible


def load_weights(model: nn.Module, weights: str) -> None:
    """Load ``weights`` (a path or an address that detectron2 understands) into ``model``.

    ``''`` leaves the model random, with a warning; parameters that the file does not hold are
    counted in one warning.

    Raises:
        UserError: the file cannot be read or fetched, or a tensor in it has another shape than in the model.
    """
    if not weights:
        logger.warning("MODEL.WEIGHTS is empty: the model is random and its detections mean nothing")
        return
    checkpointer = _Checkpointer(model)
    try:
        checkpointer.load(weights)
    except _UNREADABLE as error:
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise UserError(f"the weights {weights} (MODEL.WEIGHTS) cannot be read: {reason}") from error
    if checkpointer.incompatible is not None:
        _report(model, weights, checkpointer.incompatible)


def _report(model: nn.Module, weights: str, incompatible: Any) -> None:
    shapes = incompatible.incorrect_shapes
    if shapes:
        key, in_file, in_model = shapes[0]
        raise UserError(
            f"the weights {weights} do not fit this config: {key} is {tuple(in_file)} in the file and "
            f"{tuple(in_model)} in the model ({len(shapes)} such tensors); use the config they were "
            f"trained with (class count, sizes)"
        )
    parameters = {name for name, _ in model.named_parameters()}
    missing = sorted(parameters.intersection(incompatible.missing_keys))
    if missing:
        logger.warning(
            "the weights %s hold no values for %d of %d parameters (such as %s): these stay random, so "
            "detections may mean nothing; give trained weights with MODEL.WEIGHTS",
            weights,
            len(missing),
            len(parameters),
            missing[-1],
        )
