import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st

from centernet.ops import nms
from centernet.ops.capture import capturing
from centernet.ops.nms import nms_best, parallel_nms_mask


def random_batch(seed, batch=2, count=60, classes=3, spread=80):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(batch, count, 2, generator=generator) * spread - 20
    size = torch.rand(batch, count, 2, generator=generator) * 50 + 1
    scores = torch.rand(batch, count, generator=generator)
    groups = torch.randint(0, classes, (batch, count), generator=generator)
    valid = torch.rand(batch, count, generator=generator) > 0.2
    return torch.cat((corner, corner + size), dim=2), scores, groups, valid


def nms_mask(boxes, scores, groups, valid, threshold, limit):
    """The survivors as a mask; their order is checked on the way."""
    best = nms_best(boxes, scores, groups, valid, threshold, limit, False)
    assert best.shape == (len(boxes), min(limit, boxes.shape[1]))
    mask = torch.zeros_like(valid)
    for image, row in enumerate(best):
        index = row[row >= 0]
        assert (row[len(index) :] == -1).all()  # padding stands at the end
        assert (scores[image, index].diff() <= 0).all()
        mask[image, index] = True
        assert int(mask[image].sum()) == len(index)
    return mask


def greedy(boxes, scores, groups, valid, threshold):
    """One class of one image at a time, by torchvision."""
    keep = torch.zeros_like(valid)
    for b in range(len(boxes)):
        for c in groups[b].unique():
            index = (valid[b] & (groups[b] == c)).nonzero()[:, 0]
            keep[b, index[torchvision.ops.nms(boxes[b, index], scores[b, index], threshold)]] = True
    return keep


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.1, 0.9))
def test_equals_greedy_nms_class_by_class(seed, threshold):
    batch = random_batch(seed)
    expected = greedy(*batch, threshold)
    assert torch.equal(nms_mask(*batch, threshold, 10**6), expected)
    assert torch.equal(parallel_nms_mask(*batch, threshold), expected)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 70))
def test_limit_keeps_the_best_survivors(seed, limit):
    boxes, scores, groups, valid = random_batch(seed)
    everyone = greedy(boxes, scores, groups, valid, 0.5)
    some = nms_mask(boxes, scores, groups, valid, 0.5, limit)
    assert not (some & ~everyone).any()
    for image in range(2):
        best = torch.where(everyone[image], scores[image], -1.0).argsort(descending=True)[
            : min(limit, int(everyone[image].sum()))
        ]
        assert some[image, best].all()


def test_long_suppression_chain():
    # every box overlaps the next one only: survivors alternate, each decision hangs on all before it
    x = torch.arange(40.0) * 6
    boxes = torch.stack((x, torch.zeros(40), x + 10, torch.full((40,), 10.0)), dim=1)[None]
    scores = torch.linspace(1, 0.1, 40)[None]
    groups, valid = torch.zeros(1, 40, dtype=torch.int64), torch.ones(1, 40, dtype=torch.bool)
    expected = torch.tensor([[i % 2 == 0 for i in range(40)]])
    assert torch.equal(nms_mask(boxes, scores, groups, valid, 0.2, 40), expected)
    assert torch.equal(parallel_nms_mask(boxes, scores, groups, valid, 0.2), expected)


def test_classes_far_apart_do_not_meet_even_with_many_classes():
    box = torch.tensor([[-300.0, -300, 1000.25, 1000.5]])
    boxes = box.expand(2, 4)[None]
    groups = torch.tensor([[0, 1202]])
    keep = nms_mask(boxes, torch.tensor([[0.9, 0.8]]), groups, torch.ones(1, 2, dtype=torch.bool), 0.1, 2)
    assert keep.all()


@pytest.mark.parametrize("function", [lambda *a: nms_mask(*a, 5), parallel_nms_mask])
def test_nothing_valid(function):
    boxes, scores, groups, valid = random_batch(0)
    assert not function(boxes, scores, groups, torch.zeros_like(valid), 0.5).any()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 70))
def test_equal_scores_come_in_the_order_of_torchvision(seed, limit):
    boxes, scores, groups, valid = random_batch(seed, batch=1)
    scores = (scores * 4).round() / 4
    index = valid[0].nonzero()[:, 0]
    expected = torchvision.ops.batched_nms(boxes[0, index], scores[0, index], groups[0, index], 0.5)
    found = nms_best(boxes, scores, groups, valid, 0.5, limit, True)[0]
    assert found[found >= 0].tolist() == index[expected].tolist()[:limit]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_equal_scores_of_any_precision(dtype):
    boxes, scores, groups, valid = random_batch(5)
    scores = (scores * 4).round() / 4
    expected = nms_best(boxes, scores, groups, valid, 0.5, 20, True)
    assert torch.equal(nms_best(boxes, scores.to(dtype), groups, valid, 0.5, 20, True), expected)


def test_operator_contract():
    arguments = (*random_batch(3), 0.5, 10, True)
    torch.library.opcheck(torch.ops.centernet.nms_best, arguments, test_utils=("test_schema", "test_faketensor"))


def test_the_operator_survives_a_second_import():
    import importlib.util

    spec = importlib.util.spec_from_file_location("centernet.ops.another_name_for_nms", nms.__file__)
    again = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(again)
    batch = random_batch(1)
    assert torch.equal(again.nms_best(*batch, 0.5, 100, True), nms_best(*batch, 0.5, 100, True))


def test_images_are_taken_a_few_at_a_time(monkeypatch):
    batch = random_batch(5, batch=5)
    together = parallel_nms_mask(*batch, 0.4)
    monkeypatch.setattr(nms, "_PAIRS_AT_ONCE", 2 * 60**2)
    assert torch.equal(parallel_nms_mask(*batch, 0.4), together)


@pytest.mark.parametrize("block", [1, 7, 64, 1000])
def test_blocks_are_greedy_nms(block):
    batch = random_batch(5)
    assert torch.equal(nms._settle(*batch, 0.5, block), parallel_nms_mask(*batch, 0.5))


def test_long_chains_are_settled_across_blocks():
    # each box suppresses the next one only: every second one survives
    count = 3 * nms.ROUNDS
    left = torch.arange(count) * 4.0
    boxes = torch.stack((left, torch.zeros(count), left + 10, torch.full((count,), 10.0)), dim=1)[None]
    scores = torch.linspace(1, 0.1, count)[None]
    groups, valid = torch.zeros(1, count, dtype=torch.int64), torch.ones(1, count, dtype=torch.bool)
    keep = nms._settle(boxes, scores, groups, valid, 0.4, nms.ROUNDS)
    assert torch.equal(keep[0].nonzero()[:, 0], torch.arange(0, count, 2))


@pytest.mark.parametrize("target", ["export", "torchscript", "onnx"])
def test_captured_forms_are_greedy_nms(target):
    batch = random_batch(6)
    expected = nms_best(*batch, 0.5, 30, False)
    with capturing(target):
        assert torch.equal(nms_best(*batch, 0.5, 30, False), expected)
