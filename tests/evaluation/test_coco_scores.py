"""The fast scorer gives the official figures, to 1e-9."""

import contextlib
import copy
import io

import numpy as np
import pytest
from pycocotools import mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from random_coco import random_detections, random_ground_truth

from centernet.evaluation import score_detections


def official(truth, detections, task, max_dets=(1, 10, 100), image_ids=None):
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = copy.deepcopy(truth)
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(copy.deepcopy(detections)), task)
        evaluation.params.maxDets = list(max_dets)
        if image_ids is not None:
            evaluation.params.imgIds = image_ids
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def assert_same(ours, reference):
    np.testing.assert_allclose(ours.stats[:12], reference.stats, rtol=0, atol=1e-9)
    np.testing.assert_allclose(ours.eval["precision"], reference.eval["precision"], rtol=0, atol=1e-9)
    np.testing.assert_allclose(ours.eval["recall"], reference.eval["recall"], rtol=0, atol=1e-9)


@pytest.mark.parametrize("seed", range(8))
def test_boxes_score_as_the_official_code_says(seed):
    rng = np.random.default_rng(seed)
    truth = random_ground_truth(rng)
    detections = random_detections(rng, truth)
    reference = official(truth, detections, "bbox")
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
    assert_same(score_detections(truth, detections, "segm"), official(truth, without_boxes, "segm"))


def test_a_part_of_the_images():
    rng = np.random.default_rng(1)
    truth = random_ground_truth(rng)
    detections = random_detections(rng, truth)
    ours = score_detections(truth, detections, "bbox", image_ids=[2, 5, 9])
    assert_same(ours, official(truth, detections, "bbox", image_ids=[2, 5, 9]))


def test_other_limits_of_detections():
    rng = np.random.default_rng(2)
    truth = random_ground_truth(rng)
    detections = random_detections(rng, truth)
    ours = score_detections(truth, detections, "bbox", max_dets=[1, 10, 300])
    expected = official(truth, detections, "bbox", (1, 10, 300)).eval["precision"]
    np.testing.assert_allclose(ours.eval["precision"], expected, rtol=0, atol=1e-9)
    valid = expected[:, :, :, 0, 2]
    assert ours.stats[0] == pytest.approx(valid[valid > -1].mean(), abs=1e-9)


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
