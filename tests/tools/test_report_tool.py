"""The command line of the report."""

import json

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog


@pytest.fixture
def tool(load_tool):
    module = load_tool("report")
    before = set(DatasetCatalog.list())
    yield module
    for name in set(DatasetCatalog.list()) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.fixture
def run_folder(tmp_path):
    """Results on an image that is not there."""
    box = {"image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5]}
    truth = {
        "images": [{"id": 1, "file_name": "1.png", "width": 10, "height": 10}],
        "annotations": [{"id": 1, **box}],
        "categories": [{"id": 1, "name": "thing"}],
    }
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    (tmp_path / "results.json").write_text(json.dumps([box | {"score": 0.5}]))
    return tmp_path


def test_a_page_is_written(tool, run_folder, capsys):
    data = f"{run_folder / 'truth.json'}:{run_folder}"
    assert tool.main([str(run_folder), "--data", data, "--results", str(run_folder / "results.json")]) == 0
    said = capsys.readouterr().out
    assert "AP 100.0, AP50 100.0" in said
    assert "note: No config.yaml" in said
    assert "<!doctype html>" in (run_folder / "report.html").read_text("utf-8")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{}/nothing"], "there is no run folder"),
        (["{}"], "name them with --data"),
        (["{}", "--data", "digits_vall"], "nearest registered name is 'digits_val'"),
        (["{}", "--pictures", "-1"], "--pictures is -1"),
    ],
)
def test_mistakes_are_one_sentence(tool, run_folder, capsys, arguments, words):
    assert tool.main([argument.format(run_folder) for argument in arguments]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert words in said
    assert said.count("\n") == 1
