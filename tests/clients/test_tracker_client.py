"""A project in the manner of global trackers: our cascade as its base class, our federated loss for its own, our
backbone by name."""

import json

import pytest
import torch
from client_steps import batch, built, detect, small_cfg, train_a_step
from detectron2.config import configurable
from detectron2.modeling import BACKBONE_REGISTRY, ROI_HEADS_REGISTRY
from tiny import image
from torch import nn
from torch.nn import functional

from centernet.modeling.roi_heads.custom_roi_heads import CustomCascadeROIHeads
from centernet.modeling.roi_heads.fed_loss import get_fed_loss_inds, load_class_freq


def add_project_config(cfg):
    cfg.MODEL.ASSO_ON = True
    cfg.MODEL.ASSO_HEAD = type(cfg)({"DIM": 16, "NUM_CAT": 4})


@ROI_HEADS_REGISTRY.register()
class TrackingROIHeads(CustomCascadeROIHeads):
    """Our cascade, and an embedding of every box that tells identities apart."""

    @configurable
    def __init__(self, *, asso_dim, asso_cat, freq_weight, **kwargs):
        super().__init__(**kwargs)
        self.asso_cat = asso_cat
        self.register_buffer("asso_freq", freq_weight)
        shape = self.box_head[0].output_shape
        self.embed = nn.Linear(shape.channels, asso_dim)
        self.asso_cls = nn.Linear(asso_dim, self.num_classes)

    @classmethod
    def from_config(cls, cfg, input_shape):
        node, box = cfg.MODEL.ASSO_HEAD, cfg.MODEL.ROI_BOX_HEAD
        return {
            **super().from_config(cfg, input_shape),
            "asso_dim": node.DIM,
            "asso_cat": node.NUM_CAT,
            "freq_weight": load_class_freq(box.CAT_FREQ_PATH, box.FED_LOSS_FREQ_WEIGHT),
        }

    def embeddings(self, features, boxes):
        pooled = self.box_pooler([features[f] for f in self.box_in_features], boxes)
        return self.embed(self.box_head[0](pooled))

    def forward(self, images, features, proposals, targets=None):
        instances, losses = super().forward(images, features, proposals, targets)
        if self.training:
            found = self.embeddings(features, [p.proposal_boxes for p in instances])
            classes = torch.cat([p.gt_classes for p in instances])
            return instances, {**losses, "loss_asso": self.association_loss(found, classes)}
        sizes = [len(x) for x in instances]
        for x, found in zip(
            instances, self.embeddings(features, [x.pred_boxes for x in instances]).split(sizes), strict=True
        ):
            x.reid_features = found
        return instances, {}

    def association_loss(self, found, classes):
        present = get_fed_loss_inds(classes, num_sample_cats=self.asso_cat, C=self.num_classes, weight=self.asso_freq)
        weight = torch.zeros(self.num_classes + 1)
        weight[present] = 1
        target = functional.one_hot(classes, self.num_classes + 1)[:, :-1].float()
        loss = functional.binary_cross_entropy_with_logits(self.asso_cls(found), target, reduction="none")
        return (loss * weight[:-1]).mean()


@pytest.fixture
def cfg(tmp_path):
    counts = tmp_path / "cat_info.json"
    counts.write_text(json.dumps([{"id": i + 1, "image_count": i * i + 1} for i in (3, 0, 4, 1, 2)]))
    return small_cfg(
        add_project_config,
        *("MODEL.ROI_HEADS.NAME", "TrackingROIHeads", "MODEL.BACKBONE.NAME", "build_p67_resnet_fpn_backbone"),
        *("MODEL.ROI_BOX_HEAD.CAT_FREQ_PATH", str(counts), "SOLVER.RESET_ITER", True, "SOLVER.TRAIN_ITER", 10),
        *("MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE", True, "MODEL.ROI_BOX_HEAD.USE_FED_LOSS", True),
        *("MODEL.ROI_BOX_HEAD.FED_LOSS_NUM_CAT", 4),
    )


def test_a_step_and_detections_with_embeddings(cfg):
    model = built(cfg)
    assert model.roi_heads.asso_freq.tolist() == pytest.approx([n**0.5 for n in (1, 2, 5, 10, 17)])
    losses, moved = train_a_step(model, batch(5, 4))
    assert losses["loss_asso"] > 0
    assert {"loss_cls_stage2", "loss_box_reg_stage2", "loss_centernet_agn_pos"} <= set(losses)
    assert {"roi_heads.embed.weight", "roi_heads.box_predictor.2.bbox_pred.weight"} <= moved
    for found in detect(model, [image(seed=5), image(64, 128, seed=6)]):
        assert found.reid_features.shape == (len(found), 16)


def test_detections_are_those_of_the_base_class(cfg):
    theirs, inputs = built(cfg), [image(seed=7)]
    cfg.MODEL.ROI_HEADS.NAME = "CustomCascadeROIHeads"
    ours = built(cfg, seed=1)
    ours.load_state_dict(theirs.state_dict(), strict=False)
    assert torch.equal(detect(theirs, inputs)[0].scores, detect(ours, inputs)[0].scores)


@pytest.mark.parametrize("name", ["build_p37_dla_bifpn_backbone", "build_p67_res2net_fpn_backbone"])
def test_names_of_backbones_in_such_files(name):
    assert name in BACKBONE_REGISTRY
