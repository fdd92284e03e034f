import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from centernet.ops.losses import (
    FocalRules,
    heatmap_focal_loss,
    iou_loss,
    sigmoid_cross_entropy,
    softmax_cross_entropy,
)

LOGITS = torch.tensor([[0.3, -1], [2, 0.5], [-3, 4]])
HEATMAP = torch.tensor([[1, 0.2], [0.5, 0], [0, 0.9]])
ZERO = torch.tensor([0])


def test_published_iou_losses():
    predicted, target = torch.tensor([2.0, 3, 4, 5]), torch.tensor([1.0, 1, 5, 6])
    assert float(iou_loss(predicted, target, "iou")) == pytest.approx(0.67688668, abs=1e-7)
    assert float(iou_loss(predicted, target, "linear_iou")) == pytest.approx(0.49180329, abs=1e-7)
    assert float(iou_loss(predicted, target, "giou")) == pytest.approx(0.53942233, abs=1e-7)


def test_iou_offset_is_a_parameter():
    predicted, target = torch.tensor([1.0, 1, 1, 1]), torch.tensor([1.0, 1, 1, 3])
    assert float(iou_loss(predicted, target, "linear_iou", offset=0)) == pytest.approx(1 - 4 / 8)
    assert float(iou_loss(predicted, target, "linear_iou")) == pytest.approx(1 - 5 / 9)


def test_unknown_iou_loss_is_named():
    with pytest.raises(ValueError, match="'diou'.*giou"):
        iou_loss(torch.ones(4), torch.ones(4), "diou")


sides = st.lists(st.floats(0, 50, width=32), min_size=4, max_size=4).map(torch.tensor)


@settings(deadline=None)
@given(sides, sides, st.sampled_from(["giou", "linear_iou", "iou"]), st.sampled_from([0.0, 1.0]))
def test_iou_losses_are_finite_with_finite_gradients(predicted, target, kind, offset):
    predicted = predicted.requires_grad_()
    loss = iou_loss(predicted, target, kind, offset=offset)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(predicted.grad).all()
    assert float(loss.detach()) >= -1e-4
    upper = {"giou": 2.0, "linear_iou": 1.0, "iou": math.inf}[kind]
    assert float(loss.detach()) <= upper + 1e-4


@given(sides)
def test_a_perfect_box_costs_nothing(box):
    for kind in ("giou", "linear_iou", "iou"):
        assert float(iou_loss(box, box, kind)) == pytest.approx(0, abs=1e-5)


def test_giou_orders_disjoint_boxes_by_distance():
    # boxes around different points, as distances from one point: the second is further away
    target = torch.tensor([0.0, 0, 1, 1])
    near, far = torch.tensor([2.0, 0, 0, 1]), torch.tensor([6.0, 0, 0, 1])
    assert iou_loss(far, target, "giou") > iou_loss(near, target, "giou")


def test_published_class_heatmap_focal():
    positive, negative = heatmap_focal_loss(LOGITS, HEATMAP, ZERO, ZERO, FocalRules())
    assert float(positive) == pytest.approx(0.0250983, abs=1e-7)
    assert float(negative) == pytest.approx(0.3677393, abs=1e-6)
    _, ignored = heatmap_focal_loss(LOGITS, HEATMAP, ZERO, ZERO, FocalRules(ignore_high_fp=0.85))
    assert float(ignored) == pytest.approx(0.2901012, abs=1e-6)


def test_published_agnostic_focal():
    column, target = LOGITS[:, :1], HEATMAP[:, :1]
    positive, negative = heatmap_focal_loss(column, target, ZERO, ZERO, FocalRules())
    assert float(positive) == pytest.approx(0.02509832, abs=1e-8)
    assert float(negative) == pytest.approx(0.07742935, abs=1e-7)
    _, ignored = heatmap_focal_loss(column, target, ZERO, ZERO, FocalRules(ignore_high_fp=0.85))
    assert float(ignored) == pytest.approx(8.196e-5, abs=1e-8)


def test_focal_constants_matter():
    base = heatmap_focal_loss(LOGITS, HEATMAP, ZERO, ZERO, FocalRules())
    for other in (FocalRules(alpha=-1), FocalRules(alpha=0.5), FocalRules(beta=2), FocalRules(gamma=1)):
        changed = heatmap_focal_loss(LOGITS, HEATMAP, ZERO, ZERO, other)
        assert not torch.allclose(torch.stack(base), torch.stack(changed))


def test_focal_clamps_extreme_logits_and_leaves_its_input_alone():
    logits = torch.tensor([[100.0], [-100.0], [0.0]], requires_grad=True)
    copy = logits.detach().clone()
    positive, negative = heatmap_focal_loss(logits, torch.zeros(3, 1), torch.tensor([1]), ZERO, FocalRules())
    (positive + negative).backward()
    assert torch.equal(logits.detach(), copy)
    assert logits.grad[:2].tolist() == [[0], [0]]
    assert float(positive.detach()) == pytest.approx(0.25 * (1 - 1e-4) ** 2 * -math.log(1e-4), rel=1e-4)


def test_focal_counts_duplicate_positives():
    once, _ = heatmap_focal_loss(LOGITS, HEATMAP, ZERO, ZERO, FocalRules())
    twice, _ = heatmap_focal_loss(LOGITS, HEATMAP, torch.tensor([0, 0]), torch.tensor([0, 0]), FocalRules())
    assert float(twice) == pytest.approx(2 * float(once))


def test_focal_in_half_precision_is_computed_in_float32():
    positive, negative = heatmap_focal_loss(LOGITS.half(), HEATMAP, ZERO, ZERO, FocalRules())
    assert positive.dtype == negative.dtype == torch.float32


def test_published_box_head_cross_entropy():
    logits, labels = torch.linspace(-3, 3, 324).view(4, 81), torch.tensor([0, 5, 80, 79])
    assert float(sigmoid_cross_entropy(logits, labels)) == pytest.approx(80.711143, abs=1e-5)
    assert float(softmax_cross_entropy(logits, labels)) == pytest.approx(4.468472, abs=1e-6)


def test_class_weights_leave_classes_out():
    logits, labels = torch.randn(5, 4), torch.tensor([0, 1, 3, 2, 3])
    weight = torch.tensor([1.0, 0, 1])
    full = torch.nn.functional.binary_cross_entropy_with_logits(
        logits[:, :3], torch.nn.functional.one_hot(labels, 4)[:, :3].float(), reduction="none"
    )
    assert float(sigmoid_cross_entropy(logits, labels, weight)) == pytest.approx(
        float(full[:, [0, 2]].sum() / 5), rel=1e-5
    )
    expected = torch.nn.functional.cross_entropy(logits, labels, weight=torch.tensor([1.0, 0, 1, 1]))
    assert float(softmax_cross_entropy(logits, labels, weight)) == pytest.approx(float(expected))


@pytest.mark.parametrize("loss", [sigmoid_cross_entropy, softmax_cross_entropy])
def test_no_proposals_give_a_differentiable_zero(loss):
    logits = torch.zeros(0, 4, requires_grad=True)
    value = loss(logits, torch.zeros(0, dtype=torch.int64))
    value.backward()
    assert float(value.detach()) == 0
