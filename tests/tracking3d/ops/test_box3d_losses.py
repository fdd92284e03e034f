"""Losses of the 3D head: the published values and gradients, defects and their mends, batches that say nothing."""

import math

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from centernet.tracking3d.ops.codecs import CenterCodec, DepthCodec, OrientationCodec
from centernet.tracking3d.ops.losses import (
    Box3DCodecs,
    Box3DOutputs,
    Box3DTargets,
    box3d_losses,
    confidence_accuracy,
    own_class,
)

PARITY = Box3DCodecs(center=CenterCodec("parity"), orientation=OrientationCodec("parity"))
HEADS = {"dep": 1, "unc": 1, "dim": 3, "rot": 8, "cen": 2}
GOLDEN = pytest.mark.parametrize(
    ("reference", "case"),
    [("some", case) for case in "cde"] + [("all", case) for case in "abcde"],
    indirect=["reference"],
)


def published(golden, case):
    """Inputs that require gradients, outputs of the positives, their targets and labels."""
    labels = golden(f"{case}_labels", torch.int64)
    positive = labels > 0
    inputs = {name: golden(f"{case}_in_{name}").requires_grad_() for name in HEADS}
    slots = []
    for name, width in HEADS.items():
        slot = own_class(inputs[name].reshape(len(labels), -1, width)[positive], labels[positive])
        slots.append(slot.squeeze(-1) if width == 1 else slot)
    targets = [golden(f"{case}_t_{name}")[positive] for name in ("depth", "alpha", "dims", "2dc")]
    return inputs, Box3DOutputs(*slots), Box3DTargets(*targets), labels


def random_outputs(count, requires_grad=True):
    torch.manual_seed(0)
    shapes = ((count,), (count,), (count, 3), (count, 8), (count, 2))
    return Box3DOutputs(*(torch.randn(shape).requires_grad_(requires_grad) for shape in shapes))


def random_targets(count):
    torch.manual_seed(1)
    return Box3DTargets(
        torch.rand(count) * 40 + 1, torch.rand(count) * 6 - 3, torch.rand(count, 3) + 1, torch.randn(count, 2)
    )


@GOLDEN
def test_losses_and_gradients_are_the_published_ones(reference, assert_close, case):
    golden = reference("losses")
    inputs, outputs, targets, _ = published(golden, case)
    losses = box3d_losses(outputs, targets, PARITY)
    assert set(losses) == {f"loss_{name}_3d" for name in ("depth", "unc", "dim", "rot", "2dc")}
    for name, loss in losses.items():
        assert_close(loss[None], golden(f"{case}_{name.removesuffix('_3d')}"), 1e-5)
    sum(losses.values()).backward()
    for name, tensor in inputs.items():
        assert_close(tensor.grad, golden(f"{case}_grad_{name}"), 1e-5)
    accuracy = 100 * confidence_accuracy(outputs, targets.depth, DepthCodec())
    assert_close(accuracy[None], golden(f"{case}_unc_acc"), 1e-5)


@GOLDEN
def test_the_2d_losses_of_detectron2_are_the_published_ones(reference, assert_close, case):
    golden = reference("losses")
    *_, labels = published(golden, case)
    scores, deltas = (golden(f"{case}_in_{name}").requires_grad_() for name in ("cls", "reg"))
    classes = scores.shape[1] - 1
    transform = Box2BoxTransform((10.0, 10.0, 5.0, 5.0))
    layers = FastRCNNOutputLayers(
        ShapeSpec(channels=4), box2box_transform=transform, num_classes=classes, smooth_l1_beta=1.0
    )
    proposals = torch.tensor([[100.0, 100.0, 180.0, 160.0]]).expand(len(labels), 4).clone()
    boxes = transform.apply_deltas(golden(f"{case}_t_box"), proposals)
    instances = Instances((400, 400), proposal_boxes=Boxes(proposals), gt_boxes=Boxes(boxes))
    instances.gt_classes = (labels - 1) % (classes + 1)  # background is the last
    with EventStorage():
        losses = layers.losses((scores.roll(-1, 1), deltas[:, 4:]), [instances])
    assert_close(losses["loss_cls"][None], golden(f"{case}_loss_cls"), 1e-4)
    assert_close(losses["loss_box_reg"][None], golden(f"{case}_loss_bbox"), 1e-4)
    sum(losses.values()).backward()
    assert_close(scores.grad, golden(f"{case}_grad_cls"), 1e-4)
    assert_close(deltas.grad, golden(f"{case}_grad_reg"), 1e-3)
    accuracy = 100 * (scores.argmax(1) == labels).float().mean()
    assert_close(accuracy[None], golden(f"{case}_acc"), 1e-5)


@pytest.mark.parametrize("codecs", [PARITY, Box3DCodecs()])
def test_no_positives_give_zeros_with_a_graph(codecs):
    outputs = random_outputs(0)
    losses = box3d_losses(outputs, random_targets(0), codecs)
    assert [loss.item() for loss in losses.values()] == [0.0] * 5
    sum(losses.values()).backward()
    assert all(tensor.grad is not None for tensor in outputs)
    assert confidence_accuracy(outputs, torch.zeros(0), DepthCodec()).item() == 0


def test_modern_losses_leave_out_what_is_unknown():
    known = random_targets(6)
    unknown = known._replace(depth=known.depth.clone(), alpha=known.alpha.clone(), dims=known.dims.clone())
    unknown.depth[0], unknown.alpha[1], unknown.dims[2, 1] = 0.0, -10.0, -1.0
    outputs = random_outputs(6)
    sum(box3d_losses(outputs, unknown).values()).backward()
    depth, confidence, dims, rotation, center = (tensor.grad for tensor in outputs)
    assert depth[0] == 0
    assert confidence[0] == 0
    assert (rotation[1] == 0).all()
    assert dims[2].ne(0).tolist() == [True, False, True]
    assert (center != 0).all()
    outputs = random_outputs(6)
    sum(box3d_losses(outputs, unknown, PARITY).values()).backward()
    assert outputs.depth.grad[0] == 0
    assert outputs.confidence.grad[0] != 0  # towards that of the code -1
    assert (outputs.rotation.grad[1] != 0).all()  # as a member of both bins


def test_modern_orientation_is_that_of_the_known_alone():
    outputs, targets = random_outputs(6, requires_grad=False), random_targets(6)
    alpha = torch.cat((targets.alpha[:4], torch.tensor([-10.0, -10.0])))
    mixed = box3d_losses(outputs, targets._replace(alpha=alpha))["loss_rot_3d"]
    alone = box3d_losses(Box3DOutputs(*(t[:4] for t in outputs)), Box3DTargets(*(t[:4] for t in targets[:4])))
    torch.testing.assert_close(mixed, alone["loss_rot_3d"])


@pytest.mark.parametrize("codecs", [PARITY, Box3DCodecs()])
def test_only_unknown_angles_give_zero(codecs):
    outputs = random_outputs(3)
    loss = box3d_losses(outputs, random_targets(3)._replace(alpha=torch.full((3,), -10.0)), codecs)["loss_rot_3d"]
    loss.backward()
    assert loss.item() == 0
    assert (outputs.rotation.grad == 0).all()


@pytest.mark.parametrize("codecs", [PARITY, Box3DCodecs()])
def test_a_perfect_head_has_no_loss(codecs):
    targets = random_targets(20)
    orientation = codecs.orientation.encode(targets.alpha)
    logit = torch.where(orientation.member, 30.0, -30.0)
    rotation = torch.stack((-logit, logit, orientation.residual.sin(), orientation.residual.cos()), -1).flatten(-2)
    outputs = Box3DOutputs(
        codecs.depth.encode(targets.depth).value,
        torch.ones(20),
        codecs.dims.encode(targets.dims).value,
        rotation,
        targets.center_offset / 10,
    )
    assert sum(box3d_losses(outputs, targets, codecs).values()).item() == pytest.approx(0, abs=1e-6)


def test_focal_lengths_reach_the_depth_target():
    codecs = Box3DCodecs(depth=DepthCodec(reference_focal=1000.0))
    targets = random_targets(1)._replace(depth=torch.tensor([20.0]), focal=torch.tensor([2000.0]))
    outputs = random_outputs(1, requires_grad=False)._replace(depth=torch.tensor([2 * math.log(10.0)]))
    assert box3d_losses(outputs, targets, codecs)["loss_depth_3d"].item() == pytest.approx(0, abs=1e-6)


def test_half_precision_is_computed_in_float32():
    outputs = Box3DOutputs(*(tensor.bfloat16() for tensor in random_outputs(4, requires_grad=False)))
    assert {loss.dtype for loss in box3d_losses(outputs, random_targets(4)).values()} == {torch.float32}
