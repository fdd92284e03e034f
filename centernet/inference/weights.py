"""Trained weights into a model, for inference: what does not fit is said, never silently left random."""

import logging

from torch import nn

from ..checkpoint_file import SafeCheckpointer
from ..errors import UserError

__all__ = ["load_weights"]

logger = logging.getLogger(__name__)


def load_weights(model: nn.Module, weights: str) -> None:
    """Load ``weights`` (a path or an address that detectron2 understands) into ``model``.

    ``''`` leaves the model random, with a warning; entries that the file does not hold are counted in one
    warning. No code of a .pth file runs.

    Raises:
        UserError: the file cannot be read or fetched, or a tensor in it has another shape than in the model.
    """
    if not weights:
        logger.warning("MODEL.WEIGHTS is empty: the model is random and its detections mean nothing")
        return
    checkpointer = SafeCheckpointer(model)
    checkpointer.load(weights)
    fit = checkpointer.fit
    if fit is None:
        return
    if fit.misshapen:
        key, in_file, in_model = fit.misshapen[0]
        raise UserError(
            f"the weights {weights} do not fit this config: {key} is {in_file} in the file and {in_model} in the "
            f"model ({len(fit.misshapen)} such tensors); use the config they were trained with (class count, sizes)"
        )
    if fit.absent:
        logger.warning(
            "the weights %s hold no values for %d of the model's %d entries (such as %s): these stay random, so "
            "detections may mean nothing; give trained weights with MODEL.WEIGHTS",
            weights,
            len(fit.absent),
            fit.total,
            fit.absent[-1],
        )
