"""Whatever is in the files: a data set is read, or refused in one sentence. Nothing else is raised."""

import contextlib
import copy
import json
import shutil
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sample_sets import coco_content, pictures, voc_text, write_coco, write_json, write_voc, write_yolo

from centernet.data.own_data import prepare_own_data
from centernet.errors import UserError

MADE = pictures(2)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def folders(tmp_path):
    return {write: write(tmp_path / write.__name__, MADE) for write in (write_coco, write_voc, write_yolo)}


def read(path, bad_data):
    out = path.parent / "out"
    shutil.rmtree(out, ignore_errors=True)
    with contextlib.suppress(UserError):
        data = prepare_own_data([str(path)], out, bad_data=bad_data, val_fraction=0)
        content = json.loads((out / "train.json").read_text())
        assert [category["name"] for category in content["categories"]] == data.classes
        sizes = {image["id"]: (image["width"], image["height"]) for image in content["images"]}
        for entry in content["annotations"]:
            x, y, width, height = entry["bbox"]
            assert 0 <= x < x + width <= sizes[entry["image_id"]][0]
            assert 0 <= y < y + height <= sizes[entry["image_id"]][1]
            assert 1 <= entry["category_id"] <= len(data.classes)


def nodes(value, path=()):
    """Paths of all values inside a JSON value."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from nodes(inner, (*path, key))


PATHS = list(nodes(coco_content(MADE)))


@QUICK
@given(st.sampled_from(PATHS), JSON_VALUES, st.sampled_from(["refuse", "skip"]))
def test_any_value_in_the_json(folders, path, value, bad_data):
    content = copy.deepcopy(coco_content(MADE))
    if path:
        place = content
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
    else:
        content = value
    write_json(folders[write_coco] / "annotations/all.json", json.dumps(content))
    read(folders[write_coco], bad_data)


def spoilt(text, cut, insert, length):
    start = int(cut * len(text))
    return text[:start] + insert + text[start + length :]


SPOIL = (st.floats(0, 1), st.binary(max_size=6), st.integers(0, 12), st.sampled_from(["refuse", "skip"]))


@QUICK
@given(*SPOIL)
def test_any_bytes_in_the_xml(folders, cut, insert, length, bad_data):
    text = voc_text(MADE[0]).encode()
    (folders[write_voc] / "Annotations/p0.xml").write_bytes(spoilt(text, cut, insert, length))
    read(folders[write_voc], bad_data)


@QUICK
@given(st.sampled_from(["labels/train/p0.txt", "data.yaml"]), *SPOIL)
def test_any_bytes_in_labels_and_yaml(folders, name, cut, insert, length, bad_data):
    file = folders[write_yolo] / name
    before = file.read_bytes()
    try:
        file.write_bytes(spoilt(before, cut, insert, length))
        read(folders[write_yolo], bad_data)
    finally:
        file.write_bytes(before)


@QUICK
@given(st.floats(0, 1), st.binary(max_size=6), st.integers(0, 200), st.sampled_from(["refuse", "skip"]))
def test_any_bytes_in_an_image(folders, cut, insert, length, bad_data):
    file = folders[write_coco] / "images/p0.jpg"
    before = file.read_bytes()
    try:
        file.write_bytes(spoilt(before, cut, insert, length))
        read(folders[write_coco], bad_data)
    finally:
        file.write_bytes(before)


def test_file_names_that_are_not_utf8(tmp_path):
    folder = write_yolo(tmp_path / "set", MADE)
    for kind, suffix in {"images": ".jpg", "labels": ".txt"}.items():
        old = folder / kind / "train" / f"p0{suffix}"
        try:
            old.rename(old.with_name(f"\udce4rger{suffix}"))
        except OSError:
            pytest.skip("this file system has UTF-8 names only")
    prepare_own_data([str(folder)], tmp_path / "out")
    contents = [json.loads((tmp_path / f"out/{part}.json").read_text()) for part in ("train", "val")]
    names = [image["file_name"] for content in contents for image in content["images"]]
    assert len(names) == 2
    assert all(Path(name).is_file() for name in names)
