"""The index streams: pure functions of seed and position, resumable anywhere, shared out without loss."""

import itertools
import time
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from centernet.data.samplers import (
    ClassAwareSampler,
    MultiDatasetSampler,
    RepeatFactorStream,
    ResumableBatchSampler,
    ResumableSampler,
    ShuffledStream,
    WeightedStream,
    class_aware_weights,
    multi_dataset_weights,
    repeat_factors,
)
from centernet.errors import UserError


def take(iterable, count):
    return list(itertools.islice(iterable, count))


def annotated(*classes_of_images):
    return [{"annotations": [{"category_id": c} for c in classes]} for classes in classes_of_images]


@st.composite
def streams(draw):
    size, seed = draw(st.integers(1, 40)), draw(st.integers(0, 2**63))
    kind = draw(st.sampled_from(["shuffled", "repeat", "weighted"]))
    if kind == "shuffled":
        return ShuffledStream(size, seed)
    if kind == "repeat":
        return RepeatFactorStream(draw(st.lists(st.floats(1, 3), min_size=size, max_size=size)), seed)
    weights = draw(st.lists(st.floats(0, 5), min_size=size, max_size=size))
    return WeightedStream([weights[0] + 0.5, *weights[1:]], seed)


@given(streams(), st.integers(0, 200))
@settings(deadline=None)
def test_stream_from_any_position_is_the_tail_of_the_stream(stream, start):
    assert take(stream.pairs(start), 60) == take(stream.pairs(), start + 60)[start:]


@given(streams(), st.integers(0, 100), st.integers(1, 5))
@settings(deadline=None)
def test_the_ranks_together_read_the_single_stream(stream, start, world_size):
    ranks = [
        take(ResumableSampler(stream, start, rank=rank, world_size=world_size), 20)
        for rank in range(world_size)
    ]
    dealt = [pair for step in zip(*ranks, strict=True) for pair in step]
    assert dealt == take(stream.pairs(start), 20 * world_size)


@given(streams(), st.integers(1, 5), st.integers(1, 3), st.integers(0, 60), st.booleans(), st.integers(0, 9))
@settings(deadline=None)
def test_batches_from_any_iteration_are_the_tail(stream, batch_size, world_size, start, grouped, salt):
    size = int(stream.round(0).max()) + 41
    groups = np.random.RandomState(salt).randint(0, 2, size) if grouped else None
    for rank in range(world_size):
        options = {"groups": groups, "rank": rank, "world_size": world_size}
        resumed = ResumableBatchSampler(stream, batch_size, start_iteration=start, **options)
        whole = ResumableBatchSampler(stream, batch_size, **options)
        assert take(resumed, 15) == take(whole, start + 15)[start:]


@given(streams(), st.integers(1, 5), st.integers(1, 4), st.integers(0, 9))
@settings(deadline=None)
def test_grouped_batches_are_of_one_group_in_the_order_in_which_buckets_fill(stream, batch, world_size, salt):
    groups = np.random.RandomState(salt).randint(0, 3, 100)
    ranks = [
        take(ResumableBatchSampler(stream, batch, groups=groups, rank=rank, world_size=world_size), 12)
        for rank in range(world_size)
    ]
    dealt = [pairs for step in zip(*ranks, strict=True) for pairs in step]
    expected, buckets = [], {0: [], 1: [], 2: []}
    for position, index in stream.pairs():  # the definition, one sample at a time
        bucket = buckets[groups[index]]
        bucket.append((position, index))
        if len(bucket) == batch:
            expected.append(bucket[:])
            bucket.clear()
        if len(expected) == len(dealt):
            break
    assert dealt == expected


def test_plain_batches_do_not_depend_on_the_number_of_processes():
    stream = ShuffledStream(23, 5)
    alone = take(ResumableBatchSampler(stream, 4, rank=0, world_size=1), 9)
    pair = [take(ResumableBatchSampler(stream, 2, rank=rank, world_size=2), 9) for rank in range(2)]
    assert [sorted(a + b) for a, b in zip(*pair, strict=True)] == alone


@given(st.integers(1, 50), st.integers(0, 2**40), st.integers(0, 30))
def test_a_shuffled_round_holds_every_index_once(size, seed, number):
    assert sorted(ShuffledStream(size, seed).round(number).tolist()) == list(range(size))


def test_rounds_and_seeds_differ():
    stream = ShuffledStream(50, 1)
    assert stream.round(0).tolist() != stream.round(1).tolist()
    assert stream.round(0).tolist() != ShuffledStream(50, 2).round(0).tolist()


def test_repeat_factors_set_the_mean_number_of_repeats():
    stream = RepeatFactorStream([1.0, 1.25, 3.5], seed=3)
    counts = Counter(np.concatenate([stream.round(number) for number in range(2000)]).tolist())
    assert counts[0] == 2000
    assert counts[1] / 2000 == pytest.approx(1.25, abs=0.04)
    assert counts[2] / 2000 == pytest.approx(3.5, abs=0.05)


def test_repeat_factors_are_those_of_lvis():
    images = annotated([0], [0], [0, 1], [])
    # f(0) = 3/4, f(1) = 1/4; r(c) = max(1, sqrt(t / f(c)))
    np.testing.assert_allclose(repeat_factors(images, 0.81), [1.0392305, 1.0392305, 1.8, 1.0], rtol=1e-6)


def test_weighted_draws_follow_the_weights_and_never_take_zero_weight():
    stream = WeightedStream([0, 1, 3, 0], seed=0)
    counts = Counter(index for _, index in take(stream.pairs(), 20000))
    assert set(counts) == {1, 2}
    assert counts[2] / counts[1] == pytest.approx(3, rel=0.08)


@pytest.mark.parametrize("weights", [[0, 0], [1, -1], [float("nan")], []])
def test_impossible_weights_are_refused(weights):
    with pytest.raises(ValueError, match="positive|weights"):
        WeightedStream(weights, 0)


def test_class_aware_weights():
    np.testing.assert_array_equal(class_aware_weights(annotated([0, 0, 1], [0], [])), [1.5, 0.5, 0])


def test_multi_dataset_weights_balance_sizes_and_apply_the_ratio():
    weights = multi_dataset_weights([2, 4], [1, 3])
    np.testing.assert_allclose(weights, [0.5, 0.5, 0.75, 0.75, 0.75, 0.75])
    assert weights[2:].sum() / weights[:2].sum() == pytest.approx(3)
    with pytest.raises(UserError, match="3 numbers for 2 datasets"):
        multi_dataset_weights([2, 4], [1, 1, 1])


def test_published_sampler_interfaces_yield_indices(base_cfg):
    assert take(ClassAwareSampler(annotated([0], []), seed=1), 20) == [0] * 20
    base_cfg.DATALOADER.DATASET_RATIO = [1, 0]
    assert set(take(MultiDatasetSampler(base_cfg, [2, 3], seed=1), 50)) == {0, 1}


def test_resuming_a_long_training_is_fast():
    groups = np.random.RandomState(0).randint(0, 2, 117_266)
    for options in ({}, {"groups": groups}):
        sampler = ResumableBatchSampler(
            ShuffledStream(117_266, 0), 16, start_iteration=89_000, rank=0, world_size=1, **options
        )
        start = time.perf_counter()
        next(iter(sampler))
        assert time.perf_counter() - start < 5
