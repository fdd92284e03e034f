"""Does the model fit the data? Every mistake is one sentence with the remedy."""

from pathlib import Path

import pytest

from centernet.data import check_dataset_fits
from centernet.errors import UserError


def test_matching_classes_pass_for_each_architecture(small_cfg):
    small_cfg.MODEL.ROI_HEADS.NUM_CLASSES = 2
    check_dataset_fits(small_cfg, small_cfg.DATASETS.TRAIN)
    small_cfg.MODEL.META_ARCHITECTURE = "CenterNetDetector"
    small_cfg.MODEL.CENTERNET.NUM_CLASSES = 2
    small_cfg.MODEL.ROI_HEADS.NUM_CLASSES = 80
    check_dataset_fits(small_cfg, small_cfg.DATASETS.TRAIN)


def test_second_stage_with_other_classes(small_cfg):
    with pytest.raises(UserError) as caught:
        check_dataset_fits(small_cfg, small_cfg.DATASETS.TRAIN)
    name = small_cfg.DATASETS.TRAIN[0]
    assert str(caught.value) == (
        f"the model has 80 classes (MODEL.ROI_HEADS.NUM_CLASSES) but dataset {name} has 2: "
        "set MODEL.ROI_HEADS.NUM_CLASSES to 2 or choose another dataset"
    )


def test_first_stage_with_other_classes(small_cfg):
    small_cfg.MODEL.META_ARCHITECTURE = "CenterNetDetector"
    with pytest.raises(UserError, match=r"80 classes \(MODEL.CENTERNET.NUM_CLASSES\)"):
        check_dataset_fits(small_cfg, small_cfg.DATASETS.TRAIN)


def test_class_heatmap_as_proposals_needs_the_classes_too(small_cfg):
    small_cfg.MODEL.ROI_HEADS.NUM_CLASSES = 2
    small_cfg.MODEL.PROPOSAL_GENERATOR.NAME = "CenterNet"
    with pytest.raises(UserError, match="MODEL.CENTERNET.NUM_CLASSES"):
        check_dataset_fits(small_cfg, small_cfg.DATASETS.TRAIN)
    small_cfg.MODEL.CENTERNET.ONLY_PROPOSAL = True
    check_dataset_fits(small_cfg, small_cfg.DATASETS.TRAIN)


def test_input_is_checked_first(small_cfg):
    small_cfg.INPUT.RANDOM_FLIP = "horizontl"
    with pytest.raises(UserError, match="INPUT.RANDOM_FLIP is 'horizontl'"):
        check_dataset_fits(small_cfg, small_cfg.DATASETS.TRAIN)


def test_unknown_name_gets_the_nearest(small_cfg):
    with pytest.raises(UserError, match="'coco_2017_trian' is not registered: .*'coco_2017_train'"):
        check_dataset_fits(small_cfg, ["coco_2017_trian"])


def test_missing_files(small_cfg):
    _, json_file, image_root = small_cfg.DATASETS.TRAIN[0].split(":")
    Path(image_root).rename(image_root + "-away")
    with pytest.raises(UserError, match="no image folder"):
        check_dataset_fits(small_cfg, small_cfg.DATASETS.TRAIN)
    Path(json_file).unlink()
    with pytest.raises(UserError, match="no annotation file"):
        check_dataset_fits(small_cfg, small_cfg.DATASETS.TRAIN)


def test_embedded_data_that_is_not_there_says_how_to_make_it(small_cfg, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    small_cfg.MODEL.ROI_HEADS.NUM_CLASSES = 10
    with pytest.raises(UserError, match=r"digits_train.*python tools/make_demo_data.py"):
        check_dataset_fits(small_cfg, ["digits_train"])
