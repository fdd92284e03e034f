"""A project in the manner of few-shot detectors: a first stage of its own from our head and losses, and a box head
whose classifier extends ours."""

import pytest
import torch
from client_steps import batch, built, detect, small_cfg, train_a_step
from detectron2.modeling import PROPOSAL_GENERATOR_REGISTRY, ROI_HEADS_REGISTRY
from detectron2.modeling.roi_heads import StandardROIHeads
from detectron2.structures import Boxes, Instances
from tiny import image
from torch import nn
from torch.nn import functional

from centernet.modeling.dense_heads.centernet_head import CenterNetHead
from centernet.modeling.dense_heads.utils import _transpose, reduce_sum
from centernet.modeling.layers.heatmap_focal_loss import binary_heatmap_focal_loss_jit
from centernet.modeling.layers.iou_loss import IOULoss
from centernet.modeling.layers.ml_nms import ml_nms
from centernet.modeling.roi_heads.custom_fast_rcnn import CustomFastRCNNOutputLayers


def add_project_config(cfg):
    cfg.MODEL.ROI_BOX_HEAD.COSINE_SCALE = 20.0


class CosineOutputLayers(CustomFastRCNNOutputLayers):
    """Classes by direction; the losses, the product of scores and the boxes are inherited."""

    def __init__(self, cfg, input_shape, **kwargs):
        super().__init__(cfg, input_shape, **kwargs)
        self.scale = cfg.MODEL.ROI_BOX_HEAD.COSINE_SCALE

    def forward(self, x):
        direction = functional.normalize(x.flatten(1), dim=1)
        weight = functional.normalize(self.cls_score.weight, dim=1)
        return self.scale * functional.linear(direction, weight), self.bbox_pred(x.flatten(1))


@ROI_HEADS_REGISTRY.register()
class FewShotROIHeads(StandardROIHeads):
    @classmethod
    def _init_box_head(cls, cfg, input_shape):
        parts = super()._init_box_head(cfg, input_shape)
        parts["box_predictor"] = CosineOutputLayers(cfg, parts["box_head"].output_shape)
        return parts


@PROPOSAL_GENERATOR_REGISTRY.register()
class FewShotProposals(nn.Module):
    """A first stage written with dense loops, on our head, losses and NMS."""

    def __init__(self, cfg, input_shape):
        super().__init__()
        self.node = cfg.MODEL.CENTERNET
        self.centernet_head = CenterNetHead(cfg, [input_shape[f] for f in self.node.IN_FEATURES])
        self.iou_loss = IOULoss(self.node.LOC_LOSS_TYPE)

    def forward(self, images, features, gt_instances):
        _, boxes, heat = self.centernet_head([features[f] for f in self.node.IN_FEATURES])
        places = [self.places(level, stride) for level, stride in zip(heat, self.node.FPN_STRIDES, strict=True)]
        losses = {} if gt_instances is None else self.losses(boxes, heat, places, gt_instances)
        with torch.no_grad():
            return [self.propose(k, size, boxes, heat, places) for k, size in enumerate(images.image_sizes)], losses

    @staticmethod
    def places(level, stride):
        y, x = torch.meshgrid(*(torch.arange(n) * stride + stride // 2 for n in level.shape[2:]), indexing="ij")
        return torch.stack((x, y), dim=-1).reshape(-1, 2).float()

    def losses(self, boxes, heat, places, gt_instances):
        sizes = [len(p) for p in places]
        stride = torch.cat([torch.full((n,), float(s)) for n, s in zip(sizes, self.node.FPN_STRIDES, strict=True)])
        per_image = [self.targets(torch.cat(places), stride, sizes, gt.gt_boxes.tensor) for gt in gt_instances]
        heatmap, ltrb, peaks = (torch.cat(_transpose(list(t), sizes)) for t in zip(*per_image, strict=True))
        strides = torch.cat(_transpose([stride] * len(per_image), sizes))
        peak = peaks.repeat_interleave(peaks)  # as often as objects have their centre there
        positives = torch.arange(len(peaks)).repeat_interleave(peaks)
        count = reduce_sum(torch.tensor([float(len(peak))])).clamp(min=1)
        pos, neg = binary_heatmap_focal_loss_jit(
            torch.cat([level.permute(0, 2, 3, 1).reshape(-1) for level in heat]),
            heatmap,
            positives,
            alpha=self.node.HM_FOCAL_ALPHA,
            beta=self.node.HM_FOCAL_BETA,
            gamma=self.node.LOSS_GAMMA,
            sigmoid_clamp=self.node.SIGMOID_CLAMP,
            ignore_high_fp=self.node.IGNORE_HIGH_FP,
        )
        taught = ltrb.max(dim=1).values >= 0
        predicted = torch.cat([level.permute(0, 2, 3, 1).reshape(-1, 4) for level in boxes])
        target = ltrb[taught] / strides[taught, None]
        located = self.iou_loss(predicted[taught], target, torch.ones(len(target)), reduction="sum")
        return {
            "loss_centernet_agn_pos": self.node.POS_WEIGHT * pos / count[0],
            "loss_centernet_agn_neg": self.node.NEG_WEIGHT * neg / count[0],
            "loss_centernet_loc": self.node.REG_WEIGHT * located / reduce_sum(taught.float().sum()).clamp(min=1),
        }

    def targets(self, places, stride, sizes, gt):
        """Of one image, every cell against every object: heatmap ``[M]``, ltrb ``[M, 4]``, centres by cell ``[M]``."""
        center, s = (gt[:, :2] + gt[:, 2:]) / 2, stride[:, None, None]
        cell = (center[None] / s).long() * s + s / 2
        peak = (places[:, None] == cell).all(dim=2)
        half = (gt[:, 2:] - gt[:, :2]).norm(dim=1) / 2
        ends = torch.tensor(self.node.SOI, dtype=torch.float32).repeat_interleave(torch.tensor(sizes), dim=0)
        assigned = (half >= ends[:, :1]) & (half <= ends[:, 1:])
        delta = (1 - self.node.HM_MIN_OVERLAP) / (1 + self.node.HM_MIN_OVERLAP)
        area = (gt[:, 2] - gt[:, 0]) * (gt[:, 3] - gt[:, 1])
        radius2 = (2 * delta**2 * area).clamp(min=self.node.MIN_RADIUS**2)
        distance = (places[:, None] - center).square().sum(dim=2).masked_fill(peak, 0) / radius2
        nobody = {"pad": (0, 1), "value": torch.inf}  # an image may be without objects
        heatmap = (-functional.pad(distance, **nobody).min(dim=1).values).exp()
        sides = torch.cat((places[:, None] - gt[:, :2], gt[:, 2:] - places[:, None]), dim=2)
        near = ((places[:, None] - cell).abs() <= s).all(dim=2)
        distance = distance.masked_fill(~(near & assigned & (sides.min(dim=2).values > 0)), torch.inf)
        best = functional.pad(distance, **nobody).min(dim=1)
        ltrb = functional.pad(sides, (0, 0, 0, 1))[torch.arange(len(places)), best.indices]
        ltrb[torch.isinf(best.values)] = -1e8
        return heatmap.where(heatmap >= 1e-4, torch.zeros(())), ltrb, (peak & assigned).sum(dim=1)

    def propose(self, index, size, boxes, heat, places):
        found = []
        for ltrb, logits, place, stride in zip(boxes, heat, places, self.node.FPN_STRIDES, strict=True):
            scores = logits[index].sigmoid().flatten().sqrt()
            sides = ltrb[index].flatten(1).T * stride
            corners = torch.cat((place - sides[:, :2], torch.maximum(place + sides[:, 2:], place + 0.01)), dim=1)
            found.append(Instances(size, proposal_boxes=Boxes(corners), scores=scores, objectness_logits=scores))
        kept = ml_nms(Instances.cat(found), self.node.NMS_TH_TEST, max_proposals=100)
        if self.training:
            kept.remove("scores")
        return kept


def cfg(*overrides):
    base = "CenterNet2-F_R50_1x"
    names = "MODEL.ROI_HEADS.NAME", "FewShotROIHeads", "MODEL.PROPOSAL_GENERATOR.NAME", "FewShotProposals"
    return small_cfg(add_project_config, *names, *overrides, base=base)


@pytest.mark.parametrize("sigmoid", [False, True])
def test_a_step_and_detections(sigmoid):
    model = built(cfg("MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE", sigmoid))
    assert model.roi_heads.box_predictor.mult_proposal_score
    losses, moved = train_a_step(model, batch(5, 3))
    assert {"loss_cls", "loss_box_reg", "loss_centernet_loc"} <= set(losses)
    assert {"roi_heads.box_predictor.cls_score.weight", "proposal_generator.centernet_head.agn_hm.weight"} <= moved
    assert len(detect(model, [image(seed=5), image(64, 128, seed=6)])) == 2


def test_the_published_losses_are_those_of_our_first_stage():
    """Written out with dense loops from the published parts, the first stage's losses are ours."""
    theirs, inputs = built(cfg()), batch(6, 0, 3)
    ours = built(cfg("MODEL.PROPOSAL_GENERATOR.NAME", "CenterNet"), seed=1)
    ours.load_state_dict(theirs.state_dict())
    images = ours.preprocess_image(inputs)
    with torch.no_grad():
        features = ours.backbone(images.tensor)
        targets = [x["instances"] for x in inputs]
        expected = ours.proposal_generator.train()(images, features, targets)[1]
        found = theirs.proposal_generator.train()(images, features, targets)[1]
    assert {name: float(loss) for name, loss in found.items()} == pytest.approx(
        {name: float(loss) for name, loss in expected.items()}, rel=1e-4
    )
