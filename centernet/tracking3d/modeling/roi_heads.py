"""What the proposals are, where they stand in space, and which of them are the same object in two pictures.

Source: QD-3DT (arXiv 2103.07351) section 3.1; QDTrack (arXiv 2006.06664) section 3.2.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY, build_box_head
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from detectron2.structures import Boxes, Instances, pairwise_iou
from torch import Tensor, nn

from ...registration import register_once
from ..ops.codecs import BoxCodec
from ..ops.losses import Box3DCodecs, Box3DOutputs, Box3DTargets, box3d_losses, own_class
from ..ops.mode import Mode, checked_mode
from ..ops.quasi_dense import KeyReference, quasi_dense_losses, reference_identities
from .assignment import assign_boxes, spare_regions
from .box3d_head import Box3DHead, Box3DHeadOptions
from .decoding import (
    DecodingRules,
    Picture,
    PictureDetections,
    box3d_codecs,
    class_scores,
    decode_detections,
)
from .embedding_head import EmbeddingHead, EmbeddingHeadOptions
from .roi_align import build_pooler
from .sampling import BalancedSampler

__all__ = ["QD3DTROIHeads", "SampledBoxes", "SamplingRules", "TrainingView", "sample_boxes"]

_BOX_CODEC = BoxCodec()
_PIXEL_METRES = 600.0  # focal length in pixels times height in metres


@dataclass(frozen=True)
class SamplingRules:
    """Which proposals train a head.

    Attributes:
        count: a picture.
        positive_fraction: at most.
        iou_thresholds: background below the first, objects from the second on.
        claim_from: IoU from which an annotated box claims its best proposals.
        negatives_per_positive: at most; None: no limit.
    """

    count: int
    positive_fraction: float
    iou_thresholds: tuple[float, float]
    claim_from: float
    negatives_per_positive: float | None = None


class SampledBoxes(NamedTuple):
    """Boxes of one picture that train a head.

    Attributes:
        positive: float ``[P, 4]``.
        negative: float ``[N, 4]``.
        matched: int64 ``[P]``, index of the annotated box of each positive.
    """

    positive: Tensor
    negative: Tensor
    matched: Tensor

    @property
    def boxes(self) -> Tensor:
        """Positives, then negatives, ``[P + N, 4]``."""
        return torch.cat((self.positive, self.negative))


class TrainingView(NamedTuple):
    """The key pictures of a batch, or their references.

    Attributes:
        features: by name, ``[B, C, H_l, W_l]``.
        proposals: with ``proposal_boxes``, one a picture.
        annotations: one a picture, with ``gt_boxes``; key pictures have ``gt_classes``, ``gt_depth``, ``gt_alpha``,
            ``gt_dims``, ``gt_center_offset`` (projected 3D centre minus centre of the 2D box, pixels of the original)
            and ``gt_match`` (index of the same object among the reference's annotations, or -1), too.
        ignored: regions ``[M, 4]`` of each picture where proposals are no background, or None.
    """

    features: dict[str, Tensor]
    proposals: Sequence[Instances]
    annotations: Sequence[Instances]
    ignored: Sequence[Tensor | None]


@torch.no_grad()
def sample_boxes(view: TrainingView, rules: SamplingRules, mode: Mode) -> list[SampledBoxes]:
    """Annotated boxes and proposals of each picture that train a head."""
    sampler = BalancedSampler(rules.count, rules.positive_fraction, rules.negatives_per_positive, mode)
    sampled = []
    for found, truth, regions in zip(view.proposals, view.annotations, view.ignored, strict=True):
        overlaps = pairwise_iou(truth.gt_boxes, found.proposal_boxes)
        own = torch.arange(len(truth), device=overlaps.device)
        assigned = assign_boxes(overlaps, *rules.iou_thresholds, rules.claim_from)
        assigned = torch.cat((own, spare_regions(assigned, found.proposal_boxes.tensor, regions)))
        greatest = overlaps.amax(0) if len(truth) else overlaps.new_zeros(len(found))
        greatest = torch.cat((overlaps.new_ones(len(truth)), greatest))
        candidates = torch.cat((truth.gt_boxes.tensor, found.proposal_boxes.tensor))
        positive, negative = sampler(assigned, greatest)
        sampled.append(SampledBoxes(candidates[positive], candidates[negative], assigned[positive]))
    return sampled


@register_once(ROI_HEADS_REGISTRY)
class QD3DTROIHeads(nn.Module):
    """2D head, 3D head and embedding head over one kind of pooled features."""

    @configurable
    def __init__(
        self,
        *,
        in_features: Sequence[str],
        pooler: ROIPooler,
        box_head: nn.Module,
        box_predictor: FastRCNNOutputLayers,
        box3d_head: Box3DHead,
        embedding_head: EmbeddingHead,
        codecs: Box3DCodecs,
        detection_rules: SamplingRules,
        embedding_rules: SamplingRules,
        decoding: DecodingRules,
        mult_proposal_score: bool = False,
        depth_from_height: bool = False,
    ):
        """All heads take what ``pooler`` makes of the levels ``in_features``.

        With ``mult_proposal_score`` detections are scored with the first stage's scores (``objectness_logits``), too.
        With ``depth_from_height`` the 3D head's depths are relative to :func:`depth_of_height`.
        """
        super().__init__()
        self.in_features = list(in_features)
        self.pooler = pooler
        self.box_head = box_head
        self.box_predictor = box_predictor
        self.box3d_head = box3d_head
        self.embedding_head = embedding_head
        self.codecs = codecs
        self.detection_rules = detection_rules
        self.embedding_rules = embedding_rules
        self.decoding = decoding
        self.mult_proposal_score = mult_proposal_score
        self.depth_from_height = depth_from_height
        self.num_classes = box3d_head.num_classes

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        heads, box, node = cfg.MODEL.ROI_HEADS, cfg.MODEL.ROI_BOX_HEAD, cfg.MODEL.TRACKING3D
        mode = checked_mode(node.MODE)
        channels, size = input_shape[heads.IN_FEATURES[0]].channels, box.POOLER_RESOLUTION
        strides = [input_shape[name].stride for name in heads.IN_FEATURES]
        box_head = build_box_head(cfg, ShapeSpec(channels=channels, height=size, width=size))
        box3d, embedding = node.BOX3D_HEAD, node.EMBEDDING_HEAD
        return {
            "in_features": heads.IN_FEATURES,
            "pooler": build_pooler(size, strides, box.POOLER_SAMPLING_RATIO, box.POOLER_TYPE),
            "box_head": box_head,
            "box_predictor": FastRCNNOutputLayers(cfg, box_head.output_shape),
            "box3d_head": Box3DHead(
                channels,
                size,
                heads.NUM_CLASSES,
                Box3DHeadOptions(box3d.NUM_SHARED_CONVS, box3d.NUM_BRANCH_CONVS, box3d.CONV_DIM),
            ),
            "embedding_head": EmbeddingHead(
                channels,
                size,
                EmbeddingHeadOptions(
                    embedding.NUM_CONV, embedding.CONV_DIM, embedding.NORM, embedding.FC_DIM, embedding.SIZE
                ),
            ),
            "codecs": box3d_codecs(mode, node.REFERENCE_FOCAL or None),
            "detection_rules": _detection_rules(cfg),
            "embedding_rules": _embedding_rules(cfg),
            "decoding": DecodingRules(
                heads.SCORE_THRESH_TEST,
                heads.NMS_THRESH_TEST,
                cfg.TEST.DETECTIONS_PER_IMAGE,
                node.USE_CONFIDENCE,
                tuple(node.HIDDEN_CLASSES),
                mode,
            ),
            "mult_proposal_score": box.MULT_PROPOSAL_SCORE,
            "depth_from_height": box3d.DEPTH_FROM_HEIGHT,
        }

    # ------------------------------------------------------------------------------------------------ inference

    def forward(
        self, features: dict[str, Tensor], proposals: Sequence[Instances], pictures: Sequence[Picture]
    ) -> list[tuple[PictureDetections, Tensor]]:
        """Detections of each picture and their embeddings ``[N, E]``.

        Args:
            features: by name, ``[B, C, H_l, W_l]``.
            proposals: with ``proposal_boxes``, one a picture.
            pictures: one a picture.
        """
        levels = [features[name] for name in self.in_features]
        boxes = [found.proposal_boxes for found in proposals]
        pooled = self.pooler(levels, boxes)
        logits, deltas = self.box_predictor(self.box_head(pooled))
        first_stage = torch.cat([found.objectness_logits for found in proposals]) if self.mult_proposal_score else None
        scores = class_scores(logits, first_stage)
        # the 3D head needs to see only what can pass the threshold: its confidence is at most 1
        chosen = (scores > self.decoding.min_score).any(1)
        outputs = self._boxes3d(pooled[chosen], torch.cat([part.tensor for part in boxes])[chosen])
        counts = [len(part) for part in boxes]
        own = [int(part.sum()) for part in chosen.split(counts)]
        detections = [
            decode_detections(*parts, self.codecs, self.decoding)
            for parts in zip(
                torch.cat([part.tensor for part in boxes])[chosen].split(own),
                scores[chosen].split(own),
                deltas[chosen].split(own),
                _split(outputs, own),
                pictures,
                strict=True,
            )
        ]
        embeddings = self.embedding_head(self.pooler(levels, [Boxes(found.input_boxes) for found in detections]))
        return list(zip(detections, embeddings.split([len(found.boxes) for found in detections]), strict=True))

    def _boxes3d(self, pooled: Tensor, boxes: Tensor) -> Box3DOutputs:
        """The 3D head on the pooled features of ``boxes`` ``[R, 4]``."""
        outputs: Box3DOutputs = self.box3d_head(pooled)
        if self.depth_from_height:
            outputs = outputs._replace(depth=outputs.depth + self.codecs.depth.scale * depth_of_height(boxes)[:, None])
        return outputs

    # ------------------------------------------------------------------------------------------------- training

    def losses(self, view: TrainingView, pictures: Sequence[Picture]) -> dict[str, Tensor]:
        """Losses of the 2D and the 3D head on key pictures."""
        sampled = sample_boxes(view, self.detection_rules, self.decoding.mode)
        levels = [view.features[name] for name in self.in_features]
        pooled = self.pooler(levels, [Boxes(part.boxes) for part in sampled])
        positive = torch.cat([_is_positive(part) for part in sampled])
        matched = [truth[part.matched] for truth, part in zip(view.annotations, sampled, strict=True)]
        classes = torch.cat([truth.gt_classes for truth in matched])
        logits, deltas = self.box_predictor(self.box_head(pooled))
        labels = torch.full_like(positive, self.num_classes, dtype=torch.int64)
        labels[positive] = classes
        truth_boxes = torch.cat([truth.gt_boxes.tensor for truth in matched])
        wanted = _BOX_CODEC.encode(torch.cat([part.positive for part in sampled]), truth_boxes)
        found = own_class(deltas[positive].float().unflatten(1, (-1, 4)), classes)
        distance = F.smooth_l1_loss(found, wanted, reduction="sum", beta=1.0)
        outputs = self._boxes3d(pooled[positive], torch.cat([part.positive for part in sampled]))
        targets = Box3DTargets(
            torch.cat([truth.gt_depth for truth in matched]),
            torch.cat([truth.gt_alpha for truth in matched]),
            torch.cat([truth.gt_dims for truth in matched]),
            torch.cat([truth.gt_center_offset for truth in matched]),
            _focal(pictures, matched),
        )
        own = Box3DOutputs(*(own_class(field, classes) for field in outputs))
        count = max(len(labels), 1)
        return {
            "loss_cls": F.cross_entropy(logits.float(), labels, reduction="sum") / count,
            "loss_box_reg": distance / count,
            **box3d_losses(own, targets, self.codecs),
        }

    def embedding_losses(self, key: TrainingView, reference: TrainingView) -> dict[str, Tensor]:
        """Losses of the embedding head on key pictures and their references."""
        mode = self.decoding.mode
        sampled_key = sample_boxes(key, self.embedding_rules, mode)
        sampled_reference = sample_boxes(reference, self.embedding_rules, mode)
        annotated = [truth.gt_boxes.tensor for truth in reference.annotations]
        both = [torch.cat((a, part.boxes)) for a, part in zip(annotated, sampled_reference, strict=True)]
        key_parts = self._embed(key.features, [part.boxes for part in sampled_key])
        reference_parts = self._embed(reference.features, both)
        pairs = []
        for i, (own, other) in enumerate(zip(sampled_key, sampled_reference, strict=True)):
            positives, negatives = key_parts[i].split([len(own.positive), len(own.negative)])
            number = len(other.negative) + len(own.negative)
            identities = reference_identities(annotated[i], other.positive, number)
            ids = key.annotations[i].gt_match[own.matched]
            pairs.append(KeyReference(positives, ids, torch.cat((reference_parts[i], negatives)), identities))
        return quasi_dense_losses(pairs, mode=mode)

    def _embed(self, features: dict[str, Tensor], boxes: Sequence[Tensor]) -> list[Tensor]:
        pooled = self.pooler([features[name] for name in self.in_features], [Boxes(part) for part in boxes])
        return list(self.embedding_head(pooled).split([len(part) for part in boxes]))


def depth_of_height(boxes: Tensor) -> Tensor:
    """Logarithm ``[R]`` of the depth in metres at which something that is as tall as a person would fill the height of
    ``boxes`` ``[R, 4]`` (pixels of the network input) in a camera of usual focal length; the rest is the network's."""
    return (_PIXEL_METRES / (boxes[:, 3] - boxes[:, 1]).clamp(min=1.0)).log()


def _is_positive(part: SampledBoxes) -> Tensor:
    return torch.arange(len(part.boxes), device=part.positive.device) < len(part.positive)


def _split(outputs: Box3DOutputs, counts: list[int]) -> list[Box3DOutputs]:
    return [Box3DOutputs(*parts) for parts in zip(*(field.split(counts) for field in outputs), strict=True)]


def _focal(pictures: Sequence[Picture], matched: Sequence[Instances]) -> Tensor | None:
    if any(picture.focal is None for picture in pictures):
        return None
    parts = zip(pictures, matched, strict=True)
    return torch.cat([truth.gt_depth.new_full((len(truth),), picture.focal) for picture, truth in parts])


def _detection_rules(cfg: CfgNode) -> SamplingRules:
    heads = cfg.MODEL.ROI_HEADS
    threshold = float(heads.IOU_THRESHOLDS[0])
    return SamplingRules(heads.BATCH_SIZE_PER_IMAGE, heads.POSITIVE_FRACTION, (threshold, threshold), threshold)


def _embedding_rules(cfg: CfgNode) -> SamplingRules:
    node = cfg.MODEL.TRACKING3D.EMBEDDING_HEAD
    low, high = node.IOU_THRESHOLDS
    return SamplingRules(
        node.BATCH_SIZE_PER_IMAGE, node.POSITIVE_FRACTION, (low, high), node.CLAIM_FROM, node.NEGATIVES_PER_POSITIVE
    )
