"""What follows a picture through its augmentations: boxes, masks of both kinds, keypoints, scores of pseudo labels."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.structures import BoxMode, Instances
from PIL import Image
from pycocotools import mask as coco_mask

from centernet.data import build_test_mapper, build_train_loader, build_train_mapper, ensure_registered
from centernet.data.augmentation import check_input
from centernet.data.mapper import seeded
from centernet.errors import UserError

HEIGHT, WIDTH = 90, 120
LEFT, TOP, RIGHT, BOTTOM = 20, 30, 100, 70  # of a rectangle of its own colour


@pytest.fixture
def record(tmp_path):
    """A picture with one bright rectangle and its labels; ``segmentation`` is up to the test."""
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[TOP:BOTTOM, LEFT:RIGHT] = 255
    Image.fromarray(pixels).save(tmp_path / "one.png")

    def make(segmentation, **more):
        annotation = {
            "bbox": [LEFT, TOP, RIGHT - LEFT, BOTTOM - TOP], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 1,
            "iscrowd": 0, "segmentation": segmentation, **more,
        }  # fmt: skip
        return {"file_name": str(tmp_path / "one.png"), "height": HEIGHT, "width": WIDTH, "annotations": [annotation]}

    return make


def polygon():
    return [[LEFT, TOP, RIGHT, TOP, RIGHT, BOTTOM, LEFT, BOTTOM]]  # whole numbers, as some tools write them


def bitmask():
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[TOP:BOTTOM, LEFT:RIGHT] = 1
    return coco_mask.encode(np.asfortranarray(mask))


@pytest.fixture(params=["", "ResizeShortestEdge", "EfficientDetResizeCrop", "LargeScaleJitter"])
def augmented_cfg(base_cfg, request):
    base_cfg.INPUT.CUSTOM_AUG = request.param
    base_cfg.INPUT.TRAIN_SIZE, base_cfg.INPUT.SCALE_RANGE = 80, (0.5, 2.0)
    base_cfg.INPUT.MIN_SIZE_TRAIN, base_cfg.MODEL.MASK_ON = (60, 133), True
    return base_cfg


@pytest.mark.parametrize("flip", ["none", "horizontal", "vertical"])
@pytest.mark.parametrize("kind", ["polygon", "bitmask"])
def test_masks_and_boxes_follow_the_picture(augmented_cfg, record, kind, flip):
    augmented_cfg.INPUT.MASK_FORMAT, augmented_cfg.INPUT.RANDOM_FLIP = kind, flip
    mapper = build_train_mapper(augmented_cfg)
    seen = 0
    for seed in range(25):
        with seeded(seed):
            sample = mapper(record(polygon() if kind == "polygon" else bitmask()))
        height, width = sample["image"].shape[1:]
        rows, columns = np.nonzero(sample["image"][0].numpy() > 127)
        if len(sample["instances"]) == 0 or len(rows) < 30:
            continue
        seen += 1
        x1, y1, x2, y2 = sample["instances"].gt_boxes.tensor[0].tolist()
        assert 0 <= x1 < x2 <= width
        assert 0 <= y1 < y2 <= height
        visible = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert [x1, y1, x2, y2] == pytest.approx(visible, abs=1.6)
        box = sample["instances"].gt_masks.get_bounding_boxes().tensor[0]  # a polygon may reach beyond the window
        box = torch.minimum(box.clamp(min=0), torch.tensor([width, height, width, height]))
        assert box.tolist() == pytest.approx([x1, y1, x2, y2], abs=1.6)
    assert seen >= 15


def test_boxes_and_polygons_of_whole_numbers_keep_their_fractions(base_cfg, record):
    base_cfg.MODEL.MASK_ON, base_cfg.INPUT.MIN_SIZE_TRAIN, base_cfg.INPUT.RANDOM_FLIP = True, (133,), "none"
    sample = build_train_mapper(base_cfg)(record(polygon()))
    # both sides of the box too, which detectron2 would give as 29, 44, 147, 103
    assert sample["instances"].gt_boxes.tensor[0].tolist() == pytest.approx(
        [LEFT * 177 / WIDTH, TOP * 133 / HEIGHT, RIGHT * 177 / WIDTH, BOTTOM * 133 / HEIGHT]
    )
    corners = sample["instances"].gt_masks.polygons[0][0].reshape(-1, 2)
    assert corners[0].tolist() == pytest.approx([LEFT * 177 / WIDTH, TOP * 133 / HEIGHT])
    assert corners[0][0] % 1 != 0


def test_keypoints_follow_and_those_cut_off_are_not_visible(augmented_cfg, record):
    MetadataCatalog.get("keypoints_of_a_test").set(
        keypoint_names=("left", "right"), keypoint_flip_map=(("left", "right"),)
    )
    augmented_cfg.DATASETS.TRAIN = ("keypoints_of_a_test",)
    augmented_cfg.MODEL.MASK_ON, augmented_cfg.MODEL.KEYPOINT_ON = False, True
    augmented_cfg.INPUT.RANDOM_FLIP = "horizontal"
    mapper = build_train_mapper(augmented_cfg)
    cut = flipped = 0
    for seed in range(30):
        with seeded(seed):
            sample = mapper(record([], keypoints=[LEFT, TOP, 2, RIGHT, BOTTOM, 2]))
        if not len(sample["instances"]):
            continue
        height, width = sample["image"].shape[1:]
        (x1, y1, v1), (x2, y2, v2) = sample["instances"].gt_keypoints.tensor[0].tolist()
        box = sample["instances"].gt_boxes.tensor[0].tolist()
        if v1 == v2 == 2:
            assert sorted([x1, x2]) == pytest.approx([box[0], box[2]], abs=0.1)
            assert {round(min(y1, y2)), round(max(y1, y2))} == {round(box[1]), round(box[3])}
            assert x1 < x2  # what is on the left stays "left"
            flipped += y1 > y2
        for x, y, visible in ((x1, y1, v1), (x2, y2, v2)):
            assert visible == 0 or (0 <= x <= width and 0 <= y <= height)
            cut += visible == 0
    assert flipped > 0
    assert (cut > 0) == (augmented_cfg.INPUT.CUSTOM_AUG in ("EfficientDetResizeCrop", "LargeScaleJitter"))


def test_large_scale_jitter_keeps_to_its_window_and_range(base_cfg, record):
    base_cfg.INPUT.CUSTOM_AUG, base_cfg.INPUT.TRAIN_SIZE = "LargeScaleJitter", 64
    base_cfg.INPUT.SCALE_RANGE = (0.25, 1.5)
    mapper = build_train_mapper(base_cfg)
    sizes = []
    for seed in range(40):
        with seeded(seed):
            sizes.append(tuple(mapper(record(polygon()))["image"].shape[1:]))
    heights, widths = zip(*sizes, strict=True)
    assert max(widths) == 64
    assert 0.25 * 64 - 1 <= min(widths) < 30
    assert max(heights) <= 64
    assert len(set(sizes)) > 10
    check_input(base_cfg)
    base_cfg.INPUT.TEST_INPUT_TYPE, base_cfg.INPUT.TEST_SIZE = "square", 100
    assert tuple(build_test_mapper(base_cfg)(record(polygon()))["image"].shape[1:]) == (75, 100)


def test_scores_become_weights_only_when_wanted(base_cfg, record):
    base_cfg.INPUT.MIN_SIZE_TRAIN = (60,)
    assert not build_train_mapper(base_cfg)(record([], score=0.7))["instances"].has("gt_scores")
    base_cfg.INPUT.PSEUDO_LABEL_WEIGHT = "score"
    mapper = build_train_mapper(base_cfg)
    data = record([], score=0.7)
    (first,) = data["annotations"]
    outside = {**first, "bbox": [300, 300, 5, 5], "score": 0.1, "category_id": 0}
    data["annotations"] = [
        {**first, "iscrowd": 1}, outside, {**first, "category_id": 3}, {k: v for k, v in first.items() if k != "score"}
    ]  # fmt: skip
    instances: Instances = mapper(data)["instances"]
    assert instances.gt_scores.tolist() == pytest.approx([0.7, 1.0])
    assert instances.gt_scores.dtype == torch.float32
    assert instances.gt_classes.tolist() == [3, 1]
    assert data["annotations"][1]["category_id"] == 0  # the record is not touched
    data["annotations"] = []
    assert mapper(data)["instances"].gt_scores.shape == (0,)


def test_a_json_files_scores_arrive_in_batches(small_cfg, tmp_path):
    _, json_file, root = small_cfg.DATASETS.TRAIN[0].split(":")
    content = json.loads(Path(json_file).read_text())
    for annotation in content["annotations"][::2]:
        annotation["score"] = 0.25
    (tmp_path / "pseudo.json").write_text(json.dumps(content))
    name = f"coco_json:{tmp_path / 'pseudo.json'}:{root}"
    ensure_registered([name])
    small_cfg.DATASETS.TRAIN = (small_cfg.DATASETS.TRAIN[0], name)
    small_cfg.INPUT.PSEUDO_LABEL_WEIGHT = "score"
    loader = iter(build_train_loader(small_cfg, seed=0))
    samples = [sample for _ in range(20) for sample in next(loader)]
    found = {(s["dataset_source"], float(s["instances"].gt_scores[0])) for s in samples}
    assert found == {(0, 1.0), (1, 1.0), (1, 0.25)}


def test_an_unknown_weight_is_refused(base_cfg):
    base_cfg.INPUT.PSEUDO_LABEL_WEIGHT = "scores"
    with pytest.raises(UserError, match="PSEUDO_LABEL_WEIGHT is 'scores', must be one of none, score"):
        check_input(base_cfg)
