"""What can be known to be wrong with a config before a model is built, for those that train and those that evaluate."""

from collections.abc import Sequence

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from ..data.augmentation import check_input
from ..data.datasets import ensure_registered
from ..errors import UserError
from .data.registration import EVALUATOR, register_all
from .inference.tracker_config import tracker_builder
from .ops.mode import checked_mode

__all__ = ["check_config", "check_datasets"]

_UNANNOTATED = ("ignore", "dontcare")  # classes of published heads that no annotation has


def check_datasets(cfg: CfgNode, names: Sequence[str]) -> None:
    """Check that data sets have videos with cameras and the classes of the model. Their files are not read.

    Raises:
        UserError: one sentence about the first thing that is wrong.
    """
    register_all()
    ensure_registered(names)
    count, classes = cfg.MODEL.ROI_HEADS.NUM_CLASSES, list(cfg.MODEL.TRACKING3D.CLASSES)
    if classes and len(classes) != count:
        raise UserError(
            f"MODEL.TRACKING3D.CLASSES names {len(classes)} classes and MODEL.ROI_HEADS.NUM_CLASSES is {count}: make "
            "them agree"
        )
    for name in names:
        metadata = MetadataCatalog.get(name)
        if metadata.get("evaluator_type") != EVALUATOR:
            raise UserError(
                f"data set '{name}' has no videos with cameras, which {cfg.MODEL.META_ARCHITECTURE} needs: take one "
                "such as 'kitti_tracking_train' or 'synthetic3d_train'"
            )
        theirs = list(metadata.thing_classes)
        if len(theirs) < count or (classes and theirs[:count] != classes) or set(theirs[count:]) - {*_UNANNOTATED}:
            raise UserError(
                f"the model's {count} classes ({', '.join(classes or theirs[:count])}) are not those of data set "
                f"'{name}' ({', '.join(theirs)}): set MODEL.ROI_HEADS.NUM_CLASSES and MODEL.TRACKING3D.CLASSES to these"
            )


def check_config(cfg: CfgNode, *, eval_only: bool = False) -> None:
    """Check what the wing reads of a config, and that nothing is asked for that it does not do.

    Raises:
        UserError: one sentence about the first thing that is wrong.
    """
    checked_mode(cfg.MODEL.TRACKING3D.MODE)
    if cfg.DATASETS.TEST:
        tracker_builder(cfg)
        if cfg.TEST.AUG.ENABLED:
            raise UserError("TEST.AUG.ENABLED is for 2D detectors: set it to False for 3D tracking")
        if cfg.TEST.SAVE_PROPOSALS:
            raise UserError("TEST.SAVE_PROPOSALS is for 2D detectors: set it to False for 3D tracking")
    if eval_only:
        return
    check_input(cfg)
    if cfg.INPUT.CUSTOM_AUG or cfg.INPUT.CROP.ENABLED:
        raise UserError(
            "INPUT.CUSTOM_AUG and INPUT.CROP change scale or place of a picture, which a box in space does not follow: "
            "set INPUT.CUSTOM_AUG to '' and INPUT.CROP.ENABLED to False for 3D tracking"
        )
    if cfg.INPUT.RANDOM_FLIP == "vertical":
        raise UserError("INPUT.RANDOM_FLIP is 'vertical', but cameras stand upright: set it to 'horizontal' or 'none'")
    if len(cfg.INPUT.MIN_SIZE_TRAIN) != 1:
        raise UserError(
            f"INPUT.MIN_SIZE_TRAIN is {tuple(cfg.INPUT.MIN_SIZE_TRAIN)}: 3D tracking trains at one size, because the "
            "depth that a size in pixels stands for depends on it, so give one number"
        )
    if cfg.TEST.VALIDATION_LOSS:
        raise UserError("TEST.VALIDATION_LOSS is for 2D detectors: set it to False for 3D tracking")
