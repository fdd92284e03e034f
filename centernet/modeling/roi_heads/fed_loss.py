"""Class frequencies for the federated loss."""

import importlib
import json
import logging
from pathlib import Path

import torch
from detectron2.utils.logger import log_first_n
from torch import Tensor

from ...errors import UserError
from ...ops.federated import federated_classes

__all__ = ["get_fed_loss_inds", "load_class_freq"]

_DATASETS = "detectron2.data.datasets"
_LVIS = {1203: "v1", 1230: "v0_5"}  # number of classes: version, as in the names of detectron2's modules
# Mean number of images of a rare, common and frequent class, LVIS v1 training set.
_MEAN_IMAGES = {"r": 4.4, "c": 39.0, "f": 843.1}


def load_class_freq(
    path: str = "datasets/lvis/lvis_v1_train_cat_info.json", freq_weight: float = 0.5, num_classes: int | None = None
) -> Tensor:
    """Sampling weight of each class, float32 ``[C]``: ``image_count ** freq_weight``, by ascending category id.

    Args:
        path: JSON list of objects with ``id`` and ``image_count``.
        num_classes: classes of the model. If the file is missing and this is the number of LVIS v1 or v0.5, the
            counts are detectron2's; where it has none (LVIS v0.5, older versions), they are the mean of the class's
            group (rare, common, frequent). The log says which.

    Raises:
        UserError: the file is missing and nothing stands in for it, or it is not of that form.
    """
    file = Path(path)
    if file.is_file():
        return _counts_of_file(file) ** freq_weight
    if num_classes not in _LVIS:
        raise UserError(
            f"the class frequencies of the federated loss are missing: {path} (MODEL.ROI_BOX_HEAD.CAT_FREQ_PATH) "
            "does not exist; put a JSON list of {id, image_count} there or point the key at one"
        )
    return _lvis_counts(num_classes, path) ** freq_weight


def get_fed_loss_inds(
    gt_classes: Tensor,
    num_sample_cats: int = 50,
    C: int = 1203,
    weight: Tensor | None = None,
    fed_cls_inds: int = -1,
) -> Tensor:
    """Classes of one step; :func:`centernet.ops.federated.federated_classes` under its published name.

    Args:
        gt_classes: int64 ``[R]`` in ``[0, C]``, ``C`` is background.
        num_sample_cats: classes wanted.
        C: number of classes.
        weight: float ``[C]``, relative chance of a class to be drawn; None: equal.
        fed_cls_inds: when > 0, classes from this index on are never drawn.

    Returns:
        int64 ``[S]``: the present labels ascending, then the drawn ones.
    """
    return federated_classes(gt_classes, num_sample_cats, C, weight, fed_cls_inds)


def _counts_of_file(file: Path) -> Tensor:
    try:
        return _counts_by_id(json.loads(file.read_text()))
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} is not a JSON list of objects with 'id' and 'image_count' ({error!r})") from error


def _counts_by_id(categories: list[dict]) -> Tensor:
    return torch.tensor([float(c["image_count"]) for c in sorted(categories, key=lambda c: c["id"])])


def _lvis_counts(num_classes: int, path: str) -> Tensor:
    """Images of each class, exact if this detectron2 has the table, else by the three groups."""
    version = _LVIS[num_classes]
    try:
        table = importlib.import_module(f"{_DATASETS}.lvis_{version}_category_image_count").LVIS_CATEGORY_IMAGE_COUNT
    except ModuleNotFoundError:
        _log_once(
            logging.WARNING,
            f"{path} does not exist and this detectron2 has no image counts of LVIS {version}: the federated loss "
            "takes the mean count of rare, common and frequent classes for each class; for the exact numbers put a "
            "JSON list of {id, image_count} at MODEL.ROI_BOX_HEAD.CAT_FREQ_PATH",
        )
        categories = importlib.import_module(f"{_DATASETS}.lvis_{version}_categories").LVIS_CATEGORIES
        table = [{"id": c["id"], "image_count": _MEAN_IMAGES[c["frequency"]]} for c in categories]
    else:
        _log_once(
            logging.INFO,
            f"{path} does not exist: the federated loss takes detectron2's image counts of LVIS {version}",
        )
    return _counts_by_id(table)


def _log_once(level: int, message: str) -> None:
    """A cascade asks once a stage."""
    log_first_n(level, message, name=__name__, key="message")
