"""nuImages (https://www.nuscenes.org/nuimages) in COCO format: ten classes, ids 0 to 9."""

import os

from .registration import data_root, register_coco_json

__all__ = ["categories"]

_NAMES = (
    "car",
    "truck",
    "trailer",
    "bus",
    "construction_vehicle",
    "bicycle",
    "motorcycle",
    "pedestrian",
    "traffic_cone",
    "barrier",
)
categories = [{"id": number, "name": name} for number, name in enumerate(_NAMES)]


def _register() -> None:
    for split in ("train", "val", "mini"):
        register_coco_json(
            f"nuimages_{split}",
            os.path.join(data_root(), f"nuimages/annotations/nuimages_v1.0-{split}.json"),
            os.path.join(data_root(), "nuimages"),
            metadata={
                "thing_classes": list(_NAMES),
                "thing_dataset_id_to_contiguous_id": {number: number for number in range(len(_NAMES))},
            },
        )


_register()
