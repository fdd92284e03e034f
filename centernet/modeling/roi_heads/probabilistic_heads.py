"""ROI heads whose score is the product of both stages, with and without cascade.

Training is detectron2's; inference runs on padded tensors from the proposals to the last box.
Source: "Probabilistic two-stage detection" (arXiv 2103.07461) section 3; Cascade R-CNN (arXiv 1712.00726).
"""

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY, CascadeROIHeads, StandardROIHeads
from detectron2.structures import ImageList, Instances, pairwise_iou
from torch import Tensor, nn

from ...ops.detections import PaddedDetections, clip_boxes
from ...ops.second_stage import DetectRules, combine_scores, select_with_owner
from ...registration import register_once
from ..debug import DebugOptions, draw_second_stage
from ..layers.fast_linear import run_box_head
from ..layers.roi_pooler import pool_boxes, use_all_cores
from ..normaliser import share_of_mean
from ..padded_instances import PaddedInstances, image_size_tensor, pad_proposals
from .box_predictor import ProbabilisticBoxPredictor


class PaddedInference(nn.Module):
    """Inference of one or several box stages on padded tensors. Subclasses say what a stage is."""

    score_field: str  # of the proposals: what the class probability is multiplied with
    num_classes: int
    box_in_features: list[str]
    box_pooler: ROIPooler
    box_head: Any  # a module, or one a cascade stage
    box_predictor: Any

    @configurable
    def __init__(self, *, debug: DebugOptions | None = None, **kwargs: Any):
        """``debug`` has the detections of every batch drawn; the other arguments are detectron2's."""
        super().__init__(**kwargs)
        self.debug = debug
        for name in ("box_pooler", "mask_pooler", "keypoint_pooler"):
            if isinstance(pooler := getattr(self, name, None), ROIPooler):
                use_all_cores(pooler)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        parts = super().from_config(cfg, input_shape)  # type: ignore[misc]  # of the class mixed into
        return {**parts, "debug": DebugOptions.from_config(cfg)}

    def forward(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        proposals: Sequence[Instances],
        targets: list[Instances] | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """detectron2's."""
        instances, losses = super().forward(images, features, proposals, targets)  # type: ignore[misc]
        if self.debug and not self.training:
            draw_second_stage(self.debug, images, instances, proposals, self.num_classes)
        return instances, losses

    def _stages(self) -> Sequence[tuple[nn.Module, ProbabilisticBoxPredictor]]:
        """``(box head, box predictor)`` of each stage."""
        raise NotImplementedError

    def detect(self, features: dict[str, Tensor], proposals: PaddedDetections, image_sizes: Tensor) -> PaddedDetections:
        """Final detections of a batch.

        Args:
            features: ``{name: [B, C, H_l, W_l]}``.
            proposals: ``[B, K]`` from the first stage; only boxes, scores and the mask are read.
            image_sizes: int64 ``[B, 2]`` ``(height, width)``, pixels.

        Returns:
            ``DETECTIONS_PER_IMAGE`` slots an image; boxes in network-input pixels, inside the image.
        """
        return self.detect_with_owner(features, proposals, image_sizes)[0]

    def detect_with_owner(
        self, features: dict[str, Tensor], proposals: PaddedDetections, image_sizes: Tensor, *, fast: bool = False
    ) -> tuple[PaddedDetections, Tensor]:
        """:meth:`detect`, and which of the proposals each detection comes from, int64 ``[B, K']`` (0 in padding).

        ``fast``: on a CPU, pool with sums of rows and run box heads in oneDNN, a fifth of the model's time. The last
        bits of scores differ from the published ones, and they alone choose among equals on a uniform background.
        """
        maps = [features[f] for f in self.box_in_features]
        batch, slots = proposals.valid.shape
        boxes, probabilities = proposals.boxes, []
        for stage, (head, predictor) in enumerate(self._stages()):
            if stage > 0:
                boxes = clip_boxes(boxes, image_sizes)
            pooled = pool_boxes(self.box_pooler, maps, boxes, fast=fast)
            logits, deltas = predictor(run_box_head(head, pooled) if fast else head(pooled))
            probabilities.append(predictor.class_probabilities(logits).view(batch, slots, -1))
            boxes = predictor.box2box_transform.apply_deltas(deltas, boxes.flatten(0, 1)).view(batch, slots, -1)
        scores = combine_scores(probabilities, proposals.scores if predictor.mult_proposal_score else None)
        rules = DetectRules(predictor.test_score_thresh, predictor.test_nms_thresh, predictor.test_topk_per_image)
        return select_with_owner(boxes, scores, proposals.valid, image_sizes, rules)

    def _forward_box(
        self, features: dict[str, Tensor], proposals: Sequence[Instances], *targets: Any
    ) -> dict[str, Tensor] | list[Instances]:
        """Losses in training (detectron2's); detections in inference."""
        if self.training:
            return super()._forward_box(features, proposals, *targets)  # type: ignore[misc]  # of the class mixed into
        image_sizes = [p.image_size for p in proposals]
        if isinstance(proposals, PaddedInstances):
            image_sizes = list(proposals.image_sizes)
        padded = pad_proposals(proposals, self.score_field)
        sizes = image_size_tensor(image_sizes, padded.boxes.device)
        return list(PaddedInstances(self.detect(features, padded, sizes), image_sizes))

    def _forward_mask(
        self, features: dict[str, Tensor], instances: list[Instances]
    ) -> dict[str, Tensor] | list[Instances]:
        """detectron2's; with several processes the loss is divided by their mean number of masks."""
        result = super()._forward_mask(features, instances)  # type: ignore[misc]  # of the class mixed into
        if not (self.training and result):
            return result
        classes = torch.cat([x.gt_classes for x in instances])
        masks = ((classes >= 0) & (classes < self.num_classes)).sum()
        share = share_of_mean(masks, "masks", classes)
        return result if share is None else {name: loss * share for name, loss in result.items()}


def _without_own_fed_loss(cfg: CfgNode) -> CfgNode:
    """A copy for detectron2's constructor: newer versions would build a federated loss that needs LVIS metadata."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.ROI_BOX_HEAD.USE_FED_LOSS = False
    return cfg


@register_once(ROI_HEADS_REGISTRY, "CustomROIHeads")
class ProbabilisticROIHeads(PaddedInference, StandardROIHeads):
    """One box stage (Faster R-CNN). Registered as ``CustomROIHeads``, its published name."""

    score_field = "objectness_logits"

    @classmethod
    def _init_box_head(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        parts = super()._init_box_head(_without_own_fed_loss(cfg), input_shape)
        parts["box_predictor"] = ProbabilisticBoxPredictor(cfg, parts["box_head"].output_shape)
        return parts

    def _stages(self) -> Sequence[tuple[nn.Module, ProbabilisticBoxPredictor]]:
        return [(self.box_head, self.box_predictor)]


@register_once(ROI_HEADS_REGISTRY, "CustomCascadeROIHeads")
class ProbabilisticCascadeROIHeads(PaddedInference, CascadeROIHeads):
    """A cascade of box stages. Registered as ``CustomCascadeROIHeads``, its published name."""

    score_field = "scores"

    @classmethod
    def _init_box_head(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        parts = super()._init_box_head(_without_own_fed_loss(cfg), input_shape)
        weights = cfg.MODEL.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS
        parts["box_predictors"] = [
            ProbabilisticBoxPredictor(cfg, head.output_shape, box2box_transform=Box2BoxTransform(weights=w))
            for head, w in zip(parts["box_heads"], weights, strict=True)
        ]
        for stage, predictor in enumerate(parts["box_predictors"]):
            predictor.count_name = f"regions of stage {stage}"
        return parts

    def _match_and_label_boxes(
        self, proposals: list[Instances], stage: int, targets: list[Instances]
    ) -> list[Instances]:
        """detectron2's, which hands on classes and boxes of the matched objects, and their ``gt_scores``."""
        proposals = super()._match_and_label_boxes(proposals, stage, targets)
        for proposal, target in zip(proposals, targets, strict=True):
            if target.has("gt_scores") and len(target):
                overlap = pairwise_iou(target.gt_boxes, proposal.proposal_boxes)
                proposal.gt_scores = target.gt_scores[overlap.max(dim=0).indices]
        return proposals

    def _stages(self) -> Sequence[tuple[nn.Module, ProbabilisticBoxPredictor]]:
        return list(zip(self.box_head, self.box_predictor, strict=True))
