"""Final scores and detections of the second stage.

Source: "Probabilistic two-stage detection" (arXiv 2103.07461) equations 1 and 2: the probability of class ``c`` is
``P(c | object) P(object)``. The released models take the geometric mean with a first-stage score that is itself a root:
``score = sqrt(P(c | object) * sqrt(P(object)))``.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .detections import PaddedDetections, clip_boxes, take
from .nms import nms_best

MAX_CANDIDATES = 4096  # (box, class) pairs an image that enter NMS, best first


class DetectRules(NamedTuple):
    """Attributes: ``score_thresh``: smallest final score; ``nms_thresh``: IoU of class-wise NMS; ``topk``: detections
    an image, negative: all."""

    score_thresh: float
    nms_thresh: float
    topk: int


def combine_scores(stage_probabilities: Sequence[Tensor], proposal_scores: Tensor | None) -> Tensor:
    """Final scores from the class probabilities of the stages.

    Args:
        stage_probabilities: one ``[B, K, C + 1]`` a cascade stage (a single one without cascade), in [0, 1].
        proposal_scores: first-stage scores ``[B, K]`` in [0, 1], or None to leave them out.

    Returns:
        ``[B, K, C + 1]``: the mean over stages ``p``, or ``sqrt(p * proposal_score)``.
    """
    mean = (
        torch.stack(tuple(stage_probabilities)).mean(dim=0) if len(stage_probabilities) > 1 else stage_probabilities[0]
    )
    return mean if proposal_scores is None else (mean * proposal_scores[..., None]).sqrt()


def select_detections(
    boxes: Tensor, scores: Tensor, valid: Tensor, image_sizes: Tensor, rules: DetectRules
) -> PaddedDetections:
    """:func:`select_with_owner` without the owners."""
    return select_with_owner(boxes, scores, valid, image_sizes, rules)[0]


def select_with_owner(
    boxes: Tensor, scores: Tensor, valid: Tensor, image_sizes: Tensor, rules: DetectRules
) -> tuple[PaddedDetections, Tensor]:
    """Class-wise NMS over all (proposal, class) pairs above the threshold.

    Args:
        boxes: float ``[B, K, 4]`` (shared by all classes) or ``[B, K, C * 4]``, xyxy pixels.
        scores: float ``[B, K, C + 1]``; the background column is dropped.
        valid: bool ``[B, K]``; proposals with a NaN or infinite box or score are dropped as well.
        image_sizes: ``[B, 2]`` ``(height, width)``, pixels; boxes are clipped to it.

    Returns:
        ``topk`` slots an image (fewer if there are fewer pairs), best first, and which proposal each comes from, int64
        ``[B, topk]`` (0 in padding).
    """
    batch, num_proposals, num_classes = scores.shape[0], scores.shape[1], scores.shape[2] - 1
    usable = valid & boxes.isfinite().all(dim=-1) & scores.isfinite().all(dim=-1)
    scores = scores[..., :-1]
    candidate = usable[..., None] & (scores > rules.score_thresh)
    ranked = torch.where(candidate, scores, torch.full_like(scores, -1.0)).flatten(1)
    # in the order of proposals, which NMS keeps among equal scores
    pair = ranked.topk(min(MAX_CANDIDATES, num_proposals * num_classes), dim=1).indices.sort(dim=1).values
    ranked = ranked.gather(1, pair)
    classes, owner = pair % num_classes, pair // num_classes
    # class-agnostic boxes are one row a proposal, class-specific ones a row a (proposal, class) pair
    row = owner if boxes.shape[-1] == 4 else pair
    boxes = boxes.reshape(batch, -1, 4).gather(1, row[..., None].expand(-1, -1, 4))
    boxes = clip_boxes(torch.where(ranked[..., None] >= 0, boxes, torch.zeros_like(boxes)), image_sizes)
    candidates = PaddedDetections(boxes, ranked.clamp(min=0), classes, ranked >= 0)
    topk = rules.topk if rules.topk >= 0 else ranked.shape[1]
    best = nms_best(*candidates, rules.nms_thresh, topk, True)
    found = take(candidates, best)
    return found, torch.where(found.valid, owner.gather(1, best.clamp(min=0)), torch.zeros_like(best))
