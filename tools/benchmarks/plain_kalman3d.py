"""A rival of the 3D tracker: constant-velocity Kalman filters and Hungarian assignment by distance, nothing else.

After AB3DMOT (Weng et al., IROS 2020), with its constants: noise of the filter, three sightings before a track is told
of (but for the first frames of a video), two frames without one before it ends. Written for comparison: one class at a
time, centres only.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

Floats = NDArray[np.float64]

_TRANSITION = np.block([[np.eye(3), np.eye(3)], [np.zeros((3, 3)), np.eye(3)]])
_SEEN = np.eye(3, 6)
_FAR = 1e3  # costs more than any match


class PlainRules(NamedTuple):
    """Attributes: ``gate`` in metres (standard deviations with ``mahalanobis``); sightings before a track is told of;
    frames without one before it ends; variances of a first velocity, of what a frame adds to place and velocity, and
    of a measurement (metres and frames)."""

    gate: float = 3.0
    min_hits: int = 3
    max_age: int = 2
    first_velocity: float = 1e4
    place_noise: float = 1.0
    velocity_noise: float = 0.01
    measurement: float = 1.0
    mahalanobis: bool = False


class PlainKalman:
    """One class of one video; :meth:`step` frame by frame."""

    def __init__(self, rules: PlainRules) -> None:
        self.rules = rules
        self.frame = self.next_id = 0
        self.ids, self.hits, self.unseen = (np.zeros(0, dtype=np.int64) for _ in range(3))
        self.mean: Floats = np.zeros((0, 6))
        self.covariance: Floats = np.zeros((0, 6, 6))

    def step(self, places: Floats) -> list[tuple[int, int]]:
        """``places [N, 3]`` -> (row, id) of the detections whose tracks are told of."""
        rules = self.rules
        noise = np.diag([rules.place_noise] * 3 + [rules.velocity_noise] * 3)
        self.frame += 1
        self.mean = self.mean @ _TRANSITION.T
        self.covariance = _TRANSITION @ self.covariance @ _TRANSITION.T + noise
        rows, tracks = self._matched(places)
        self.unseen += 1
        self._update(tracks, places[rows])
        told = [
            (int(row), int(self.ids[track]))
            for row, track in zip(rows, tracks, strict=True)
            if self.hits[track] >= rules.min_hits or self.frame <= rules.min_hits
        ]
        new = np.setdiff1d(np.arange(len(places)), rows)
        if self.frame <= rules.min_hits or rules.min_hits <= 1:
            told += [(int(row), self.next_id + number) for number, row in enumerate(new)]
        self._begin(places[new])
        alive = self.unseen <= rules.max_age
        for name in ("ids", "hits", "unseen", "mean", "covariance"):
            setattr(self, name, getattr(self, name)[alive])
        return told

    def _matched(self, places: Floats) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        residual = places[:, None] - self.mean[:, :3]
        if self.rules.mahalanobis:
            spread = self.covariance[:, :3, :3] + self.rules.measurement * np.eye(3)
            cost = np.sqrt(np.einsum("nmi,mij,nmj->nm", residual, np.linalg.inv(spread), residual))
        else:
            cost = np.linalg.norm(residual, axis=2)
        rows, tracks = linear_sum_assignment(np.where(cost > self.rules.gate, _FAR, cost))
        near = cost[rows, tracks] <= self.rules.gate
        return rows[near], tracks[near]

    def _update(self, tracks: NDArray[np.intp], places: Floats) -> None:
        covariance = self.covariance[tracks]
        spread = covariance[:, :3, :3] + self.rules.measurement * np.eye(3)
        gain = covariance[:, :, :3] @ np.linalg.inv(spread)
        residual = places - self.mean[tracks, :3]
        self.mean[tracks] += (gain @ residual[..., None])[..., 0]
        self.covariance[tracks] = covariance - gain @ _SEEN @ covariance
        self.hits[tracks] += 1
        self.unseen[tracks] = 0

    def _begin(self, places: Floats) -> None:
        count = len(places)
        first = np.diag([10.0] * 3 + [self.rules.first_velocity] * 3)
        self.ids = np.concatenate((self.ids, np.arange(self.next_id, self.next_id + count)))
        self.hits = np.concatenate((self.hits, np.ones(count, dtype=np.int64)))
        self.unseen = np.concatenate((self.unseen, np.zeros(count, dtype=np.int64)))
        self.mean = np.concatenate((self.mean, np.hstack((places, np.zeros((count, 3))))))
        self.covariance = np.concatenate((self.covariance, np.tile(first, (count, 1, 1))))
        self.next_id += count


def plain_tracks(places: Sequence[Floats], labels: Sequence[NDArray[np.int64]], rules: PlainRules) -> list[Floats]:
    """Ids of all detections of a video.

    Args:
        places: ``[N, 3]`` by frame, metres.
        labels: ``[N]`` by frame; each label is tracked by itself.
        rules: the tracker's.

    Returns:
        int64 ``[N]`` by frame, -1 without a track that is told of.
    """
    trackers: dict[int, PlainKalman] = {label: PlainKalman(rules) for label in {int(x) for row in labels for x in row}}
    found = []
    for here, kinds in zip(places, labels, strict=True):
        ids = np.full(len(here), -1, dtype=np.int64)
        for label, tracker in trackers.items():
            rows = np.flatnonzero(kinds == label)
            for row, track in tracker.step(here[rows]):
                ids[rows[row]] = track * len(trackers) + list(trackers).index(label)
        found.append(ids)
    return found
