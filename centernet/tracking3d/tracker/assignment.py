"""From affinities to ids. Works on the host: decisions follow one another, and the arrays are small."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .memory import BACKDROP, DISCARDED
from .rules import TrackerRules


class Assigned(NamedTuple):
    """Attributes: ``ids``, int64 ``[N]``: of a track, BACKDROP or DISCARDED; ``entry``, int64 ``[N]``: row of the track
    in the memory, -1 without."""

    ids: NDArray[np.int64]
    entry: NDArray[np.int64]


def assign(
    affinity: NDArray[np.floating], strength: NDArray[np.floating], entry_ids: NDArray[np.int64], rules: TrackerRules
) -> Assigned:
    """Detections to entries.

    Args:
        affinity: float ``[N, M]``.
        strength: float ``[N]``, score times confidence of the depth.
        entry_ids: int64 ``[M]``.
        rules: thresholds, and ``assignment``: greedy goes through the detections in their order, and each takes the
            best entry that is left; Hungarian maximises the sum of affinities, then asks the same questions.
    """
    ids = np.full(len(affinity), BACKDROP, dtype=np.int64)
    entry = np.full(len(affinity), -1, dtype=np.int64)
    if affinity.size == 0:
        return Assigned(ids, entry)
    taken = np.zeros(len(entry_ids), dtype=np.bool_)
    best_left = _best_left(affinity, rules.match_affinity, taken)
    pairs = _hungarian(affinity) if rules.assignment == "hungarian" else best_left
    for i, j, value in pairs:
        if value <= rules.match_affinity or entry_ids[j] < 0:
            continue
        if strength[i] > rules.continue_score:
            ids[i], entry[i], taken[j] = entry_ids[j], j, True
        elif value > rules.discard_affinity:
            ids[i] = DISCARDED
    return Assigned(ids, entry)


def _best_left(
    affinity: NDArray[np.floating], floor: float, taken: NDArray[np.bool_]
) -> Iterator[tuple[int, int, float]]:
    """Pairs and their affinity, detection by detection; looks at what was ``taken`` after the ones before."""
    best, values = affinity.argmax(1), affinity.max(1)
    for i in np.flatnonzero(values > floor).tolist():  # taking entries away from the others makes no more of them
        j, value = int(best[i]), float(values[i])
        if taken[j]:
            left = np.where(taken, 0, affinity[i])
            j = int(left.argmax())
            value = float(left[j])
        yield i, j, value


def _hungarian(affinity: NDArray[np.floating]) -> Iterator[tuple[int, int, float]]:
    from scipy.optimize import linear_sum_assignment  # takes long to import

    rows, columns = linear_sum_assignment(affinity, maximize=True)
    return zip(rows.tolist(), columns.tolist(), affinity[rows, columns].tolist(), strict=True)
