"""Which detections show an object that a better detection shows already."""

import torch
from torch import Tensor

from ..ops.mode import Mode
from ..ops.overlaps import iou_2d
from .memory import Sightings
from .rules import TrackerRules


def overlaps_2d(first: Sightings, boxes: Tensor, view: Tensor) -> Tensor:
    """IoU in the picture of all pairs, float ``[N, M]``; what different cameras see does not overlap."""
    return iou_2d(first.boxes, boxes) * (first.view[:, None] == view)


def distinct(seen: Sightings, rules: TrackerRules, mode: Mode) -> Tensor:
    """Bool ``[N]``: no better detection shows the same object.

    Args:
        seen: best first.
        rules: ``continue_score``, ``low_score_iou``, ``duplicate_iou``; for several cameras, ``same_object_metres``.
        mode: ``"parity"`` compares with all better ones; ``"modern"`` with those that are kept (non-maximum
            suppression), and over cameras by place and class.
    """
    limit = torch.where(seen.scores < rules.continue_score, rules.low_score_iou, rules.duplicate_iou)
    same = overlaps_2d(seen, seen.boxes, seen.view) > limit.to(seen.boxes)[:, None]
    if mode == "modern":
        same |= _seen_by_another_camera(seen, rules.same_object_metres)
    same = same.tril(-1)
    kept = ~same.any(1)
    if mode == "parity":
        return kept
    while True:  # a box is settled once all better ones are; each round settles at least one more
        again = ~(same & kept).any(1)
        if torch.equal(again, kept):
            return kept
        kept = again


def new_backdrops(seen: Sightings, candidates: Tensor, rules: TrackerRules) -> Tensor:
    """``candidates`` (int64 ``[K]``, rows of ``seen``) that overlap no better detection, tracked or not."""
    if not len(candidates):
        return candidates
    covered = overlaps_2d(seen.select(candidates), seen.boxes, seen.view) > rules.low_score_iou
    better = torch.arange(len(seen), device=candidates.device) < candidates[:, None]
    return candidates[~(covered & better).any(1)]


def _seen_by_another_camera(seen: Sightings, metres: float) -> Tensor:
    centers = seen.box7[:, :3]
    near = torch.cdist(centers, centers, compute_mode="donot_use_mm_for_euclid_dist") < metres
    return near & (seen.labels[:, None] == seen.labels) & (seen.view[:, None] != seen.view)
