"""The first stage: where objects are, and how likely.

Source: "Probabilistic two-stage detection" (arXiv 2103.07461) sections 3 and 4. This module wires the head to
:mod:`centernet.ops`; the mathematics is there.
"""

from collections.abc import Sequence

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling.proposal_generator.build import PROPOSAL_GENERATOR_REGISTRY
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor, nn

from ...ops.assign import Objects
from ...ops.decode import DecodeRules, decode_with_objectness
from ...ops.detections import PaddedDetections
from ...ops.grid import Pyramid, cells_in_regions, flatten_levels
from ...ops.losses import LOC_LOSS_TYPES, FocalRules, heatmap_focal_loss, iou_loss
from ...ops.more_positives import MorePositiveRules, more_positives
from ...ops.targets import TargetRules, Targets, build_targets
from ...registration import register_once
from ..debug import DebugOptions, draw_first_stage, draw_training
from ..finite_check import FiniteCheck
from ..normaliser import mean_count
from ..padded_instances import PaddedInstances, image_size_tensor
from .centernet_head import CenterNetHead

HeadOutput = tuple[list[Tensor], list[Tensor], list[Tensor]]
Regions = Sequence[Tensor | None] | None
_POSITIVES, _BOX_WEIGHTS = "positives", "box weights"  # what losses are divided by, for ..normaliser


@register_once(PROPOSAL_GENERATOR_REGISTRY)
class CenterNet(nn.Module):
    """Anchor-free first stage on a feature pyramid.

    Three modes: a one-stage detector (class heatmap, optionally times the class-agnostic one); ``only_proposal``
    (class-agnostic heatmap only, output is proposals); ``as_proposal`` (class-specific boxes handed on as proposals).
    """

    @configurable
    def __init__(
        self,
        in_channels: int = 256,
        *,
        num_classes: int = 80,
        in_features: Sequence[str] = ("p3", "p4", "p5", "p6", "p7"),
        strides: Sequence[int] = (8, 16, 32, 64, 128),
        score_thresh: float = 0.05,
        hm_min_overlap: float = 0.8,
        loc_loss_type: str = "giou",
        min_radius: float = 4,
        hm_focal_alpha: float = 0.25,
        hm_focal_beta: float = 4,
        loss_gamma: float = 2.0,
        reg_weight: float = 2.0,
        not_norm_reg: bool = True,
        with_agn_hm: bool = False,
        only_proposal: bool = False,
        as_proposal: bool = False,
        not_nms: bool = False,
        pos_weight: float = 1.0,
        neg_weight: float = 1.0,
        sigmoid_clamp: float = 1e-4,
        ignore_high_fp: float = -1.0,
        center_nms: bool = False,
        sizes_of_interest: Sequence[Sequence[float]] = (
            (0, 80),
            (64, 160),
            (128, 320),
            (256, 640),
            (512, 10000000),
        ),  # fmt: skip
        more_pos: bool = False,
        more_pos_thresh: float = 0.2,
        more_pos_topk: int = 9,
        pre_nms_topk_train: int = 1000,
        pre_nms_topk_test: int = 1000,
        post_nms_topk_train: int = 100,
        post_nms_topk_test: int = 100,
        nms_thresh_train: float = 0.6,
        nms_thresh_test: float = 0.6,
        no_reduce: bool = False,
        not_clamp_box: bool = False,
        debug: bool = False,
        vis_thresh: float = 0.5,
        pixel_mean: Sequence[float] = (103.530, 116.280, 123.675),
        pixel_std: Sequence[float] = (1.0, 1.0, 1.0),
        device: str = "cuda",
        centernet_head: nn.Module | None = None,
        clamp_centers: bool = True,
        unique_positives: bool = False,
        hm_only_assigned_levels: bool = False,
        iou_offset: float = 1.0,
        sqrt_score: bool = True,
        clip_proposals: bool = False,
        check_finite: bool = True,
        save_debug: bool = False,
        debug_show_name: bool = False,
        input_format: str = "BGR",
    ):
        """Long only because the published arguments are many.

        Each is the config key of ``MODEL.CENTERNET`` of about the same name, explained in :mod:`centernet.config`.
        ``vis_thresh``, ``pixel_mean``, ``pixel_std``, ``input_format`` and what has "debug" in its name serve
        :mod:`centernet.modeling.debug`. ``device`` is accepted for existing callers; tensors are made where the
        features live.

        Raises:
            ValueError: ``only_proposal`` without ``with_agn_hm``, an unknown ``loc_loss_type``, or numbers of features,
                strides and size ranges that differ.
        """
        super().__init__()
        if only_proposal and not with_agn_hm:
            raise ValueError("ONLY_PROPOSAL needs WITH_AGN_HM: proposals are scored by the class-agnostic heatmap")
        if loc_loss_type not in LOC_LOSS_TYPES:
            raise ValueError(f"LOC_LOSS_TYPE is '{loc_loss_type}': use one of {', '.join(LOC_LOSS_TYPES)}")
        if not len(in_features) == len(strides) == len(sizes_of_interest):
            raise ValueError(
                f"IN_FEATURES ({len(in_features)}), FPN_STRIDES ({len(strides)}) and SOI ({len(sizes_of_interest)}) "
                "need one entry a level each"
            )
        self.in_features = tuple(in_features)
        self.strides = tuple(strides)
        self.with_agn_hm = with_agn_hm
        self.only_proposal = only_proposal
        self.as_proposal = as_proposal
        self.more_pos = more_pos
        self.loc_loss_type = loc_loss_type
        self.iou_offset = iou_offset
        self.pos_weight, self.neg_weight, self.reg_weight = pos_weight, neg_weight, reg_weight
        self.not_norm_reg = not_norm_reg
        self.no_reduce = no_reduce
        self.not_clamp_box = not_clamp_box
        self.target_rules = TargetRules(
            tuple(tuple(float(end) for end in ends) for ends in sizes_of_interest),
            hm_min_overlap,
            min_radius,
            None if only_proposal else num_classes,
            clamp_centers,
            unique_positives,
            hm_only_assigned_levels,
        )
        self.focal_rules = FocalRules(hm_focal_alpha, hm_focal_beta, loss_gamma, sigmoid_clamp, ignore_high_fp)
        self.more_positive_rules = MorePositiveRules(loc_loss_type, iou_offset, more_pos_thresh, more_pos_topk)
        shared = (center_nms, not_nms or center_nms, with_agn_hm and sqrt_score, clip_proposals)
        self.train_decode_rules = DecodeRules(
            score_thresh, pre_nms_topk_train, post_nms_topk_train, nms_thresh_train, *shared
        )
        self.test_decode_rules = DecodeRules(
            score_thresh, pre_nms_topk_test, post_nms_topk_test, nms_thresh_test, *shared, order_equals=True
        )
        self.check_finite = FiniteCheck(check_finite)
        options = DebugOptions(vis_thresh, pixel_mean, pixel_std, input_format, save_debug, debug_show_name)
        self.debug = options if debug else None
        self.centernet_head = centernet_head or CenterNetHead(
            in_channels=in_channels,
            num_levels=len(self.in_features),
            num_classes=num_classes,
            with_agn_hm=with_agn_hm,
            only_proposal=only_proposal,
        )

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        node = cfg.MODEL.CENTERNET
        shapes = [input_shape[f] for f in node.IN_FEATURES]
        same_name = (
            "num_classes in_features hm_min_overlap loc_loss_type min_radius hm_focal_alpha hm_focal_beta loss_gamma "
            "reg_weight not_norm_reg with_agn_hm only_proposal as_proposal not_nms pos_weight neg_weight sigmoid_clamp "
            "ignore_high_fp center_nms more_pos more_pos_thresh more_pos_topk pre_nms_topk_train pre_nms_topk_test "
            "post_nms_topk_train post_nms_topk_test no_reduce clamp_centers unique_positives hm_only_assigned_levels "
            "iou_offset sqrt_score clip_proposals check_finite"
        )
        return {
            **{name: node[name.upper()] for name in same_name.split()},
            "in_channels": shapes[0].channels,
            "strides": node.FPN_STRIDES,
            "score_thresh": node.INFERENCE_TH,
            "sizes_of_interest": node.SOI,
            "nms_thresh_train": node.NMS_TH_TRAIN,
            "nms_thresh_test": node.NMS_TH_TEST,
            "not_clamp_box": cfg.INPUT.NOT_CLAMP_BOX,
            "debug": cfg.DEBUG,
            "save_debug": cfg.SAVE_DEBUG,
            "debug_show_name": cfg.DEBUG_SHOW_NAME,
            "vis_thresh": cfg.VIS_THRESH,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "input_format": cfg.INPUT.FORMAT,
            "device": cfg.MODEL.DEVICE,
            "centernet_head": CenterNetHead(cfg, shapes),
        }

    def forward(
        self,
        images: ImageList,
        features_dict: dict[str, Tensor],
        gt_instances: list[Instances] | None,
        ignored: Regions = None,
    ) -> tuple[Sequence[Instances] | None, dict[str, Tensor]]:
        """
        Args:
            images: only ``image_sizes`` is read, and the pictures when debugging.
            features_dict: ``{name: [B, C, H_l, W_l]}``.
            gt_instances: in training, ``gt_boxes`` (xyxy, network-input pixels) and ``gt_classes`` of each image;
                possibly ``gt_scores`` (float in [0, 1]), weights of the objects in the positive and box terms.
            ignored: regions ``[M, 4]`` of each image (or None), xyxy, network-input pixels: no background in training.

        Returns:
            In training ``(proposals or None, losses)``; proposals are detached and carry ``proposal_boxes`` and
            ``objectness_logits``, a root of a probability in spite of its name. In inference ``(detections, {})``, best
            first, as a sequence of ``Instances`` that also holds the padded tensors.

        Raises:
            NonFiniteError: a feature, prediction or ground-truth box holds NaN or infinity.
        """
        head_output = self.maps(features_dict)
        if not self.training:
            padded = self._decoded(head_output, images.image_sizes)
            as_proposals = self.only_proposal or self.as_proposal
            if self.debug:
                draw_first_stage(self.debug, images, head_output, padded, self.strides, as_proposals=as_proposals)
            return PaddedInstances(padded, images.image_sizes, as_proposals=as_proposals), {}
        if gt_instances is None:
            raise ValueError("training needs 'instances' with gt_boxes and gt_classes in every input")
        losses = self.losses(head_output, gt_instances, images, ignored)
        if not (self.only_proposal or self.as_proposal):
            return None, losses
        padded = self._decoded(head_output, images.image_sizes)
        return self._training_proposals(padded, images.image_sizes), losses

    @torch.no_grad()
    def _decoded(self, head_output: HeadOutput, image_sizes: Sequence[tuple[int, int]]) -> PaddedDetections:
        return self.propose(head_output, image_size_tensor(image_sizes, head_output[1][0].device))

    def maps(self, features_dict: dict[str, Tensor]) -> HeadOutput:
        """``(class logits, ltrb, agnostic logits)`` of the head, checked to be finite (not while a graph is captured).

        Raises:
            NonFiniteError: a feature or prediction holds NaN or infinity.
        """
        features = [features_dict[f] for f in self.in_features]
        head_output: HeadOutput = self.centernet_head(features)
        self._check(features, head_output)
        return head_output

    def propose(self, head_output: HeadOutput, image_sizes: Tensor) -> PaddedDetections:
        """Decode the head's maps to the configured number of boxes an image. See
        :func:`centernet.ops.decode.decode`."""
        return self.propose_with_objectness(head_output, image_sizes)[0]

    def propose_with_objectness(self, head_output: HeadOutput, image_sizes: Tensor) -> tuple[PaddedDetections, Tensor]:
        """:meth:`propose`, and P(object) of each box, float32 ``[B, K]``: of the class-agnostic map, 1 without one."""
        classes, boxes, agnostic = head_output
        rules = self.train_decode_rules if self.training else self.test_decode_rules
        if self.only_proposal:
            found, _ = decode_with_objectness(agnostic, boxes, self.strides, image_sizes, rules)
            return found, found.scores**2 if rules.sqrt_score else found.scores
        maps = agnostic if self.with_agn_hm else None
        return decode_with_objectness(classes, boxes, self.strides, image_sizes, rules, maps)

    def losses(
        self, head_output: HeadOutput, gt_instances: list[Instances], images: ImageList, ignored: Regions = None
    ) -> dict[str, Tensor]:
        """Float32 scalars: ``loss_centernet_loc``, and ``loss_centernet_{pos,neg}`` of the class heatmap and
        ``loss_centernet_agn_{pos,neg}`` of the class-agnostic one, where they exist. Arguments: see :meth:`forward`."""
        classes, boxes, agnostic = head_output
        pyramid = Pyramid(tuple((b.shape[2], b.shape[3]) for b in boxes), self.strides, len(gt_instances))
        ltrb = flatten_levels(boxes)
        targets = self._targets(gt_instances, pyramid, ltrb, images.image_sizes)
        if self.debug:
            draw_training(self.debug, images, gt_instances, targets, pyramid)
        # float32 also for a model in half precision, which counts exactly to 2,048 only
        num_positives = torch.full((), float(len(targets.positive_cells)), device=ltrb.device)
        normaliser = mean_count(num_positives, _POSITIVES, reduce=not self.no_reduce)
        object_weight = _object_weight(gt_instances)
        positive_weight = None if object_weight is None else object_weight[targets.positive_objects]
        heatmap, losses = targets.heatmap, {}
        if any(regions is not None for regions in ignored or ()):  # as at a peak: no negative term
            heatmap = heatmap.masked_fill(cells_in_regions(pyramid, ignored or (), ltrb.device)[:, None], 1.0)
        if not self.only_proposal:
            positive, negative = heatmap_focal_loss(
                flatten_levels(classes),
                heatmap,
                targets.positive_cells,
                targets.positive_labels,
                self.focal_rules,
                positive_weight,
            )
            losses["loss_centernet_pos"] = self.pos_weight * positive / normaliser
            losses["loss_centernet_neg"] = self.neg_weight * negative / normaliser
        losses["loss_centernet_loc"] = self._box_loss(ltrb, targets, object_weight)
        if self.with_agn_hm:
            positive, negative = heatmap_focal_loss(
                flatten_levels(agnostic),
                heatmap.amax(dim=1, keepdim=True),
                targets.positive_cells,
                torch.zeros_like(targets.positive_cells),
                self.focal_rules,
                positive_weight,
            )
            losses["loss_centernet_agn_pos"] = self.pos_weight * positive / normaliser
            losses["loss_centernet_agn_neg"] = self.neg_weight * negative / normaliser
        return losses

    @torch.no_grad()
    def count_targets(
        self, gt_instances: list[Instances], image_sizes: Sequence[tuple[int, int]], canvas: tuple[int, int]
    ) -> dict[str, Tensor] | None:
        """What :meth:`losses` of these images would be divided by, known before any forward pass.

        Args:
            gt_instances, image_sizes: as in :meth:`forward`.
            canvas: height and width that the images are padded to, pixels.

        Returns:
            Float32 scalars by their names in :mod:`..normaliser`; None with MORE_POS, where predictions decide.
        """
        if self.more_pos:
            return None
        sizes = tuple((-(-canvas[0] // stride), -(-canvas[1] // stride)) for stride in self.strides)
        targets = self._targets(gt_instances, Pyramid(sizes, self.strides, len(gt_instances)), None, image_sizes)
        weight = self._box_weight(targets)
        return {
            _POSITIVES: torch.full((), float(len(targets.positive_cells)), device=weight.device),
            _BOX_WEIGHTS: weight.sum(),
        }

    @torch.no_grad()
    def _targets(
        self,
        gt_instances: list[Instances],
        pyramid: Pyramid,
        ltrb: Tensor | None,
        image_sizes: Sequence[tuple[int, int]],
    ) -> Targets:
        """``ltrb``: predictions, read with MORE_POS only."""
        counts = torch.tensor([len(x) for x in gt_instances], device=gt_instances[0].gt_boxes.device)
        objects = Objects(
            torch.cat([x.gt_boxes.tensor for x in gt_instances]).float(),
            torch.cat([x.gt_classes for x in gt_instances]),
            torch.repeat_interleave(counts, output_size=sum(len(x) for x in gt_instances)),
        )
        self.check_finite({}, {"the tensor of ground-truth boxes": objects.boxes})
        sizes = image_sizes if self.not_clamp_box else None
        targets = build_targets(objects, pyramid, self.target_rules, image_sizes=sizes)
        if not self.more_pos:
            return targets
        assert ltrb is not None
        more = more_positives(objects, ltrb, pyramid, self.target_rules, self.more_positive_rules)
        return targets._replace(positive_cells=more.cells, positive_labels=more.labels, positive_objects=more.objects)

    def _box_loss(self, ltrb: Tensor, targets: Targets, object_weight: Tensor | None) -> Tensor:
        loss = iou_loss(
            ltrb[targets.regression_cells], targets.regression_ltrb, self.loc_loss_type, offset=self.iou_offset
        )
        weight = self._box_weight(targets)
        if object_weight is not None:  # not part of the normaliser: an uncertain object teaches less
            loss = loss * object_weight[targets.regression_objects]
        # the sum of no element is 0 and still has a graph: DDP wants a gradient of a batch without objects, too
        normaliser = mean_count(weight.sum(), _BOX_WEIGHTS, reduce=not self.no_reduce)
        return self.reg_weight * (weight * loss).sum() / normaliser

    def _box_weight(self, targets: Targets) -> Tensor:
        """Float32 ``[R]``."""
        if self.not_norm_reg:
            return torch.ones_like(targets.regression_ltrb[:, 0])
        return targets.heatmap.amax(dim=1)[targets.regression_cells]

    @staticmethod
    def _training_proposals(padded: PaddedDetections, image_sizes: Sequence[tuple[int, int]]) -> list[Instances]:
        proposals = []
        for boxes, scores, valid, size in zip(padded.boxes, padded.scores, padded.valid, image_sizes, strict=True):
            proposals.append(
                Instances(size, proposal_boxes=Boxes(boxes[valid].detach()), objectness_logits=scores[valid].detach())
            )
        return proposals

    def _check(self, features: Sequence[Tensor], head_output: HeadOutput) -> None:
        suspects = {f"feature '{name}'": value for name, value in zip(self.in_features, features, strict=True)}
        outputs = {}
        for kind, maps in zip(("class heatmap", "box map", "class-agnostic heatmap"), head_output, strict=True):
            outputs.update(
                {f"{kind} of '{n}'": m for n, m in zip(self.in_features, maps, strict=True) if m is not None}
            )
        self.check_finite(suspects, outputs)


def _object_weight(gt_instances: Sequence[Instances]) -> Tensor | None:
    """``gt_scores`` of all objects of a batch, float32 ``[N]``, 1 where an image has none; None if no image has."""
    if not any(x.has("gt_scores") for x in gt_instances):
        return None
    return torch.cat(
        [x.gt_scores if x.has("gt_scores") else x.gt_boxes.tensor.new_ones(len(x)) for x in gt_instances]
    ).float()
