"""From matches to precision and recall: COCO's accumulation, for all categories at once.

Precision, made monotone from the right, only changes where a true positive stands, so that only true positives are
visited: their number, and the number of detections that count up to each of them, give every value.
"""

from dataclasses import dataclass

import numpy as np

from .matching import Matches
from .protocol import Protocol

__all__ = ["Curves", "accumulate", "empty_curves"]


@dataclass(frozen=True)
class Curves:
    """What pycocotools calls ``eval``. -1 where a category has no object of a size.

    Attributes:
        precision: float64 ``[T, R, K, A, M]``: highest precision at or above each recall threshold.
        recall: float64 ``[T, K, A, M]``: with all detections.
        scores: float64 ``[T, R, K, A, M]``: score at which each recall threshold is reached; 0: it is not.
    """

    precision: np.ndarray
    recall: np.ndarray
    scores: np.ndarray


def empty_curves(protocol: Protocol, categories: int) -> Curves:
    """Curves full of -1."""
    thresholds, recalls = len(protocol.iou_thresholds), len(protocol.recall_thresholds)
    shape = (categories, len(protocol.areas), len(protocol.max_dets))
    return Curves(
        precision=np.full((thresholds, recalls, *shape), -1.0),
        recall=np.full((thresholds, *shape), -1.0),
        scores=np.full((thresholds, recalls, *shape), -1.0),
    )


@dataclass(frozen=True)
class _Ranking:
    """Detections of all categories, each category's best first; ``D`` detections, ``C`` candidates for a match."""

    score: np.ndarray  # float64 [D]
    rank: np.ndarray  # int64 [D]: within image and category
    false_ignored: np.ndarray  # bool [D, A]: does not count if unmatched
    start: np.ndarray  # int64 [K + 1]: of each category in D
    place: np.ndarray  # int64 [C]: of each candidate in D, rising
    candidate_start: np.ndarray  # int64 [K + 1]: of each category in C
    matched: np.ndarray  # bool [C, A, T]
    ignored: np.ndarray  # bool [C, A, T]


def accumulate(
    curves: Curves,
    categories: np.ndarray,
    detections: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
    matches: Matches,
    objects: np.ndarray,
    protocol: Protocol,
) -> None:
    """Write the curves of some categories into ``curves``.

    Args:
        curves: of all categories; changed in place.
        categories: their places, int64 ``[K]``, contiguous.
        detections: category place int64 ``[D]``, score float64 ``[D]``, rank within image and category int64
            ``[D]``, whether it does not count if unmatched bool ``[D, A]``; images rise within a category.
        matches: of these detections.
        objects: number of objects that count, int64 ``[K, A]``.
        protocol: limits and thresholds.
    """
    ranking = _rank(categories, detections, matches)
    where = slice(categories[0], categories[-1] + 1)
    for area in range(objects.shape[1]):
        count = objects[:, area]
        present = count > 0
        needed = _needed(count, protocol.recall_thresholds)
        for limit, most in enumerate(protocol.max_dets):
            precision, recall, scores = _curves(ranking, area, most, count, needed)
            curves.precision[:, :, where, area, limit][:, :, present] = precision[:, :, present]
            curves.recall[:, where, area, limit][:, present] = recall[:, present]
            curves.scores[:, :, where, area, limit][:, :, present] = scores[:, :, present]


def _rank(
    categories: np.ndarray, detections: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray], matches: Matches
) -> _Ranking:
    category, score, rank, false_ignored = detections
    order = np.lexsort((-score, category))
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    place = place[matches.detection]
    rising = np.argsort(place)
    category, place = category[order], place[rising]
    ends = np.append(categories, categories[-1] + 1)
    return _Ranking(
        score=score[order],
        rank=rank[order],
        false_ignored=false_ignored[order],
        start=np.searchsorted(category, ends),
        place=place,
        candidate_start=np.searchsorted(category[place], ends),
        matched=matches.matched[rising],
        ignored=matches.ignored[rising],
    )


def _needed(count: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Fewest true positives whose share of ``count`` objects ``[K]`` reaches each threshold: int64 ``[K, R]``."""
    total = np.maximum(count, 1)[:, None]
    needed = np.maximum(np.floor(thresholds * total) - 1, 0)
    for _ in range(3):
        needed += needed / total < thresholds
    return needed.astype(np.int64)


def _curves(
    ranking: _Ranking, area: int, most: int, count: np.ndarray, needed: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Precision ``[T, R, K]``, recall ``[T, K]`` and scores ``[T, R, K]``.

    Args:
        area: range of areas.
        most: limit on detections per image and category.
        count: objects that count, int64 ``[K]``.
        needed: of :func:`_needed`.
    """
    kinds, thresholds = len(count), ranking.matched.shape[2]
    within = ranking.rank < most
    counted = within & ~ranking.false_ignored[:, area]
    found = ranking.matched[:, area] & within[ranking.place, None]
    true = found & ~ranking.ignored[:, area]

    event_threshold, event = np.nonzero(true.T)
    category = np.searchsorted(ranking.candidate_start, event, side="right") - 1
    segment = event_threshold * kinds + category
    size = np.bincount(segment, minlength=thresholds * kinds)
    start = np.cumsum(size) - size
    true_so_far = np.arange(1, len(segment) + 1) - start[segment]

    # detections that count up to each event: as if all were unmatched, plus what the matches change
    seen = np.concatenate([[0], np.cumsum(counted)])
    change = np.where(found, true.astype(np.int8) - counted[ranking.place, None].astype(np.int8), 0)
    change = np.concatenate([np.zeros((1, thresholds), dtype=np.int64), np.cumsum(change, axis=0)])
    total = seen[ranking.place[event] + 1] - seen[ranking.start[category]]
    total += change[event + 1, event_threshold]
    total -= change[ranking.candidate_start[category], event_threshold]
    precision = true_so_far / ((total - true_so_far) + true_so_far + np.spacing(1))
    precision = np.append(_highest_from_here(precision, segment), 0.0)  # the last entry: not reached

    size, start = (values.reshape(thresholds, 1, kinds) for values in (size, start))
    needed = needed.T[None]  # [1, R, K]
    reached = (needed <= size) & (size > 0)
    entry = np.where(reached, start + np.maximum(needed - 1, 0), len(precision) - 1)
    score = np.append(ranking.score[ranking.place[event]], 0.0)[entry]
    some = ranking.start[1:] > ranking.start[:-1]
    first = np.zeros(kinds)
    first[some] = ranking.score[ranking.start[:-1][some]]
    score = np.where(needed == 0, first, score)
    return precision[entry], size[:, 0] / np.maximum(count, 1), score


def _highest_from_here(values: np.ndarray, segment: np.ndarray) -> np.ndarray:
    """Highest value from each entry to the end of its segment: float64 ``[N]``; segments rise."""
    distinct, level = np.unique(values, return_inverse=True)
    offset = (segment.max(initial=0) - segment) * len(distinct)
    highest = np.maximum.accumulate((level + offset)[::-1])[::-1]
    return distinct[highest - offset] if len(values) else values
