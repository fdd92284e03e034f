"""Do probabilities hold: reliability curve and expected calibration error.

Source: Guo, Pleiss, Sun, Weinberger, "On calibration of modern neural networks" (arXiv 1706.04599) section 2; the
intervals are Wilson's (1927).
"""

from typing import NamedTuple

import numpy as np

from .matching import Case, Found, Objects, box_iou, match, rows_of_images

__all__ = ["Reliability", "case_of_proposals", "covers", "reliability"]

_Z = 1.959964  # of a 95 % interval


class Reliability(NamedTuple):
    """Per bin, float64 ``[B]`` (NaN where empty): ``confidence`` (mean), ``frequency`` of being right, ``low`` and
    ``high`` of its 95 % interval; ``counts`` int64 ``[B]``; ``edges`` ``[B + 1]``. ``error``: the expected calibration
    error, the mean of ``|frequency - confidence|`` weighted with the counts; ``upper_error``: that without the first
    bin, which holds nearly all proposals; ``bias``: mean probability minus mean frequency, positive if overconfident;
    NaN without entries."""

    edges: np.ndarray
    counts: np.ndarray
    confidence: np.ndarray
    frequency: np.ndarray
    low: np.ndarray
    high: np.ndarray
    error: float
    upper_error: float
    bias: float


def reliability(probabilities: np.ndarray, right: np.ndarray, bins: int = 10) -> Reliability:
    """Compare stated probabilities with what happened, in ``bins`` of equal width; 1 belongs to the last.

    Args:
        probabilities: ``[N]`` in [0, 1].
        right: bool ``[N]``.
    """
    edges = np.linspace(0.0, 1.0, bins + 1)
    place = np.clip((probabilities * bins).astype(np.int64), 0, bins - 1)
    counts = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore", divide="ignore"):
        confidence = np.bincount(place, probabilities, bins) / counts
        frequency = np.bincount(place, right.astype(np.float64), bins) / counts
        weight = 1 / (1 + _Z**2 / counts)
        middle = weight * (frequency + _Z**2 / (2 * counts))
        spread = weight * _Z * np.sqrt(frequency * (1 - frequency) / counts + (_Z / (2 * counts)) ** 2)
    gaps = np.nan_to_num(np.abs(frequency - confidence))
    low, high = middle - spread, middle + spread
    error, upper_error = (_weighted_mean(gaps[start:], counts[start:]) for start in (0, 1))
    bias = float(probabilities.mean() - right.mean()) if counts.any() else float("nan")
    return Reliability(edges, counts, confidence, frequency, low, high, error, upper_error, bias)


def _weighted_mean(values: np.ndarray, weights: np.ndarray) -> float:
    return float(values @ weights / weights.sum()) if weights.any() else float("nan")


def case_of_proposals(case: Case, images: np.ndarray, boxes: np.ndarray, probabilities: np.ndarray) -> Case:
    """The objects of ``case`` with first-stage proposals instead of its detections; all are of one class.

    Args:
        images: ``[N]`` ids as in the annotation file; those of other images are left out.
        boxes: ``[N, 4]`` xyxy, pixels of the original image.
        probabilities: ``[N]``, ``P(object)``.
    """
    row = {image["id"]: k for k, image in enumerate(case.images)}
    owner = np.array([row.get(image, -1) for image in images.tolist()], np.int64)
    order = np.lexsort((-probabilities, owner))
    order = order[owner[order] >= 0]
    one_class = np.zeros(len(order), np.int64)
    found = Found(
        owner[order], boxes[order].astype(np.float64), one_class, probabilities[order].astype(np.float64), one_class > 0
    )
    objects = Objects(*case.objects[:2], np.zeros_like(case.objects.classes), case.objects.crowd)
    return Case(case.images, [{"id": 0, "name": "object"}], objects, found)


def covers(case: Case, iou: float = 0.5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What became of class-agnostic proposals, best first in each image.

    Returns:
        bool ``[N]`` each: overlaps any object by ``iou``; is the best scored that found its object (one an object);
        ignored (only overlaps a crowd).
    """
    matches = match(case, iou)
    any_object = np.zeros(len(case.found.scores), bool)
    for dets, objs in rows_of_images(case):
        boxes = case.objects.boxes[objs][~case.objects.crowd[objs]]
        if len(boxes):
            any_object[dets] = box_iou(case.found.boxes[dets], boxes).max(axis=1, initial=0) >= iou
    return any_object, matches.hit, matches.ignored & ~any_object
