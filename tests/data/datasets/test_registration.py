"""Registrations: the published names, idempotence, COCO JSON on the fly."""

import importlib
import importlib.util
import json
import shutil
import sys
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

import centernet
from centernet.data import datasets
from centernet.data.datasets import class_names, ensure_registered, register_coco_json
from centernet.errors import UserError

PUBLISHED = {
    "coco_2017_unlabeled": (80, "coco/annotations/image_info_unlabeled2017.json", "coco/unlabeled2017"),
    "coco_un_yolov4_55_0.5": (
        80,
        "coco/annotations/yolov4_cocounlabeled_55_ann0.5.json",
        "coco/unlabeled2017",
    ),
    "objects365_train": (365, "objects365/annotations/objects365_train.json", "objects365/train"),
    "objects365_val": (365, "objects365/annotations/objects365_val.json", "objects365/val"),
    "nuimages_train": (10, "nuimages/annotations/nuimages_v1.0-train.json", "nuimages"),
    "nuimages_val": (10, "nuimages/annotations/nuimages_v1.0-val.json", "nuimages"),
    "nuimages_mini": (10, "nuimages/annotations/nuimages_v1.0-mini.json", "nuimages"),
    "digits_train": (10, "digits/annotations/digits_train.json", "digits/train"),
    "digits_val": (10, "digits/annotations/digits_val.json", "digits/val"),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_names(name):
    count, json_file, image_root = PUBLISHED[name]
    metadata = MetadataCatalog.get(name)
    assert name in DatasetCatalog.list()
    assert metadata.evaluator_type == "coco"
    assert len(metadata.thing_classes) == count
    assert Path(metadata.json_file) == Path(datasets.data_root()) / json_file
    assert Path(metadata.image_root) == Path(datasets.data_root()) / image_root


def test_exported_names():
    assert set(datasets._PREDEFINED_SPLITS_COCO) == {"coco_2017_unlabeled", "coco_un_yolov4_55_0.5"}
    assert [category["id"] for category in datasets.categories_v1] == list(range(1, 366))
    assert datasets.categories_v1[0]["name"] == "person"
    assert datasets.categories_v1[158]["name"] == "tissue "
    assert len({category["name"] for category in datasets.categories_v1}) == 365
    to_contiguous = MetadataCatalog.get("objects365_val").thing_dataset_id_to_contiguous_id
    assert to_contiguous == {number: number - 1 for number in range(1, 366)}


def test_registering_again_changes_nothing():
    before = DatasetCatalog.list()
    for module in (datasets.coco, datasets.digits, datasets.nuimages, datasets.objects365):
        module._register()
    assert DatasetCatalog.list() == before


def test_the_data_package_can_be_imported_under_another_name(tmp_path, monkeypatch):
    source = Path(centernet.__file__).parent
    vendored = tmp_path / "vendor" / "inner"
    vendored.mkdir(parents=True)
    (vendored / "__init__.py").write_text("")  # the rest of the package is not this test's matter
    shutil.copytree(source / "data", vendored / "data")
    shutil.copy(source / "errors.py", vendored)
    monkeypatch.syspath_prepend(str(tmp_path))
    before = DatasetCatalog.list()
    module = importlib.import_module("vendor.inner.data")
    assert module.__file__ != datasets.__file__
    assert DatasetCatalog.list() == before
    for name in [name for name in sys.modules if name.split(".")[0] == "vendor"]:
        del sys.modules[name]


def test_root_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", "/some/where")
    assert datasets.data_root() == "/some/where"
    monkeypatch.delenv("DETECTRON2_DATASETS")
    assert datasets.data_root() == "datasets"


def test_coco_json_names_register_themselves(write_coco, forget_datasets):
    name = write_coco(classes=("x", "y", "z"))
    ensure_registered([name])
    ensure_registered([name])
    assert class_names(name) == ["x", "y", "z"]
    records = DatasetCatalog.get(name)
    assert len(records) == 10
    assert Path(records[0]["file_name"]).is_file()
    assert [record["annotations"][0]["category_id"] for record in records[:4]] == [0, 1, 2, 0]


@pytest.mark.parametrize("name", ["coco_json:only.json", "coco_json::images", "coco_json:"])
def test_malformed_coco_json_names(name):
    with pytest.raises(UserError, match="coco_json:PATH/TO.json:IMAGE_ROOT"):
        ensure_registered([name])


def test_names_that_are_near_nothing():
    with pytest.raises(UserError, match="no registered name is near it"):
        ensure_registered(["qqqqqqqqqqqqqqqq"])


@pytest.mark.parametrize(
    "content, reason",
    [
        ("{", "Expecting property name"),
        ("[]", "list indices|not a COCO"),
        (json.dumps({"images": []}), "'categories' is missing"),
    ],
)
def test_broken_annotation_files(content, reason, tmp_path, forget_datasets):
    (tmp_path / "a.json").write_text(content)
    register_coco_json("broken", str(tmp_path / "a.json"), str(tmp_path))
    for use in (class_names, DatasetCatalog.get):
        with pytest.raises(UserError) as caught:
            use("broken")
        assert "is not a COCO annotation file" in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=reason):
        class_names("broken")


def test_annotation_of_an_unknown_class(write_coco, forget_datasets):
    name = write_coco()
    labels = Path(name.split(":")[1])
    labels.write_text(labels.read_text().replace('"category_id": 2', '"category_id": 9'))
    ensure_registered([name])
    with pytest.raises(UserError, match="category_id=9"):
        DatasetCatalog.get(name)


def test_extra_annotation_keys_are_kept(write_coco, forget_datasets):
    _, labels, images = write_coco().split(":")
    content = json.loads(Path(labels).read_text())
    for annotation in content["annotations"]:
        annotation["score"] = 0.75
    Path(labels).write_text(json.dumps(content))
    datasets.register_distill_coco_instances("distilled", {"thing_classes": ["ant", "bee"]}, labels, images)
    assert DatasetCatalog.get("distilled")[0]["annotations"][0]["score"] == 0.75
