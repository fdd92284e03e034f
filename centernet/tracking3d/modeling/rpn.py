"""Region proposals as the published models make and train them, on detectron2's RPN.

Source: Faster R-CNN (arXiv 1506.01497); constants of QD-3DT (arXiv 2103.07351).
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling.proposal_generator import PROPOSAL_GENERATOR_REGISTRY, RPN
from detectron2.structures import Boxes, ImageList, Instances, pairwise_iou
from torch import Tensor
from torchvision.ops import nms

from ...registration import register_once
from ..ops.codecs import BoxCodec
from ..ops.mode import Mode, checked_mode
from .assignment import NEGATIVE, assign_boxes, spare_regions
from .sampling import sample_randomly

__all__ = ["LegacyRPN", "rpn_losses"]

_CODEC = BoxCodec(weights=(1.0, 1.0, 1.0, 1.0))
_BETA = 1 / 9  # of the smooth L1
_CLAIM_FROM = 0.3  # IoU below which no box claims an anchor


def rpn_losses(
    logits: Sequence[Tensor], deltas: Sequence[Tensor], labels: Tensor, targets: Tensor
) -> dict[str, Tensor]:
    """Losses of sampled anchors of a batch.

    Args:
        logits: float ``[B, N_l]`` of each level.
        deltas: float ``[B, N_l, 4]`` of each level.
        labels: int64 ``[B, sum N_l]``: 1 positive, 0 negative, -1 not sampled.
        targets: float ``[B, sum N_l, 4]``, encoded boxes of the positives.

    Returns:
        float scalars ``loss_rpn_cls`` and ``loss_rpn_loc``, both over the number of samples, where a picture counts as
        having at least one of either kind.
    """
    positive, sampled = labels == 1, labels >= 0
    count = positive.sum(1).clamp(min=1).sum() + (labels == 0).sum(1).clamp(min=1).sum()
    all_logits, all_deltas = torch.cat(list(logits), 1).float(), torch.cat(list(deltas), 1).float()
    objectness = F.binary_cross_entropy_with_logits(all_logits, positive.float(), reduction="none")
    distance = F.smooth_l1_loss(all_deltas, targets, reduction="none", beta=_BETA).sum(-1)
    zero = torch.zeros_like(objectness)
    return {
        "loss_rpn_cls": torch.where(sampled, objectness, zero).sum() / count,
        "loss_rpn_loc": torch.where(positive, distance, zero).sum() / count,
    }


@register_once(PROPOSAL_GENERATOR_REGISTRY)
class LegacyRPN(RPN):
    """detectron2's RPN, head and anchors; proposals, assignment, sampling and losses are the published ones.

    ``"parity"`` clips proposals so that they are at least a pixel large; ``"modern"`` drops those outside the picture.
    In training without annotations (reference pictures) there are proposals and no losses.
    """

    @configurable
    def __init__(self, *, mode: Mode, negatives_per_positive: float, iou_thresholds: Sequence[float], **options: Any):
        """``iou_thresholds``: anchors below the first are background, from the second on objects."""
        super().__init__(**options)
        self.mode = mode
        self.negatives_per_positive = negatives_per_positive
        self.iou_thresholds = tuple(iou_thresholds)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        node = cfg.MODEL.TRACKING3D
        return {
            **super().from_config(cfg, input_shape),
            "mode": checked_mode(node.MODE),
            "negatives_per_positive": node.RPN_NEGATIVES_PER_POSITIVE,
            "iou_thresholds": cfg.MODEL.RPN.IOU_THRESHOLDS,
        }

    def forward(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        gt_instances: list[Instances] | None = None,
        ignored: Sequence[Tensor | None] | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """
        Args:
            images: only their sizes are looked at.
            features: by name, ``[B, C, H_l, W_l]``.
            gt_instances: with ``gt_boxes``, or None for no losses.
            ignored: regions ``[M, 4]`` of each picture (or None) where anchors are no background.

        Returns:
            ``(proposals, losses)``: for each picture ``proposal_boxes`` and ``objectness_logits``, best first.
        """
        levels = [features[name] for name in self.in_features]
        anchors = self.anchor_generator(levels)
        maps, delta_maps = self.rpn_head(levels)
        logits = [x.permute(0, 2, 3, 1).flatten(1) for x in maps]
        deltas = [x.unflatten(1, (-1, 4)).permute(0, 3, 4, 1, 2).flatten(1, 3) for x in delta_maps]
        losses: dict[str, Tensor] = {}
        if self.training and gt_instances is not None:
            labels, targets = self._targets(Boxes.cat(anchors), gt_instances, ignored or [None] * len(gt_instances))
            losses = rpn_losses(logits, deltas, labels, targets)
            losses = {name: loss * self.loss_weight.get(name, 1.0) for name, loss in losses.items()}
        return self.predict_proposals(anchors, logits, deltas, images.image_sizes), losses

    @torch.no_grad()
    def predict_proposals(
        self, anchors: list[Boxes], logits: list[Tensor], deltas: list[Tensor], image_sizes: list[tuple[int, int]]
    ) -> list[Instances]:
        """The best boxes of each level without duplicates, then the best of all levels."""
        return [
            self._proposals(
                [level.tensor for level in anchors], [x[i] for x in logits], [x[i] for x in deltas], image_size
            )
            for i, image_size in enumerate(image_sizes)
        ]

    def _proposals(
        self, anchors: list[Tensor], logits: list[Tensor], deltas: list[Tensor], image_size: tuple[int, int]
    ) -> Instances:
        before, after = int(self.pre_nms_topk[self.training]), int(self.post_nms_topk[self.training])
        kept_boxes, kept_logits = [], []
        for level_anchors, level_logits, level_deltas in zip(anchors, logits, deltas, strict=True):
            ranked = level_logits.float().sort(descending=True, stable=True)
            best = ranked.indices[:before]
            boxes = _CODEC.decode(level_anchors[best], level_deltas[best])
            boxes = _CODEC.clip(boxes, image_size, mode=self.mode)
            scores = ranked.values[:before]
            large = ((boxes[:, 2:] - boxes[:, :2]) > self.min_box_size).all(1) & boxes.isfinite().all(1)
            boxes, scores = boxes[large], scores[large]
            keep = nms(boxes, scores, self.nms_thresh)[:after]
            kept_boxes.append(boxes[keep])
            kept_logits.append(scores[keep])
        every_logit = torch.cat(kept_logits)
        order = every_logit.sort(descending=True, stable=True).indices[:after]
        found = Instances(image_size)
        found.proposal_boxes = Boxes(torch.cat(kept_boxes)[order])
        found.objectness_logits = every_logit[order]
        return found

    @torch.no_grad()
    def _targets(
        self, anchors: Boxes, gt_instances: list[Instances], ignored: Sequence[Tensor | None]
    ) -> tuple[Tensor, Tensor]:
        """Labels ``[B, N]`` and encoded boxes ``[B, N, 4]`` of sampled anchors, see :func:`rpn_losses`."""
        low, high = self.iou_thresholds
        labels, targets = [], []
        for instances, regions in zip(gt_instances, ignored, strict=True):
            overlaps = pairwise_iou(instances.gt_boxes, anchors)
            assigned = assign_boxes(overlaps, low, high, _CLAIM_FROM)
            assigned = spare_regions(assigned, anchors.tensor, regions)
            label = self._sampled(assigned)
            target = torch.zeros_like(anchors.tensor)
            positive = label == 1
            matched = instances.gt_boxes.tensor[assigned[positive]]
            target[positive] = _CODEC.encode(anchors.tensor[positive], matched).to(target)
            labels.append(label)
            targets.append(target)
        return torch.stack(labels), torch.stack(targets)

    def _sampled(self, assigned: Tensor) -> Tensor:
        most = int(self.batch_size_per_image * self.positive_fraction)
        positive = sample_randomly(torch.nonzero(assigned >= 0).flatten(), most)
        count = min(self.batch_size_per_image - len(positive), int(self.negatives_per_positive * max(len(positive), 1)))
        label = torch.full_like(assigned, -1)
        label[positive] = 1
        label[sample_randomly(torch.nonzero(assigned == NEGATIVE).flatten(), count)] = 0
        return label
