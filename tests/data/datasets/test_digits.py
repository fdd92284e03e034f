"""The embedded data: deterministic, complete or absent, splits disjoint, boxes on ink."""

import hashlib
import json
import os

import numpy as np
import pytest
from PIL import Image

from centernet.data.datasets import digits, digits_render
from centernet.data.datasets.digits import generate_digits
from centernet.errors import UserError

pytest.importorskip("sklearn")
pytest.importorskip("skimage")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return generate_digits(tmp_path_factory.mktemp("made"), train=60, val=30, seed=3)


def load(folder, split):
    return json.loads((folder / "annotations" / f"digits_{split}.json").read_text())


def fingerprints(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_layout_and_licences(made):
    for split, count in (("train", 60), ("val", 30)):
        content = load(made, split)
        assert len(content["images"]) == count
        assert {category["name"]: category["id"] for category in content["categories"]} == {
            str(digit): digit + 1 for digit in range(10)
        }
        for image in content["images"]:
            with Image.open(made / split / image["file_name"]) as picture:
                assert picture.size == (image["width"], image["height"])
                assert picture.mode == "RGB"
    text = (made / "LICENSES.txt").read_text()
    assert all(photo.path in text and photo.licence in text for photo in digits_render.PHOTOS)
    assert "CC BY 4.0" in text


def test_the_same_seed_makes_the_same_bytes_and_another_does_not(made, tmp_path):
    again = generate_digits(tmp_path / "again", train=60, val=30, seed=3)
    assert fingerprints(again) == fingerprints(made)
    other = generate_digits(tmp_path / "other", train=60, val=30, seed=4)
    assert load(other, "train") != load(made, "train")


def test_image_k_does_not_depend_on_the_number_of_images(made, tmp_path):
    few = generate_digits(tmp_path, train=5, val=2, seed=3)
    assert load(few, "train")["images"] == load(made, "train")["images"][:5]
    assert (few / "val/000002.jpg").read_bytes() == (made / "val/000002.jpg").read_bytes()


def test_splits_share_no_handwriting_and_no_part_of_a_photograph(made):
    train, val = load(made, "train"), load(made, "val")
    samples = [{annotation["sample"] for annotation in content["annotations"]} for content in (train, val)]
    assert samples[0].isdisjoint(samples[1])
    for image in train["images"]:
        for other in val["images"]:
            if image["photo"] == other["photo"]:
                assert image["crop"][0] + image["crop"][2] <= other["crop"][0]
    whole = [
        set(np.concatenate(digits_render.load_source(split).samples).tolist()) for split in ("train", "val")
    ]
    assert whole[0] | whole[1] == set(range(1797))
    assert whole[0].isdisjoint(whole[1])


def test_boxes_are_inside_of_the_promised_size_and_overlap_a_little_at_most(made):
    for split in ("train", "val"):
        content = load(made, split)
        sizes = {image["id"]: (image["width"], image["height"]) for image in content["images"]}
        boxes = {}
        for annotation in content["annotations"]:
            x, y, w, h = annotation["bbox"]
            width, height = sizes[annotation["image_id"]]
            assert x >= 0
            assert y >= 0
            assert x + w <= width
            assert y + h <= height
            assert 19.5 <= max(w, h) <= 90.5
            assert annotation["area"] == w * h
            assert annotation["iscrowd"] == 0
            boxes.setdefault(annotation["image_id"], []).append((x, y, w, h))
        assert set(boxes) == set(sizes)  # every image has an object
        for group in boxes.values():
            assert 1 <= len(group) <= 6
            for number, box in enumerate(group):
                assert all(digits_render._covered(box, other) <= 0.25 for other in group[:number])


def test_a_digit_is_drawn_where_its_box_is_and_stands_out():
    source = digits_render.load_source("val")
    rng = np.random.default_rng(0)
    for _ in range(20):
        ink = digits_render._render_digit(source.strokes[int(source.samples[3][0])], rng)
        height, width = ink.shape
        canvas = np.full((120, 120, 3), rng.uniform(0, 1))
        before = canvas.copy()
        digits_render._blend(canvas, ink, (7, 9, width, height), rng)
        rows, columns = np.nonzero(np.abs(canvas - before).max(axis=2) > 0.05)
        assert columns.min() >= 7
        assert rows.min() >= 9
        assert columns.max() + 1 <= 7 + width
        assert rows.max() + 1 <= 9 + height
        # the box is tight: strokes come within two pixels of every side
        slack = [
            columns.min() - 7,
            rows.min() - 9,
            7 + width - columns.max() - 1,
            9 + height - rows.max() - 1,
        ]
        assert max(slack) <= 2
        contrast = np.abs((canvas - before) @ [0.299, 0.587, 0.114]).max()
        assert contrast >= 0.85 * digits_render.MIN_CONTRAST - 1e-9


def test_classes_are_balanced(made):
    classes = [annotation["category_id"] for annotation in load(made, "train")["annotations"]]
    counts = np.bincount(classes, minlength=11)[1:]
    assert counts.min() > 0.4 * counts.mean()


def test_repeating_does_nothing(made):
    stamps = {path: os.stat(path).st_mtime_ns for path in made.rglob("*")}
    assert generate_digits(made.parent, train=60, val=30, seed=3) == made
    assert {path: os.stat(path).st_mtime_ns for path in made.rglob("*")} == stamps


def test_other_numbers_replace_the_old_data(tmp_path):
    generate_digits(tmp_path, train=3, val=2, seed=0)
    folder = generate_digits(tmp_path, train=4, val=2, seed=0)
    assert len(load(folder, "train")["images"]) == 4
    assert os.listdir(tmp_path) == ["digits"]


def test_an_interrupted_generation_leaves_nothing(tmp_path, monkeypatch):
    calls = []

    def interrupted(scene_source, rng):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return digits_render.draw_scene(scene_source, rng)

    monkeypatch.setattr(digits, "draw_scene", interrupted)
    with pytest.raises(KeyboardInterrupt):
        generate_digits(tmp_path, train=3, val=2)
    assert os.listdir(tmp_path) == []


def test_a_folder_of_somebody_else_is_not_touched(tmp_path):
    (tmp_path / "digits").mkdir()
    (tmp_path / "digits" / "mine.txt").write_text("precious")
    with pytest.raises(UserError, match="was not made by this tool"):
        generate_digits(tmp_path, train=1, val=1)
    assert (tmp_path / "digits" / "mine.txt").read_text() == "precious"


def test_progress_is_reported(tmp_path):
    seen = []
    generate_digits(tmp_path, train=3, val=2, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(k, 5) for k in range(1, 6)]


def test_missing_photograph_is_one_sentence(monkeypatch):
    photo = digits_render.Photo("none", "skimage", "data/none.png", "")
    monkeypatch.setattr(digits_render, "PHOTOS", (photo,))
    with pytest.raises(UserError, match="needs data/none.png of skimage"):
        digits_render.load_source("train")


def test_the_command_line(load_tool, tmp_path, capsys):
    tool = load_tool("make_demo_data")
    assert tool.main(["--root", str(tmp_path), "--train", "2", "--val", "1"]) == 0
    assert "2 training and 1 validation images" in capsys.readouterr().out
    assert tool.main(["--root", str(tmp_path), "--train", "0"]) == 2
    assert "error: --train and --val" in capsys.readouterr().err
