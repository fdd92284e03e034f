"""The loaders: exact resume whatever the number of workers, samplers by name, and one sentence for every
mistake."""

import itertools
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog

from centernet.data import build_custom_train_loader, build_test_loader, build_train_loader
from centernet.data.loader import get_detection_dataset_dicts_with_source
from centernet.errors import UserError


def content(sample):
    boxes = sample["instances"].gt_boxes.tensor
    return sample["image_id"], sample["image"].float().sum().item(), boxes.tolist()


def read(loader, count):
    return [[content(sample) for sample in batch] for batch in itertools.islice(loader, count)]


def read_images(loader):
    for _ in itertools.islice(loader, 20):
        pass


def image_ids(loader):
    return [sample["image_id"] for batch in itertools.islice(loader, 9) for sample in batch]


@pytest.mark.parametrize("grouping", [True, False])
@pytest.mark.parametrize("sampler", ["TrainingSampler", "RepeatFactorTrainingSampler", "ClassAwareSampler"])
def test_resumed_training_sees_the_same_images_with_the_same_augmentations(small_cfg, grouping, sampler):
    small_cfg.DATALOADER.ASPECT_RATIO_GROUPING = grouping
    small_cfg.DATALOADER.SAMPLER_TRAIN = sampler
    small_cfg.DATALOADER.REPEAT_THRESHOLD = 0.9
    whole = read(build_train_loader(small_cfg, seed=7), 14)
    np.random.seed(99)  # whatever the process drew before
    assert read(build_train_loader(small_cfg, seed=7, start_iteration=9), 5) == whole[9:]
    assert read(build_train_loader(small_cfg, seed=8), 14) != whole
    sizes = {boxes[0][2] - boxes[0][0] for batch in whole for _, _, boxes in batch}
    assert len(sizes) > 1  # the augmentation did vary


def test_workers_change_nothing(small_cfg):
    alone = read(build_train_loader(small_cfg, seed=3, start_iteration=2), 6)
    small_cfg.DATALOADER.NUM_WORKERS = 2
    assert read(build_train_loader(small_cfg, seed=3, start_iteration=2), 6) == alone


@pytest.mark.parametrize("workers", [0, 1])
def test_global_random_generators_are_left_alone(small_cfg, workers):
    small_cfg.DATALOADER.NUM_WORKERS = workers
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    expected = torch.rand(1).item(), np.random.rand(), random.random()
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    read(build_train_loader(small_cfg, seed=0), 3)
    assert (torch.rand(1).item(), np.random.rand(), random.random()) == expected


def test_batches_are_of_one_orientation_and_of_the_wanted_size(small_cfg):
    for batch in itertools.islice(build_custom_train_loader(small_cfg), 10):
        assert len(batch) == 3
        assert len({d["width"] > d["height"] for d in batch}) == 1


def test_the_seed_is_the_configs_or_drawn_and_kept(small_cfg):
    small_cfg.SEED = 5
    assert build_train_loader(small_cfg).seed == 5
    small_cfg.SEED = -1
    loader = build_train_loader(small_cfg)
    assert read(build_train_loader(small_cfg, seed=loader.seed), 4) == read(loader, 4)


def test_several_datasets_in_a_ratio(small_cfg, write_coco):
    small_cfg.DATASETS.TRAIN = (small_cfg.DATASETS.TRAIN[0], write_coco("more", count=40))
    small_cfg.DATALOADER.SAMPLER_TRAIN = "MultiDatasetSampler"
    small_cfg.DATALOADER.DATASET_RATIO = [3, 1]
    batches = itertools.islice(build_train_loader(small_cfg, seed=0), 100)
    sources = [d["dataset_source"] for batch in batches for d in batch]
    assert np.mean(sources) == pytest.approx(0.25, abs=0.08)
    small_cfg.DATALOADER.DATASET_RATIO = [1]
    with pytest.raises(UserError, match="1 numbers for 2 datasets"):
        build_train_loader(small_cfg)


def test_test_loader_yields_every_image_once_in_order(small_cfg):
    loader = build_test_loader(small_cfg, small_cfg.DATASETS.TEST[0])
    assert len(loader) == 10
    assert [d["image_id"] for batch in loader for d in batch] == list(range(1, 11))
    assert {min(d["image"].shape[1:]) for batch in loader for d in batch} == {32}


@pytest.mark.parametrize("custom", ["", "ResizeShortestEdge", "EfficientDetResizeCrop"])
def test_square_test_input(small_cfg, custom):
    small_cfg.INPUT.TEST_INPUT_TYPE = "square"
    small_cfg.INPUT.CUSTOM_AUG = custom
    small_cfg.INPUT.TEST_SIZE = 80
    loader = build_test_loader(small_cfg, small_cfg.DATASETS.TEST[0])
    assert {max(d["image"].shape[1:]) for batch in loader for d in batch} == {80}


def test_custom_augmentation_in_training(small_cfg):
    small_cfg.INPUT.CUSTOM_AUG = "EfficientDetResizeCrop"
    small_cfg.INPUT.TRAIN_SIZE = 32
    batches = itertools.islice(build_train_loader(small_cfg, seed=0), 10)
    assert max(max(d["image"].shape[1:]) for batch in batches for d in batch) <= 32


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("damage", ["truncate", "delete", "replace"])
def test_unreadable_image_is_one_sentence_that_names_it(small_cfg, workers, damage):
    small_cfg.DATALOADER.NUM_WORKERS = workers
    small_cfg.DATALOADER.BAD_IMAGE_LIMIT = 0
    victim = Path(DatasetCatalog.get(small_cfg.DATASETS.TRAIN[0])[4]["file_name"])
    if damage == "truncate":
        victim.write_bytes(victim.read_bytes()[:60])
    elif damage == "delete":
        victim.unlink()
    else:
        victim.write_text("no image")
    test_loader = build_test_loader(small_cfg, small_cfg.DATASETS.TEST[0])
    for loader in (build_train_loader(small_cfg, seed=0), test_loader):
        with pytest.raises(UserError) as caught:
            read_images(loader)
        assert str(caught.value).startswith(f"cannot read image {victim}: ")
        assert "\n" not in str(caught.value)


def test_image_of_another_size_than_annotated_is_named(small_cfg):
    records = DatasetCatalog.get(small_cfg.DATASETS.TRAIN[0])
    Path(records[3]["file_name"]).write_bytes(Path(records[1]["file_name"]).read_bytes())
    small_cfg.DATALOADER.BAD_IMAGE_LIMIT = 0
    with pytest.raises(UserError, match="3.png: Mismatched image shape"):
        read_images(build_train_loader(small_cfg, seed=0))


def test_a_mapper_may_skip_images(small_cfg):
    def odd_only(record):
        return record if record["image_id"] % 2 else None

    first = image_ids(build_train_loader(small_cfg, odd_only, seed=0))
    again = image_ids(build_train_loader(small_cfg, odd_only, seed=0))
    assert first == again
    assert all(image_id % 2 for image_id in first)
    with pytest.raises(UserError, match="skipped 100 images in a row"):
        read_images(build_train_loader(small_cfg, lambda record: None, seed=0))


def test_errors_before_the_first_batch(small_cfg, write_coco):
    small_cfg.DATALOADER.SAMPLER_TRAIN = "TrainSampler"
    with pytest.raises(UserError, match="'TrainSampler', must be one of TrainingSampler, Repeat"):
        build_train_loader(small_cfg)
    small_cfg.DATALOADER.SAMPLER_TRAIN = "TrainingSampler"
    small_cfg.SOLVER.IMS_PER_BATCH = 0
    with pytest.raises(UserError, match="IMS_PER_BATCH is 0"):
        build_train_loader(small_cfg)
    small_cfg.DATASETS.TRAIN = ()
    with pytest.raises(UserError, match="no dataset is named"):
        build_train_loader(small_cfg)
    small_cfg.DATASETS.TRAIN = (write_coco("empty", count=0),)
    with pytest.raises(UserError, match="is empty"):
        build_train_loader(small_cfg)


def test_images_without_annotations_only(small_cfg, write_coco):
    name = write_coco("bare")
    labels = Path(name.split(":")[1])
    labels.write_text(labels.read_text().replace('"iscrowd": 0', '"iscrowd": 1'))
    with pytest.raises(UserError, match="has an annotation to learn from"):
        get_detection_dataset_dicts_with_source([name])
    assert len(get_detection_dataset_dicts_with_source(name, filter_empty=False)) == 10


def test_datasets_with_different_classes_do_not_mix(small_cfg, write_coco):
    other = write_coco("other", classes=("cat", "dog", "eel"))
    with pytest.raises(UserError, match="different classes"):
        get_detection_dataset_dicts_with_source([small_cfg.DATASETS.TRAIN[0], other])
