"""The page: everything in it, nothing from elsewhere; what is missing is said."""

import base64
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from detectron2.data import MetadataCatalog
from hand_made import as_coco
from PIL import Image
from random_coco import random_detections

from centernet.config_file import load_config
from centernet.errors import UserError
from centernet.evaluation.proposals import StoredProposals
from centernet.evaluation.report import inputs as report_inputs
from centernet.evaluation.report import read_inputs, write_report
from centernet.evaluation.report.analysis import analyse
from centernet.evaluation.report.inputs import class_frequencies
from centernet.evaluation.report.page import report_page
from centernet.evaluation.report.pictures import _readable_on, draw_errors

HEADINGS = ["Average precision", "Errors", "Calibration", "Classes", "Precision and recall", "Confusion",
            "Worst pictures", "Training", "Config"]  # fmt: skip


class Reader(HTMLParser):
    """Attributes that could load something, the headings, and the tags that are open."""

    def __init__(self, page):
        super().__init__()
        self.addresses, self.tags, self.headings, self.open = [], set(), [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        loading = ("src", "href", "srcset", "data")
        self.addresses += [value for name, value in attributes if name.split(":")[-1] in loading]
        if tag not in ("meta", "img", "br", "link"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in ("meta", "img", "br"):
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)


@pytest.fixture
def run(dataset, tmp_path):
    """A run folder with results only, the name of its data, and their content."""
    name, truth = dataset
    found = random_detections(np.random.default_rng(0), truth, noise=0.05)
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "results.json").write_text(json.dumps(found))
    return folder, name, truth


def with_everything(folder, name, truth):
    """Config, metrics and proposals beside the results, where a run has them."""
    cfg = load_config("", ["DATASETS.TEST", f"('{name}',)", "DATASETS.TRAIN", f"('{name}',)"])
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.PROPOSAL_GENERATOR.NAME = "GeneralizedRCNN", "CenterNet"
    cfg.MODEL.ROI_BOX_HEAD.MULT_PROPOSAL_SCORE = True
    (folder / "config.yaml").write_text(cfg.dump())
    rows = [{"iteration": k, "total_loss": 2.0 / (k + 1), "loss_cls": 1.0, "lr": 0.1, "bbox/AP": k} for k in range(5)]
    (folder / "metrics.json").write_text("\n".join(map(json.dumps, rows)) + '\n{"iteration": 7, "tot')
    inference = folder / ("inference_" + re.sub(r"[^\w.\-]+", "_", name))
    inference.mkdir()
    (folder / "results.json").rename(inference / "coco_instances_results.json")
    boxes = np.array([item["bbox"] for item in truth["annotations"]], np.float32)
    boxes[:, 2:] += boxes[:, :2]
    ids = np.array([item["image_id"] for item in truth["annotations"]])
    labels = np.array([item["category_id"] for item in truth["annotations"]])
    stated = np.full(len(ids), 0.7, np.float32)
    np.savez(inference / "proposals.npz", **StoredProposals(ids, boxes, stated, ids, boxes, labels, stated)._asdict())


def written(inputs, path, **options):
    analysis = write_report(inputs, path, **options)
    return analysis, path.read_text("utf-8")


def check_self_contained(page):
    reader = Reader(page)
    assert reader.open == []
    assert "script" not in reader.tags
    assert "link" not in reader.tags
    assert all(address.startswith(("#", "data:image/")) for address in reader.addresses)
    rest = re.sub(r'"data:image/[^"]*"', "", page)
    assert not re.search(r"https?:|url\((?!#)|@import|//\w+\.\w", rest)
    return reader


def test_results_alone_make_a_page_that_says_what_is_missing(run, tmp_path):
    folder, name, _ = run
    inputs = read_inputs(folder, name, str(folder / "results.json"))
    _, page = written(inputs, tmp_path / "out" / "page.html", pictures=3)
    assert check_self_contained(page).headings == HEADINGS
    for sentence in ("No config.yaml", "TEST.SAVE_PROPOSALS True", "No metrics.json"):
        assert sentence in page
    assert page.count("data:image/jpeg") == 3
    jpeg = re.search(r"data:image/jpeg;base64,([^\"]*)", page)[1]
    assert Image.open(io.BytesIO(base64.b64decode(jpeg))).width == 2 * 460 + 6


def test_everything(run, tmp_path):
    with_everything(*run)
    inputs = read_inputs(run[0])
    assert inputs.notes == []
    analysis, page = written(inputs, tmp_path / "page.html", pictures=0)
    reader = check_self_contained(page)
    assert reader.headings == HEADINGS
    assert "no metrics.json" not in page
    assert "Counts of every bin" in page
    found = analysis.calibration
    # every proposal is an object and states 0.7
    assert found.objectness.error == found.objectness_single.error == pytest.approx(0.3)
    assert found.product.error == pytest.approx(0.3)
    metrics = analysis.scores.metrics()
    assert f"{metrics['AP50']:.1f}" in page
    assert analysis.costs["AP"] == pytest.approx(metrics["AP50"], abs=1e-6)
    frequencies = class_frequencies(inputs)
    assert frequencies.unit == "training boxes"
    assert frequencies.counts.sum() == len(run[2]["annotations"])


def test_a_given_threshold(run):
    folder, name, _ = run
    inputs = read_inputs(folder, name, str(folder / "results.json"))
    analysis = analyse(inputs, threshold=0.9)
    assert analysis.confusion.threshold == analysis.threshold == 0.9
    assert analysis.threshold_recall <= analyse(inputs, threshold=0.1).threshold_recall
    assert analysis.confusion.counts[:, :-1].sum() <= sum(d["score"] >= 0.9 for d in inputs.detections)


def lvis_inputs(run, detections=True):
    folder, name, _ = run
    box = (10, 10, 30, 30)
    truth, found = as_coco(
        [(0, k, box) for k in range(3)], [(0, k, box, 0.9) for k in range(3)],
        neg_category_ids=[2], not_exhaustive_category_ids=[],
    )  # fmt: skip
    for category, count in zip(truth["categories"], (5, 50, 500), strict=True):
        category |= {"image_count": count, "frequency": {5: "r", 50: "c", 500: "f"}[count]}
    inputs = read_inputs(folder, name, str(folder / "results.json"))
    return inputs._replace(truth=truth, detections=found if detections else [])


def test_lvis_by_frequency(run, tmp_path):
    inputs = lvis_inputs(run)
    assert class_frequencies(inputs).groups == ["rare", "common", "frequent"]
    analysis, page = written(inputs, tmp_path / "page.html")
    assert analysis.costs["AP"] == pytest.approx(100)
    for words in ("LVIS's rules, here and in all that follows", "APr", "No picture has an error"):
        assert words in page
    assert "COCO's rules" not in page


def test_the_groups_that_are_scored_are_those_that_are_drawn(run):
    inputs = lvis_inputs(run)
    for category in inputs.truth["categories"]:
        category["image_count"] = 1  # a file may count its own images only
    assert class_frequencies(inputs).groups == ["rare", "common", "frequent"]
    for category in inputs.truth["categories"]:
        del category["frequency"]
    assert class_frequencies(inputs).groups == ["rare"] * 3


def test_where_the_page_and_the_run_follow_different_rules(run, tmp_path, monkeypatch):
    folder, name, truth = run
    results = str(folder / "results.json")
    assert "COCO's rules: every detection is judged" in written(read_inputs(folder, name, results), tmp_path / "a")[1]
    monkeypatch.setattr(report_inputs, "read_ground_truth", lambda path: truth)
    metadata = vars(MetadataCatalog.get(name))
    monkeypatch.setitem(metadata, "evaluator_type", "lvis")
    assert "page follows COCO's rules and not LVIS's." in read_inputs(folder, name, results).notes[1]
    monkeypatch.setitem(metadata, "evaluator_type", "coco")
    truth["images"][-1]["neg_category_ids"] = []
    assert "follow COCO's rules, this page LVIS's" in read_inputs(folder, name, results).notes[1]


def test_labels_have_contrast():
    assert [_readable_on(colour) for colour in ("#FFFFFF", "#0072B2", "#F0E442", "#000000")] == [
        "black", "white", "black", "white",
    ]  # fmt: skip


def test_nothing_found_is_a_page_too(run, tmp_path):
    analysis, page = written(lvis_inputs(run, detections=False), tmp_path / "page.html")
    check_self_contained(page)
    assert analysis.costs["missed"] == 100
    assert "The image file cannot be read" in page


def test_names_are_no_html(run):
    folder, name, _ = run
    inputs = read_inputs(folder, name, str(folder / "results.json"))
    for category in inputs.truth["categories"]:
        category["name"] = f"<script>$x_{category['id']}^ & \N{SNOWMAN}</script>"
    analysis = analyse(inputs)
    pictures = [draw_errors(analysis.case, analysis.errors, 0, 1.0, 0.5, inputs.image_root)]
    check_self_contained(report_page(inputs, analysis, pictures))


def test_one_sentence_for_what_is_not_there(run, tmp_path):
    folder, name, _ = run
    with pytest.raises(UserError, match="there is no run folder"):
        read_inputs(tmp_path / "nowhere")
    with pytest.raises(UserError, match="does not tell which data .* --data"):
        read_inputs(folder)
    with pytest.raises(UserError, match="has no results on .* --eval-only"):
        read_inputs(folder, name)
    with pytest.raises(UserError, match="there is no results file"):
        read_inputs(folder, name, "nothing.json")
    with pytest.raises(UserError, match="not registered"):
        read_inputs(folder, "digitz_val", str(folder / "results.json"))
    (folder / "masks.json").write_text('[{"image_id": 1, "category_id": 3, "score": 1.0, "segmentation": {}}]')
    with pytest.raises(UserError, match="has detections without boxes"):
        read_inputs(folder, name, str(folder / "masks.json"))
    inputs = read_inputs(folder, name, str(folder / "results.json"))
    with pytest.raises(UserError, match="cannot be written"):
        write_report(inputs, folder / "results.json" / "page.html", pictures=0)
