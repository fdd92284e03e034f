"""Detections and the forms that they are turned into."""

import copy
import csv
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data.catalog import Metadata
from detectron2.structures import Instances
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from small_models import instances

from centernet.errors import UserError
from centernet.inference.images import read_picture
from centernet.inference.results import Categories, Detections, categories_of

CATEGORIES = Categories(("cat", "dog", "cow"), (17, 18, 21))
BOXES = [[10.0, 20.0, 50.5, 60.0], [0.0, 0.0, 30.0, 90.0]]


@pytest.fixture
def found(picture: np.ndarray) -> Detections:
    """A cow and a cat in a picture that is 90 pixels high and 120 wide."""
    result = instances(BOXES, [0.875, 0.25], [2, 0])
    result.objectness = torch.tensor([0.5, 0.125])
    return Detections.of(result, CATEGORIES, read_picture(picture), position=3)


@pytest.fixture
def nothing(picture: np.ndarray) -> Detections:
    return Detections.of(instances([], [], []), CATEGORIES, read_picture(picture))


def test_what_is_made_of_detections_are_detections(found: Detections) -> None:
    for other in (
        found[found.scores > 0.5],
        found.to("cpu"),
        found[0],
        copy.deepcopy(found),
        pickle.loads(pickle.dumps(found)),
    ):
        assert isinstance(other, Detections)
        assert (other.class_names, other.position, other.image_size) == (("cat", "dog", "cow"), 3, (90, 120))
        assert other.source is None
        assert other.plot().shape == (90, 120, 3)
    assert len(found[found.scores > 0.5]) == len(found[0]) == 1
    assert len(Instances.cat([found, found])) == 4


def test_pixels_are_not_kept(picture: np.ndarray, tmp_path: Path) -> None:
    """Results of a folder would hold all of its photos."""
    Image.fromarray(picture).save(tmp_path / "a.png")
    read = read_picture(tmp_path / "a.png")
    kept = Detections.of(instances(BOXES, [0.875, 0.25], [2, 0]), CATEGORIES, read)
    assert len(pickle.dumps(kept)) < picture.nbytes / 4
    assert kept.source == str(tmp_path / "a.png")
    assert kept.plot().shape == picture.shape


def test_coco_reads_the_results(found: Detections, nothing: Detections) -> None:
    entries = found.to_coco(image_id=7)
    assert entries == [
        {"image_id": 7, "category_id": 21, "bbox": [10.0, 20.0, 40.5, 40.0], "score": 0.875, "objectness": 0.5},
        {"image_id": 7, "category_id": 17, "bbox": [0.0, 0.0, 30.0, 90.0], "score": 0.25, "objectness": 0.125},
    ]
    assert found.to_coco()[0]["image_id"] == 3
    truth = COCO()
    truth.dataset = {"images": [{"id": 7, "height": 90, "width": 120}], "categories": CATEGORIES.as_coco()}
    truth.createIndex()
    assert truth.loadRes(json.loads(json.dumps(entries))).loadAnns([1])[0]["area"] == 40.5 * 40
    assert nothing.to_coco() == []


def test_masks_keypoints_and_tracks(found: Detections) -> None:
    found.pred_masks = torch.zeros(2, 90, 120, dtype=torch.bool)
    found.pred_masks[0, 5:9, 7:20] = True
    found.pred_keypoints = torch.arange(12.0).view(2, 2, 3)
    found.track_ids = torch.tensor([4, 9])
    first, second = json.loads(json.dumps(found.to_coco()))
    np.testing.assert_array_equal(coco_mask.decode(first["segmentation"]).astype(bool), found.pred_masks[0].numpy())
    assert (second["keypoints"], second["track_id"]) == ([6.0, 7.0, 8.0, 9.0, 10.0, 11.0], 9)
    supervision = pytest.importorskip("supervision")
    turned = found.to_supervision()
    assert isinstance(turned, supervision.Detections)
    assert turned.tracker_id.tolist() == [4, 9]
    np.testing.assert_array_equal(turned.mask, found.pred_masks.numpy())


def test_supervision(found: Detections, nothing: Detections) -> None:
    supervision = pytest.importorskip("supervision")
    turned = found.to_supervision()
    assert turned.xyxy.tolist() == BOXES
    assert turned.confidence.tolist() == [0.875, 0.25]
    assert turned.class_id.tolist() == [2, 0]
    assert turned.data["class_name"].tolist() == ["cow", "cat"]
    assert turned.data["objectness"].tolist() == [0.5, 0.125]
    assert len(turned[turned.confidence > 0.5]) == 1
    assert len(nothing.to_supervision()) == 0
    scene = np.zeros((90, 120, 3), np.uint8)
    assert supervision.BoxAnnotator().annotate(scene, turned).any()


def test_table(found: Detections, nothing: Detections) -> None:
    pytest.importorskip("pandas")
    table = found.to_dataframe()
    assert list(table.columns) == ["x1", "y1", "x2", "y2", "score", "class_id", "class_name", "objectness"]
    assert table.iloc[0].tolist() == [10.0, 20.0, 50.5, 60.0, 0.875, 2, "cow", 0.5]
    assert len(nothing.to_dataframe()) == 0
    assert "class_name" in nothing.to_dataframe()


@pytest.mark.parametrize(("package", "method"), [("supervision", "to_supervision"), ("pandas", "to_dataframe")])
def test_a_missing_package_is_named(
    package: str, method: str, found: Detections, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(UserError, match=rf"{method}\(\) needs {package}, .*pip install -e '\.\[results\]'$"):
        getattr(found, method)()


class TestPlot:
    def test_boxes_are_drawn_on_the_picture_in_rgb(self, found: Detections, picture: np.ndarray) -> None:
        drawn = found.plot()
        assert (drawn.shape, drawn.dtype) == ((90, 120, 3), np.uint8)
        same = (drawn == picture[:, :, ::-1]).all(axis=2)
        assert 0.2 < same.mean() < 1
        assert not same[60, 20:50].all()  # the lower edge of the first box
        np.testing.assert_array_equal(found[found.scores > 1].plot(), picture[:, :, ::-1])

    def test_on_another_picture(self, nothing: Detections, picture: np.ndarray, tmp_path: Path) -> None:
        rgb = picture[:, :, ::-1]
        Image.fromarray(rgb).save(tmp_path / "a.png")
        on_array, on_file = nothing.plot(255 - rgb, channels="RGB"), nothing.plot(tmp_path / "a.png")
        np.testing.assert_array_equal(on_array, 255 - rgb)
        np.testing.assert_array_equal(on_file, rgb)
        np.testing.assert_array_equal(nothing.plot(picture), rgb)
        with pytest.raises(UserError, match=r"of a picture of 120 x 90 pixels, and the one to draw on has 119 x 90"):
            nothing.plot(picture[:, 1:])

    def test_without_a_picture(self) -> None:
        found = Detections.of(instances(BOXES, [0.9, 0.8], [0, 1]), CATEGORIES)
        with pytest.raises(UserError, match="do not know their picture"):
            found.plot()


class TestSave:
    def test_a_picture(self, found: Detections, tmp_path: Path) -> None:
        found.save(tmp_path / "made" / "a.png")
        with Image.open(tmp_path / "made" / "a.png") as image:
            assert (image.size, image.mode) == ((120, 90), "RGB")

    def test_json(self, found: Detections, tmp_path: Path) -> None:
        found.save(str(tmp_path / "a.json"))
        content = json.loads((tmp_path / "a.json").read_text())
        assert (content["source"], content["height"], content["width"]) == (None, 90, 120)
        assert content["categories"][0] == {"id": 17, "name": "cat"}
        assert content["detections"] == found.to_coco()

    def test_csv(self, found: Detections, nothing: Detections, tmp_path: Path) -> None:
        found.save(tmp_path / "a.csv")
        with (tmp_path / "a.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert [(row["class_name"], float(row["x2"]), float(row["objectness"])) for row in rows] == [
            ("cow", 50.5, 0.5),
            ("cat", 30.0, 0.125),
        ]
        nothing.save(tmp_path / "b.CSV")
        assert (tmp_path / "b.CSV").read_text().strip() == "x1,y1,x2,y2,score,class_id,class_name"

    def test_what_cannot_be_written_is_said(self, found: Detections, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"a\.txt has no ending that says what to write"):
            found.save(tmp_path / "a.txt")
        (tmp_path / "file").touch()
        with pytest.raises(UserError, match="cannot be written"):
            found.save(tmp_path / "file" / "a.json")


def test_ids_of_classes(tmp_path: Path) -> None:
    names = {"name": "some", "thing_classes": ["a", "b"]}
    assert categories_of(Metadata(**names)).ids == (1, 2)
    by_id = {9: 1, 4: 0}
    assert categories_of(Metadata(**names, thing_dataset_id_to_contiguous_id=by_id)).ids == (4, 9)
    file = tmp_path / "a.json"
    file.write_text(json.dumps({"categories": [{"id": 30}, {"id": 20}]}))
    assert categories_of(Metadata(**names, json_file=str(file))).ids == (20, 30)
    file.write_text(json.dumps({"categories": [{"id": 30}]}))
    assert categories_of(Metadata(**names, json_file=str(file))).ids == (1, 2)
