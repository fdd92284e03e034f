"""Which detections find an object: COCO's greedy matching, for all images, thresholds and sizes at once.

In an image and category the detections choose in falling order of score. Images do not know of each other, so the
first detections of all images choose together, then the second ones, and so on: as many numpy steps as the fullest
image has candidates.
"""

from dataclasses import dataclass

import numpy as np

__all__ = ["Matches", "match"]


@dataclass(frozen=True)
class Matches:
    """What became of the ``C`` detections that overlap an object at all.

    Attributes:
        detection: their places, int64 ``[C]``, rising.
        matched: bool ``[C, A, T]``: it found an object, by range of areas and threshold.
        ignored: bool ``[C, A, T]``: it found one that does not count.
    """

    detection: np.ndarray
    matched: np.ndarray
    ignored: np.ndarray


def match(
    pairs: tuple[np.ndarray, np.ndarray, np.ndarray],
    detection_key: np.ndarray,
    ignore: np.ndarray,
    crowd: np.ndarray,
    thresholds: np.ndarray,
) -> Matches:
    """Match detections with objects.

    A detection takes the free object that counts and overlaps most, else the ignored one that overlaps most; of
    equals the last. A crowd stays free.

    Args:
        pairs: of ``overlapping_pairs``.
        detection_key: int64 ``[D]``, rising; where keys are equal, scores fall.
        ignore: bool ``[G, A]``: the object does not count, by range of areas.
        crowd: bool ``[G]``.
        thresholds: float64 ``[T]``.
    """
    row, column, overlap = pairs
    detection, candidate = _distinct(row)
    turn = _turns(detection_key[detection])
    shape = (len(detection), ignore.shape[1], len(thresholds))
    matches = Matches(detection, np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool))
    if not len(row):
        return matches
    by_turn = np.argsort(turn[candidate], kind="stable")
    candidate, column, overlap = candidate[by_turn], column[by_turn], overlap[by_turn]
    # preference: a number that grows with overlap, of equals with the place, and above all with counting at all
    preference = np.empty(len(column), dtype=np.int64)
    preference[np.lexsort((column, overlap))] = np.arange(1, len(column) + 1)
    counting = len(column) * ~ignore
    taken = np.zeros((len(ignore), *shape[1:]), dtype=bool)
    lowest = np.minimum(thresholds, 1 - 1e-10)
    bounds = np.searchsorted(turn[candidate], np.arange(turn.max() + 2))
    for begin, end in zip(bounds[:-1], bounds[1:], strict=True):
        objects = column[begin:end]
        who, which = _distinct(candidate[begin:end])
        near = overlap[begin:end, None] >= lowest
        free = near[:, None, :] & ~taken[objects]
        wish = (preference[begin:end, None] + counting[objects]).astype(np.int32)
        wish = np.where(free, wish[:, :, None], np.int32(0))
        best = np.maximum.reduceat(wish, np.searchsorted(which, np.arange(len(who))), axis=0)
        matches.matched[who] = best > 0
        matches.ignored[who] = (best > 0) & (best <= len(column))
        chosen = free & (wish == best[which])
        taken[objects] |= chosen & ~crowd[objects, None, None]
    return matches


def _distinct(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct values of an array whose equal values are neighbours, and for each entry which one it is."""
    starts = np.diff(values, prepend=-1) != 0
    return values[starts], np.cumsum(starts) - 1


def _turns(key: np.ndarray) -> np.ndarray:
    """0, 1, 2, ... within each run of equal keys: int64 ``[C]``."""
    starts = np.diff(key, prepend=-1) != 0
    return np.arange(len(key)) - np.flatnonzero(starts)[np.cumsum(starts) - 1]
