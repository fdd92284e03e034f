"""The command: thresholds, exit codes, one-sentence errors, and a process killed in the middle."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from PIL import Image

from centernet.config_file import load_config

REPOSITORY = Path(__file__).resolve().parents[2]
TOOL = REPOSITORY / "tools" / "pseudo_label.py"
SMALL = """
_BASE_: "{base}"
MODEL: {{FPN: {{OUT_CHANNELS: 64}}, CENTERNET: {{NUM_BOX_CONVS: 1, PRIOR_PROB: 0.3}}, ROI_HEADS: {{NUM_CLASSES: 2}}}}
DATASETS:
  TRAIN: ()
  TEST: ("coco_json:{folder}/labels.json:{folder}/photos",)
INPUT: {{MIN_SIZE_TEST: 64}}
"""


@pytest.fixture(scope="module")
def tool(load_tool):
    return load_tool("pseudo_label")


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """Arguments of the command for a random teacher and six labelled pictures."""
    folder = tmp_path_factory.mktemp("pseudo")
    (folder / "photos").mkdir()
    images, annotations = [], []
    for number in range(1, 7):
        pixels = np.random.default_rng(number).integers(0, 255, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "photos" / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "height": 64, "width": 64})
        annotations.append(
            {"id": number, "image_id": number, "category_id": 5, "bbox": [0, 0, 64, 64], "area": 4096, "iscrowd": 0}
        )
    categories = [{"id": 5, "name": "ant"}, {"id": 8, "name": "bee"}]
    labels = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "labels.json").write_text(json.dumps(labels))
    config = folder / "teacher.yaml"
    config.write_text(SMALL.format(base=REPOSITORY / "configs/demo/Base-R18.yaml", folder=folder))
    torch.manual_seed(0)
    model = build_model(load_config(str(config), ["MODEL.DEVICE", "cpu"]))
    torch.save({"model": model.state_dict()}, folder / "teacher.pth")
    start = ["--config-file", str(config), "--input", str(folder / "photos")]
    end = ["--opts", "MODEL.WEIGHTS", str(folder / "teacher.pth"), "MODEL.DEVICE", "cpu"]
    return lambda output, *more: [*start, "--output", str(output), "--batch-size", "2", *map(str, more), *end]


def test_names_of_classes_come_from_the_validation_data_or_are_said_to_be_missing(tool, words, tmp_path, capsys):
    def categories(*more):
        at = words(tmp_path / "names.json", *more)
        assert tool.main([*at, "DATASETS.TEST", "('coco_json:not/here.json:not',)"]) == 0
        return json.loads((tmp_path / "names.json").read_text())["categories"]

    assert [category["name"] for category in categories("--threshold", "1")] == ["0", "1"]
    assert "note: the names of the teacher's classes are not known" in capsys.readouterr().out
    (tmp_path / "names.json.journal.jsonl").unlink()
    config = Path(words(tmp_path)[1])
    named = f"coco_json:{config.parent}/labels.json:{config.parent}/photos"
    assert categories("--threshold", "1", "--validation", named) == [{"id": 5, "name": "ant"}, {"id": 8, "name": "bee"}]
    assert "note:" not in capsys.readouterr().out


def test_as_many_labels_as_the_labelled_set_has_objects(tool, words, tmp_path):
    def labels(*more):
        assert tool.main(words(tmp_path / "counts.json", "--class-thresholds", "counts", *more)) == 0
        return [a["category_id"] for a in json.loads((tmp_path / "counts.json").read_text())["annotations"]]

    assert labels() == [5] * 6, "six objects, all ants, on six pictures"
    assert labels("--labels-ratio", 2) == [5] * 12
    assert tool.main(words(tmp_path / "counts.json", "--class-thresholds", "counts", "--labels-ratio", 0)) == 2


def test_thresholds_by_score_file_and_precision(tool, words, tmp_path, capsys):
    def labels(name, *more):
        assert tool.main(words(tmp_path / f"{name}.json", *more)) == 0
        content = json.loads((tmp_path / f"{name}.json").read_text())
        assert [c["name"] for c in content["categories"]] == ["ant", "bee"]
        assert len(content["images"]) == 6
        return [(a["category_id"], a["score"]) for a in content["annotations"]]

    low = labels("low", "--threshold", 0.1)
    assert {label for label, _ in low} <= {5, 8}
    middle = sorted(score for _, score in low)[len(low) // 2]
    assert sorted(labels("half", "--threshold", middle - 2e-5)) == sorted(x for x in low if x[1] >= middle)
    (tmp_path / "limits.json").write_text(json.dumps({"bee": None}))
    by_class = labels("file", "--threshold", 0.1, "--class-thresholds", tmp_path / "limits.json")
    assert sorted(by_class) == sorted(x for x in low if x[0] == 5)
    labels("auto", "--class-thresholds", "auto", "--precision", 0.01)
    assert "thresholds: ant " in capsys.readouterr().out


def test_broken_pictures_and_mistakes(tool, words, tmp_path, capsys):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG")
    arguments = words(tmp_path / "out.json")
    good = Path(arguments[3]) / "1.png"
    arguments[3:4] = [str(good), str(tmp_path / "broken.png"), "--image-root", "/"]
    assert tool.main(arguments) == 1
    assert "1 pictures are broken" in (out := capsys.readouterr().out)
    assert "broken.png" in out
    for more, expected in [
        (("--threshold", 2), "--threshold is 2"),
        (("--precision", 0), "--precision is 0"),
        (("--batch-size", 0), "--batch-size is 0"),
        (("--class-thresholds", tmp_path / "none.json"), "cannot be read"),
        (("--image-root", tmp_path / "elsewhere"), "not in the image folder"),
    ]:
        assert tool.main(words(tmp_path / "other.json", *more)) == 2
        assert expected in capsys.readouterr().err


@pytest.mark.slow
def test_a_killed_process_goes_on(words, tmp_path):
    def command(name):
        return [sys.executable, str(TOOL), *words(tmp_path / f"{name}.json")]

    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    subprocess.run(command("whole"), check=True, env=environment, capture_output=True)
    journal = tmp_path / "killed.json.journal.jsonl"
    process = subprocess.Popen(command("killed"), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not (journal.is_file() and journal.read_bytes().count(b"\n") > 1):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    subprocess.run(command("killed"), check=True, env=environment, capture_output=True)
    assert (tmp_path / "killed.json").read_bytes() == (tmp_path / "whole.json").read_bytes()
