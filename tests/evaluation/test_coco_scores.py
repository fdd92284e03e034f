"""The fast scorer gives the official figures, to 1e-9."""

import copy
import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from official import coco_scores
from pycocotools import mask
from random_coco import cases, random_detections, random_ground_truth

from centernet.errors import UserError
from centernet.evaluation import score_detections

DATA = Path(os.environ.get("CENTERNET_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))


def assert_same(ours, reference):
    np.testing.assert_allclose(ours.stats[:12], reference.stats, rtol=0, atol=1e-9)
    np.testing.assert_allclose(ours.eval["precision"], reference.eval["precision"], rtol=0, atol=1e-9)
    np.testing.assert_allclose(ours.eval["recall"], reference.eval["recall"], rtol=0, atol=1e-9)
    np.testing.assert_allclose(ours.eval["scores"], reference.eval["scores"], rtol=0, atol=1e-9)


@pytest.mark.parametrize("seed", range(8))
def test_boxes_score_as_the_official_code_says(seed):
    rng = np.random.default_rng(seed)
    truth = random_ground_truth(rng)
    detections = random_detections(rng, truth)
    reference = coco_scores(truth, detections, "bbox")
    assert_same(score_detections(truth, detections, "bbox"), reference)
    assert 0.05 < reference.stats[0] < 0.95  # the case is no trivial one


@pytest.mark.parametrize("seed", range(3))
def test_masks_score_as_the_official_code_says(seed):
    rng = np.random.default_rng(seed)
    truth = random_ground_truth(rng, images=6)
    detections = random_detections(rng, truth, noise=0.05)
    for item in detections:
        x, y, w, h = item["bbox"]
        polygon = [[x, y, x + w, y, x + w, y + h, x, y + h]]
        (encoded,) = mask.frPyObjects(polygon, 400, 400)
        item["segmentation"] = {"size": encoded["size"], "counts": encoded["counts"].decode()}
    without_boxes = [{key: item[key] for key in item if key != "bbox"} for item in detections]
    assert_same(score_detections(truth, detections, "segm"), coco_scores(truth, without_boxes, "segm"))


def test_a_part_of_the_images():
    rng = np.random.default_rng(1)
    truth = random_ground_truth(rng)
    detections = random_detections(rng, truth)
    ours = score_detections(truth, detections, "bbox", image_ids=[2, 5, 9])
    assert_same(ours, coco_scores(truth, detections, "bbox", image_ids=[2, 5, 9]))


def test_other_limits_of_detections():
    rng = np.random.default_rng(2)
    truth = random_ground_truth(rng)
    detections = random_detections(rng, truth)
    ours = score_detections(truth, detections, "bbox", max_dets=[1, 10, 300])
    expected = coco_scores(truth, detections, "bbox", (1, 10, 300)).eval["precision"]
    np.testing.assert_allclose(ours.eval["precision"], expected, rtol=0, atol=1e-9)
    valid = expected[:, :, :, 0, 2]
    assert ours.stats[0] == pytest.approx(valid[valid > -1].mean(), abs=1e-9)


def test_small_portions_score_the_same(monkeypatch):
    rng = np.random.default_rng(4)
    truth = random_ground_truth(rng)
    detections = random_detections(rng, truth)
    whole = score_detections(truth, detections, "bbox")
    monkeypatch.setattr("centernet.evaluation.scoring.DETECTIONS_AT_ONCE", 10)
    monkeypatch.setattr("centernet.evaluation.overlap.PAIRS_AT_ONCE", 7)
    portions = score_detections(truth, detections, "bbox")
    for name in ("precision", "recall", "scores"):
        np.testing.assert_array_equal(portions.eval[name], whole.eval[name])


def test_nothing_detected_scores_zero():
    truth = random_ground_truth(np.random.default_rng(0))
    stats = score_detections(truth, [], "bbox").stats
    assert stats[:3].tolist() == [0, 0, 0]


def test_perfect_detections_score_one():
    truth = random_ground_truth(np.random.default_rng(0))
    detections = [
        {key: annotation[key] for key in ("image_id", "category_id", "bbox")} | {"score": 0.5}
        for annotation in truth["annotations"]
        if not annotation["iscrowd"]
    ]
    assert score_detections(truth, detections, "bbox").stats[0] == pytest.approx(1)


def test_inputs_are_not_changed():
    rng = np.random.default_rng(0)
    truth = random_ground_truth(rng)
    detections = random_detections(rng, truth)
    before = copy.deepcopy(detections)
    score_detections(truth, detections, "bbox")
    assert detections == before


@settings(max_examples=60, deadline=None)
@given(cases())
def test_ties_crowds_limits_of_sizes_and_empty_classes(case):
    truth, detections = case
    assert_same(score_detections(truth, detections, "bbox"), coco_scores(truth, detections))


@settings(max_examples=25, deadline=None)
@given(cases())
def test_few_detections_count(case):
    truth, detections = case
    ours = score_detections(truth, detections, "bbox", max_dets=[1, 2, 3])
    reference = coco_scores(truth, detections, max_dets=[1, 2, 3])
    np.testing.assert_allclose(ours.eval["precision"], reference.eval["precision"], rtol=0, atol=1e-9)
    np.testing.assert_allclose(ours.eval["recall"], reference.eval["recall"], rtol=0, atol=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_keypoints_score_as_the_official_code_says(seed):
    rng = np.random.default_rng(seed)
    truth = random_ground_truth(rng, category_ids=(1,))
    detections = []
    for annotation in truth["annotations"]:
        x, y, w, h = annotation["bbox"]
        points = np.stack([x + w * rng.random(17), y + h * rng.random(17), rng.integers(0, 3, 17)], axis=1)
        if rng.random() < 0.2:
            points[:, 2] = 0
        annotation["keypoints"] = points.ravel().tolist()
        annotation["num_keypoints"] = int((points[:, 2] > 0).sum())
        for _ in range(rng.integers(0, 4)):
            near = points + rng.normal(0, 0.03, (17, 3)) * (w, h, 0)
            detection = {"keypoints": near.ravel().tolist(), "score": round(float(rng.random()), 1)}
            detections.append({key: annotation[key] for key in ("image_id", "category_id")} | detection)
    reference = coco_scores(truth, detections, "keypoints", None)
    assert_same(score_detections(truth, detections, "keypoints"), reference)
    assert 0.05 < reference.stats[0] < 0.95
    with pytest.raises(UserError, match="annotations have 17 keypoints but the evaluation has 2 sigmas"):
        score_detections(truth, detections, "keypoints", sigmas=(0.1, 0.1))


def test_an_object_with_id_zero_can_be_found():
    truth = random_ground_truth(np.random.default_rng(0), images=1, category_ids=(1,))
    truth["annotations"] = [{**truth["annotations"][0], "id": 0, "iscrowd": 0}]
    detections = [{key: truth["annotations"][0][key] for key in ("image_id", "category_id", "bbox")} | {"score": 1.0}]
    assert score_detections(truth, detections, "bbox").stats[0] == pytest.approx(1)


def test_a_detection_on_an_image_that_is_not_there():
    truth = random_ground_truth(np.random.default_rng(0), images=2)
    stray = {"image_id": 99, "category_id": 3, "bbox": [0, 0, 1, 1], "score": 1.0}
    with pytest.raises(UserError, match=r"1 of 1 detections are on images .* the first on image id 99"):
        score_detections(truth, [stray], "bbox")
    with pytest.raises(UserError, match="unknown evaluation task 'boxes'"):
        score_detections(truth, [], "boxes")


def test_the_table_is_complete():
    rng = np.random.default_rng(3)
    truth = random_ground_truth(rng)
    scores = score_detections(truth, random_detections(rng, truth), "bbox")
    metrics = scores.metrics(["a", "b", "c", "d"])
    names = "AP AP50 AP75 APs APm APl AR@1 AR@10 AR@100 ARs@100 ARm@100 ARl@100 AP-a AP-b AP-c AP-d"
    assert list(metrics) == names.split()
    np.testing.assert_allclose(list(metrics.values())[:12], 100 * scores.stats)
    assert metrics["AP"] == pytest.approx(np.mean([metrics[f"AP-{name}"] for name in "abcd"]))


def test_real_annotations():
    file = DATA / "coco_mini" / "annotations" / "instances_val.json"
    if not file.is_file():
        pytest.skip("the shared data are not here")
    truth = json.loads(file.read_text())
    detections = random_detections(np.random.default_rng(0), truth)
    assert_same(score_detections(truth, detections, "bbox"), coco_scores(truth, detections))


def one_class(boxes_and_areas):
    """One image, one class."""
    places = {"image_id": 1, "category_id": 1}
    annotations = [
        {"id": number, **places, "bbox": box, "area": area, "iscrowd": 0}
        for number, (box, area) in enumerate(boxes_and_areas, 1)
    ]
    images = [{"id": 1, "width": 200, "height": 200}]
    return {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cup"}]}


def test_of_objects_that_overlap_equally_the_last_is_taken():
    left, right = ([0.0, 0.0, 100.0, 100.0], 1e4), ([20.0, 0.0, 100.0, 100.0], 1e4)
    middle = {"image_id": 1, "category_id": 1, "bbox": [10.0, 0.0, 100.0, 100.0], "score": 0.9}
    detections = [middle, {**middle, "bbox": left[0], "score": 0.5}]
    stats = []
    for truth in (one_class([left, right]), one_class([right, left])):
        ours = score_detections(truth, detections, "bbox")
        assert_same(ours, coco_scores(truth, detections))
        stats.append(ours.stats[0])
    assert stats[0] > stats[1]  # the second detection finds the left object only if the first left it free


def test_an_area_at_a_limit_belongs_to_both_sizes():
    truth = one_class([([0.0, 0.0, 32.0, 32.0], 1024), ([100.0, 100.0, 96.0, 96.0], 9216)])
    found = {"image_id": 1, "category_id": 1, "score": 0.5}
    false = {**found, "bbox": [60.0, 0.0, 32.0, 32.0], "score": 0.9}
    detections = [false, *({**found, "bbox": item["bbox"]} for item in truth["annotations"])]
    ours = score_detections(truth, detections, "bbox")
    assert_same(ours, coco_scores(truth, detections))
    np.testing.assert_allclose(ours.stats[3:6], [1 / 2, 2 / 3, 1])  # the false one counts as small and as medium
