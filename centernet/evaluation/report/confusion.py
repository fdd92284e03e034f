"""Confusion matrix of a detector above one score, and which score to choose for it."""

from typing import NamedTuple

import numpy as np

from .matching import Case, Matches, match

__all__ = ["Confusion", "confusion", "operating_point"]


class Confusion(NamedTuple):
    """``counts`` int64 ``[C + 1, C + 1]``: rows are the true class and last the background, columns the predicted one
    and last 'missed'. ``threshold``: detections with a smaller score were left out."""

    counts: np.ndarray
    threshold: float

    def worst(self, limit: int) -> list[tuple[int, int, int]]:
        """``(true, predicted, count)`` of the most frequent mix-ups of two classes."""
        wrong = self.counts[:-1, :-1].copy()
        np.fill_diagonal(wrong, 0)
        order = np.argsort(-wrong, axis=None, kind="stable")[:limit]
        pairs = [(int(k // len(wrong)), int(k % len(wrong))) for k in order]
        return [(true, said, int(wrong[true, said])) for true, said in pairs if wrong[true, said]]


def operating_point(case: Case, matches: Matches) -> tuple[float, float, float]:
    """The score with the best F1 over all classes together: ``(score, precision, recall)``; (0, 0, 0) if nothing was
    found."""
    judged = ~matches.ignored
    scores, hit = case.found.scores[judged], matches.hit[judged]
    objects = int(case.counts.sum())
    if not hit.any() or not objects:
        return 0.0, 0.0, 0.0
    order = np.argsort(-scores, kind="stable")
    found, scores = np.cumsum(hit[order]), scores[order]
    last = np.r_[scores[1:] != scores[:-1], True]  # a threshold takes all equals or none
    f1 = np.where(last, 2 * found / (np.arange(1, len(found) + 1) + objects), -1)
    best = int(f1.argmax())
    return float(scores[best]), float(found[best] / (best + 1)), float(found[best] / objects)


def confusion(case: Case, threshold: float, *, iou: float = 0.5) -> Confusion:
    """Count what was taken for what.

    First every detection may find an object of its own class, then those that did not may find one that is left, of
    any class, both best score first and at ``iou`` or more. What is left is background taken for a class, or missed.
    """
    above = case.found.scores >= threshold
    case = case._replace(found=type(case.found)(*(field[above] for field in case.found)))
    right = match(case, iou)
    rest = ~right.hit & ~right.ignored
    taken = np.zeros(len(case.objects.classes), bool)
    taken[right.target[right.hit]] = True
    objects = case.objects
    left_objects = type(objects)(*(field[~taken] for field in objects))
    left_found = type(case.found)(*(field[rest] for field in case.found))
    mixed = match(case._replace(objects=left_objects, found=left_found), iou, may=_any_class)
    size = len(case.categories) + 1
    counts = np.zeros((size, size), np.int64)
    np.add.at(counts, (objects.classes[taken], objects.classes[taken]), 1)
    hit = mixed.hit
    np.add.at(counts, (left_objects.classes[mixed.target[hit]], left_found.classes[hit]), 1)
    np.add.at(counts, (size - 1, left_found.classes[~hit & ~mixed.ignored]), 1)
    missed = ~left_objects.crowd
    missed[mixed.target[hit]] = False
    np.add.at(counts, (left_objects.classes[missed], size - 1), 1)
    return Confusion(counts, threshold)


def _any_class(found: np.ndarray, objects: np.ndarray) -> np.ndarray:
    return np.ones((len(found), objects.shape[1]), bool)
