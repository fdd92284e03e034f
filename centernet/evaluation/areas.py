"""Masks as run lengths, and the areas of masks and keypoints."""

from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["Items", "Sizes", "keypoint_area", "mask_areas", "run_lengths"]

Items = Sequence[dict[str, Any]]
Sizes = dict[Any, tuple[int, int]]


def run_lengths(item: dict[str, Any], sizes: Sizes) -> dict[str, Any]:
    """Compressed run lengths of a mask given as polygons, plain or compressed run lengths.

    Args:
        sizes: ``(height, width)`` in pixels by image id.
    """
    from pycocotools import mask

    shape = item["segmentation"]
    if isinstance(shape, list):
        return mask.merge(mask.frPyObjects(shape, *sizes[item["image_id"]]))
    if isinstance(shape["counts"], list):
        return mask.frPyObjects(shape, *sizes[item["image_id"]])
    return shape


def mask_areas(items: Items, sizes: Sizes) -> np.ndarray:
    """Areas of masks in square pixels: float64 ``[N]``."""
    from pycocotools import mask

    return np.array([mask.area(run_lengths(item, sizes)) for item in items], dtype=np.float64)


def keypoint_area(keypoints: list[float]) -> float:
    """Area of the box around keypoints (x, y, anything, ...), square pixels."""
    x, y = keypoints[0::3], keypoints[1::3]
    return (max(x) - min(x)) * (max(y) - min(y))
