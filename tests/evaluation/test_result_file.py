"""Scores of saved result files, and files that are broken."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from random_coco import random_detections, random_ground_truth

from centernet.data import register_coco_json
from centernet.errors import UserError
from centernet.evaluation import score_detections
from centernet.evaluation.result_file import score_result_file

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))
from evaluate_results import main


@pytest.fixture
def files(tmp_path):
    """Paths of annotations and results, and their content."""
    rng = np.random.default_rng(0)
    truth = random_ground_truth(rng, images=5)
    detections = random_detections(rng, truth)
    data, results = tmp_path / "labels.json", tmp_path / "results.json"
    data.write_text(json.dumps(truth))
    results.write_text(json.dumps(detections))
    return data, results, truth, detections


def test_the_command_prints_the_table_and_writes_everything(files, tmp_path, capsys):
    data, results, truth, detections = files
    assert main(["--data", f"{data}:{tmp_path}", str(results), "--output", str(tmp_path / "scores")]) == 0
    expected = score_detections(truth, detections, "bbox").metrics([item["name"] for item in truth["categories"]])
    printed = capsys.readouterr().out
    written = json.loads((tmp_path / "scores" / "metrics.json").read_text())
    for name, value in expected.items():
        assert name.removeprefix("AP-") in printed
        assert written["metrics"]["bbox"][name] == pytest.approx(value)
    assert f"{expected['AP']:.3f}" in printed
    assert written["rules"] == "COCO"
    first = written["classes"]["bbox"][0]
    assert first["AP"] == pytest.approx(expected["AP-class 3"])
    assert first["objects"] == sum(item["category_id"] == 3 for item in truth["annotations"])
    assert {"AP50", "AP75", "AR"} < set(first)


def test_a_registered_dataset_needs_no_images(files, tmp_path):
    data, results, _, _ = files
    register_coco_json("results_only", str(data), str(tmp_path / "no_such_folder"))
    assert score_result_file("results_only", results).metrics() == score_result_file(str(data), results).metrics()


def test_lvis_rules(files, tmp_path, capsys):
    data, results, truth, _ = files
    with pytest.raises(UserError, match="no LVIS annotation file"):
        score_result_file(str(data), results, lvis=True)
    for image in truth["images"]:
        image["neg_category_ids"] = image["not_exhaustive_category_ids"] = []
    for category in truth["categories"]:
        category["frequency"] = "f"
    data.write_text(json.dumps(truth))
    assert "--lvis" in score_result_file(str(data), results).notes[0]
    assert main(["--data", str(data), str(results), "--lvis", "--output", str(tmp_path)]) == 0
    figures = json.loads((tmp_path / "metrics.json").read_text())["metrics"]["bbox"]
    assert figures["APr"] is None  # no rare class
    assert figures["APf"] == figures["AP"] > 0
    assert "AR@300" in capsys.readouterr().out


def test_masks_are_scored_where_the_file_has_them(files):
    data, results, truth, _ = files
    polygons = [{**item, "score": 0.5} for item in truth["annotations"] if not item["iscrowd"]]
    results.write_text(json.dumps(polygons))
    metrics = score_result_file(str(data), results).metrics()
    assert metrics["segm"]["AP"] == metrics["bbox"]["AP"] == pytest.approx(100)
    del polygons[0]["segmentation"]
    results.write_text(json.dumps(polygons))
    with pytest.raises(UserError, match="1 of .* have no 'segmentation' and others do"):
        score_result_file(str(data), results)


def test_no_detections_score_zero(files):
    data, results, _, _ = files
    results.write_text("[]")
    scores = score_result_file(str(data), results)
    assert scores.metrics()["bbox"]["AP"] == 0
    assert "has no detections" in scores.notes[0]


def test_numbers_that_are_not_finite_and_unknown_categories_are_left_out_and_counted(files):
    data, results, _, detections = files
    before = score_result_file(str(data), results).metrics()
    good = detections[0]
    bad = [{**good, "score": float("nan")}, {**good, "bbox": [0, 0, float("inf"), 1]}, {**good, "category_id": 77}]
    results.write_text(json.dumps(detections + bad))
    scores = score_result_file(str(data), results)
    assert scores.metrics() == before
    assert [note.split(" detections ")[0] for note in scores.notes] == [
        f"Left out: 2 of {len(detections) + 3}",
        f"Left out: 1 of {len(detections) + 1}",
    ]


GOOD = {"image_id": 1, "category_id": 3, "score": 0.5, "bbox": [1, 2, 3, 4]}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"annotations": []}, r"must be a list of detections, .* and is a dict"),
        ([GOOD, 5], r"detection 1 is a int and not an object"),
        ([{**GOOD, "image_id": 99}], r"1 of 1 detections of .* image id 99: name the data"),
        ([{**GOOD, "image_id": "1"}], r"on image id '1'"),
        ([{**GOOD, "image_id": [1]}], r"detection 0 has a 'image_id' that is no id"),
        ([{**GOOD, "category_id": 0}], r"no detection of .* \(the first has 0, the data have 3 to 20\)"),
        ([{**GOOD, "bbox": [1, 2, 3]}], r"detection 0 has a 'bbox' that is not four numbers"),
        ([{**GOOD, "bbox": [1, 2, 3, None]}], r"detection 0 has a 'bbox' that is not four numbers"),
        ([{**GOOD, "bbox": [1, 2, 3, 10**400]}], r"detection 0 has a 'bbox' that is not four numbers"),
        ([{**GOOD, "score": "high"}], r"detection 0 has a score that is no number: 'high'"),
        ([{key: GOOD[key] for key in ("image_id", "category_id", "bbox")}], r"detection 0 has no 'score'"),
        ([{key: GOOD[key] for key in ("image_id", "category_id", "score")}], r"has neither 'bbox' nor"),
        ([{**GOOD, "segmentation": {"size": [4, 4]}}], r"cannot be scored as segm: key 'counts' is missing"),
    ],
)
def test_broken_files_are_one_sentence(files, content, sentence):
    data, results, _, _ = files
    results.write_text(json.dumps(content))
    with pytest.raises(UserError, match=sentence):
        score_result_file(str(data), results)


def test_what_cannot_be_read_is_one_sentence(files, tmp_path, capsys):
    data, results, truth, _ = files
    with pytest.raises(UserError, match="there is no file"):
        score_result_file(str(data), tmp_path / "none.json")
    with pytest.raises(UserError, match="there is no annotation file"):
        score_result_file(str(tmp_path / "none.json"), results)
    with pytest.raises(UserError, match="not registered"):
        score_result_file("otter_kind", results)
    results.write_text("[{")
    assert main(["--data", str(data), str(results), "--output", str(tmp_path)]) == 2
    assert "is not JSON" in capsys.readouterr().err
    results.write_text("[]")
    data.write_text(json.dumps({**truth, "annotations": []}))
    with pytest.raises(UserError, match="cannot be scored against, since it has no annotations"):
        score_result_file(str(data), results)
    truth["annotations"][0]["bbox"] = [1, 2, 3]
    data.write_text(json.dumps(truth))
    with pytest.raises(UserError, match="cannot be scored as bbox: a 'bbox' is not four numbers"):
        score_result_file(str(data), results)
    del truth["annotations"][0]["category_id"]
    data.write_text(json.dumps(truth))
    with pytest.raises(UserError, match="not a COCO annotation file: key 'category_id' is missing"):
        score_result_file(str(data), results)
