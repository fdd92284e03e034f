"""Annotations and detections as columns: lists of JSON objects into numpy arrays."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np

from ..errors import UserError
from .areas import Items, keypoint_area, mask_areas
from .protocol import Protocol

__all__ = ["Detected", "Index", "Truth", "detection_columns", "index_of", "places", "truth_columns"]


@dataclass(frozen=True)
class Index:
    """What is evaluated: rising ids of images ``[I]`` and categories ``[K]``, and size by image id.

    A pair (category, image) has the key ``category place * I + image place``.
    """

    image_ids: np.ndarray
    category_ids: np.ndarray
    sizes: dict[Any, tuple[int, int]]

    def keys(self, image_ids: Any, category_ids: Any) -> np.ndarray:
        """Keys of pairs of ids, int64 ``[N]``; -1 where one of them is not evaluated."""
        image, category = places(image_ids, self.image_ids), places(category_ids, self.category_ids)
        return np.where((image < 0) | (category < 0), -1, category * len(self.image_ids) + image)


@dataclass(frozen=True)
class Truth:
    """``N`` annotated objects, sorted by key, in the order of the file where keys are equal.

    Attributes:
        key: int64 ``[N]``.
        area: float64 ``[N]`` square pixels.
        ignore: bool ``[N]``: neither found nor missed.
        crowd: bool ``[N]``: several detections may match it, and overlap is measured against the detection alone.
        boxes: float64 ``[N, 4]``: x, y, w, h in pixels; zeros for masks.
        items: the annotations.
    """

    key: np.ndarray
    area: np.ndarray
    ignore: np.ndarray
    crowd: np.ndarray
    boxes: np.ndarray
    items: Items

    def part(self, which: slice) -> "Truth":
        """Those in a range of places."""
        boxes, items = self.boxes[which], self.items[which]
        return Truth(self.key[which], self.area[which], self.ignore[which], self.crowd[which], boxes, items)


@dataclass(frozen=True)
class Detected:
    """``N`` detections.

    Attributes:
        key: int64 ``[N]``; -1: an image or a category that is not evaluated.
        score: float64 ``[N]``.
        area: float64 ``[N]`` square pixels, of the box or of the mask.
        boxes: float64 ``[N, 4]``: x, y, w, h in pixels; zeros for masks and keypoints.
        source: int64 ``[N]``: place in ``items``.
        items: the detections as they were given.
    """

    key: np.ndarray
    score: np.ndarray
    area: np.ndarray
    boxes: np.ndarray
    source: np.ndarray
    items: Items

    def take(self, which: np.ndarray) -> "Detected":
        """Those at ``which`` (places or a mask)."""
        return replace(
            self,
            key=self.key[which],
            score=self.score[which],
            area=self.area[which],
            boxes=self.boxes[which],
            source=self.source[which],
        )


def places(values: Any, known: np.ndarray) -> np.ndarray:
    """Places of ``values`` in the rising array ``known``: int64 ``[N]``, -1: not there."""
    values = np.asarray(values)
    is_number = [array.dtype.kind in "iuf" for array in (values, known)]
    if not len(known) or not len(values) or is_number[0] != is_number[1]:
        return np.full(len(values), -1, dtype=np.int64)
    place = np.searchsorted(known, values)
    place[place == len(known)] = 0
    return np.where(known[place] == values, place, -1).astype(np.int64)


def index_of(ground_truth: dict[str, Any], image_ids: Iterable[Any] | None = None) -> Index:
    """Images and categories of a COCO or LVIS file, or of ``image_ids`` only."""
    images = ground_truth["images"]
    sizes = {image["id"]: (image["height"], image["width"]) for image in images if "height" in image}
    chosen = [image["id"] for image in images] if image_ids is None else list(image_ids)
    categories = [category["id"] for category in ground_truth["categories"]]
    return Index(np.unique(np.array(chosen)), np.unique(np.array(categories)), sizes)


def truth_columns(annotations: Items, index: Index, protocol: Protocol) -> Truth:
    """The annotations of the images and categories of ``index``."""
    key = index.keys([item["image_id"] for item in annotations], [item["category_id"] for item in annotations])
    area = np.array([item["area"] for item in annotations], dtype=np.float64)
    keep = key >= 0
    if protocol.federated:
        keep &= area > 0
        ignore = np.array([bool(item.get("ignore", 0)) for item in annotations], dtype=bool)
        crowd = np.zeros(len(annotations), dtype=bool)
    else:
        crowd = np.array([bool(item.get("iscrowd", 0)) for item in annotations], dtype=bool)
        ignore = crowd
    if protocol.task == "keypoints":
        ignore = ignore | np.array([item.get("num_keypoints", 0) == 0 for item in annotations], dtype=bool)
    order = np.flatnonzero(keep)
    order = order[np.argsort(key[order], kind="stable")]
    kept = [annotations[place] for place in order.tolist()]
    boxes = _boxes(kept) if protocol.task != "segm" else np.zeros((len(kept), 4))
    return Truth(key[order], area[order], ignore[order], crowd[order], boxes, kept)


def detection_columns(detections: Items, ground_truth: dict[str, Any], index: Index, protocol: Protocol) -> Detected:
    """All detections, in the given order.

    Raises:
        UserError: a detection is of an image that the ground truth does not have.
    """
    image_ids = [item["image_id"] for item in detections]
    every_image = np.unique(np.array([image["id"] for image in ground_truth["images"]]))
    unknown = np.flatnonzero(places(image_ids, every_image) < 0)
    if len(unknown):
        raise UserError(
            f"{len(unknown)} of {len(detections)} detections are on images that the ground truth does not have, the "
            f"first on image id {image_ids[unknown[0]]!r}: score them against the data that they were made from"
        )
    key = index.keys(image_ids, [item["category_id"] for item in detections])
    score = np.array([item["score"] for item in detections], dtype=np.float64)
    boxes = np.zeros((len(detections), 4))
    if protocol.task == "bbox":
        boxes = _boxes(detections)
        area = boxes[:, 2] * boxes[:, 3]
    elif protocol.task == "segm":
        area = mask_areas(detections, index.sizes)
    else:
        area = np.array([keypoint_area(item["keypoints"]) for item in detections], dtype=np.float64)
    return Detected(key, score, area, boxes, np.arange(len(detections)), detections)


def _boxes(items: Items) -> np.ndarray:
    if any(len(item["bbox"]) != 4 for item in items):
        raise ValueError("a 'bbox' is not four numbers x, y, width, height")
    numbers = chain.from_iterable(item["bbox"] for item in items)
    return np.fromiter(numbers, dtype=np.float64, count=4 * len(items)).reshape(-1, 4)
