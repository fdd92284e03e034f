"""Class frequencies for the federated loss."""

import importlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.utils.logger import log_first_n
from torch import Tensor

from ...data.datasets import ensure_registered, open_dataset
from ...data.index import Records
from ...errors import UserError
from ...ops.federated import federated_classes

__all__ = ["class_weights_of", "count_images", "get_fed_loss_inds", "load_class_freq"]

_DATASETS = "detectron2.data.datasets"
_LVIS = {1203: "v1", 1230: "v0_5"}  # number of classes: version, as in the names of detectron2's modules
# Mean number of images of a rare, common and frequent class, LVIS v1 training set.
_MEAN_IMAGES = {"r": 4.4, "c": 39.0, "f": 843.1}


def class_weights_of(cfg: CfgNode) -> Tensor:
    """Sampling weight of each class, float32 ``[C]``, for the model of a config.

    From ``ROI_BOX_HEAD.CAT_FREQ_PATH`` if that file exists, else from the table of LVIS if the model has its number
    of classes, else from the images of ``DATASETS.TRAIN``. Where these are not there either the weights are equal, with
    a warning: a trained model is used without its training data, and brings its weights along.
    """
    node, num_classes = cfg.MODEL.ROI_BOX_HEAD, cfg.MODEL.ROI_HEADS.NUM_CLASSES
    if Path(node.CAT_FREQ_PATH).is_file() or num_classes in _LVIS:
        return load_class_freq(node.CAT_FREQ_PATH, node.FED_LOSS_FREQ_WEIGHT, num_classes)
    try:
        counts = count_images(cfg.DATASETS.TRAIN, num_classes)
    except UserError as error:
        _log_once(logging.WARNING, f"the federated loss gives all classes the same chance to be drawn: {error}")
        return torch.ones(num_classes)
    _log_once(logging.INFO, f"the federated loss counts the images of each class in {', '.join(cfg.DATASETS.TRAIN)}")
    return counts**node.FED_LOSS_FREQ_WEIGHT


def count_images(names: Sequence[str], num_classes: int) -> Tensor:
    """Images with each class in registered data sets together, float32 ``[C]``; crowds do not count.

    A class without images counts as one image, so that it too is drawn and unlearned where it is absent.

    Raises:
        UserError: no data set, or one that is not registered, lacks its files or has classes from ``num_classes`` on.
    """
    if not names:
        raise UserError("DATASETS.TRAIN is empty, so there are no images to count")
    counts = np.zeros(num_classes, np.int64)
    for name in names:
        present = _image_classes(name)
        wrong = present[(present < 0) | (present >= num_classes)]
        if len(wrong):
            raise UserError(
                f"dataset '{name}' has class number {wrong.max()}, but MODEL.ROI_HEADS.NUM_CLASSES is {num_classes}"
            )
        counts += np.bincount(present, minlength=num_classes)
    return torch.from_numpy(counts).float().clamp(min=1)


def _image_classes(name: str) -> np.ndarray:
    """The classes of each image, each once, of all images in turn: int64 ``[K]``."""
    ensure_registered([name])
    records = open_dataset(name)
    if isinstance(records, Records):
        return records.image_classes(crowds=False)[1]
    present = ({a["category_id"] for a in r.get("annotations", ()) if not a.get("iscrowd", 0)} for r in records)
    return np.array([category for classes in present for category in classes], np.int64)


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
