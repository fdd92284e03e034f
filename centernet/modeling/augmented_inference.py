"""``TEST.AUG``: several sizes and flips of each image, their detections merged by NMS."""

from detectron2.config import CfgNode
from detectron2.modeling import GeneralizedRCNN, GeneralizedRCNNWithTTA
from torch import nn

from ..errors import UserError

__all__ = ["check_test_time_augmentation", "with_test_time_augmentation"]


def check_test_time_augmentation(cfg: CfgNode) -> None:
    """Raise :class:`UserError` if the config asks for it and its model is not a two-stage one."""
    if cfg.TEST.AUG.ENABLED and cfg.MODEL.META_ARCHITECTURE != "GeneralizedRCNN":
        raise _refusal(cfg.MODEL.META_ARCHITECTURE)


def with_test_time_augmentation(cfg: CfgNode, model: nn.Module) -> nn.Module:
    """``model`` itself or, with ``TEST.AUG.ENABLED``, detectron2's ``GeneralizedRCNNWithTTA`` around it.

    The wrapper takes and gives what the model does, in inference only: one size at a time, as published. Sizes and
    flip: ``TEST.AUG.MIN_SIZES``, ``TEST.AUG.MAX_SIZE`` (pixels), ``TEST.AUG.FLIP``.

    Raises:
        UserError: ``model`` is not a two-stage one.
    """
    if not cfg.TEST.AUG.ENABLED:
        return model
    if not isinstance(model, GeneralizedRCNN):
        raise _refusal(type(model).__name__)
    return GeneralizedRCNNWithTTA(cfg, model, batch_size=1)


def _refusal(model: str) -> UserError:
    return UserError(f"TEST.AUG.ENABLED is for two-stage models, and this is a {model}: set it to False")
