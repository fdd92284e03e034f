"""Datasets, registered with detectron2's catalogs on import; files are read at first use."""

from . import coco, digits, nuimages, objects365
from .coco import _PREDEFINED_SPLITS_COCO, register_distill_coco_instances
from .digits import generate_digits
from .objects365 import categories_v1
from .registration import check_files, class_names, data_root, ensure_registered, open_dataset, register_coco_json

__all__ = [
    "_PREDEFINED_SPLITS_COCO",
    "categories_v1",
    "check_files",
    "class_names",
    "coco",
    "data_root",
    "digits",
    "ensure_registered",
    "generate_digits",
    "nuimages",
    "objects365",
    "open_dataset",
    "register_coco_json",
    "register_distill_coco_instances",
]
