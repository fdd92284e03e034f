"""What heads predict: the published numbers, the published defects and their mends, there and back."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from centernet.tracking3d.ops.codecs import (
    BoxCodec,
    CenterCodec,
    DepthCodec,
    DimensionCodec,
    OrientationCodec,
    confidence_target,
    decode_confidence,
)
from centernet.tracking3d.ops.geometry import wrap_angle

quick = settings(max_examples=40, deadline=None)
END = torch.tensor([0.0, 0.0, 1.0, 1.0])  # from inclusive to continuous boxes
MODES = ["parity", "modern"]


def perfect(codec, alpha, preferred):
    """Outputs of a network without error, whose bin ``preferred`` is the surer one of two."""
    target = codec.encode(alpha)
    logit = torch.where(target.member, 5.0, -5.0).to(alpha)
    logit[..., preferred] += target.member.all(-1)
    return torch.stack((-logit, logit, target.residual.sin(), target.residual.cos()), -1).flatten(-2)


def away_from_edges(alpha):
    edges = torch.tensor([-5, -1, 1, 5], dtype=alpha.dtype) * math.pi / 6
    return (alpha[:, None] - edges).abs().amin(1) > 1e-5


def test_decoded_heads_are_the_published_ones(reference, assert_close):
    golden = reference("codecs")
    count, scale = len(golden("dec_cls")), golden("dec_scale_factor", torch.float64).item()
    assert_close(golden("dec_cls").softmax(1), golden("dec_scores"), 1e-5)
    boxes = BoxCodec().decode(golden("dec_rois")[:, None, 1:] + END, golden("dec_reg").view(count, 4, 4))
    boxes = BoxCodec.clip(boxes, tuple(golden("dec_img_shape", torch.int64).tolist()), mode="parity")
    boxes = (boxes - END) / scale
    assert_close(boxes, golden("dec_boxes"), 1e-5)
    centers = CenterCodec("parity").decode(golden("dec_cen").view(count, 4, 2), boxes + END)
    assert_close(centers, golden("dec_centre"), 1e-5)
    assert_close(DepthCodec().decode(golden("dec_dep")), golden("dec_depth"), 1e-5)
    assert_close(decode_confidence(golden("dec_unc")), golden("dec_conf"), 1e-5)
    assert_close(DimensionCodec().decode(golden("dec_dim").view(count, 4, 3)), golden("dec_dims"), 1e-5)
    rotation = OrientationCodec.normalise(golden("dec_rot_raw").view(count, 4, 8))
    assert_close(rotation, golden("dec_rot_normalised"), 1e-5)
    assert_close(OrientationCodec("parity").decode(rotation), golden("dec_alpha"), 1e-5)


def test_box_deltas_are_the_published_ones(reference, assert_close):
    golden = reference("codecs")
    proposals, boxes = golden("delta_proposals") + END, golden("delta_gt") + END
    assert_close(BoxCodec().encode(proposals, boxes), golden("delta_encoded"), 1e-5)
    unit = BoxCodec((1.0, 1.0, 1.0, 1.0))
    assert_close(unit.encode(proposals, boxes), golden("delta_encoded_unit"), 1e-5)
    decoded = BoxCodec().decode(proposals, golden("delta_encoded"))
    assert_close(decoded - END, golden("delta_decoded"), 1e-5)
    # also with the codec of detectron2
    from detectron2.modeling.box_regression import Box2BoxTransform

    theirs = Box2BoxTransform((10.0, 10.0, 5.0, 5.0)).apply_deltas(golden("delta_encoded"), proposals)
    assert_close(decoded, theirs, 1e-5)


def test_orientation_targets_are_the_published_ones(reference, assert_close):
    golden = reference("codecs")
    alpha = golden("bin_alpha")
    safe = away_from_edges(alpha)
    assert safe.sum() >= len(alpha) - 8
    for mode in MODES:
        target = OrientationCodec(mode).encode(alpha)
        assert torch.equal(target.member[safe], golden("bin_member")[safe] > 0)
        assert_close(target.residual[safe].sin(), golden("bin_residual")[safe].sin(), 1e-5)
        assert_close(target.residual[safe].cos(), golden("bin_residual")[safe].cos(), 1e-5)
        assert target.valid.all()


@pytest.mark.parametrize("preferred", [0, 1])
def test_published_decoding_turns_round_where_the_modern_one_does_not(reference, preferred):
    golden = reference("codecs")
    alpha = golden("bin_alpha")
    safe = away_from_edges(alpha)
    parity, modern = OrientationCodec("parity"), OrientationCodec("modern")
    published = parity.decode(perfect(parity, alpha, preferred))
    theirs = golden(f"bin_decode_prefer{preferred + 1}")
    assert wrap_angle(published - theirs)[safe].abs().max() < 1e-5
    assert wrap_angle(published - alpha).abs().max() > 3
    assert wrap_angle(modern.decode(perfect(modern, alpha, preferred)) - alpha).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("alpha", "first", "second"),
    [
        (-179, -179, 1), (-160, -160, 20), (-151, -151, 29), (-149, -149, None), (-90, -90, None), (-29, -29, 151),
        (-1, -1, 179), (1, -179, 1), (15, -165, 15), (29, -151, 29), (31, None, 31), (90, None, 90), (149, None, 149),
        (151, -29, 151), (179, -1, 179),
    ],
)  # fmt: skip
def test_the_table_of_the_specification(alpha, first, second):
    angle = torch.tensor([math.radians(alpha)])
    for preferred, expected in enumerate((first, second)):
        for mode, wanted in (("parity", expected), ("modern", alpha)):
            codec = OrientationCodec(mode)
            assert codec.encode(angle).member[0, preferred].item() == (expected is not None)
            if expected is not None:
                decoded = math.degrees(codec.decode(perfect(codec, angle, preferred)).item())
                assert decoded == pytest.approx(wanted, abs=1e-3)


@pytest.mark.parametrize("mode", MODES)
def test_unknown_angles(mode):
    target = OrientationCodec(mode).encode(torch.tensor([-10.0, 0.4, -12.0]))
    assert target.valid.tolist() == [False, True, False]
    assert target.member[1].tolist() == [True, True]
    assert target.member[[0, 2]].tolist() == [[mode == "parity"] * 2] * 2


def test_modern_targets_are_wrapped():
    codec = OrientationCodec()
    alpha = torch.linspace(-3.1, 3.1, 50, dtype=torch.float64)
    alpha = alpha[away_from_edges(alpha)]
    assert torch.equal(codec.encode(alpha + 2 * math.pi).member, codec.encode(alpha).member)


@quick
@given(st.lists(st.floats(-50, 50, width=32), min_size=8, max_size=8), st.sampled_from(MODES))
def test_every_output_decodes_to_a_finite_angle(numbers, mode):
    raw = torch.tensor(numbers)
    codec = OrientationCodec(mode)
    rotation = codec.normalise(raw)
    assert rotation.isfinite().all()
    assert rotation.unflatten(0, (2, 4))[:, 2:].norm(dim=1).max() < 1 + 1e-6
    alpha = codec.decode(raw)
    assert -math.pi - 1e-6 <= alpha.item() <= math.pi + 1e-6


@pytest.mark.parametrize("mode", MODES)
def test_zero_outputs_have_an_angle(mode):
    assert OrientationCodec(mode).decode(torch.zeros(3, 8)).tolist() == pytest.approx([math.pi / 2] * 3)


def test_the_surer_bin_is_that_of_larger_odds():
    """The published choice looks at one of two logits."""
    output = torch.tensor([4.0, 3.0, 0.0, 1.0, -2.0, 2.0, 0.0, 1.0])  # bin 1: odds e^-1; bin 2: odds e^4
    assert OrientationCodec("parity").decode(output).item() == pytest.approx(-math.pi / 2)
    assert OrientationCodec("modern").decode(output).item() == pytest.approx(math.pi / 2)


@quick
@given(st.lists(st.floats(0.01, 1e3), min_size=1, max_size=9), st.floats(300, 3000))
def test_depths_and_sizes_come_back(values, focal):
    depth = torch.tensor(values, dtype=torch.float64)
    for codec in (DepthCodec(), DepthCodec(reference_focal=1000.0)):
        code, valid = codec.encode(depth, focal)
        assert valid.all()
        torch.testing.assert_close(codec.decode(code, focal), depth)
    code, valid = DimensionCodec().encode(depth)
    torch.testing.assert_close(DimensionCodec().decode(code), depth)


def test_the_same_object_has_one_depth_code_in_all_cameras():
    codec = DepthCodec(reference_focal=1000.0)
    near, far = codec.encode(torch.tensor([10.0]), 500.0), codec.encode(torch.tensor([40.0]), 2000.0)
    torch.testing.assert_close(near.value, far.value)
    with pytest.raises(ValueError, match="focal length of the picture"):
        codec.encode(torch.tensor([10.0]))


def test_unknown_depths_and_sizes():
    value, valid = DepthCodec().encode(torch.tensor([0.0, -3.0, 20.0]))
    assert valid.tolist() == [False, False, True]
    assert value[:2].tolist() == [-1, -1]
    value, valid = DimensionCodec().encode(torch.tensor([[0.0, 2.0, -1.0]]))
    assert valid.tolist() == [[False, True, False]]
    assert value.isfinite().all()


@pytest.mark.parametrize(
    ("ratio", "expected"), [(1, 1), (1.01, 0.905), (1.0225, 0.8005), (1.05, 0.614), (1.1, 0.386), (1.3, 0.0725)]
)
def test_confidence_of_the_specification(ratio, expected):
    codec, depth = DepthCodec(), torch.tensor([20.0], requires_grad=True)
    for wrong in (depth * ratio, depth / ratio):
        target = confidence_target(codec.encode(wrong).value, codec.encode(depth.detach()).value)
        assert target.item() == pytest.approx(expected, abs=6e-4)
        assert not target.requires_grad
    assert decode_confidence(torch.tensor([-0.3, 0.4, 1.7])).tolist() == pytest.approx([0, 0.4, 1])


@quick
@given(st.lists(st.tuples(*[st.floats(-200, 2000)] * 4, st.floats(1, 500), st.floats(1, 500)), min_size=1, max_size=9))
def test_centers_come_back(rows):
    u, v, x, y, w, h = torch.tensor(rows, dtype=torch.float64).unbind(1)
    center, boxes = torch.stack((u, v), 1), torch.stack((x, y, x + w, y + h), 1)
    modern, parity = CenterCodec("modern"), CenterCodec("parity")
    code = modern.encode(center, boxes)
    torch.testing.assert_close(code, parity.encode(center, boxes))
    torch.testing.assert_close(modern.decode(code, boxes), center, atol=1e-9, rtol=0)
    torch.testing.assert_close(parity.decode(code, boxes), center - 0.5, atol=1e-9, rtol=0)


@quick
@given(st.lists(st.tuples(*[st.floats(0, 900)] * 4, *[st.floats(1, 700)] * 4), min_size=1, max_size=9))
def test_boxes_come_back_up_to_the_limit(rows):
    x, y, u, v, w, h, s, t = torch.tensor(rows, dtype=torch.float64).unbind(1)
    proposals, boxes = torch.stack((x, y, x + w, y + h), 1), torch.stack((u, v, u + s, v + t), 1)
    codec = BoxCodec()
    again = codec.decode(proposals, codec.encode(proposals, boxes))
    within = ((s / w).log().abs() < codec.limit) & ((t / h).log().abs() < codec.limit)
    torch.testing.assert_close(again[within], boxes[within], atol=1e-8, rtol=0)
    grown = (again[:, 2] - again[:, 0]) / w
    assert (grown <= 62.5 + 1e-9).all()
    assert (grown >= 0.016 - 1e-9).all()


def test_clipping():
    boxes = torch.tensor([[-5.0, -5.0, 200.0, 200.0], [150.0, 20.0, 180.0, 30.0], [-9.0, -9.0, -3.0, -2.0]])
    modern = BoxCodec.clip(boxes, (50, 100))
    assert modern.tolist() == [[0, 0, 100, 50], [100, 20, 100, 30], [0, 0, 0, 0]]
    parity = BoxCodec.clip(boxes, (50, 100), mode="parity")
    assert parity.tolist() == [[0, 0, 100, 50], [99, 20, 100, 30], [0, 0, 1, 1]]


def test_half_precision_is_computed_in_float32():
    depth = DepthCodec().decode(torch.tensor(24.0, dtype=torch.float16))
    assert depth.item() == pytest.approx(math.exp(12))
    assert OrientationCodec().decode(torch.zeros(2, 8, dtype=torch.bfloat16)).dtype == torch.float32
