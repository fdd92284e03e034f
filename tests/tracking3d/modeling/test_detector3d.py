"""Parts of the detector: pooling, decoding, the pyramid, resize factors, focal lengths."""

import math

import pytest
import torch
from detectron2.structures import Boxes
from torchvision.ops import roi_align

from centernet.errors import UserError
from centernet.modeling.backbone.dla import DLA
from centernet.tracking3d.modeling.backbone import DLAUpPyramid
from centernet.tracking3d.modeling.decoding import (
    DecodingRules,
    Picture,
    box3d_codecs,
    class_scores,
    decode_detections,
)
from centernet.tracking3d.modeling.meta_arch import QD3DT, resize_factors
from centernet.tracking3d.modeling.norm import FixedStatisticsNorm, fix_statistics
from centernet.tracking3d.modeling.roi_align import build_pooler
from centernet.tracking3d.ops.losses import Box3DOutputs


def test_pooling_is_that_of_torchvision_for_boxes_of_a_cell_and_more():
    maps = [torch.randn(1, 3, 32 >> i, 48 >> i) for i in range(4)]
    boxes = torch.tensor([[3.0, 5.0, 60.5, 47.25], [-20.0, -10.0, 40.0, 30.0], [100.0, 90.0, 250.0, 200.0]])
    pooler = build_pooler(7, [4, 8, 16, 32], 2, "ROIAlign")
    expected = [roi_align(maps[0], [boxes[:2]], 7, 1 / 4, 2), roi_align(maps[1], [boxes[2:]], 7, 1 / 8, 2)]
    torch.testing.assert_close(pooler(maps, [Boxes(boxes)]), torch.cat(expected))


def test_a_box_below_a_cell_is_not_enlarged():
    ramp = torch.arange(16.0).expand(1, 1, 16, 16).contiguous()
    pooler = build_pooler(2, [4, 8], 2, "ROIAlign")
    values = pooler([ramp, ramp[..., ::2, ::2]], [Boxes(torch.tensor([[20.0, 20.0, 21.0, 21.0]]))])
    # a quarter of a cell from 5: bins have their middles at 5 + 1/16 and 5 + 3/16
    torch.testing.assert_close(values[0, 0, 0], torch.tensor([5 + 1 / 16, 5 + 3 / 16]))


def outputs(count, classes):
    raw = torch.zeros(count, classes)
    rotation = torch.zeros(count, classes, 8)
    rotation[..., 3] = rotation[..., 7] = 1
    return Box3DOutputs(
        raw + 2 * math.log(20), raw + 0.9, torch.zeros(count, classes, 3), rotation, raw[..., None].expand(-1, -1, 2)
    )


def decode(logits, mode, most=100, hidden=(), resize=(1.0, 1.0)):
    proposals = torch.tensor([[10.0, 10, 50, 50], [11.0, 10, 51, 50], [100.0, 20, 140, 80]])
    rules = DecodingRules(most=most, hidden_classes=hidden, mode=mode)
    deltas = torch.zeros(3, 4 * (logits.shape[1] - 1))
    picture = Picture((128, 160), resize)
    return decode_detections(
        proposals, class_scores(logits), deltas, outputs(3, logits.shape[1] - 1), picture, box3d_codecs(mode), rules
    )


LOGITS = torch.tensor([[1.0, -9, 0], [2.0, -9, 0], [4.0, -9, 0]])


def test_order_and_cap():
    modern, parity = decode(LOGITS, "modern"), decode(LOGITS, "parity")
    assert modern.boxes[:, 0].tolist() == [100, 11]  # best first
    assert parity.boxes[:, 0].tolist() == [11, 100]  # in the order of the proposals
    assert decode(LOGITS, "modern", most=1).boxes[:, 0].tolist() == [100]
    assert decode(LOGITS, "parity", most=1).boxes[:, 0].tolist() == [11]
    torch.testing.assert_close(modern.depth, torch.full((2,), 20.0))
    torch.testing.assert_close(modern.confidence, torch.full((2,), 0.9))


def test_modern_centres_have_no_bias():
    modern, parity = decode(LOGITS, "modern", resize=(2.0, 2.0)), decode(LOGITS, "parity", resize=(2.0, 2.0))
    assert modern.boxes[0].tolist() == [50, 10, 70, 40]
    assert modern.center2d[0].tolist() == [60, 25]
    assert parity.boxes[1].tolist() == [50, 10, 70.5, 40.5]  # (139, 79) / 2 is the last pixel
    assert parity.center2d[1].tolist() == [59.75, 24.75]


def test_hidden_classes_are_reported_in_parity_only():
    assert decode(LOGITS, "modern", hidden=(0,)).classes.tolist() == []
    assert decode(LOGITS, "parity", hidden=(0,)).classes.tolist() == [0, 0]


def test_scores_of_a_probabilistic_first_stage():
    logits = torch.tensor([[0.0, 0.0], [3.0, 0.0]])
    torch.testing.assert_close(class_scores(logits)[:, 0], torch.tensor([0.5, 1 / (1 + math.exp(-3))]))
    torch.testing.assert_close(class_scores(logits, torch.tensor([0.32, 0.5]))[0, 0], torch.tensor(0.4))


def test_no_proposal_gives_no_detection():
    empty = torch.zeros(0, 4)
    none = Box3DOutputs(
        torch.zeros(0, 2), torch.zeros(0, 2), torch.zeros(0, 2, 3), torch.zeros(0, 2, 8), torch.zeros(0, 2, 2)
    )
    found = decode_detections(
        empty, torch.zeros(0, 2), torch.zeros(0, 8), none, Picture((9, 9)), box3d_codecs("modern"), DecodingRules()
    )
    assert [len(field) for field in found] == [0] * 9


@pytest.mark.parametrize(
    ("original", "resized", "short", "factor"),
    [
        ((375, 1242), (448, 1484), 448, 448 / 375),
        ((1280, 1920), (853, 1280), 854, 2 / 3),
        ((900, 1600), (900, 1600), 900, 1.0),
        ((1600, 900), (1600, 900), 900, 1.0),
    ],
)
def test_parity_has_one_resize_factor(original, resized, short, factor):
    assert resize_factors(original, resized, mode="parity", short_side=short) == (factor, factor)
    x, y = resize_factors(original, resized)
    assert (x * original[1], y * original[0]) == pytest.approx((resized[1], resized[0]))


def test_pyramid_levels():
    pyramid = DLAUpPyramid(DLA(34, "BN", DLAUpPyramid.IN_FEATURES), 16)
    levels = pyramid(torch.randn(1, 3, 96, 160))
    strides = {name: shape.stride for name, shape in pyramid.output_shape().items()}
    assert strides == {"p2": 4, "p3": 8, "p4": 16, "p5": 32, "p6": 64}
    assert {name: tuple(x.shape) for name, x in levels.items()} == {
        "p2": (1, 16, 24, 40), "p3": (1, 16, 12, 20), "p4": (1, 16, 6, 10), "p5": (1, 16, 3, 5), "p6": (1, 16, 2, 3),
    }  # fmt: skip
    sum(x.sum() for x in levels.values()).backward()
    idle = {name for name, p in pyramid.named_parameters() if p.grad is None}
    assert all(".project." in name for name in idle)


def test_fixed_statistics():
    body = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.Sequential(torch.nn.BatchNorm2d(4)))
    names = list(body.state_dict())
    fix_statistics(body).train()
    norm = body[1][0]
    assert isinstance(norm, FixedStatisticsNorm)
    x = 3 + torch.randn(2, 4, 5, 5)
    torch.testing.assert_close(norm(x), x / math.sqrt(1 + 1e-5))
    assert norm.running_mean.tolist() == [0] * 4
    assert list(body.state_dict()) == names
    assert norm.weight.requires_grad


def test_a_reference_focal_length_wants_intrinsics():
    model = QD3DT.__new__(QD3DT)
    torch.nn.Module.__init__(model)
    model.mode, model.short_side, model.needs_focal = "modern", 0, True
    with pytest.raises(UserError, match="has no 'intrinsics'"):
        model._pictures([{"height": 10, "width": 20}], [(20, 40)])
    (picture,) = model._pictures([{"height": 10, "width": 20, "intrinsics": [[700.0, 0, 0, 0]]}], [(20, 40)])
    assert picture == Picture((20, 40), (2.0, 2.0), 1400.0)
