"""Every sampler goes on at the exact next index in 2 and 4 processes too; class-aware sampling gives equal shares."""

import itertools
from collections import Counter

import numpy as np
import pytest

from centernet.data import build_train_loader
from centernet.data.samplers import (
    ClassAwareSampler,
    MultiDatasetSampler,
    RepeatFactorStream,
    ResumableBatchSampler,
    ShuffledStream,
    WeightedStream,
    class_aware_weights,
    multi_dataset_weights,
    repeat_factors,
)

RANDOM = np.random.RandomState(0)
RECORDS = [
    {"annotations": [{"category_id": int(c), "iscrowd": 0} for c in RANDOM.zipf(1.6, RANDOM.randint(1, 4)) % 12]}
    for _ in range(60)
]
STREAMS = {
    "TrainingSampler": lambda: ShuffledStream(60, 11),
    "RepeatFactorTrainingSampler": lambda: RepeatFactorStream(repeat_factors(RECORDS, 0.3), 11),
    "ClassAwareSampler": lambda: WeightedStream(class_aware_weights(RECORDS), 11),
    "MultiDatasetSampler": lambda: WeightedStream(multi_dataset_weights([20, 40], [1, 3]), 11),
}


def take(iterable, count):
    return list(itertools.islice(iterable, count))


@pytest.mark.parametrize("world_size", [2, 4])
@pytest.mark.parametrize("groups", [None, np.arange(60) % 3 == 0])
@pytest.mark.parametrize("name", STREAMS)
def test_every_sampler_resumes_at_the_exact_position_on_all_ranks(name, groups, world_size):
    options = {"groups": groups, "world_size": world_size}
    whole = [take(ResumableBatchSampler(STREAMS[name](), 4, rank=r, **options), 40) for r in range(world_size)]
    for stop in (1, 7, 15, 16, 33):
        for rank in range(world_size):
            resumed = ResumableBatchSampler(STREAMS[name](), 4, start_iteration=stop, rank=rank, **options)
            assert take(resumed, 40 - stop) == whole[rank][stop:]
    positions = [position for rank in whole for batch in rank for position, _ in batch]
    assert len(positions) == len(set(positions))  # no image position is dealt twice
    if groups is None:
        assert sorted(positions) == list(range(world_size * 40 * 4))


@pytest.mark.parametrize("world_size", [2, 4])
@pytest.mark.parametrize("name", STREAMS)
def test_loaders_of_all_ranks_share_what_one_process_would_read(name, world_size, small_cfg, write_coco, monkeypatch):
    small_cfg.DATALOADER.SAMPLER_TRAIN, small_cfg.DATALOADER.ASPECT_RATIO_GROUPING = name, False
    small_cfg.DATASETS.TRAIN = (small_cfg.DATASETS.TRAIN[0], write_coco("more", count=6))
    small_cfg.DATALOADER.DATASET_RATIO, small_cfg.SOLVER.IMS_PER_BATCH = [2, 1], 4

    def ids(rank, world_size, start, count):
        monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: world_size)
        monkeypatch.setattr("detectron2.utils.comm.get_rank", lambda: rank)
        batches = take(build_train_loader(small_cfg, seed=5, start_iteration=start), count)
        return [[(d["dataset_source"], d["image_id"]) for d in batch] for batch in batches]

    alone = ids(0, 1, 0, 8)
    shares = [ids(rank, world_size, 0, 8) for rank in range(world_size)]
    dealt = [Counter(itertools.chain(*batches)) for batches in zip(*shares, strict=True)]
    assert dealt == [Counter(batch) for batch in alone]
    assert [ids(rank, world_size, 3, 5) for rank in range(world_size)] == [whole[3:] for whole in shares]


def test_named_samplers_repeat_by_seed_and_differ_without(small_cfg):
    first = take(ClassAwareSampler(RECORDS, seed=3), 500)
    assert first == take(ClassAwareSampler(RECORDS, seed=3), 500)
    assert first != take(ClassAwareSampler(RECORDS, seed=4), 500)
    assert take(ClassAwareSampler(RECORDS, seed=3, start=123), 100) == first[123:223]
    small_cfg.DATALOADER.DATASET_RATIO = [1, 3]
    assert take(MultiDatasetSampler(small_cfg, [20, 40], 3, start=7), 50) == take(
        MultiDatasetSampler(small_cfg, [20, 40], 3), 57
    )[7:]
    again = [take(MultiDatasetSampler(small_cfg, [20, 40], seed=3), 500) for _ in range(2)]
    assert again[0] == again[1]
    assert np.mean(np.array(again[0]) >= 20) == pytest.approx(0.75, abs=0.06)


def test_images_of_one_class_get_equal_shares_a_class_within_two_percent():
    counts = np.round(2000 / np.arange(1, 21)).astype(int)  # 20 classes, the rarest with 100 of 7,200 images
    classes = np.repeat(np.arange(20), counts)
    stream = WeightedStream(class_aware_weights([{"annotations": [{"category_id": int(c)}]} for c in classes]), 2)
    drawn = np.concatenate([classes[stream.round(number)] for number in range(150)])
    shares = np.bincount(drawn, minlength=20) / len(drawn) * 20
    assert np.abs(shares - 1).max() < 0.02


def test_images_of_several_classes_get_the_share_that_their_weights_say():
    weights = class_aware_weights(RECORDS)
    has = np.array([[c in {a["category_id"] for a in r["annotations"]} for c in range(12)] for r in RECORDS])
    expected = weights @ has / weights.sum()
    stream = WeightedStream(weights, 3)
    drawn = np.concatenate([stream.round(number) for number in range(20_000)])
    found = has[drawn].mean(axis=0)
    present = expected > 0
    assert np.abs(found[present] / expected[present] - 1).max() < 0.02
    assert not found[~present].any()


def test_specified_class_aware_weights():
    images = [{"annotations": [{"category_id": c} for c in classes]} for classes in ([0, 0, 1], [0], [])]
    assert class_aware_weights(images).tolist() == [1.5, 0.5, 0]


def test_repeat_factors_of_several_sets_are_those_of_the_joined_one(small_cfg):
    one, other = RECORDS[:20], RECORDS[20:]
    joint = repeat_factors(one + other, 0.3)
    assert len(joint) == 60
    apart = np.concatenate([repeat_factors(one, 0.3), repeat_factors(other, 0.3)])
    assert not np.allclose(joint, apart)  # a class that is rare in one set and frequent in the other is not rare
    shares = Counter(c for record in RECORDS for c in {a["category_id"] for a in record["annotations"]})
    rarest = min(shares, key=shares.__getitem__)
    where = next(k for k, r in enumerate(RECORDS) if rarest in {a["category_id"] for a in r["annotations"]})
    assert joint[where] == pytest.approx(max(1, (0.3 / (shares[rarest] / 60)) ** 0.5))
