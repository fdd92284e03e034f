"""Detections against ground truth by the rules of a benchmark; the one place where both meet."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from .accumulation import accumulate, empty_curves
from .areas import Items
from .columns import Detected, Index, Truth, detection_columns, index_of, truth_columns
from .matching import match
from .overlap import overlapping_pairs
from .protocol import Protocol
from .scores import Scores

__all__ = ["score_by_protocol"]

DETECTIONS_AT_ONCE = 1 << 18  # matches of one take some 100 bytes


def score_by_protocol(
    ground_truth: dict[str, Any], detections: Items, protocol: Protocol, image_ids: list[Any] | None = None
) -> Scores:
    """Score detections.

    Args:
        ground_truth: content of a COCO or LVIS JSON file, each annotation with ``area``.
        detections: COCO results; may be empty. Those of categories that the ground truth does not have are left out.
        protocol: the rules.
        image_ids: score these images only.

    Raises:
        UserError: a detection is on an image that the ground truth does not have.
    """
    index = index_of(ground_truth, image_ids)
    truth = truth_columns(ground_truth["annotations"], index, protocol)
    found = _that_count(detection_columns(detections, ground_truth, index, protocol), index, protocol)
    per_category = max(len(index.image_ids), 1)
    federated = _Federation(ground_truth, index, truth) if protocol.federated else None
    if federated:
        found = found.take((found.area > 0) & np.isin(found.key, federated.known))
    found = found.take(np.lexsort((-found.score, found.key)))
    rank = _ranks(found.key)
    within = rank < protocol.max_dets[-1]
    found, rank = found.take(within), rank[within]

    false_ignored = _outside(found.area, protocol)
    if federated:
        false_ignored |= np.isin(found.key, federated.not_exhaustive)[:, None]
    ignore = truth.ignore[:, None] | _outside(truth.area, protocol)
    curves = empty_curves(protocol, len(index.category_ids))
    for categories in _blocks(found.key // per_category, len(index.category_ids)):
        keys = np.array([categories[0], categories[-1] + 1]) * per_category
        some, objects = (slice(*np.searchsorted(key, keys)) for key in (found.key, truth.key))
        part = truth.part(objects)
        detected = found.take(np.arange(some.start, some.stop))
        pairs = overlapping_pairs(detected, part, protocol, index.sizes)
        matches = match(pairs, detected.key, ignore[objects], part.crowd, protocol.iou_thresholds)
        count = np.zeros((len(categories), len(protocol.areas)), dtype=np.int64)
        np.add.at(count, part.key // per_category - categories[0], ~ignore[objects])
        columns = (detected.key // per_category, detected.score, rank[some], false_ignored[some])
        accumulate(curves, categories, columns, matches, count, protocol)
    groups = _frequency_groups(ground_truth, index) if federated else None
    return Scores(protocol, index.image_ids, index.category_ids, curves, groups)


class _Federation:
    """What LVIS knows about its images: sorted keys of (category, image)."""

    def __init__(self, ground_truth: dict[str, Any], index: Index, truth: Truth):
        def listed(name: str) -> np.ndarray:
            images = ground_truth["images"]
            counts = [len(image[name]) for image in images]
            image_ids = np.repeat(np.array([image["id"] for image in images]), counts)
            return np.unique(index.keys(image_ids, [category for image in images for category in image[name]]))

        self.known = np.union1d(truth.key, listed("neg_category_ids"))
        self.known = self.known[self.known >= 0]
        self.not_exhaustive = listed("not_exhaustive_category_ids")


def _that_count(found: Detected, index: Index, protocol: Protocol) -> Detected:
    """Detections of evaluated images and categories, at most ``max_dets_per_image`` best of each image."""
    limit = protocol.max_dets_per_image
    if limit is not None and len(found.key):
        # categories that are not evaluated take their share of the limit
        image = np.unique(np.array([item["image_id"] for item in found.items]), return_inverse=True)[1]
        if np.bincount(image).max() > limit:
            order = np.lexsort((-found.score, image))
            found = found.take(np.sort(order[_ranks(image[order]) < limit]))
    return found.take(found.key >= 0)


def _ranks(groups: np.ndarray) -> np.ndarray:
    """0, 1, 2, ... within each run of equal values: int64 ``[N]``."""
    starts = np.flatnonzero(np.diff(groups, prepend=-1))
    return np.arange(len(groups)) - np.repeat(starts, np.diff(np.append(starts, len(groups))))


def _outside(area: np.ndarray, protocol: Protocol) -> np.ndarray:
    """Which ranges of areas leave an object out: bool ``[N, A]``."""
    lower, upper = protocol.area_ranges.T
    return (area[:, None] < lower) | (area[:, None] > upper)


def _blocks(category: np.ndarray, kinds: int) -> Iterator[np.ndarray]:
    """Runs of category places with about ``DETECTIONS_AT_ONCE`` detections, at least one category each."""
    ends = np.searchsorted(category, np.arange(1, kinds + 1))
    first = 0
    while first < kinds:
        before = ends[first - 1] if first else 0
        after = max(int(np.searchsorted(ends, before + DETECTIONS_AT_ONCE, side="right")), first + 1)
        yield np.arange(first, after)
        first = after


def _frequency_groups(ground_truth: dict[str, Any], index: Index) -> dict[str, np.ndarray]:
    """Places of the rare, common and frequent categories, by 'r', 'c', 'f'."""
    by_id = {category["id"]: category["frequency"] for category in ground_truth["categories"]}
    frequency = np.array([by_id[category] for category in index.category_ids.tolist()])
    return {name: np.flatnonzero(frequency == name) for name in "rcf"}
