"""Evaluation end to end with models whose answers are known."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances
from random_coco import random_ground_truth

from centernet.config_file import load_config
from centernet.data import register_coco_json
from centernet.data.datasets import categories_v1, ensure_registered
from centernet.errors import UserError
from centernet.evaluation import (
    FastCOCOEvaluator,
    FastLVISEvaluator,
    build_evaluator,
    check,
    evaluate,
    output_folder,
)
from centernet.modeling.build import build_detector


class Oracle(torch.nn.Module):
    """Answers with the annotations of the dataset, at most ``limit`` an image."""

    def __init__(self, truth, limit=100, shift=0):
        super().__init__()
        self.limit, self.shift = limit, shift
        self.class_of = {category["id"]: k for k, category in enumerate(truth["categories"])}
        self.objects = {image["id"]: [] for image in truth["images"]}
        for annotation in truth["annotations"]:
            self.objects[annotation["image_id"]].append(annotation)

    def forward(self, inputs):
        assert not self.training
        return [{"instances": self.answer(item)} for item in inputs]

    def answer(self, item):
        objects = self.objects[item["image_id"]][: self.limit]
        boxes = torch.tensor([annotation["bbox"] for annotation in objects], dtype=torch.float64).reshape(
            -1, 4
        )
        boxes[:, 2:] += boxes[:, :2]
        instances = Instances((item["height"], item["width"]))
        instances.pred_boxes = Boxes(boxes.float())
        instances.scores = torch.linspace(0.9, 0.5, len(objects))
        instances.pred_classes = torch.tensor(
            [self.class_of[annotation["category_id"]] + self.shift for annotation in objects],
            dtype=torch.long,
        )
        return instances


def test_an_oracle_scores_a_hundred_and_its_detections_are_on_disk(cfg, dataset):
    name, truth = dataset
    cfg.DATASETS.TEST = (name,)
    model = Oracle(truth).train()
    results = evaluate(cfg, model)
    assert model.training
    assert list(results) == [name]
    assert results[name]["bbox"]["AP"] == pytest.approx(100)
    assert results[name]["bbox"]["AP50"] == pytest.approx(100)
    folder = Path(output_folder(cfg, name))
    assert folder.parent == Path(cfg.OUTPUT_DIR)
    written = json.loads((folder / "coco_instances_results.json").read_text())
    assert len(written) == len(truth["annotations"])
    assert {item["category_id"] for item in written} == {a["category_id"] for a in truth["annotations"]}


def test_two_datasets_are_kept_apart(cfg, dataset):
    name, truth = dataset
    register_coco_json("second_one", *name[len("coco_json:") :].split(":"))
    cfg.DATASETS.TEST = (name, "second_one")
    results = evaluate(cfg, Oracle(truth))
    assert list(results) == [name, "second_one"]
    assert output_folder(cfg, "second_one").endswith("inference_second_one")
    assert (Path(output_folder(cfg, "second_one")) / "coco_instances_results.json").is_file()


def test_half_of_the_objects_score_less(cfg, dataset):
    name, truth = dataset
    cfg.DATASETS.TEST = (name,)
    assert 5 < evaluate(cfg, Oracle(truth, limit=1))[name]["bbox"]["AP50"] < 90


def test_a_model_that_finds_nothing_scores_zero(cfg, dataset):
    name, truth = dataset
    cfg.DATASETS.TEST = (name,)
    scores = evaluate(cfg, Oracle(truth, limit=0))[name]["bbox"]
    assert scores["AP"] == 0
    assert scores["AP50"] == 0
    assert np.nan_to_num(scores["AP-class 3"]) == 0


def test_a_model_with_too_many_classes_is_one_sentence(cfg, dataset):
    name, truth = dataset
    cfg.DATASETS.TEST = (name,)
    with pytest.raises(UserError, match=r"found class 4 but dataset .* has only 4 classes"):
        evaluate(cfg, Oracle(truth, shift=1))


def test_a_test_set_without_annotations_is_only_predicted(cfg, dataset):
    name, truth = dataset
    labels = Path(name.split(":")[1])
    labels.write_text(json.dumps({key: truth[key] for key in ("images", "categories")}))
    cfg.DATASETS.TEST = (name,)
    assert evaluate(cfg, Oracle(truth))[name] == {}
    assert (Path(output_folder(cfg, name)) / "coco_instances_results.json").is_file()


def test_nothing_to_evaluate_on(cfg):
    cfg.DATASETS.TEST = ()
    with pytest.raises(UserError, match="DATASETS.TEST is empty"):
        evaluate(cfg, torch.nn.Identity())


def test_evaluator_by_metadata(cfg, dataset, tmp_path):
    name, _ = dataset
    assert isinstance(build_evaluator(cfg, name, str(tmp_path)), FastCOCOEvaluator)
    register_coco_json("other_kind", *name[len("coco_json:") :].split(":"))
    MetadataCatalog.get("other_kind").__dict__["evaluator_type"] = "cityscapes_instance"
    with pytest.raises(UserError, match="evaluator type 'cityscapes_instance'"):
        build_evaluator(cfg, "other_kind", str(tmp_path))
    with pytest.raises(UserError, match="not registered"):
        build_evaluator(cfg, "otter_kind", str(tmp_path))


def test_check_finds_what_the_config_alone_can_tell(cfg, dataset):
    name, _ = dataset
    cfg.DATASETS.TEST = (name,)
    cfg.TEST.AUG.ENABLED = True
    check(cfg)
    cfg.MODEL.META_ARCHITECTURE = "CenterNetDetector"
    with pytest.raises(UserError, match=r"TEST\.AUG\.ENABLED is for two-stage models, and this is a CenterNetDetector"):
        check(cfg)
    cfg.TEST.AUG.ENABLED = False
    register_coco_json("odd_kind", *name[len("coco_json:") :].split(":"))
    MetadataCatalog.get("odd_kind").__dict__["evaluator_type"] = "cityscapes_instance"
    cfg.DATASETS.TEST = (name, "odd_kind")
    with pytest.raises(UserError, match="odd_kind asks for evaluator type 'cityscapes_instance'"):
        check(cfg)


def test_lvis_protocol_runs_on_this_numpy(cfg, dataset, tmp_path):
    pytest.importorskip("lvis")
    _, truth = dataset
    by_image = {image["id"]: set() for image in truth["images"]}
    for annotation in truth["annotations"]:
        by_image[annotation["image_id"]].add(annotation["category_id"])
        annotation["area"] = annotation["bbox"][2] * annotation["bbox"][3]
    for image in truth["images"]:
        image["neg_category_ids"], image["not_exhaustive_category_ids"] = [], []
        image["coco_url"] = f"http://images.cocodataset.org/val2017/{image['file_name']}"
    for category in truth["categories"]:
        category["frequency"] = "f"
        category["image_count"] = sum(category["id"] in present for present in by_image.values())
    labels = tmp_path / "lvis.json"
    labels.write_text(json.dumps(truth))
    register_coco_json("tiny_lvis", str(labels), str(tmp_path))
    MetadataCatalog.get("tiny_lvis").__dict__["evaluator_type"] = "lvis"
    DatasetCatalog.get("tiny_lvis")  # sets the mapping of categories
    cfg.DATASETS.TEST = ("tiny_lvis",)
    assert evaluate(cfg, Oracle(truth))["tiny_lvis"]["bbox"]["AP"] == pytest.approx(100)
    scores = evaluate(cfg, Oracle(truth, limit=0))["tiny_lvis"]["bbox"]
    assert scores["AP"] == scores["APf"] == scores["AR@300"] == 0  # NaN in detectron2
    assert np.isnan(scores["APr"])
    assert scores["AP-class 7"] == 0
    assert (Path(output_folder(cfg, "tiny_lvis")) / "lvis_instances_results.json").is_file()
    with pytest.raises(UserError, match=r"found class 4 but dataset tiny_lvis has only 4 classes"):
        evaluate(cfg, Oracle(truth, shift=1))


def test_objects365_is_scored_by_coco_rules_in_all_its_classes(cfg, dataset, tmp_path, monkeypatch):
    _, truth = dataset
    metadata = MetadataCatalog.get("objects365_val")
    truth["categories"] = categories_v1
    labels = tmp_path / "objects365.json"
    labels.write_text(json.dumps(truth))
    monkeypatch.setitem(metadata.__dict__, "json_file", str(labels))
    monkeypatch.setitem(metadata.__dict__, "image_root", str(tmp_path))
    evaluator = build_evaluator(cfg, "objects365_val", str(tmp_path))
    assert isinstance(evaluator, FastCOCOEvaluator)
    evaluator.reset()
    oracle = Oracle(truth)
    for image in truth["images"]:
        inputs = [{"image_id": image["id"], "height": 50, "width": 50}]
        evaluator.process(inputs, oracle.eval()(inputs))
    scores = evaluator.evaluate()["bbox"]
    assert scores["AP"] == pytest.approx(100)
    each = [value for name, value in scores.items() if name.startswith("AP-")]
    assert len(each) == 365
    present = {item["category_id"] for item in truth["annotations"]}
    assert np.isfinite(each).sum() == len(present)


def test_the_table_is_complete(cfg, dataset):
    name, truth = dataset
    cfg.DATASETS.TEST = (name,)
    names = "AP AP50 AP75 APs APm APl AR@1 AR@10 AR@100 ARs@100 ARm@100 ARl@100"
    classes = [f"AP-{category['name']}" for category in truth["categories"]]
    assert list(evaluate(cfg, Oracle(truth))[name]["bbox"]) == names.split() + classes


def test_an_annotation_file_with_fewer_classes_than_the_metadata(cfg, dataset):
    name, truth = dataset
    ensure_registered([name])
    DatasetCatalog.get(name)  # fills the metadata
    labels = Path(name.split(":")[1])
    last = truth["categories"].pop()
    truth["annotations"] = [item for item in truth["annotations"] if item["category_id"] != last["id"]]
    labels.write_text(json.dumps(truth))
    evaluator = FastCOCOEvaluator(name)
    evaluator.reset()
    inputs = [{"image_id": image["id"], "height": 50, "width": 50} for image in truth["images"]]
    evaluator.process(inputs, Oracle(truth).eval()(inputs))
    assert [key for key in evaluator.evaluate()["bbox"] if "-" in key] == ["AP-class 3", "AP-class 7", "AP-class 8"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["coco", "lvis"])
def test_two_processes_score_what_one_does(kind, tmp_path):
    torch.multiprocessing.spawn(_score_a_half, (str(tmp_path), kind), nprocs=2)
    halves = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert halves[1] in ({}, None)
    assert halves[0]["bbox"]["AP"] == pytest.approx(100)


def _score_a_half(rank, folder, kind):
    truth = random_ground_truth(np.random.default_rng(0), images=6)
    truth["annotations"] = [{**item, "iscrowd": 0} for item in truth["annotations"]]
    for image in truth["images"]:
        image |= {"neg_category_ids": [], "not_exhaustive_category_ids": [], "coco_url": image["file_name"]}
    truth["categories"] = [{**category, "frequency": "f"} for category in truth["categories"]]
    labels = Path(folder) / f"labels{rank}.json"
    labels.write_text(json.dumps(truth))
    torch.distributed.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
    register_coco_json("halves", str(labels), folder)
    DatasetCatalog.get("halves")
    evaluator = {"coco": FastCOCOEvaluator, "lvis": FastLVISEvaluator}[kind]("halves")
    evaluator.reset()
    for image in truth["images"][rank::2]:
        inputs = [{"image_id": image["id"], "height": 400, "width": 400}]
        evaluator.process(inputs, Oracle(truth).eval()(inputs))
    (Path(folder) / f"{rank}.json").write_text(json.dumps(evaluator.evaluate()))


def test_test_time_augmentation(dataset, tmp_path):
    name, _ = dataset
    configs = Path(__file__).parents[2] / "configs"
    changes = ["MODEL.DEVICE", "cpu", "DATALOADER.NUM_WORKERS", "0", "OUTPUT_DIR", str(tmp_path / "output")]
    changes += ["TEST.AUG.ENABLED", "True", "TEST.AUG.MIN_SIZES", "(48, 64)", "DATASETS.TEST", f"('{name}',)"]
    changes += ["MODEL.ROI_HEADS.NUM_CLASSES", "4"]
    two_stage = load_config(configs / "demo" / "CenterNet2_R18_digits.yaml", changes)
    assert "AP" in evaluate(two_stage, build_detector(two_stage))[name]["bbox"]
    with pytest.raises(UserError, match=r"TEST\.AUG\.ENABLED is for two-stage models"):
        evaluate(two_stage, torch.nn.Identity())
