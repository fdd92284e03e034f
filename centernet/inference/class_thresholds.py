"""Score thresholds of pseudo labels by class: from a file, for a wanted precision, or for a wanted number of labels."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from detectron2.structures import Boxes, BoxMode, pairwise_iou

from ..errors import UserError

__all__ = ["NEVER", "Judged", "count_thresholds", "judge_detections", "precision_thresholds", "read_thresholds"]

NEVER = float("inf")  # threshold of a class that gets no label at all
MATCH_IOU = 0.5


class Judged(NamedTuple):
    """Detections of a labelled set, compared with its labels.

    Attributes:
        scores: float64 ``[N]``.
        classes: int64 ``[N]``.
        correct: bool ``[N]``, the detection found an object of its class.
    """

    scores: np.ndarray
    classes: np.ndarray
    correct: np.ndarray


def read_thresholds(path: Path, names: Sequence[str], default: float) -> list[float]:
    """Thresholds of the classes ``names`` from a JSON object ``{"class name": score}``; others get ``default``.

    ``null`` stands for a class that gets no labels.

    Raises:
        UserError: no such file, no such object, a class that the model does not have, no score in [0, 1].
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"the class thresholds {path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f'{path} must hold a JSON object such as {{"cat": 0.4, "dog": 0.6}}')
    unknown = [name for name in content if name not in names]
    if unknown:
        raise UserError(f"{path} has a threshold for '{unknown[0]}', but the teacher's classes are {', '.join(names)}")
    for name, value in content.items():
        if value is not None and not (isinstance(value, int | float) and 0 <= value <= 1):
            raise UserError(f"{path}: the threshold of '{name}' is {value!r}, but it is a score: give 0 to 1, or null")
    return [default if (value := content.get(name, default)) is default else _or_never(value) for name in names]


def _or_never(value: float | None) -> float:
    return NEVER if value is None else float(value)


def judge_detections(
    truth: Mapping[Any, Sequence[dict[str, Any]]], found: Mapping[Any, Sequence[dict[str, Any]]]
) -> Judged:
    """Match detections with objects as COCO's evaluation does at IoU 0.5: by image and class, best score first, each
    object once. Detections on crowds are left out.

    Args:
        truth: annotations of each image in detectron2's format, classes from 0.
        found: detections of each image: ``bbox`` x, y, w, h in pixels, ``score``, ``class``.
    """
    rows: list[tuple[float, int, bool]] = []
    for image, detections in found.items():
        for label in sorted({d["class"] for d in detections}):
            ranked = sorted((d for d in detections if d["class"] == label), key=lambda d: -d["score"])
            objects = [a for a in truth.get(image, ()) if a["category_id"] == label]
            rows += [(d["score"], label, hit) for d, hit in _match(ranked, objects)]
    scores, classes, correct = zip(*rows, strict=True) if rows else ((), (), ())
    return Judged(np.array(scores, np.float64), np.array(classes, np.int64), np.array(correct, bool))


def _match(
    ranked: Sequence[dict[str, Any]], objects: Sequence[dict[str, Any]]
) -> list[tuple[dict[str, Any], bool]]:
    """Each detection with whether it is correct; those on crowds are dropped."""
    crowd = torch.tensor([bool(a.get("iscrowd", 0)) for a in objects], dtype=torch.bool)
    boxes = [BoxMode.convert(list(a["bbox"]), a["bbox_mode"], BoxMode.XYXY_ABS) for a in objects]
    mine = [BoxMode.convert(list(d["bbox"]), BoxMode.XYWH_ABS, BoxMode.XYXY_ABS) for d in ranked]
    overlaps = pairwise_iou(Boxes(torch.tensor(mine).view(-1, 4)), Boxes(torch.tensor(boxes).view(-1, 4)))
    free, judged = ~crowd, []
    for detection, overlap in zip(ranked, overlaps, strict=True):
        candidates = torch.where(free, overlap, torch.full_like(overlap, -1.0))
        best = int(candidates.argmax()) if len(objects) else -1
        if best >= 0 and candidates[best] >= MATCH_IOU:
            free[best] = False
            judged.append((detection, True))
        elif not (overlap[crowd] >= MATCH_IOU).any():
            judged.append((detection, False))
    return judged


def precision_thresholds(judged: Judged, num_classes: int, precision: float, default: float) -> list[float]:
    """Smallest score of each class at which the detections with at least that score have the wanted precision.

    Args:
        judged: detections of a labelled set that the teacher has not been trained on.
        precision: share of correct detections, in (0, 1].
        default: threshold of classes that were not detected at all: nothing is known about them.

    Returns:
        One threshold a class; :data:`NEVER` where no score reaches the precision.
    """
    thresholds = []
    for label in range(num_classes):
        mine = judged.classes == label
        if not mine.any():
            thresholds.append(default)
            continue
        order = np.argsort(-judged.scores[mine], kind="stable")
        scores, correct = judged.scores[mine][order], judged.correct[mine][order]
        reached = np.cumsum(correct) / np.arange(1, len(correct) + 1) >= precision
        reached[:-1] &= scores[:-1] > scores[1:]  # a threshold takes all detections of one score or none
        thresholds.append(float(scores[np.flatnonzero(reached)[-1]]) if reached.any() else NEVER)
    return thresholds


def count_thresholds(scores: Sequence[Sequence[float]], wanted: Sequence[int], default: float) -> list[float]:
    """Score of the ``wanted[c]``-th best detection of each class.

    With as many labels an image as the labelled set has objects, the pseudo labels have its class distribution
    (LabelMatch, arXiv 2206.06608, section 3.2). Unlike a precision measured on the labelled set, this is right also
    when the teacher was trained on that set: no detection on it is looked at.

    Args:
        scores: of all detections on the unlabelled images, by class, in any order.
        wanted: labels of each class.
        default: threshold of a class without any detection.

    Returns:
        One threshold a class: the lowest score if there are fewer detections than wanted; :data:`NEVER` for none.
    """
    thresholds = []
    for mine, count in zip(scores, wanted, strict=True):
        ranked = sorted(mine, reverse=True)[:count]
        thresholds.append(NEVER if not count else ranked[-1] if ranked else default)
    return thresholds
