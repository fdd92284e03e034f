"""A project in the manner of region captioners: a vision transformer of its own below our pyramid levels, and a head
that writes into the proposals."""

import pytest
import torch
from client_steps import batch, built, detect, small_cfg, train_a_step
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, ROI_HEADS_REGISTRY, Backbone
from detectron2.modeling.backbone.fpn import FPN
from detectron2.structures import Instances
from tiny import image
from torch import nn

from centernet.modeling.backbone.bifpn import BiFPN
from centernet.modeling.backbone.fpn_p5 import LastLevelP6P7_P5
from centernet.modeling.roi_heads.custom_roi_heads import CustomROIHeads


def add_project_config(cfg):
    cfg.MODEL.CAPTION_FLOOR = 0.99
    cfg.MODEL.BIFPN.OUT_CHANNELS, cfg.MODEL.BIFPN.NUM_BIFPN = 64, 2  # as such projects do: keys of ours


class PatchTransformer(Backbone):
    """One block on patches of 16 pixels, and maps of stride 8, 16 and 32 from it."""

    def __init__(self, width=32):
        super().__init__()
        self.patches = nn.Conv2d(3, width, kernel_size=16, stride=16)
        self.block = nn.TransformerEncoderLayer(width, nhead=2, dim_feedforward=64, batch_first=True, dropout=0)
        self.up = nn.ConvTranspose2d(width, width, kernel_size=2, stride=2)
        self.down = nn.MaxPool2d(2)
        strides = {"layer3": 8, "layer4": 16, "layer5": 32}
        self.shapes = {name: ShapeSpec(channels=width, stride=stride) for name, stride in strides.items()}

    def forward(self, x):
        grid = self.patches(x)
        tokens = self.block(grid.flatten(2).transpose(1, 2))
        grid = tokens.transpose(1, 2).reshape(grid.shape)
        return {"layer3": self.up(grid), "layer4": grid, "layer5": self.down(grid)}

    def output_shape(self):
        return self.shapes

    @property
    def size_divisibility(self):
        return 32


@BACKBONE_REGISTRY.register()
def build_patch_fpn_backbone(cfg, input_shape):
    out = cfg.MODEL.FPN.OUT_CHANNELS
    body = PatchTransformer()
    return FPN(body, list(body.shapes), out, top_block=LastLevelP6P7_P5(out, out))


@BACKBONE_REGISTRY.register()
def build_patch_bifpn_backbone(cfg, input_shape):
    body, node = PatchTransformer(), cfg.MODEL.BIFPN
    return BiFPN(
        cfg=cfg,
        bottom_up=body,
        in_features=list(body.shapes),
        out_channels=node.OUT_CHANNELS,
        norm=node.NORM,
        num_levels=node.NUM_LEVELS,
        num_bifpn=node.NUM_BIFPN,
        separable_conv=node.SEPARABLE_CONV,
    )


@ROI_HEADS_REGISTRY.register()
class CaptionROIHeads(CustomROIHeads):
    """Raises its first proposal, so that every image has something to describe."""

    floor = None

    def forward(self, images, features, proposals, targets=None):
        if self.floor is not None and len(proposals[0]):
            proposals[0].objectness_logits[0] = self.floor
        return super().forward(images, features, proposals, targets)


def captioner(backbone):
    names = "MODEL.ROI_HEADS.NAME", "CaptionROIHeads", "MODEL.BACKBONE.NAME", backbone
    return built(small_cfg(add_project_config, *names, base="CenterNet2-F_R50_1x"))


@pytest.mark.parametrize(
    "backbone, top",
    [("build_patch_fpn_backbone", "top_block.p6"), ("build_patch_bifpn_backbone", "cell.1")],
)
def test_a_step(backbone, top):
    model = captioner(backbone)
    model.roi_heads.floor = 0.99
    losses, moved = train_a_step(model, batch(4, 2))
    assert {"loss_cls", "loss_box_reg", "loss_centernet_loc"} <= set(losses)
    assert "backbone.bottom_up.patches.weight" in moved
    assert any(name.startswith(f"backbone.{top}") for name in moved)
    assert len(detect(model, batch(1, 1))) == 2


def test_what_is_written_into_a_proposal_counts():
    """Detections are those of a list of proposals with the new value, and not those without it."""
    model = captioner("build_patch_fpn_backbone")
    inputs = [image(seed=5), image(seed=6)]
    plain = detect(model, inputs)
    model.roi_heads.floor = 0.99
    written = detect(model, inputs)
    with torch.no_grad():
        images = model.preprocess_image(inputs)
        features = model.backbone(images.tensor)
        listed = [
            Instances(p.image_size, proposal_boxes=p.proposal_boxes, objectness_logits=p.objectness_logits.clone())
            for p in model.proposal_generator(images, features, None)[0]
        ]
        before = float(listed[0].objectness_logits[0])
        listed[0].objectness_logits[0] = 0.99
        model.roi_heads.floor = None
        expected = model.roi_heads(images, features, listed)[0]
    assert torch.allclose(written[0].scores, expected[0].scores, atol=1e-6)
    assert float(written[0].scores[0] / plain[0].scores[0]) == pytest.approx((0.99 / before) ** 0.5, rel=1e-3)
    assert torch.equal(written[1].scores, plain[1].scores)  # the other image is as it was
