"""Checks before training or evaluation starts: do the named datasets exist, does the model have their classes,
and do the choices of INPUT exist?"""

from collections.abc import Sequence

from detectron2.config import CfgNode

from ..errors import UserError
from .augmentation import check_input
from .datasets import check_files, class_names, ensure_registered

__all__ = ["check_dataset_fits"]

# meta-architecture -> key of its number of classes
_CLASS_COUNT_KEYS = {
    "CenterNetDetector": "CENTERNET.NUM_CLASSES",
    "GeneralizedRCNN": "ROI_HEADS.NUM_CLASSES",
    "PanopticFPN": "ROI_HEADS.NUM_CLASSES",
    "RetinaNet": "RETINANET.NUM_CLASSES",
    "FCOS": "FCOS.NUM_CLASSES",
}


def check_dataset_fits(cfg: CfgNode, dataset_names: Sequence[str]) -> None:
    """Check that datasets are registered, that their files exist, that the model has as many classes as
    they, and that the ``INPUT`` of ``cfg`` can be followed (see :func:`~.augmentation.check_input`).

    Images are not read, and a large JSON file only if nothing else tells the classes. ``coco_json:`` names
    are registered.

    Args:
        cfg: the model's config.
        dataset_names: e.g. ``cfg.DATASETS.TRAIN + cfg.DATASETS.TEST``.

    Raises:
        UserError: one sentence about the first thing that is wrong.
    """
    check_input(cfg)
    ensure_registered(dataset_names)
    keys = _class_count_keys(cfg)
    for name in dataset_names:
        check_files(name)
        classes = class_names(name)
        for key, count in keys.items():
            if classes is not None and len(classes) != count:
                raise UserError(
                    f"the model has {count} classes ({key}) but dataset {name} has {len(classes)}: "
                    f"set {key} to {len(classes)} or choose another dataset"
                )


def _class_count_keys(cfg: CfgNode) -> dict[str, int]:
    """Keys that must equal the number of classes, with their values."""
    model = cfg.MODEL
    names = []
    if model.META_ARCHITECTURE in _CLASS_COUNT_KEYS:
        names.append(_CLASS_COUNT_KEYS[model.META_ARCHITECTURE])
    # a first stage with a class heatmap needs the classes as well
    first_stage_has_classes = (
        model.PROPOSAL_GENERATOR.NAME == "CenterNet" and not model.CENTERNET.ONLY_PROPOSAL
    )
    if model.META_ARCHITECTURE == "GeneralizedRCNN" and first_stage_has_classes:
        names.append("CENTERNET.NUM_CLASSES")
    counts = {}
    for name in names:
        node, leaf = name.split(".")
        if node in model:
            counts[f"MODEL.{name}"] = model[node][leaf]
    return counts
