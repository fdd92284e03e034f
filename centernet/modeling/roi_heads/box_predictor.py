"""The classifier and box regressor of the second stage.

Source: "Probabilistic two-stage detection" (arXiv 2103.07461) section 4, second stage; federated loss section 5.2.
"""

import math
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec, cat, ciou_loss, diou_loss
from detectron2.modeling.roi_heads.fast_rcnn import (
    FastRCNNOutputLayers,
    _log_classification_stats,
    fast_rcnn_inference,
)
from detectron2.structures import Instances
from fvcore.nn import giou_loss, smooth_l1_loss
from torch import Tensor, nn

from ...ops.federated import federated_classes
from ...ops.losses import sigmoid_cross_entropy, softmax_cross_entropy
from ..normaliser import share_of_mean
from .fed_loss import class_weights_of

_IOU_LOSSES = {"giou": giou_loss, "diou": diou_loss, "ciou": ciou_loss}


class ProbabilisticBoxPredictor(FastRCNNOutputLayers):
    """detectron2's box predictor with sigmoid or softmax classification, federated loss and the product of scores.

    Published name: ``CustomFastRCNNOutputLayers``.
    """

    freq_weight: Tensor | None
    count_name = "regions"  # of this stage, for centernet.modeling.normaliser

    @configurable
    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        mult_proposal_score: bool = False,
        sigmoid_ce: bool = False,
        prior_prob: float = 0.01,
        federated: bool = False,
        fed_loss_num_cat: int = 50,
        freq_weight: Tensor | None = None,
        **kwargs: Any,
    ):
        """
        Args:
            mult_proposal_score: multiply class probabilities with the proposal's score.
            sigmoid_ce: per-class sigmoid; ``prior_prob`` is the class probability at initialisation.
            federated: only ``fed_loss_num_cat`` classes take part in a step.
            freq_weight: float ``[C]``, relative chance of each class to take part; a buffer of the state dict.
            kwargs: arguments of detectron2's ``FastRCNNOutputLayers``.
        """
        super().__init__(input_shape, **kwargs)
        self.mult_proposal_score = mult_proposal_score
        self.sigmoid_ce = sigmoid_ce
        self.federated = federated
        self.fed_loss_num_cat = fed_loss_num_cat
        if freq_weight is not None and len(freq_weight) != self.num_classes:
            raise ValueError(
                f"the class frequencies are of {len(freq_weight)} classes (MODEL.ROI_BOX_HEAD.CAT_FREQ_PATH), but the "
                f"model has {self.num_classes} (MODEL.ROI_HEADS.NUM_CLASSES)"
            )
        self.register_buffer("freq_weight", freq_weight)
        if sigmoid_ce:
            nn.init.constant_(self.cls_score.bias, -math.log((1 - prior_prob) / prior_prob))

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        node = cfg.MODEL.ROI_BOX_HEAD
        arguments = super().from_config(cfg, input_shape)
        # newer detectron2 has a federated loss of its own, which needs LVIS metadata; ours replaces it
        for name in ("use_fed_loss", "use_sigmoid_ce", "get_fed_loss_cls_weights", "fed_loss_num_classes"):
            arguments.pop(name, None)
        freq_weight = None
        if node.USE_FED_LOSS:
            freq_weight = class_weights_of(cfg)
        return {
            **arguments,
            "mult_proposal_score": node.MULT_PROPOSAL_SCORE,
            "sigmoid_ce": node.USE_SIGMOID_CE,
            "prior_prob": node.PRIOR_PROB,
            "federated": node.USE_FED_LOSS,
            "fed_loss_num_cat": node.FED_LOSS_NUM_CAT,
            "freq_weight": freq_weight,
        }

    def losses(self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]) -> dict[str, Tensor]:
        """``loss_cls`` and ``loss_box_reg`` of sampled proposals (``gt_classes``, ``gt_boxes``, ``proposal_boxes``).

        Where proposals carry ``gt_scores`` (float in [0, 1]), these are weights of the foreground ones. With several
        processes both are divided by their mean number of proposals.

        Args:
            predictions: ``(logits [R, C + 1], deltas [R, 4] or [R, C * 4])``.
        """
        logits, deltas = predictions
        gt_classes = cat([p.gt_classes for p in proposals]) if proposals else logits.new_zeros(0, dtype=torch.int64)
        _log_classification_stats(logits, gt_classes)
        if len(proposals):
            boxes = cat([p.proposal_boxes.tensor for p in proposals])
            gt_boxes = cat([(p.gt_boxes if p.has("gt_boxes") else p.proposal_boxes).tensor for p in proposals])
        else:
            boxes = gt_boxes = deltas.new_zeros((0, 4))
        weight = self._proposal_weight(proposals, gt_classes)
        classify = sigmoid_cross_entropy if self.sigmoid_ce else softmax_cross_entropy
        losses = {
            "loss_cls": classify(logits, gt_classes, self._class_weight(gt_classes), weight),
            "loss_box_reg": self._box_loss(boxes, gt_boxes, deltas, gt_classes, weight),
        }
        share = share_of_mean(len(gt_classes), self.count_name, logits)
        return losses if share is None else {name: loss * share for name, loss in losses.items()}

    def _proposal_weight(self, proposals: list[Instances], gt_classes: Tensor) -> Tensor | None:
        """``gt_scores`` of foreground proposals, 1 for background, float32 ``[R]``; None if no image has them."""
        if not any(p.has("gt_scores") for p in proposals):
            return None
        scores = [p.gt_scores if p.has("gt_scores") else p.proposal_boxes.tensor.new_ones(len(p)) for p in proposals]
        weight = cat(scores).float()
        return torch.where(gt_classes < self.num_classes, weight, torch.ones_like(weight))

    def _box_loss(
        self, boxes: Tensor, gt_boxes: Tensor, deltas: Tensor, gt_classes: Tensor, weight: Tensor | None
    ) -> Tensor:
        """detectron2's ``box_reg_loss``, with a weight ``[R]`` on each proposal's term."""
        if weight is None:
            return self.box_reg_loss(boxes, gt_boxes, deltas, gt_classes)
        foreground = (gt_classes < self.num_classes).nonzero()[:, 0]
        if deltas.shape[1] == boxes.shape[1]:
            deltas = deltas[foreground]
        else:
            deltas = deltas.view(len(deltas), self.num_classes, -1)[foreground, gt_classes[foreground]]
        boxes, gt_boxes = boxes[foreground], gt_boxes[foreground]
        if self.box_reg_loss_type == "smooth_l1":
            wanted = self.box2box_transform.get_deltas(boxes, gt_boxes)
            terms = smooth_l1_loss(deltas, wanted, self.smooth_l1_beta, reduction="none").sum(dim=1)
        else:
            predicted = self.box2box_transform.apply_deltas(deltas, boxes)
            terms = _IOU_LOSSES[self.box_reg_loss_type](predicted, gt_boxes, reduction="none")
        return (terms * weight[foreground]).sum() / max(len(gt_classes), 1)

    def _class_weight(self, gt_classes: Tensor) -> Tensor | None:
        """1 for the classes of this step, 0 for the others, float32 ``[C]``; None without federated loss."""
        if not self.federated:
            return None
        chosen = federated_classes(gt_classes, self.fed_loss_num_cat, self.num_classes, self.freq_weight)
        weight = torch.zeros(self.num_classes + 1, device=gt_classes.device)
        weight[chosen] = 1.0
        return weight[: self.num_classes]

    def class_probabilities(self, logits: Tensor) -> Tensor:
        """``[..., C + 1]`` logits to ``P(class | object)``, background last."""
        logits = logits.float()
        return logits.sigmoid() if self.sigmoid_ce else logits.softmax(dim=-1)

    def predict_probs(self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]) -> tuple[Tensor, ...]:
        """Class probabilities of each image, ``[R_i, C + 1]``."""
        return self.class_probabilities(predictions[0]).split([len(p) for p in proposals], dim=0)

    def inference(
        self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]
    ) -> tuple[list[Instances], list[Tensor]]:
        """detectron2's list-of-``Instances`` inference, for heads that are not ours; scores as in
        :func:`centernet.ops.second_stage.combine_scores`."""
        scores = self.predict_probs(predictions, proposals)
        if self.mult_proposal_score:
            scores = tuple((s * p.objectness_logits[:, None]).sqrt() for s, p in zip(scores, proposals, strict=True))
        return fast_rcnn_inference(
            self.predict_boxes(predictions, proposals),
            scores,
            [p.image_size for p in proposals],
            self.test_score_thresh,
            self.test_nms_thresh,
            self.test_topk_per_image,
        )
