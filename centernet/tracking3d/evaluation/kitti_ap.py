"""Average precision of KITTI's object benchmark over 40 recall positions: 2D boxes, footprints and volumes.

Source: Geiger et al. (CVPR 2012); 40 positions: Simonelli et al., MonoDIS (ICCV 2019).
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ...errors import UserError
from ..ops.overlaps import camera_box7, iou_2d, iou_3d, iou_bev

Metric = Literal["bbox", "bev", "3d"]
DIFFICULTIES = ("easy", "moderate", "hard")
OVERLAPS = {"car": (0.7, 0.5), "pedestrian": (0.5, 0.25), "cyclist": (0.5, 0.25)}
"""IoU from which an object is found, strict and loose; boxes in the picture have only the strict one."""

_MIN_HEIGHT, _MAX_OCCLUDED, _MAX_TRUNCATED = (40, 25, 25), (0, 1, 2), (0.15, 0.3, 0.5)
_NEIGHBOURS = {"car": "van", "pedestrian": "person_sitting"}
_POSITIONS = 40

Flags = NDArray[np.bool_]
Matrix = NDArray[np.float64]


class KittiObjects(NamedTuple):
    """Rows of an object file.

    Attributes:
        kinds: lower-case types.
        numbers: float ``[N, 15]``: truncated, occluded, alpha, x1, y1, x2, y2, h, w, l, x, y (bottom), z, yaw, score.
    """

    kinds: NDArray[np.str_]
    numbers: Matrix


def parse_objects(text: str, where: str = "a file of objects") -> KittiObjects:
    """Lines of the object benchmark; a missing score is 1.

    Raises:
        UserError: a line is no object.
    """
    rows, kinds = [], []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words:
            continue
        try:
            values = [float(word) for word in words[1:16]]
        except ValueError:
            values = []
        if len(values) < 14:
            raise UserError(f"line {number} of {where} is no object of KITTI ({line[:40]!r}): write the file again")
        kinds.append(words[0].lower())
        rows.append((*values, 1.0)[:15])
    return KittiObjects(np.array(kinds, dtype=np.str_), np.array(rows, dtype=np.float64).reshape(len(rows), 15))


def average_precision(
    truth: Sequence[KittiObjects], detected: Sequence[KittiObjects], name: str, metric: Metric, overlap: float
) -> tuple[float, float, float]:
    """AP (0 to 1) of a class for easy, moderate and hard objects; NaN where there are none.

    Args:
        truth, detected: by picture, in the same order.
        name: lower-case class.
        metric: which overlap counts.
        overlap: above which an object is found.
    """
    overlaps = [_overlaps(a, b, metric) for a, b in zip(truth, detected, strict=True)]
    scores = [_precision(truth, detected, overlaps, name, metric, overlap, level) for level in range(len(DIFFICULTIES))]
    return scores[0], scores[1], scores[2]


def kitti_scores(
    truth: Sequence[KittiObjects], detected: Sequence[KittiObjects]
) -> dict[str, tuple[float, float, float]]:
    """AP by ``"car/3d/0.7"``: each class with its strict 2D, bird's-eye and 3D overlap and the loose ones."""
    scores = {}
    for name, (strict, loose) in OVERLAPS.items():
        scores[f"{name}/bbox/{strict:g}"] = average_precision(truth, detected, name, "bbox", strict)
        for overlap in (strict, loose):
            scores[f"{name}/bev/{overlap:g}"] = average_precision(truth, detected, name, "bev", overlap)
            scores[f"{name}/3d/{overlap:g}"] = average_precision(truth, detected, name, "3d", overlap)
    return scores


def _overlaps(truth: KittiObjects, detected: KittiObjects, metric: Metric) -> Matrix:
    a, b = torch.from_numpy(truth.numbers), torch.from_numpy(detected.numbers)
    if metric == "bbox":
        return iou_2d(a[:, 3:7], b[:, 3:7]).numpy()
    volumes = []
    for rows in (a, b):
        middle = rows[:, 10:13] - torch.stack((rows[:, 7] * 0, rows[:, 7] / 2, rows[:, 7] * 0), 1)
        volumes.append(camera_box7(middle, rows[:, 13], rows[:, 7:10]))
    return (iou_bev if metric == "bev" else iou_3d)(*volumes).numpy()


class _Picture(NamedTuple):
    overlaps: Matrix  # of the rows of the class and its neighbour, and the columns of the class
    counted: Flags  # rows that must be found
    ignored: Flags  # columns that are too small to count
    excused: Flags  # columns in regions where nobody labelled
    scores: Matrix


def _picture(
    truth: KittiObjects, detected: KittiObjects, overlaps: Matrix, name: str, metric: Metric, overlap: float, level: int
) -> _Picture:
    own, theirs = truth.kinds == name, detected.kinds == name
    rows = own | (truth.kinds == _NEIGHBOURS.get(name, name))
    heights = truth.numbers[:, 6] - truth.numbers[:, 4]
    counted = own & (heights > _MIN_HEIGHT[level])
    counted &= (truth.numbers[:, 1] <= _MAX_OCCLUDED[level]) & (truth.numbers[:, 0] <= _MAX_TRUNCATED[level])
    boxes = detected.numbers[theirs]
    excused = np.zeros(len(boxes), dtype=bool)
    if metric == "bbox":
        regions = truth.numbers[truth.kinds == "dontcare"]
        low = np.maximum(regions[:, None, 3:5], boxes[None, :, 3:5])
        shared = (np.minimum(regions[:, None, 5:7], boxes[None, :, 5:7]) - low).clip(min=0).prod(2)
        area = (boxes[:, 5:7] - boxes[:, 3:5]).prod(1).clip(min=1e-9)
        excused = (shared / area > overlap).any(0)
    small = np.abs(boxes[:, 6] - boxes[:, 4]) < _MIN_HEIGHT[level]
    return _Picture(overlaps[rows][:, theirs], counted[rows], small, excused, boxes[:, 14])


def _match(picture: _Picture, overlap: float, threshold: float, by_score: bool) -> tuple[list[float], int]:
    """Scores of what is found, and the number of false detections, at a score threshold."""
    usable = picture.scores >= threshold
    taken = np.zeros(len(usable), dtype=bool)
    found = []
    for row, counted in enumerate(picture.counted):
        able = (picture.overlaps[row] > overlap) & usable & ~taken
        if not by_score and (able & ~picture.ignored).any():
            able &= ~picture.ignored  # small ones only where there is no other
        if not able.any():
            continue
        best = int(np.where(able, picture.scores if by_score else picture.overlaps[row], -np.inf).argmax())
        taken[best] = True
        if counted and not picture.ignored[best]:
            found.append(float(picture.scores[best]))
    return found, int((usable & ~taken & ~picture.ignored & ~picture.excused).sum())


def _precision(
    truth: Sequence[KittiObjects],
    detected: Sequence[KittiObjects],
    overlaps: Sequence[Matrix],
    name: str,
    metric: Metric,
    overlap: float,
    level: int,
) -> float:
    pictures = [
        _picture(a, b, shared, name, metric, overlap, level)
        for a, b, shared in zip(truth, detected, overlaps, strict=True)
    ]
    total = sum(int(picture.counted.sum()) for picture in pictures)
    if not total:
        return float("nan")
    found = [score for picture in pictures for score in _match(picture, overlap, -np.inf, True)[0]]
    precision = np.zeros(_POSITIONS + 1)
    for position, threshold in enumerate(_thresholds(sorted(found, reverse=True), total)):
        results = [_match(picture, overlap, threshold, False) for picture in pictures]
        hits, false = sum(len(scores) for scores, _ in results), sum(count for _, count in results)
        precision[position] = hits / max(hits + false, 1)
    return float(np.maximum.accumulate(precision[::-1])[::-1][1:].mean())


def _thresholds(scores: list[float], total: int) -> list[float]:
    """Scores at which recall comes nearest to 0, 1/40, 2/40, ..."""
    thresholds: list[float] = []
    for rank, score in enumerate(scores, 1):
        wanted = len(thresholds) / _POSITIONS
        nearer_next = (rank + 1) / total - wanted < wanted - rank / total
        if nearer_next and rank < len(scores):
            continue
        thresholds.append(score)
    return thresholds[: _POSITIONS + 1]
