"""How well detections and annotated objects of one image and category cover each other.

The same arithmetic as pycocotools, operation by operation, so that values at a threshold fall on the same side.
"""

from collections.abc import Iterator

import numpy as np

from .areas import Items, Sizes, run_lengths
from .columns import Detected, Truth
from .protocol import Protocol

__all__ = ["box_overlaps", "overlapping_pairs"]

PAIRS_AT_ONCE = 1 << 20  # some 100 MB


def overlapping_pairs(
    detected: Detected, truth: Truth, protocol: Protocol, sizes: Sizes
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs with one key that overlap by at least the lowest threshold.

    Args:
        detected: sorted by key.
        truth: sorted by key.
        protocol: tells what is compared.
        sizes: height and width by image id, for masks given as polygons.

    Returns:
        Places in ``detected`` int64 ``[P]``, rising; places in ``truth`` int64 ``[P]``, rising for each detection;
        overlap float64 ``[P]``.
    """
    first = np.searchsorted(truth.key, detected.key, side="left")
    last = np.searchsorted(truth.key, detected.key, side="right")
    lowest = protocol.iou_thresholds.min()
    parts = []
    for begin, end in _blocks(detected.key, last - first):
        counts = (last - first)[begin:end]
        row = np.repeat(np.arange(begin, end), counts)
        if not len(row):
            continue
        column = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts) + first[row]
        if protocol.task == "bbox":
            overlap = box_overlaps(detected.boxes[row], truth.boxes[column], truth.crowd[column])
        else:
            overlap = _by_group(detected, truth, row, column, protocol, sizes)
        near = overlap >= lowest
        parts.append((row[near], column[near], overlap[near]))
    if not parts:
        nothing = np.zeros(0, dtype=np.int64)
        return nothing, nothing, np.zeros(0)
    rows, columns, overlaps = (np.concatenate(column) for column in zip(*parts, strict=True))
    return rows, columns, overlaps


def _blocks(key: np.ndarray, counts: np.ndarray) -> Iterator[tuple[int, int]]:
    """Ranges of detections that hold whole keys and, where possible, at most ``PAIRS_AT_ONCE`` pairs."""
    starts = np.flatnonzero(np.diff(key, prepend=-1))  # keys are 0 and above
    bounds = np.append(starts, len(key))
    total = np.concatenate([[0], np.cumsum(counts)])[bounds]
    place = 0
    while place < len(starts):
        after = int(np.searchsorted(total, total[place] + PAIRS_AT_ONCE, side="right")) - 1
        after = min(max(after, place + 1), len(starts))
        yield int(bounds[place]), int(bounds[after])
        place = after


def box_overlaps(detected: np.ndarray, truth: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes in pairs; over the detection's area where the object is a crowd.

    Args:
        detected, truth: float64 ``[P, 4]``: x, y, w, h.
        crowd: bool ``[P]``.

    Returns:
        float64 ``[P]``.
    """
    width = np.minimum(detected[:, 2] + detected[:, 0], truth[:, 2] + truth[:, 0])
    width -= np.maximum(detected[:, 0], truth[:, 0])
    height = np.minimum(detected[:, 3] + detected[:, 1], truth[:, 3] + truth[:, 1])
    height -= np.maximum(detected[:, 1], truth[:, 1])
    meet = (width > 0) & (height > 0)
    both = width * height
    own = detected[:, 2] * detected[:, 3]
    union = np.where(crowd, own, own + truth[:, 2] * truth[:, 3] - both)
    return np.divide(both, union, out=np.zeros(len(both)), where=meet)


def _by_group(
    detected: Detected, truth: Truth, row: np.ndarray, column: np.ndarray, protocol: Protocol, sizes: Sizes
) -> np.ndarray:
    """Overlaps of masks or keypoints: a matrix for each image and category, one after the other, as in ``row``."""
    key = detected.key[row]
    bounds = np.append(np.flatnonzero(np.diff(key, prepend=-1)), len(key))
    matrices = []
    for begin, end in zip(bounds[:-1], bounds[1:], strict=True):
        answers = [detected.items[place] for place in detected.source[row[begin] : row[end - 1] + 1]]
        objects = slice(column[begin], column[end - 1] + 1)
        if protocol.task == "segm":
            matrices.append(_mask_overlaps(answers, truth.items[objects], truth.crowd[objects], sizes))
        else:
            matrices.append(_keypoint_similarity(answers, truth.items[objects], protocol.sigmas))
    return np.concatenate([matrix.ravel() for matrix in matrices])


def _mask_overlaps(answers: Items, objects: Items, crowd: np.ndarray, sizes: Sizes) -> np.ndarray:
    from pycocotools import mask

    rows = [run_lengths(item, sizes) for item in answers]
    return np.asarray(mask.iou(rows, [run_lengths(item, sizes) for item in objects], crowd.astype(int).tolist()))


def _keypoint_similarity(answers: Items, objects: Items, sigmas: np.ndarray) -> np.ndarray:
    """Object keypoint similarity: float64 ``[answers, objects]``.

    An object without visible keypoints is compared by the distance to its doubled box.
    """
    variances = (sigmas * 2) ** 2
    found = np.array([item["keypoints"] for item in answers], dtype=np.float64)
    x, y = found[:, 0::3], found[:, 1::3]
    similarity = np.zeros((len(answers), len(objects)))
    for place, item in enumerate(objects):
        points = np.array(item["keypoints"], dtype=np.float64)
        visible = points[2::3] > 0
        left, top, width, height = item["bbox"]
        if visible.any():
            dx, dy = x - points[0::3], y - points[1::3]
        else:
            visible = np.ones_like(visible)
            dx = np.maximum(0, (left - width) - x) + np.maximum(0, x - (left + width * 2))
            dy = np.maximum(0, (top - height) - y) + np.maximum(0, y - (top + height * 2))
        error = (dx**2 + dy**2) / variances / (item["area"] + np.spacing(1)) / 2
        # row by row: numpy sums a matrix in another order
        similarity[:, place] = [np.sum(row) / len(row) for row in np.exp(-error[:, visible])]
    return similarity
