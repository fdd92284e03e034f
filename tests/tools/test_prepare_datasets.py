"""What is said about data sets that are complete, partly there, or absent."""

import json
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from centernet.data.datasets import class_names


@pytest.fixture
def tool(load_tool, tmp_path, monkeypatch):
    """The module, with the datasets folder moved to an empty one."""
    module = load_tool("prepare_datasets")
    monkeypatch.setattr(module, "data_root", lambda: str(tmp_path))
    metadata = vars(MetadataCatalog.get("nuimages_mini"))  # its attributes cannot be set twice
    monkeypatch.setitem(metadata, "json_file", str(tmp_path / "nuimages/annotations/nuimages_v1.0-mini.json"))
    monkeypatch.setitem(metadata, "image_root", str(tmp_path / "nuimages"))
    return module


def put(root, count, *, listed=50):
    (root / "nuimages/samples").mkdir(parents=True)
    (root / "nuimages/annotations").mkdir()
    names = [f"samples/{number}.jpg" for number in range(listed)]
    for name in names[:count]:
        (root / "nuimages" / name).touch()
    content = json.dumps({"images": [{"id": 1, "file_name": name} for name in names]})
    (root / "nuimages/annotations/nuimages_v1.0-mini.json").write_text(content)


def test_absent(tool, tmp_path, capsys):
    assert tool.main(["nuimages_mini"]) == 1
    line = capsys.readouterr().out
    assert line.startswith(f"nuimages_mini: no file {tmp_path}")
    assert f"no folder {tmp_path / 'nuimages/samples'}" in line
    assert tool.NUIMAGES in line


def test_complete(tool, tmp_path, capsys):
    put(tmp_path, 50)
    assert tool.main(["nuimages_mini", "--read"]) == 0
    assert capsys.readouterr().out == "nuimages_mini: complete\n"


def test_partly_there(tool, tmp_path, capsys, monkeypatch):
    put(tmp_path, 30, listed=49)
    known = tool.KNOWN["nuimages_mini"]._replace(checked=True)
    monkeypatch.setitem(tool.KNOWN, "nuimages_mini", known)
    assert tool.main(["nuimages_mini", "--read"]) == 1
    out = capsys.readouterr().out
    assert "lists 49 images, not 50" in out
    assert "19 of the images that" in out
    assert "samples/30.jpg" in out
    monkeypatch.setitem(tool.KNOWN, "nuimages_mini", known._replace(folders={"nuimages/samples": 50}))
    assert tool.main(["nuimages_mini"]) == 1
    assert "has 30 of 50 images" in capsys.readouterr().out


def test_a_number_that_is_not_certain_refuses_nothing(tool, tmp_path, capsys, monkeypatch):
    put(tmp_path, 49, listed=49)
    known = tool.KNOWN["nuimages_mini"]._replace(folders={"nuimages/samples": 50})
    assert not known.checked
    monkeypatch.setitem(tool.KNOWN, "nuimages_mini", known)
    assert tool.main(["nuimages_mini", "--read"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("nuimages_mini: complete; note: ")
    assert "has 49 of 50 images, a number that is not certain; note: " in out
    assert "lists 49 images, not 50, a number that is not certain" in out


def test_broken_json(tool, tmp_path, capsys):
    put(tmp_path, 50)
    (tmp_path / "nuimages/annotations/nuimages_v1.0-mini.json").write_text('{"images": [')
    assert tool.main(["nuimages_mini", "--read"]) == 1
    assert "is not a COCO annotation file, or is cut off" in capsys.readouterr().out


def test_all_sets_are_told_of_without_failing(tool, capsys):
    assert tool.main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == list(tool.KNOWN)


def test_every_known_set_is_registered(tool):
    assert set(tool.KNOWN) <= set(DatasetCatalog.list())
    for name, known in tool.KNOWN.items():
        root = Path(MetadataCatalog.get(name).image_root)
        assert all(root.name in (Path(folder).name, Path(folder).parent.name) for folder in known.folders)


def test_objects365_v2_takes_its_classes_from_its_file(tmp_path, monkeypatch):
    content = {"categories": [{"id": 2, "name": "Sneakers"}, {"id": 1, "name": "Person"}], "images": []}
    (tmp_path / "v2.json").write_text(json.dumps(content))
    metadata = vars(MetadataCatalog.get("objects365_v2_val"))
    monkeypatch.setitem(metadata, "json_file", str(tmp_path / "v2.json"))
    monkeypatch.setitem(metadata, "image_root", str(tmp_path))
    try:
        assert class_names("objects365_v2_val") == ["Person", "Sneakers"]
    finally:
        metadata.pop("thing_classes", None)


def test_unknown_names(tool, capsys):
    assert tool.main(["coco_2017_trian"]) == 2
    assert "coco_2017_train" in capsys.readouterr().err
    assert tool.main(["voc_2007_val"]) == 2
    assert "tools/check_dataset.py" in capsys.readouterr().err
