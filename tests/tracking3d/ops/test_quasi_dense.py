"""Losses of embeddings: the published values and gradients, defects and their mends, numbers of any size."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from centernet.tracking3d.ops.quasi_dense import (
    KeyReference,
    _cosines,
    _products,
    contrastive_losses,
    quasi_dense_losses,
    reference_identities,
)

GROUPS = ("key", "ref_gt", "ref_pos", "ref_neg", "key_neg")
CASES = ("a", "dummy", "onevalid", "single", "alldummy", "nokeys", "large", "overflow")
OBJECTS, POSITIVES, NEGATIVES, KEY_NEGATIVES = 3, 5, 4, 3  # of each picture of the published cases
END = torch.tensor([0.0, 0.0, 1.0, 1.0])  # from inclusive to continuous boxes


def published(golden, case):
    """Embeddings that require gradients, by group, and the pairs made of them."""
    prefix = f"emb_{case}_"
    groups = {name: golden(prefix + name).requires_grad_() for name in GROUPS}
    pairs, start = [], 0
    for i in range(sum(name.startswith(f"{prefix}key_pids") for name in golden.names)):
        ids = golden(f"{prefix}key_pids{i}", torch.int64)
        sizes = zip(GROUPS[1:], (OBJECTS, POSITIVES, NEGATIVES, KEY_NEGATIVES), strict=True)
        reference = torch.cat([groups[name][size * i : size * (i + 1)] for name, size in sizes])
        boxes = [golden(f"{prefix}{name}_boxes{i}") + END for name in ("ref_gt", "ref_pos")]
        identities = reference_identities(*boxes, NEGATIVES + KEY_NEGATIVES)
        pairs.append(KeyReference(groups["key"][start : start + len(ids)], ids, reference, identities))
        start += len(ids)
    assert start == len(groups["key"])
    return groups, pairs


@pytest.mark.parametrize(
    ("reference", "case"),
    [("some", case) for case in ("dummy", "onevalid")] + [("all", case) for case in CASES],
    indirect=["reference"],
)
def test_losses_and_gradients_are_the_published_ones(reference, assert_close, case):
    golden = reference("losses")
    groups, pairs = published(golden, case)
    for i, pair in enumerate(pairs):
        assert_close(_products(pair.key, pair.reference), golden(f"emb_{case}_sim{i}"), 1e-5)
        assert_close(_cosines(pair.key, pair.reference), golden(f"emb_{case}_cos{i}"), 1e-5)
    losses = quasi_dense_losses(pairs, mode="parity")
    for name, loss in losses.items():
        theirs = golden(f"emb_{case}_{name}")
        gradients = torch.autograd.grad(loss, list(groups.values()), retain_graph=True)
        assert all(gradient.isfinite().all() for gradient in gradients)
        if theirs.isnan():  # the exponentials of the published program overflow, or 0 / 0
            assert loss.isfinite()
            continue
        assert_close(loss[None], theirs, 1e-3)
        if f"emb_{case}_grad_{name}_key" in golden.names:
            # as one vector: the published gradient of a group can be 1e-6 of the others', less than its own rounding
            ours = torch.cat([gradient.flatten() for gradient in gradients])
            theirs = torch.cat([golden(f"emb_{case}_grad_{name}_{group}").flatten() for group in GROUPS])
            assert_close(ours, theirs, 1e-4)


@pytest.mark.parametrize(("reference", "case"), [("all", "alldummy"), ("all", "nokeys")], indirect=["reference"])
def test_a_picture_without_matches_adds_nothing(reference, case):
    _, pairs = published(reference("losses"), case)
    both, second = quasi_dense_losses(pairs, mode="parity"), quasi_dense_losses(pairs[1:], mode="parity")
    torch.testing.assert_close(both["loss_asso"], second["loss_asso"] / 2)


def test_contrastive_loss_of_the_specification():
    similarity = torch.tensor([[3, 1, 0.5, -1], [0.2, 2, 0, 0]])
    positive = torch.tensor([[0], [1]]) == torch.tensor([0, 1, 0, -2])
    losses = contrastive_losses(similarity, positive)
    torch.testing.assert_close(losses, torch.tensor([1.10708, 0.36184]), atol=1e-5, rtol=0)
    assert losses.mean().item() == pytest.approx(0.73446, abs=1e-5)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([1.0, 30.0, 1e3, 1e6, 1e15]), st.sampled_from([None, 80.0]))
def test_contrastive_losses_are_finite_everywhere(seed, scale, limit):
    torch.manual_seed(seed)
    similarity = (torch.randn(5, 7) * scale).requires_grad_()
    positive = torch.rand(5, 7) < 0.4
    positive[0], positive[1] = True, False
    losses = contrastive_losses(similarity, positive, limit)
    losses.sum().backward()
    assert (losses >= 0).all()
    assert losses.isfinite().all()
    assert losses[:2].tolist() == [0, 0]
    assert similarity.grad.isfinite().all()
    wide = similarity.detach().double()
    pairs = wide.clamp(max=limit or torch.inf)[:, None] - wide[:, :, None]
    terms = torch.where(positive[:, :, None] & ~positive[:, None], pairs, -torch.inf).flatten(1)
    expected = torch.cat((terms.new_zeros(5, 1), terms), 1).logsumexp(1)
    torch.testing.assert_close(losses.detach().double(), expected, rtol=1e-5, atol=1e-5)


def pair_of(ids, seed=0):
    torch.manual_seed(seed)
    ids = torch.tensor(ids, dtype=torch.int64)
    key, reference = torch.randn(len(ids), 8, requires_grad=True), torch.randn(6, 8, requires_grad=True)
    return KeyReference(key, ids, reference, torch.tensor([0, 1, 2, 0, 1, -2]))


def test_unmatched_objects():
    """Published: pulled towards the first object; modern: as if they were not there."""
    with_unmatched, matched = pair_of([2, 1, -1]), pair_of([2, 1, -1])
    matched = matched._replace(key=matched.key[:2], key_ids=matched.key_ids[:2])
    modern, alone = quasi_dense_losses([with_unmatched]), quasi_dense_losses([matched])
    for name, loss in modern.items():
        torch.testing.assert_close(loss, alone[name])
        (gradient,) = torch.autograd.grad(loss, with_unmatched.key, retain_graph=True)
        assert (gradient[2] == 0).all()
    parity = quasi_dense_losses([with_unmatched], mode="parity")
    first = quasi_dense_losses([with_unmatched._replace(key_ids=torch.tensor([2, 1, 0]))])
    torch.testing.assert_close(parity["loss_iou"], first["loss_iou"])
    torch.testing.assert_close(parity["loss_asso"], modern["loss_asso"])


def test_a_single_matched_object():
    pair = pair_of([1, -1])
    assert [loss.item() for loss in quasi_dense_losses([pair], mode="parity").values()] == [0, 0]
    alone = pair_of([1, -1])
    alone = alone._replace(key=alone.key[:1], key_ids=alone.key_ids[:1])
    modern, expected = quasi_dense_losses([pair]), quasi_dense_losses([alone])
    assert modern["loss_asso"].item() > 0
    for name in modern:
        torch.testing.assert_close(modern[name], expected[name])


@pytest.mark.parametrize("mode", ["parity", "modern"])
@pytest.mark.parametrize("ids", [[], [-1], [-1, -1]])
def test_nothing_matched_gives_zeros_with_a_graph(mode, ids):
    pair = pair_of(ids)
    losses = quasi_dense_losses([pair], mode=mode)
    sum(losses.values()).backward()
    assert losses["loss_asso"].item() == 0
    assert losses["loss_iou"].isfinite()
    assert losses["loss_iou"].item() == 0 or mode == "parity"
    assert pair.key.grad.isfinite().all()


def test_mixed_precision_changes_nothing():
    pair = pair_of([2, 1, 0])
    plain = quasi_dense_losses([pair])
    with torch.autocast("cpu", torch.bfloat16):
        mixed = quasi_dense_losses([pair])
    assert all(torch.equal(mixed[name], plain[name]) for name in plain)


def test_the_auxiliary_loss_takes_the_hardest_negatives():
    key, reference = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0], [1, 0.1], [1, 1], [0.4, 1], [0, 1], [-0.2, 1]])
    pair = KeyReference(key, torch.tensor([0]), reference, torch.tensor([0, -2, -2, -2, -2, -2]))
    # three are drawn: squared cosines 0.990 and 0.5 count, 0.138 is within the margin
    assert quasi_dense_losses([pair])["loss_iou"].item() == pytest.approx((100 / 101 + 0.5) / 4, abs=1e-5)


def test_identities():
    boxes = torch.tensor([[0.0, 0, 10, 10], [20, 0, 30, 10]])
    positives = torch.tensor([[21.0, 0, 31, 10], [1, 1, 10, 10]])
    assert reference_identities(boxes, positives, 2).tolist() == [0, 1, 1, 0, -2, -2]
    assert reference_identities(boxes[:0], positives[:0], 1).tolist() == [-2]
