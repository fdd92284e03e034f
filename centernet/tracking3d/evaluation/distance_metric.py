"""CLEAR and identity scores of 3D tracking by distance of the centres.

Boxes are matched within 2 m in the camera frame. The published metric pools all classes and asks for no equal class;
the modern one scores each class. Source: Bernardin and Stiefelhagen (2008) for CLEAR, Ristani et al. (2016) for IDF1,
QD-3DT (arXiv 2103.07351) section 5 for the ranges.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from ..ops.mode import Mode

MATCH_METRES = 2.0
RANGES = ((0.0, 100.0), (0.0, 50.0), (0.0, 30.0), (30.0, 50.0), (50.0, 100.0))
"""Distances from the camera, metres, both ends left out."""

_FORBIDDEN = 1e6
_TRACKED, _LOST = 0.8, 0.2  # shares of its life from which a track is mostly tracked, below which mostly lost

Array = NDArray[np.float64]
Ids = list[tuple[NDArray[np.int64], NDArray[np.int64]]]


class ScoredFrame(NamedTuple):
    """Boxes of one frame, of the ground truth or of the tracker.

    Attributes:
        ids, labels: int ``[N]``.
        xyz: float ``[N, 3]``, camera frame, metres.
        yaw: float ``[N]``, heading, radians.
        dims: float ``[N, 3]``, h, w, l.
    """

    ids: NDArray[np.int64]
    labels: NDArray[np.int64]
    xyz: Array
    yaw: Array
    dims: Array

    def select(self, index: NDArray[np.bool_]) -> "ScoredFrame":
        """The rows of a mask."""
        ids, labels, xyz, yaw, dims = self
        return ScoredFrame(ids[index], labels[index], xyz[index], yaw[index], dims[index])


Sequence3D = Sequence[tuple[ScoredFrame, ScoredFrame]]
"""Ground truth and tracks of each frame of a video."""


def distance_scores(
    videos: Sequence[Sequence3D], names: Sequence[str], mode: Mode = "modern"
) -> dict[str, dict[str, dict[str, float]]]:
    """Scores by class (key ``"all"``: all classes pooled) and range.

    Args:
        videos: ids of different videos may be equal.
        names: of the labels to score; others are left out.
        mode: ``"parity"``: only the pooled scores, where a car may match a pedestrian. ``"modern"``: each class for
            itself, and ``"all"`` is their sum.

    Returns:
        ``scores[class]["30-50"]`` with MOTA, MOTP-C (metres), MOTP-O (degrees), MOTP-I (1 - IoU of the aligned sizes),
        IDF1, MT and ML (shares of the true tracks), TP, FP, FN, IDSW, Frag and GT (boxes). NaN where nothing was to be
        found.
    """
    scores: dict[str, dict[str, dict[str, float]]] = {}
    for low, high in RANGES:
        counts: dict[str, list[_Counts]] = {}
        if mode == "parity":
            pooled = [_count(_select(video, low, high, None, len(names))) for video in videos]
        else:
            for label, name in enumerate(names):
                counts[name] = [_count(_select(video, low, high, label)) for video in videos]
            pooled = [count for group in counts.values() for count in group]
        for name, group in (*counts.items(), ("all", pooled)):
            scores.setdefault(name, {})[f"{low:g}-{high:g}"] = _summary(group)
    return scores


def _select(video: Sequence3D, low: float, high: float, label: int | None, labels: int = 0) -> Sequence3D:
    def chosen(frame: ScoredFrame) -> ScoredFrame:
        away = np.linalg.norm(frame.xyz, axis=1)
        wanted = frame.labels == label if label is not None else frame.labels < labels
        return frame.select((away > low) & (away < high) & wanted)

    return [(chosen(truth), chosen(tracks)) for truth, tracks in video]


class _Counts(NamedTuple):
    boxes: int
    found: int
    false: int
    missed: int
    switches: int
    fragments: int
    lives: list[float]  # share of its frames in which each true track was found
    errors: list[float]  # of matched centres
    turned: list[float]
    size: list[float]
    same_id: int  # frames of the best one-to-one assignment of ids
    tracked: int


def _count(video: Sequence3D) -> _Counts:
    pairs, distances = [], []
    for truth, tracks in video:
        distance = np.linalg.norm(truth.xyz[:, None] - tracks.xyz[None], axis=2)
        distances.append(np.where(distance < MATCH_METRES, distance, np.inf))
        pairs.append((truth.ids, tracks.ids))
    matched = _follow(pairs, distances)
    errors = [float(distance[at]) for distance, rows in zip(distances, matched, strict=True) for at in rows]
    seen: dict[int, list[bool]] = {}
    owner: dict[int, int] = {}
    switches = 0
    for (truth_ids, track_ids), rows in zip(pairs, matched, strict=True):
        found = dict(rows)
        for row, number in enumerate(truth_ids.tolist()):
            seen.setdefault(number, []).append(row in found)
            if row in found:
                track = int(track_ids[found[row]])
                switches += owner.setdefault(number, track) != track
                owner[number] = track
    boxes = sum(len(truth) for truth, _ in pairs)
    tracked = sum(len(tracks) for _, tracks in pairs)
    return _Counts(
        boxes=boxes,
        found=len(errors),
        false=tracked - len(errors),
        missed=boxes - len(errors),
        switches=switches,
        fragments=sum(_fragments(states) for states in seen.values()),
        lives=[sum(states) / len(states) for states in seen.values()],
        errors=errors,
        turned=_costs_of_own_matching(video, pairs, distances, _turned),
        size=_costs_of_own_matching(video, pairs, distances, _unlike),
        same_id=_same_id(pairs, distances),
        tracked=tracked,
    )


def _follow(pairs: Ids, distances: list[Array]) -> list[list[tuple[int, int]]]:
    """Matches of each frame, rows and columns: those of the frame before stay while they can, the rest are optimal."""
    owner: dict[int, int] = {}
    matched = []
    for (truth_ids, track_ids), distance in zip(pairs, distances, strict=True):
        columns = {int(number): column for column, number in enumerate(track_ids)}
        rows: list[tuple[int, int]] = []
        used: set[int] = set()
        for row, number in enumerate(truth_ids.tolist()):
            column = columns.get(owner.get(number, -1), -1)
            if column >= 0 and column not in used and np.isfinite(distance[row, column]):
                rows.append((row, column))
                used.add(column)
        left = distance.copy()
        left[[row for row, _ in rows]] = np.inf
        left[:, sorted(used)] = np.inf
        cost = np.where(np.isfinite(left), left, _FORBIDDEN)
        rows += [(int(r), int(c)) for r, c in zip(*linear_sum_assignment(cost), strict=True) if cost[r, c] < _FORBIDDEN]
        for row, column in rows:
            owner[int(truth_ids[row])] = int(track_ids[column])
        matched.append(rows)
    return matched


def _fragments(states: list[bool]) -> int:
    """How often a track that was found is lost and found again."""
    changes = np.flatnonzero(np.diff(np.array(states, dtype=np.int8)) == 1)
    return int(len(changes) - (len(changes) > 0 and not any(states[: changes[0] + 1])))


def _turned(truth: ScoredFrame, tracks: ScoredFrame) -> Array:
    """Difference of the headings, degrees."""
    difference = truth.yaw[:, None] - tracks.yaw[None]
    return np.degrees(np.abs((difference + np.pi) % (2 * np.pi) - np.pi))


def _unlike(truth: ScoredFrame, tracks: ScoredFrame) -> Array:
    """1 - IoU of boxes put on each other."""
    shared = np.minimum(truth.dims[:, None], tracks.dims[None]).prod(2)
    return 1 - shared / (truth.dims.prod(1)[:, None] + tracks.dims.prod(1)[None] - shared)


def _costs_of_own_matching(
    video: Sequence3D, pairs: Ids, distances: list[Array], cost: Callable[[ScoredFrame, ScoredFrame], Array]
) -> list[float]:
    """As published, heading and size are matched by themselves, among the pairs that are near."""
    gated = [
        np.where(np.isfinite(distance), cost(truth, tracks), np.inf)
        for (truth, tracks), distance in zip(video, distances, strict=True)
    ]
    matched = _follow(pairs, gated)
    return [float(costs[at]) for costs, rows in zip(gated, matched, strict=True) for at in rows]


def _same_id(pairs: Ids, distances: list[Array]) -> int:
    """Frames in which the best one-to-one assignment of track ids to true ids is right."""
    if not pairs:
        return 0
    truth_all, track_all = (np.unique(np.concatenate([pair[side] for pair in pairs])) for side in (0, 1))
    together = np.zeros((len(truth_all), len(track_all)))
    for (truth_ids, track_ids), distance in zip(pairs, distances, strict=True):
        row, column = np.nonzero(np.isfinite(distance))
        at = np.searchsorted(truth_all, truth_ids[row]), np.searchsorted(track_all, track_ids[column])
        np.add.at(together, at, 1)
    return int(together[linear_sum_assignment(-together)].sum())


def _summary(counts: list[_Counts]) -> dict[str, float]:
    def total(name: str) -> float:
        return float(sum(getattr(count, name) for count in counts))

    def mean(name: str) -> float:
        values = [value for count in counts for value in getattr(count, name)]
        return float(np.mean(values)) if values else float("nan")

    boxes, lives = total("boxes"), np.array([life for count in counts for life in count.lives])
    wrong = total("missed") + total("false") + total("switches")
    return {
        "MOTA": 1 - wrong / boxes if boxes else float("nan"),
        "MOTP-C": mean("errors"),
        "MOTP-O": mean("turned"),
        "MOTP-I": mean("size"),
        "IDF1": 2 * total("same_id") / (boxes + total("tracked")) if boxes else float("nan"),
        "MT": float((lives >= _TRACKED).mean()) if len(lives) else float("nan"),
        "ML": float((lives < _LOST).mean()) if len(lives) else float("nan"),
        "TP": total("found"),
        "FP": total("false"),
        "FN": total("missed"),
        "IDSW": total("switches"),
        "Frag": total("fragments"),
        "GT": boxes,
    }
