"""Trained weights into a model, for inference: what does not fit is refused, never silently left random."""

import logging

from torch import nn

from ..errors import UserError
from ..weights import SafeCheckpointer

__all__ = ["load_weights"]

logger = logging.getLogger(__name__)


def load_weights(model: nn.Module, weights: str, *, strict: bool = True) -> None:
    """Load ``weights`` (a path or an address that detectron2 understands) into ``model``.

    ``''`` leaves the model random, with a warning. No code of a file runs.

    Args:
        strict: False takes what fits and warns of the rest.

    Raises:
        UserError: the file cannot be read or fetched; ``strict``, and an entry of the model is missing in it or has
            another shape, or it has entries that the model has not. Counters and constants do not count.
    """
    if not weights:
        logger.warning("MODEL.WEIGHTS is empty: the model is random and its detections mean nothing")
        return
    checkpointer = SafeCheckpointer(model)
    checkpointer.load(weights)
    fit = checkpointer.fit
    if fit is None or not (differences := fit.differences()):
        return
    if strict:
        raise UserError(
            f"the weights {weights} do not fit this config ({differences}); use the config they were trained with "
            "(class count, sizes), or set MODEL.WEIGHTS_STRICT False to take what fits"
        )
    logger.warning(
        "the weights %s hold no values for %d of the model's %d entries: these stay random, so detections may mean "
        "nothing (%s)",
        weights,
        fit.total - fit.loaded,
        fit.total,
        differences,
    )
