"""The fast scorer gives the figures of the lvis package, to 1e-9."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from official import lvis_scores
from pycocotools import mask
from random_coco import cases, random_detections

from centernet.errors import UserError
from centernet.evaluation import score_lvis_detections

pytest.importorskip("lvis")
DATA = Path(os.environ.get("CENTERNET_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))


def assert_same(ours, reference):
    np.testing.assert_allclose(ours.eval["precision"][..., 0], reference.eval["precision"], rtol=0, atol=1e-9)
    np.testing.assert_allclose(ours.eval["recall"][..., 0], reference.eval["recall"], rtol=0, atol=1e-9)
    figures = ours.metrics()
    assert list(figures) == list(reference.results)
    expected = [np.nan if value < 0 else 100 * value for value in reference.results.values()]
    np.testing.assert_allclose(list(figures.values()), expected, rtol=0, atol=1e-9)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=cases())
def test_federated_ties_ignored_limits_of_sizes_and_empty_classes(case, monkeypatch):
    truth, detections = case
    assert_same(score_lvis_detections(truth, detections, "bbox"), lvis_scores(truth, detections, monkeypatch))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=cases())
def test_the_limit_is_on_an_image(case, monkeypatch):
    truth, detections = case
    ours = score_lvis_detections(truth, detections, "bbox", max_dets=3)
    reference = lvis_scores(truth, detections, monkeypatch, max_dets=3)
    np.testing.assert_allclose(ours.eval["precision"][..., 0], reference.eval["precision"], rtol=0, atol=1e-9)


@pytest.fixture(scope="module")
def real():
    file = DATA / "lvis_mini" / "annotations" / "lvis_v0.5_val_100.json"
    if not file.is_file():
        pytest.skip("the shared data are not here")
    return json.loads(file.read_text())


@pytest.mark.parametrize("task", ["bbox", "segm"])
def test_real_annotations(real, task, monkeypatch):
    present = {annotation["category_id"] for annotation in real["annotations"]}
    truth = {**real, "categories": [item for item in real["categories"] if item["id"] in present]}
    detections = random_detections(np.random.default_rng(0), truth, noise=0.05)
    if task == "segm":
        sizes = {image["id"]: (image["height"], image["width"]) for image in truth["images"]}
        detections = detections[:2000]
        for item in detections:
            x, y, w, h = item.pop("bbox")
            polygon = [[x, y, x + w, y, x + w, y + h, x, y + h]]
            (item["segmentation"],) = mask.frPyObjects(polygon, *sizes[item["image_id"]])
    ours = score_lvis_detections(truth, detections, task)
    assert_same(ours, lvis_scores(truth, detections, monkeypatch, task))
    assert ours.metrics()["AP"] > 1


def test_nothing_detected_scores_zero(real):
    figures = score_lvis_detections(real, [], "bbox").metrics()
    assert figures["AP"] == figures["AR@300"] == 0


def test_a_file_without_the_federated_keys_is_one_sentence():
    truth = {"images": [{"id": 7}], "annotations": [], "categories": [{"id": 1, "name": "cup", "frequency": "r"}]}
    with pytest.raises(UserError, match="no LVIS annotation file, since 'neg_category_ids' is missing in entry 7"):
        score_lvis_detections(truth, [], "bbox")
    with pytest.raises(UserError, match="LVIS has no evaluation task 'keypoints'"):
        score_lvis_detections({"images": [], "categories": []}, [], "keypoints")


def test_objects_and_detections_without_area_are_left_out(monkeypatch):
    found = {"image_id": 1, "category_id": 2, "bbox": [5.0, 5.0, 20.0, 20.0], "score": 0.5}
    line = {"image_id": 1, "category_id": 2, "bbox": [50.0, 5.0, 0.0, 20.0]}
    image = {"id": 1, "width": 99, "height": 99, "neg_category_ids": [], "not_exhaustive_category_ids": []}
    truth = {
        "images": [image],
        "annotations": [{**found, "id": 1, "area": 400.0}, {**line, "id": 2, "area": 0.0}],
        "categories": [{"id": 2, "name": "cup", "frequency": "r"}],
    }
    detections = [{**line, "score": 0.9}, found]
    ours = score_lvis_detections(truth, detections, "bbox")
    assert_same(ours, lvis_scores(truth, detections, monkeypatch))
    assert ours.metrics()["APr"] == pytest.approx(100)
