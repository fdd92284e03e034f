"""Anchors, assignment, samplers and proposal losses against the published program's numbers."""

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, pairwise_iou
from hypothesis import given, settings
from hypothesis import strategies as st

from centernet.tracking3d.modeling.anchors import LegacyAnchorGenerator, legacy_cell_anchors
from centernet.tracking3d.modeling.assignment import IGNORED, NEGATIVE, assign_boxes, spare_regions
from centernet.tracking3d.modeling.rpn import rpn_losses
from centernet.tracking3d.modeling.sampling import BalancedSampler, sample_evenly, sample_randomly

STRIDES = (4, 8, 16, 32, 64)
RATIOS = [0.25, 0.5, 1.0, 2.0, 4.0]
SCALES = {"kitti": (2, 4, 8, 16), "nusc": (4, 8)}
RULES = {"rcnn": ((0.5, 0.5, 0.5), (512, 0.25, None)), "embed": ((0.3, 0.7, 0.5), (256, 0.5, 3.0))}
END = torch.tensor([0.0, 0.0, 1.0, 1.0])  # the published boxes include their last pixel


def continuous(boxes):
    return torch.from_numpy(boxes.astype(np.float32)) + END


def published(assigned):
    return torch.where(assigned >= 0, assigned + 1, torch.where(assigned == NEGATIVE, 0, -1)).numpy()


@pytest.fixture(params=["small", "all"])
def numbers(request, golden3d, tracking3d_data):
    return golden3d("anchors.npz") if request.param == "all" else tracking3d_data("anchors_small.npz")


@pytest.mark.parametrize("model", SCALES)
def test_anchors_and_their_assignment(numbers, model):
    sizes = [[stride * scale for scale in SCALES[model]] for stride in STRIDES]
    generator = LegacyAnchorGenerator(sizes=sizes, aspect_ratios=[RATIOS], strides=list(STRIDES), offset=0.0)
    maps = [torch.zeros(1, 1, *numbers[f"{model}_shape{i}"][:2]) for i in range(5)]
    anchors = generator(maps)
    for i, cell in enumerate(generator.cell_anchors):
        assert np.array_equal(cell - END, numbers[f"{model}_base{i}"])
        if f"{model}_anchors{i}" in numbers:
            assert np.array_equal(anchors[i].tensor - END, numbers[f"{model}_anchors{i}"])
    overlaps = pairwise_iou(Boxes(continuous(numbers[f"{model}_rpn_gt"])), Boxes.cat(anchors))
    assigned = assign_boxes(overlaps, 0.3, 0.7, 0.3)
    assert np.array_equal(published(assigned), numbers[f"{model}_rpn_assigned"])


def test_anchors_of_the_first_level():
    expected = [
        [-14, -2, 17, 5], [-30, -6, 33, 9], [-9, -4, 12, 7], [-21, -9, 24, 12], [-6, -6, 9, 9], [-14, -14, 17, 17],
        [-4, -9, 7, 12], [-9, -21, 12, 24], [-2, -14, 5, 17], [-6, -30, 9, 33],
    ]  # fmt: skip
    assert torch.equal(legacy_cell_anchors(4, [16, 32], RATIOS) - END, torch.tensor(expected).float())


@pytest.mark.parametrize("head", RULES)
@pytest.mark.parametrize("case", ["small", "big", "skew"])
def test_sampling(numbers, head, case):
    name = f"{head}_{case}"
    if f"{name}_gt" not in numbers:
        pytest.skip("not in the small copy")
    thresholds, sampling = RULES[head]
    overlaps = pairwise_iou(*(Boxes(continuous(numbers[f"{name}_{part}"])) for part in ("gt", "proposals")))
    own = assign_boxes(overlaps, *thresholds)
    assert np.array_equal(published(own), numbers[f"{name}_assigned"])
    assigned = torch.cat((torch.arange(len(overlaps)), own))
    greatest = torch.cat((torch.ones(len(overlaps)), overlaps.amax(0)))
    sampler = BalancedSampler(*sampling, mode="parity")
    for call in ("call0", "call1"):
        check_sample(numbers, f"{name}_{call}", assigned, greatest, *sampler(assigned, greatest))


def check_sample(numbers, name, assigned, greatest, positive, negative):
    assert int((assigned >= 0).sum()) == numbers[f"{name}_pool_pos"]
    assert int((assigned == NEGATIVE).sum()) == numbers[f"{name}_pool_neg"]
    assert (assigned[positive] >= 0).all()
    assert (assigned[negative] == NEGATIVE).all()
    if f"{name}_num_pos" not in numbers:  # "skew": the published picks are not reproducible, too few of 128 positives
        assert 105 <= len(positive.unique()) == len(positive) < 128
        return
    assert (len(positive), len(negative)) == (numbers[f"{name}_num_pos"], numbers[f"{name}_num_neg"])
    per_box, expected = torch.bincount(assigned[positive]), torch.from_numpy(numbers[f"{name}_pos_per_gt"])
    if f"{name}_pos_inds" in numbers:  # nothing is random
        assert positive.tolist() == sorted(numbers[f"{name}_pos_inds"])
        assert negative.tolist() == sorted(numbers[f"{name}_neg_inds"])
        assert torch.equal(per_box, expected)
    share = round(128 / len(expected)) + 1
    if len(positive) == 128:
        assert per_box.max() <= share
    bins = torch.histc(greatest[negative][greatest[negative] > 0], 3, 0, 1).int().tolist()
    apart, *expected_bins = numbers[f"{name}_neg_bin_counts"].tolist()
    spread = 30 if "call0" in name and "big" in name else 0  # only there the third of the pool is drawn at random
    assert abs(int((greatest[negative] == 0).sum()) - apart) <= spread
    assert all(abs(a - b) <= spread for a, b in zip(bins, expected_bins, strict=True))


def test_modern_sampling_tops_up_and_treats_all_pictures_alike():
    assigned = torch.cat((torch.zeros(250), torch.arange(1, 4).repeat(3), torch.full((600,), NEGATIVE))).long()
    greatest = torch.cat((torch.ones(259), torch.zeros(500), torch.full((100,), 0.2)))
    assert len(sample_evenly(assigned, 128)) == len(sample_evenly(assigned, 128).unique()) == 128
    sampler = BalancedSampler(256, 0.5, mode="modern")
    for _ in range(2):
        positive, negative = sampler(assigned, greatest)
        assert set(range(250, 259)) <= set(positive.tolist())
        assert len(negative) == 128
        assert (greatest[negative] == 0).sum() > 50


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-2, 5), min_size=1, max_size=80), st.integers(1, 40), st.sampled_from(["parity", "modern"]))
def test_samples_are_distinct_and_within_their_limits(assigned, count, mode):
    assigned = torch.tensor(assigned)
    greatest = torch.rand(len(assigned))
    positive, negative = BalancedSampler(count, 0.5, 3.0, mode)(assigned, greatest)
    both = torch.cat((positive, negative))
    assert len(both) == len(both.unique()) <= count
    assert (assigned[positive] >= 0).all()
    assert (assigned[negative] == NEGATIVE).all()
    assert len(negative) <= 3 * max(len(positive), 1)
    if mode == "modern":
        assert len(positive) == min(count // 2, int((assigned >= 0).sum()))


def test_boxes_claim_their_best_candidates():
    overlaps = torch.tensor([[0.6, 0.4, 0.4, 0.1], [0.55, 0.45, 0.1, 0.2], [0.0, 0.0, 0.0, 0.25]])
    assert assign_boxes(overlaps, 0.3, 0.5, 0.3).tolist() == [
        1,
        IGNORED,
        IGNORED,
        NEGATIVE,
    ]  # 0 loses its only one to 1
    assert assign_boxes(overlaps, 0.3, 0.5, 0.2).tolist() == [1, IGNORED, IGNORED, 2]
    assert assign_boxes(torch.zeros(0, 3), 0.3, 0.5, 0.3).tolist() == [NEGATIVE] * 3
    assert assign_boxes(torch.zeros(3, 0), 0.3, 0.5, 0.3).tolist() == []


def test_background_in_regions_without_annotations_is_ignored():
    candidates = torch.tensor([[0.0, 0, 10, 10], [6.0, 0, 16, 10], [4.0, 0, 14, 10], [50.0, 50, 60, 60]])
    regions = torch.tensor([[0.0, 0, 9, 10], [50.0, 50, 70, 70]])
    assigned = torch.tensor([0, NEGATIVE, NEGATIVE, NEGATIVE])
    assert spare_regions(assigned, candidates, regions).tolist() == [0, NEGATIVE, NEGATIVE, IGNORED]
    assert spare_regions(assigned[1:], candidates[1:], regions[:1] + 2).tolist() == [NEGATIVE, IGNORED, NEGATIVE]
    assert torch.equal(spare_regions(assigned, candidates, None), assigned)


@pytest.mark.parametrize("source", ["small", "all"])
def test_proposal_losses(source, golden3d, tracking3d_data):
    """The small copy has zeros where neither loss looks."""
    numbers = golden3d("losses.npz") if source == "all" else tracking3d_data("rpn_losses_small.npz")
    levels = range(5)
    logits = [torch.from_numpy(numbers[f"rpn_cls{i}"]).permute(0, 2, 3, 1).flatten(1) for i in levels]
    maps = [torch.from_numpy(numbers[f"rpn_reg{i}"]) for i in levels]
    deltas = [x.unflatten(1, (-1, 4)).permute(0, 3, 4, 1, 2).flatten(1, 3) for x in maps]
    labels = torch.cat([torch.from_numpy(numbers[f"rpn_labels{i}"]).long() for i in levels], 1)
    if source == "all":
        weights = torch.cat([torch.from_numpy(numbers[f"rpn_label_weights{i}"]) for i in levels], 1)
        labels = torch.where(weights > 0, labels, -1)
    targets = torch.cat([torch.from_numpy(numbers[f"rpn_box_targets{i}"]) for i in levels], 1)
    losses = rpn_losses(logits, deltas, labels, targets)
    assert losses["loss_rpn_cls"].item() == pytest.approx(
        sum(float(numbers[f"rpn_loss_cls{i}"]) for i in levels), rel=1e-5
    )
    assert losses["loss_rpn_loc"].item() == pytest.approx(
        sum(float(numbers[f"rpn_loss_bbox{i}"]) for i in levels), rel=1e-5
    )


def test_nothing_to_learn_has_a_finite_loss():
    logits = [torch.zeros(1, 4, requires_grad=True)]
    losses = rpn_losses(logits, [torch.zeros(1, 4, 4)], torch.full((1, 4), -1), torch.zeros(1, 4, 4))
    assert [loss.item() for loss in losses.values()] == [0, 0]


def test_few_enough_indices_keep_their_order():
    assert sample_randomly(torch.tensor([5, 3, 9]), 3).tolist() == [5, 3, 9]
    assert len(sample_randomly(torch.arange(9), 4).unique()) == 4
