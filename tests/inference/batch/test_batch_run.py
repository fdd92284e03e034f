"""A model over many pictures: what is written, and that a run which stopped anywhere goes on to the same result."""

import json
import os
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from PIL import Image
from small_models import EAGER, small_cfg

from centernet.errors import UserError
from centernet.inference import Predictor
from centernet.inference.batch.inputs import list_pictures
from centernet.inference.batch.job import Job, held
from centernet.inference.batch.parts import Label, encode_part, read_label, row_of, table_schema
from centernet.inference.batch.ray_workers import RayOptions, _resources, _told
from centernet.inference.batch.results import write_coco
from centernet.inference.batch.run import predict_many
from centernet.inference.network import Network
from centernet.inference.results import Categories

parquet = pytest.importorskip("pyarrow.parquet")

GOOD, BROKEN = 16, 4


@pytest.fixture(scope="module")
def photos(tmp_path_factory, load_tool):
    folder = tmp_path_factory.mktemp("batch") / "photos"
    bad = load_tool("benchmarks/batch_predict").write_pictures(folder, GOOD, BROKEN)
    return folder, bad


@pytest.fixture(scope="module")
def small(trained):
    return small_cfg("CenterNet2_R50_1x", *EAGER, "MODEL.WEIGHTS", trained)


SETTINGS = {"batch_size": 2, "shard_size": 5, "threshold": 0.1}


def run(small, photos, output, **settings):
    return predict_many(small, list_pictures([str(photos[0])]), output, **{**SETTINGS, **settings})


@pytest.fixture(scope="module")
def whole(small, photos, tmp_path_factory):
    """The folder that a run leaves which nobody disturbed."""
    output = tmp_path_factory.mktemp("whole") / "found"
    summary = run(small, photos, output)
    assert (summary.pictures, len(summary.broken)) == (GOOD, BROKEN)
    return output


def test_every_good_picture_once_and_the_broken_ones_listed(photos, whole):
    table = parquet.read_table(whole)
    listed = list_pictures([str(photos[0])])
    assert table.column("key").to_pylist() == [entry.key for entry in listed if entry.key not in photos[1]]
    assert table.column("image_id").to_pylist() == [entry.image_id for entry in listed if entry.key not in photos[1]]
    lines = (whole.parent / "found.broken.jsonl").read_text().splitlines()
    assert {json.loads(line)["key"] for line in lines} == photos[1]
    assert all(json.loads(line)["reason"] for line in lines)


def test_rows_are_what_the_predictor_says(small, photos, whole):
    predictor = Predictor(small)
    rows = parquet.read_table(whole).to_pylist()
    assert rows[0]["class_names"] == [str(label) for label in rows[0]["class_ids"]]
    for row in rows[:6]:
        found = predictor(photos[0] / row["key"])
        found = found[found.scores >= 0.1]
        assert (row["height"], row["width"]) == found.image_size
        assert len(row["boxes"]) == len(found) > 0
        np.testing.assert_allclose(row["boxes"], found.pred_boxes.tensor.numpy(), atol=1e-3)
        np.testing.assert_allclose(row["scores"], found.scores.numpy(), atol=1e-5)
        assert row["class_ids"] == found.pred_classes.tolist()


@pytest.mark.parametrize("output", ["found.parquet", "found"])
def test_a_run_that_stopped_goes_on(small, photos, whole, tmp_path, monkeypatch, output):
    """Stopped when the third part is about to be written; what a kill leaves half-written lies there, too."""
    wrote = []
    real = Job.write

    def stop(self, number, content):
        if len(wrote) == 2:
            raise KeyboardInterrupt
        wrote.append(number)
        real(self, number, content)

    with monkeypatch.context() as patch:
        patch.setattr(Job, "write", stop)
        with pytest.raises(KeyboardInterrupt):
            run(small, photos, tmp_path / output)
    folder = tmp_path / (output if output == "found" else f"{output}.parts")
    assert not (tmp_path / "found.parquet").exists()
    (folder / ".part-00002.77.part.parquet").write_bytes(b"PAR1 torn")
    (tmp_path / ".found.77.part.parquet").write_bytes(b"PAR1 torn")
    (tmp_path / ".found.x.77.part.parquet").write_bytes(b"of another run")
    (folder / "part-00001.parquet").write_bytes((whole / "part-00001.parquet").read_bytes()[:-20])  # a power cut
    asked = []
    predict = Network.__call__
    monkeypatch.setattr(Network, "__call__", lambda self, x: asked.extend(x) or predict(self, x))
    summary = run(small, photos, tmp_path / output, loaders=0)
    left = [entry for entry in list_pictures([str(photos[0])])[5:] if entry.key not in photos[1]]
    assert len(asked) == len(left), "the pictures of the three shards that are not done"
    assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in whole.iterdir())
    if output == "found.parquet":
        assert [path.name for path in tmp_path.glob(".found*")] == [".found.x.77.part.parquet"]
    for part in whole.glob("part-*"):
        assert (folder / part.name).read_bytes() == part.read_bytes()
    again = run(small, photos, tmp_path / output)
    assert len(asked) == len(left), "nothing is left to do"
    assert again == summary
    if output == "found.parquet":
        assert parquet.read_table(tmp_path / output).equals(parquet.read_table(whole))


def test_coco(small, photos, whole, tmp_path):
    for name in whole.iterdir():
        for form in ("x.json.parts", "y.json.parts"):
            (tmp_path / form).mkdir(exist_ok=True)
            shutil.copy(name, tmp_path / form)
    summary = run(small, photos, tmp_path / "x.json")
    content = json.loads((tmp_path / "x.json").read_text())
    assert [image["file_name"] for image in content["images"]] == parquet.read_table(whole).column("key").to_pylist()
    assert len(content["annotations"]) == summary.detections > GOOD
    assert [category["id"] for category in content["categories"]] == [1, 2, 3, 4]
    first, row = content["annotations"][0], parquet.read_table(whole).slice(0, 1).to_pylist()[0]
    assert first["category_id"] == row["class_ids"][0] + 1
    x, y, w, h = first["bbox"]
    np.testing.assert_allclose([x, y, x + w, y + h], row["boxes"][0], atol=0.02)
    assert [a["id"] for a in content["annotations"]] == list(range(1, summary.detections + 1))
    run(small, photos, str(tmp_path / "y.json"), form="coco-results")
    results = json.loads((tmp_path / "y.json").read_text())
    assert [r["score"] for r in results] == [a["score"] for a in content["annotations"]]
    assert set(results[0]) == {"image_id", "category_id", "bbox", "score"}


@pytest.mark.parametrize("output", ["x.json", "x.parquet"])
def test_a_part_that_a_disk_has_damaged(small, photos, whole, tmp_path, output):
    """Its label, at the end of the file, is whole."""
    shutil.copytree(whole, tmp_path / f"{output}.parts")
    part = tmp_path / f"{output}.parts" / "part-00001.parquet"
    content = bytearray(part.read_bytes())
    content[4 : len(content) // 3] = bytes(len(content) // 3 - 4)
    part.write_bytes(content)
    with pytest.raises(UserError, match=r"part-00001.parquet is damaged .*: delete it and give"):
        run(small, photos, tmp_path / output)
    part.unlink()
    run(small, photos, tmp_path / output)
    assert part.read_bytes() == (whole / part.name).read_bytes()


def test_another_run_is_refused(small, photos, whole, tmp_path):
    shutil.copytree(whole, tmp_path / "found")
    listed = list_pictures([str(photos[0])])
    other = small.clone()
    other.INPUT.MIN_SIZE_TEST = 90
    retrained = small.clone()
    weights = torch.load(small.MODEL.WEIGHTS, weights_only=True)
    next(value for value in weights["model"].values() if value.is_floating_point()).view(-1)[0] += 1
    torch.save(weights, tmp_path / "other.pth")
    retrained.MODEL.WEIGHTS = str(tmp_path / "other.pth")
    for cfg, pictures, settings, words in [
        (small, listed, {"threshold": 0.2}, "its threshold differ"),
        (small, listed[1:], {}, "its pictures differ"),
        (small, listed, {"shard_size": 6}, "its shard size differ"),
        (other, listed, {}, "its config differ"),
        (retrained, listed, {}, "its weights differ"),
    ]:
        with pytest.raises(UserError, match=rf"another run \({words}\): delete it"):
            predict_many(cfg, pictures, tmp_path / "found", **{**SETTINGS, **settings})


def test_broken_pictures_that_were_mended(small, photos, whole, tmp_path):
    mended = tmp_path / "photos"
    shutil.copytree(photos[0], mended, symlinks=True)
    run(small, (mended,), tmp_path / "found")
    name = sorted(photos[1])[0]
    (mended / name).unlink(missing_ok=True)
    shutil.copy(photos[0] / next(iter(parquet.read_table(whole).column("key").to_pylist())), mended / name)
    assert len(run(small, (mended,), tmp_path / "found").broken) == BROKEN
    summary = run(small, (mended,), tmp_path / "found", retry_broken=True)
    assert (summary.pictures, len(summary.broken)) == (GOOD + 1, BROKEN - 1)
    assert name in parquet.read_table(tmp_path / "found").column("key").to_pylist()


def test_a_picture_that_cannot_be_resized_stops_nothing(small, tmp_path):
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (2000, 1)).save(tmp_path / "photos" / "line.png")
    Image.new("RGB", (70, 60)).save(tmp_path / "photos" / "plain.png")
    summary = run(small, (tmp_path / "photos",), tmp_path / "found")
    assert summary.pictures == 1
    assert "line.png" in summary.broken[0]
    assert "too narrow" in summary.broken[0]


def test_outputs_that_cannot_be_meant(small, photos, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("")
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.json").mkdir()
    for output, settings, words in [
        ("mine", {}, "holds other files"),
        ("file", {}, "is a file: give a folder"),
        ("folder.json", {}, "is a folder, but the format coco is one file"),
        ("file/found", {}, "cannot be written"),
        ("found", {"form": "csv"}, "the format is 'csv'"),
    ]:
        with pytest.raises(UserError, match=words):
            run(small, photos, tmp_path / output, **settings)
    picture = list_pictures([str(photos[0])])[0].file
    with pytest.raises(UserError, match="one of the inputs"):
        run(small, photos, type(tmp_path)(picture), form="coco")


def test_the_second_process_is_refused(tmp_path):
    with (
        held(tmp_path / "found"),
        pytest.raises(UserError, match=f"being written by process {os.getpid()} on "),
        held(tmp_path / "found"),
    ):
        pass
    with held(tmp_path / "found"):
        pass


def test_a_job_whose_header_is_damaged(tmp_path):
    with held(tmp_path / "found") as folder:
        (folder / "_job.json").write_text('{"thresh')
        with pytest.raises(UserError, match=r"_job.json is damaged: delete"):
            Job(folder, {}, [], 4).open()


def test_masks_texts_as_ids_and_empty_parts(tmp_path):
    found = Instances((4, 6), pred_boxes=Boxes(torch.tensor([[0.0, 1, 2, 3]])), scores=torch.tensor([0.5]))
    found.pred_classes = torch.tensor([1])
    found.pred_masks = torch.zeros(1, 4, 6, dtype=torch.bool)
    found.pred_masks[0, 1:3, :2] = True
    rows = [row_of("a", "a.jpg", found, ["x", "y"]), row_of("b", "b.jpg", found[[]], ["x", "y"])]
    job = Job(tmp_path, {}, [("a",), ("b",), ("c",)], 2)
    schema = table_schema(text_ids=True, masks=True)
    job.write(0, encode_part(rows, schema, Label("j", 0, 2, [], 1)))
    job.write(1, encode_part([], schema, Label("j", 1, 1, [{"image_id": "c", "key": "c", "reason": "r"}], 0)))
    assert read_label(job.part(1)).broken[0]["reason"] == "r"
    write_coco(tmp_path / "x.json", job, Categories(("x", "y"), (3, 9)), results_only=False)
    content = json.loads((tmp_path / "x.json").read_text())
    assert [image["id"] for image in content["images"]] == ["a", "b"]
    from pycocotools import mask

    assert [a["category_id"] for a in content["annotations"]] == [9]
    np.testing.assert_array_equal(mask.decode(content["annotations"][0]["segmentation"]), found.pred_masks[0].numpy())


@pytest.mark.parametrize(
    ("cluster", "device", "options", "expected"),
    [
        ({"CPU": 8.0}, "cuda", RayOptions(), (8, 0.0)),
        ({"CPU": 8.0}, "cpu", RayOptions(cpus=3), (2, 0.0)),
        ({"CPU": 16.0, "GPU": 2.0}, "cuda", RayOptions(), (2, 1.0)),
        ({"CPU": 16.0, "GPU": 2.0}, "cuda", RayOptions(gpus=0.5), (4, 0.5)),
        ({"CPU": 16.0, "GPU": 2.0}, "cpu", RayOptions(workers=3), (3, 0.0)),
    ],
)
def test_workers_that_a_cluster_can_hold(cluster, device, options, expected):
    assert _resources(cluster, device, options) == expected


def test_errors_of_workers():
    class RayError(Exception):
        pass

    class RayTaskError(RayError):
        cause = None

    class Died(RayError):
        pass

    ray = SimpleNamespace(exceptions=SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError))
    wrapped, defect = RayTaskError("a traceback"), RayTaskError("a traceback")
    wrapped.cause = UserError("the weights are not there")
    outer = ValueError("the data set failed")
    outer.__cause__ = wrapped
    assert str(_told(ray, outer)) == "the weights are not there"
    defect.cause = KeyError("a defect of ours")
    assert _told(ray, defect) is defect
    assert str(_told(ray, Died("node\n lost"))).startswith("Ray lost workers (node lost); what is finished is kept")


def test_workers_that_a_cluster_cannot_hold():
    with pytest.raises(UserError, match="2 CPUs and 1 GPUs, too few for 3 workers with 1 CPUs and 1 GPUs each"):
        _resources({"CPU": 2.0, "GPU": 1.0}, "cuda", RayOptions(workers=3))
