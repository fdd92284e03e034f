"""Under autocast convolutions compute in half precision; losses, box coding, pooling and NMS in float32.

"In float32" is tested as: with half-precision input the result is exactly that of the same numbers in float32.
"""

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from tiny import image, tiny_cfg, with_objects

from centernet.modeling.build import build_detector
from centernet.modeling.layers.deform_conv import DFConv2d
from centernet.modeling.layers.roi_pooler import use_all_cores
from centernet.modeling.roi_heads.box_predictor import ProbabilisticBoxPredictor
from centernet.ops.decode import DecodeRules, decode
from centernet.ops.losses import (
    LOC_LOSS_TYPES,
    FocalRules,
    heatmap_focal_loss,
    iou_loss,
    sigmoid_cross_entropy,
    softmax_cross_entropy,
)
from centernet.ops.nms import nms_best

HALF = [torch.bfloat16, torch.float16]
pytestmark = pytest.mark.parametrize("dtype", HALF, ids=["bfloat16", "float16"])


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def boxes(count, seed=0):
    corners = torch.rand(count, 2, generator=torch.Generator().manual_seed(seed)) * 1000
    return torch.cat((corners, corners + 5 + random(count, 2, seed=seed + 1).abs() * 50), dim=1)


def same_as_float32(function, dtype, *inputs):
    """``function`` of half-precision ``inputs`` under autocast, compared with that of the same numbers in float32."""
    halves = [x.to(dtype) for x in inputs]
    expected = function(*(x.float() for x in halves))
    with torch.autocast("cpu", dtype):
        found = function(*halves)
    found, expected = (x if isinstance(x, tuple) else (x,) for x in (found, expected))
    for ours, theirs in zip(found, expected, strict=True):
        if theirs.is_floating_point():
            assert ours.dtype == torch.float32
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("kind", LOC_LOSS_TYPES)
def test_box_loss(dtype, kind):
    target = random(50, 4, seed=2).abs() * 20
    same_as_float32(lambda x: iou_loss(x, target, kind), dtype, random(50, 4).abs() * 20)


def test_focal_loss(dtype):
    heatmap = random(200, 3, seed=1).sigmoid()
    cells, labels = torch.arange(9) * 7, torch.arange(9) % 3
    same_as_float32(lambda x: heatmap_focal_loss(x, heatmap, cells, labels, FocalRules()), dtype, random(200, 3) * 4)


@pytest.mark.parametrize("loss", [sigmoid_cross_entropy, softmax_cross_entropy])
def test_classification_loss(dtype, loss):
    labels = torch.arange(60) % 6
    same_as_float32(lambda x: loss(x, labels), dtype, random(60, 6) * 3)


def test_decoding_and_nms(dtype):
    rules = DecodeRules(0.01, 40, 30, 0.5)
    same_as_float32(lambda h, b: tuple(decode([h], [b], [8], None, rules)), dtype, random(2, 1, 12, 12),
                    random(2, 4, 12, 12, seed=1).abs() * 3)  # fmt: skip
    candidates, groups = boxes(80)[None], torch.zeros(1, 80, dtype=torch.int64)
    same_as_float32(lambda b, s: nms_best(b, s, groups, groups == 0, 0.3, 20, False), dtype, candidates,
                    random(1, 80).sigmoid())  # fmt: skip


def test_box_coding(dtype):
    transform, source, target = Box2BoxTransform((10.0, 10.0, 5.0, 5.0)), boxes(40), boxes(40, seed=5)
    same_as_float32(lambda deltas: transform.apply_deltas(deltas, source), dtype, random(40, 4))
    with torch.autocast("cpu", dtype):
        assert torch.equal(transform.get_deltas(source, target), transform.get_deltas(source, target))
        assert transform.get_deltas(source, target).dtype == torch.float32


@pytest.mark.parametrize("kind", ["smooth_l1", "giou", "diou", "ciou"])
@pytest.mark.parametrize("weighted", [False, True])
def test_second_stage_losses(dtype, kind, weighted):
    predictor = ProbabilisticBoxPredictor(
        ShapeSpec(channels=8), box2box_transform=Box2BoxTransform((10.0, 10.0, 5.0, 5.0)), num_classes=3,
        cls_agnostic_bbox_reg=True, box_reg_loss_type=kind,
    )  # fmt: skip
    regions = Instances((1100, 1100), proposal_boxes=Boxes(boxes(20)), gt_boxes=Boxes(boxes(20) + 3))
    regions.gt_classes = torch.arange(20) % 4
    if weighted:
        regions.gt_scores = torch.linspace(0.1, 1, 20)

    def losses(logits, deltas):
        with EventStorage(0):
            return tuple(predictor.losses((logits, deltas), [regions]).values())

    same_as_float32(losses, dtype, random(20, 4), random(20, 4) * 0.1)


def test_pooling_places_boxes_in_float32(dtype):
    """In bfloat16 a corner at 1,000 pixels is known to 4 pixels."""
    pooler = use_all_cores(ROIPooler(7, [1 / 8, 1 / 16], 0, "ROIAlignV2"))
    maps = [random(1, 4, 140, 140).to(dtype), random(1, 4, 70, 70).to(dtype)]
    expected = pooler([m.float() for m in maps], [Boxes(boxes(30))])
    for inside in (True, False):
        with torch.autocast("cpu", dtype, enabled=inside):
            found = pooler(maps, [Boxes(boxes(30))])
        assert found.dtype == dtype
        assert torch.equal(found, expected.to(dtype))


def test_deformable_sampling(dtype):
    layer = DFConv2d(4, 4)
    torch.nn.init.normal_(layer.offset.weight, std=0.5)
    x, offset = random(1, 4, 9, 9).to(dtype), random(1, 18, 9, 9).to(dtype)
    expected = layer.conv(x.float(), offset.float(), None)
    with torch.autocast("cpu", dtype):
        assert torch.equal(layer.conv(x, offset, None), expected.to(dtype))


FAMILIES = {
    "one-stage": ("CenterNet-FPN_R50_1x",),
    "cascade": ("CenterNet2_R50_1x",),
    "DLA-BiFPN": ("CenterNet2_DLA-BiFPN-P3_4x", "MODEL.DLA.NORM", "BN", "MODEL.BIFPN.OUT_CHANNELS", 64,
                  "MODEL.BIFPN.NUM_BIFPN", 1),
    "stride 4": ("CenterNet-S4_DLA_8x", "MODEL.DLA.NORM", "BN"),
    "deformable": ("CenterNet2_R50_1x", "MODEL.CENTERNET.USE_DEFORMABLE", True, "MODEL.RESNETS.DEFORM_MODULATED", True,
                   "MODEL.RESNETS.DEFORM_ON_PER_STAGE", [False, False, False, True], "MODEL.RESNETS.DEPTH", 50,
                   "MODEL.RESNETS.RES2_OUT_CHANNELS", 256, "MODEL.BACKBONE.NAME", "build_p67_resnet_fpn_backbone"),
    "timm": ("timm/CenterNet2_MobileNetV2_FPN_1x",),
}  # fmt: skip


def step(family, dtype, sizes=((64, 96), (64, 96))):
    """Losses and gradients of one training step."""
    name, *options = FAMILIES[family]
    cfg = tiny_cfg(name, "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 16, *options)
    torch.manual_seed(0)
    model = build_detector(cfg).train()
    batch = [with_objects(image(*size, seed=k), 3, seed=k) for k, size in enumerate(sizes)]
    torch.manual_seed(1)  # the regions that are sampled
    with EventStorage(0), torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        losses = model(batch)
    sum(losses.values()).backward()
    return losses, {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


def slow(family):
    return pytest.param(family, marks=pytest.mark.slow)


@pytest.mark.parametrize("family", [slow(f) if f == "stride 4" else f for f in FAMILIES])
def test_training_step_of_every_family(family, dtype):
    if dtype == torch.float16 and family != "one-stage":
        pytest.skip("float16 is slow on a CPU; one family is enough")
    if family == "timm":
        pytest.importorskip("timm")
    expected, exact = step(family, torch.float32)
    losses, gradients = step(family, dtype)
    assert losses.keys() == expected.keys()
    for name, loss in losses.items():
        assert loss.dtype == torch.float32, name
        assert float(loss.detach()) == pytest.approx(float(expected[name].detach()), rel=0.1, abs=0.02), name
    for name, gradient in gradients.items():
        assert gradient.dtype == torch.float32, name
        assert torch.isfinite(gradient).all(), name
    # Deep in a network with random weights gradients are chaotic: rounding nothing but the weights to bfloat16 leaves
    # a cosine of 0.3 with those of the body. So these are compared at the end of the first stage.
    ends = [name for name in gradients if name.endswith((".bbox_pred.weight", "agn_hm.weight", "cls_logits.weight"))]
    for name in (name for name in ends if "centernet_head" in name):
        assert torch.cosine_similarity(gradients[name].flatten(), exact[name].flatten(), dim=0) > 0.9, name
