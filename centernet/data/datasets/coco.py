"""COCO's unlabelled images, bare and with the pseudo labels of self-training.

Sources: https://cocodataset.org (``unlabeled2017``); the pseudo labels are detections of Scaled-YOLOv4 above
score 0.5 in COCO format, each annotation with its ``score``.
"""

import os
from typing import Any

from detectron2.data import MetadataCatalog

from .registration import data_root, register_coco_json

__all__ = ["_PREDEFINED_SPLITS_COCO", "register_distill_coco_instances"]

# name -> (image folder, JSON file), relative to the datasets folder
_PREDEFINED_SPLITS_COCO = {
    "coco_2017_unlabeled": ("coco/unlabeled2017", "coco/annotations/image_info_unlabeled2017.json"),
    "coco_un_yolov4_55_0.5": ("coco/unlabeled2017", "coco/annotations/yolov4_cocounlabeled_55_ann0.5.json"),
}


def register_distill_coco_instances(
    name: str, metadata: dict[str, Any], json_file: str, image_root: str
) -> None:
    """Register pseudo labels in COCO format, keeping the ``score`` of each annotation (see
    :func:`register_coco_json`)."""
    register_coco_json(name, json_file, image_root, metadata=metadata, extra_annotation_keys=("score",))


def _coco_metadata() -> dict[str, Any]:
    # detectron2 registers COCO itself; the same 80 classes, ids and colours hold here
    coco = MetadataCatalog.get("coco_2017_val")
    keys = ("thing_classes", "thing_dataset_id_to_contiguous_id", "thing_colors")
    return {key: getattr(coco, key) for key in keys}


def _register() -> None:
    for name, (image_root, json_file) in _PREDEFINED_SPLITS_COCO.items():
        paths = os.path.join(data_root(), json_file), os.path.join(data_root(), image_root)
        if "yolov4" in name:
            register_distill_coco_instances(name, _coco_metadata(), *paths)
        else:
            register_coco_json(name, *paths, metadata=_coco_metadata())


_register()
