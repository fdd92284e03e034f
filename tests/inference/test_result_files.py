import csv
import json
import logging
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.data.catalog import Metadata
from detectron2.structures import Boxes, Instances
from pycocotools.coco import COCO
from small_models import instances

from centernet.errors import UserError
from centernet.inference.result_files import ResultFile, check_result_file

METADATA = Metadata(
    name="test", thing_classes=["cat", "dog"], thing_dataset_id_to_contiguous_id={17: 0, 18: 1}
)
SETTINGS = {"weights": "model.pth", "threshold": 0.3}
FORMATS = ["found.json", "found.coco.json", "found.csv"]


def found() -> dict[str, Instances]:
    result = instances([[10, 20, 40, 60], [0.5, 0, 5, 8]], [0.75, 0.5], [1, 0])
    result.track_ids = torch.tensor([4, -1])
    return {"instances": result}


def open_file(path: Path, resume: bool = False, **settings: Any) -> ResultFile:
    return ResultFile(path, METADATA, {**SETTINGS, **settings}, resume=resume)


def fill(file: ResultFile) -> None:
    """A picture, an empty one, and a video of two frames."""
    file.add("a.jpg", (90, 120), found())
    file.finish("a.jpg")
    file.add("b, c.jpg", (90, 120), {"instances": instances([], [], [])})
    file.finish("b, c.jpg")
    for frame in range(2):
        file.add("v.mp4", (90, 120), found(), frame=frame, time=frame / 30)
    file.finish("v.mp4")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class TestFormats:
    def write(self, path: Path) -> Path:
        with open_file(path) as file:
            fill(file)
        assert names(path.parent) == [path.name]
        return path

    def test_csv(self, tmp_path: Path) -> None:
        with self.write(tmp_path / "found.csv").open(newline="") as stream:
            rows = list(csv.DictReader(stream))
        assert len(rows) == 6
        box = ["10.0", "20.0", "40.0", "60.0"]
        assert list(rows[0].values()) == ["a.jpg", "", "", *box, "0.75", "1", "dog", "", "4"]
        assert [(row["file"], row["frame"], row["time"]) for row in rows[2:]] == [
            *[("v.mp4", "0", "0.0")] * 2,
            *[("v.mp4", "1", "0.0333")] * 2,
        ]

    def test_json(self, tmp_path: Path) -> None:
        content = json.loads(self.write(tmp_path / "found.json").read_text())
        assert content["categories"] == [{"id": 17, "name": "cat"}, {"id": 18, "name": "dog"}]
        first, empty, _, frame = content["images"]
        assert (first["file"], first["height"], first["width"]) == ("a.jpg", 90, 120)
        assert first["detections"][0] == {
            "category_id": 18,
            "class_id": 1,
            "class_name": "dog",
            "bbox": [10, 20, 30, 40],
            "score": 0.75,
            "track_id": 4,
        }
        assert "frame" not in first
        assert (empty["file"], empty["detections"]) == ("b, c.jpg", [])
        assert (frame["file"], frame["frame"], frame["time"]) == ("v.mp4", 1, 0.0333)

    def test_coco_is_read_by_coco_s_own_tools(self, tmp_path: Path) -> None:
        path = self.write(tmp_path / "found.coco.json")
        coco = COCO(str(path))
        assert [image["file_name"] for image in coco.loadImgs([1, 2, 3, 4])] == ["a.jpg", "b, c.jpg", "v.mp4", "v.mp4"]
        assert coco.loadImgs(4)[0]["frame"] == 1
        assert [entry["category_id"] for entry in coco.imgToAnns[1]] == [18, 17]
        results = coco.loadRes(json.loads(path.read_text())["annotations"])
        assert len(results.anns) == 6
        assert results.anns[1]["score"] == 0.75

    def test_nothing_found_is_a_whole_file(self, tmp_path: Path) -> None:
        for name in FORMATS:
            with open_file(tmp_path / name):
                pass
        assert json.loads((tmp_path / "found.json").read_text())["images"] == []
        assert json.loads((tmp_path / "found.coco.json").read_text())["annotations"] == []
        assert len((tmp_path / "found.csv").read_text().splitlines()) == 1

    def test_masks_and_what_has_no_class(self, tmp_path: Path) -> None:
        with_masks, proposals = found(), Instances((90, 120))
        with_masks["instances"].pred_masks = torch.ones(2, 90, 120, dtype=torch.bool)
        proposals.proposal_boxes = Boxes(torch.tensor([[1.0, 2, 3, 4]]))
        proposals.objectness_logits = torch.tensor([0.25])
        with open_file(tmp_path / "found.json") as file:
            file.add("a.jpg", (90, 120), with_masks)
            file.add("b.jpg", (90, 120), {"proposals": proposals})
            file.add("c.jpg", (90, 120), {"sem_seg": torch.zeros(3, 90, 120)})
        first, second, third = json.loads((tmp_path / "found.json").read_text())["images"]
        assert first["detections"][0]["segmentation"]["size"] == [90, 120]
        assert second["detections"][0]["class_name"] == "object"
        assert second["detections"][0]["score"] == 0.25
        assert third["detections"] == []


class TestInterruptions:
    def interrupt(self, path: Path) -> None:
        """Ctrl-C in the second frame of a video."""
        with suppress(KeyboardInterrupt), open_file(path) as file:
            file.add("a.jpg", (90, 120), found())
            file.finish("a.jpg")
            file.add("v.mp4", (90, 120), found(), frame=0, time=0.0)
            raise KeyboardInterrupt

    @pytest.mark.parametrize("name", FORMATS)
    def test_a_resumed_run_writes_what_an_uninterrupted_one_does(self, tmp_path: Path, name: str) -> None:
        (tmp_path / "whole").mkdir()
        with open_file(tmp_path / "whole" / name) as file:
            fill(file)
        path = tmp_path / name
        self.interrupt(path)
        assert path.read_text().count("a.jpg") == (1 if "json" in name else 2)  # what was found is there
        assert path.read_text().count("v.mp4") == (1 if "json" in name else 2)
        with open_file(path, resume=True) as file:
            assert file.finished == {"a.jpg"}
            file.add("b, c.jpg", (90, 120), {"instances": instances([], [], [])})
            file.finish("b, c.jpg")
            for frame in range(2):
                file.add("v.mp4", (90, 120), found(), frame=frame, time=frame / 30)
            file.finish("v.mp4")
        assert path.read_bytes() == (tmp_path / "whole" / name).read_bytes()
        assert names(tmp_path) == sorted([name, "whole"])

    def test_a_kill_in_the_middle_of_a_line_loses_that_line_only(self, tmp_path: Path) -> None:
        killed = open_file(tmp_path / "found.csv")  # neither closed nor left
        fill(killed)
        journal = tmp_path / ".found.csv.part"
        assert names(tmp_path) == [journal.name]
        journal.write_bytes(journal.read_bytes()[:-5])
        with open_file(tmp_path / "found.csv", resume=True) as file:
            assert file.finished == {"a.jpg", "b, c.jpg"}

    def test_without_resume_it_starts_anew_and_says_so(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)
        path = tmp_path / "found.json"
        self.interrupt(path)
        with open_file(path) as file:
            assert file.finished == frozenset()
        assert "thrown away (--resume would go on)" in caplog.text
        assert json.loads(path.read_text())["images"] == []

    def test_another_model_does_not_go_on(self, tmp_path: Path) -> None:
        self.interrupt(tmp_path / "found.json")
        with pytest.raises(UserError, match=r"had another model or other settings .*0\.3.*0\.5"):
            open_file(tmp_path / "found.json", resume=True, threshold=0.5)

    def test_a_resume_with_nothing_to_go_on_is_a_new_run(self, tmp_path: Path) -> None:
        with open_file(tmp_path / "found.json", resume=True) as file:
            assert file.finished == frozenset()


class TestMistakes:
    @pytest.mark.parametrize("name", ["found", "found.txt", "found.jsonl"])
    def test_a_name_without_format(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(UserError, match="has no ending that says how"):
            check_result_file(tmp_path / name)

    def test_a_folder_in_its_place(self, tmp_path: Path) -> None:
        (tmp_path / "found.json").mkdir()
        with pytest.raises(UserError, match="it is a folder"):
            check_result_file(tmp_path / "found.json")

    def test_a_file_where_the_folder_should_be(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(UserError, match="cannot be written"):
            open_file(tmp_path / "file" / "found.json")

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is always full")
    def test_a_full_disk(self, tmp_path: Path) -> None:
        file = open_file(tmp_path / "found.json")
        file._stream.close()
        file._stream = Path("/dev/full").open("w")  # noqa: SIM115  # closing it would fail again
        with pytest.raises(UserError, match="found.json cannot be written: No space left"):
            file.add("a.jpg", (90, 120), found())


def test_numbers_survive_as_they_are(tmp_path: Path) -> None:
    scores = np.random.default_rng(0).random(50).astype(np.float32)
    boxes = np.sort(np.random.default_rng(1).random((50, 2, 2)).astype(np.float32) * 90, axis=1).reshape(50, 4)
    with open_file(tmp_path / "found.csv") as file:
        file.add("a", (90, 120), {"instances": instances(boxes.tolist(), scores.tolist(), [0] * 50)})
    with (tmp_path / "found.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    np.testing.assert_array_equal([np.float32(row["score"]) for row in rows], scores)
    np.testing.assert_allclose([[float(row[side]) for side in ("x1", "y1", "x2", "y2")] for row in rows], boxes, 1e-6)
