"""nuImages' tables in the published layout, made here, into the COCO JSON file that the registration reads."""

import base64
import json
import os
from pathlib import Path

import numpy as np
import pycocotools.mask
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from PIL import Image

from centernet.data.datasets import open_dataset, register_coco_json
from centernet.data.datasets.nuimages import categories
from centernet.data.datasets.nuimages_tables import CLASS_OF

SIZE = (16, 9)  # width, height
KINDS = [*CLASS_OF, "animal", "vehicle.emergency.police", "flat.driveable_surface"]


@pytest.fixture(scope="module")
def tool(load_tool):
    return load_tool("convert_nuimages")


def encoded(box):
    """A rectangle as nuImages has masks: COCO's code, in base 64."""
    mask = np.zeros(SIZE[::-1], np.uint8, order="F")
    x0, y0, x1, y1 = box
    mask[y0:y1, x0:x1] = 1
    code = pycocotools.mask.encode(mask)
    return {"size": list(code["size"]), "counts": base64.b64encode(code["counts"]).decode()}


def write_tables(root, part="v1.0-mini"):
    """Two key frames with a lidar sweep and a camera sweep each; returns the objects as rows."""
    folder = root / part
    folder.mkdir(parents=True)
    objects = [
        (0, "vehicle.car", [1, 2, 7, 6], "own"),
        (0, "vehicle.bus.bendy", [0, 0, 16, 9], "own"),
        (0, "animal", [1, 1, 3, 3], "own"),
        (1, "movable_object.barrier", [-3, 4, 20, 8], None),
        (1, "human.pedestrian.police_officer", [2, 2, 4, 8], "own"),
        (1, "vehicle.truck", [5, 5, 5, 8], "own"),
    ]
    rows = [
        {"token": f"o{k}", "sample_data_token": f"cam{image}", "category_token": f"k{KINDS.index(kind)}"}
        | {"attribute_tokens": [], "bbox": box, "mask": mask and encoded(np.clip(box, 0, 16))}
        for k, (image, kind, box, mask) in enumerate(objects)
    ]
    data = []
    for k in range(2):
        size = {"width": SIZE[0], "height": SIZE[1]}
        data += [
            {"token": f"lidar{k}", "filename": f"samples/LIDAR_TOP/{k}.pcd.bin", "width": None, "height": None},
            {"token": f"sweep{k}", "filename": f"sweeps/CAM_FRONT/{k}.jpg", "is_key_frame": False, **size},
            {"token": f"cam{k}", "filename": f"samples/CAM_FRONT/{k}.jpg", "is_key_frame": True, **size},
        ]
        file = root / f"samples/CAM_FRONT/{k}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", SIZE).save(file)
    tables = {
        "category": [{"token": f"k{k}", "name": name, "description": ""} for k, name in enumerate(KINDS)],
        "sample": [{"token": f"s{k}", "key_camera_token": f"cam{k}", "key_lidar_token": f"lidar{k}"} for k in (1, 0)],
        "sample_data": data,
        "object_ann": rows,
        "surface_ann": [], "attribute": [], "calibrated_sensor": [], "ego_pose": [], "log": [], "sensor": [],
    }  # fmt: skip
    for name, content in tables.items():
        (folder / f"{name}.json").write_text(json.dumps(content, indent=0))  # as published
    return folder


def test_boxes_classes_and_masks_come_through_the_loader(tool, tmp_path, capsys):
    root = tmp_path / "nuimages"
    write_tables(root)
    assert tool.main(["--root", str(root)]) == 0
    said = capsys.readouterr().out
    assert "v1.0-mini: 2 images, 4 objects; of none of the ten classes, left out: animal 1;" in said
    assert "left out for a box without area: 1; without a mask, which their box replaces: 1\n" in said
    path = root / "annotations/nuimages_v1.0-mini.json"
    assert json.loads(path.read_text())["categories"] == categories
    metadata = MetadataCatalog.get("nuimages_mini")
    given = {"thing_classes": metadata.thing_classes}
    register_coco_json("nuimages_converted", str(path), str(root), metadata=given)
    try:
        records = list(open_dataset("nuimages_converted"))
        ids = MetadataCatalog.get("nuimages_converted").thing_dataset_id_to_contiguous_id
    finally:
        DatasetCatalog.remove("nuimages_converted")
        MetadataCatalog.pop("nuimages_converted")
    assert ids == metadata.thing_dataset_id_to_contiguous_id
    assert all(Path(record["file_name"]).is_file() for record in records)
    found = [
        (Path(r["file_name"]).name, given["thing_classes"][a["category_id"]], BoxMode.convert(a["bbox"], 1, 0))
        for r in records for a in r["annotations"]
    ]  # fmt: skip
    assert found == [
        ("1.jpg", "barrier", [0, 4, 16, 8]),  # over the edge: clipped; sample.json has this image first
        ("1.jpg", "pedestrian", [2, 2, 4, 8]),
        ("0.jpg", "car", [1, 2, 7, 6]),
        ("0.jpg", "bus", [0, 0, 16, 9]),
    ]
    for (_, _, box), annotation in zip(found, (a for r in records for a in r["annotations"]), strict=True):
        mask = pycocotools.mask.decode(annotation["segmentation"])
        assert mask.shape == SIZE[::-1]
        rows, columns = np.nonzero(mask)
        assert [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] == box
        assert mask.sum() == (box[2] - box[0]) * (box[3] - box[1])


def test_a_file_is_written_again_when_a_table_is_newer(tool, tmp_path, capsys):
    folder = write_tables(tmp_path, "v1.0-val")
    target = tmp_path / "annotations/nuimages_v1.0-val.json"
    assert tool.main(["--root", str(tmp_path)]) == 0
    for path in folder.glob("*.json"):
        os.utime(path, (1, 1))
    before = target.read_bytes()
    target.write_text("kept")
    assert tool.main(["v1.0-val", "--root", str(tmp_path)]) == 0
    assert "is newer than the tables and stays" in capsys.readouterr().out
    assert target.read_text() == "kept"
    assert tool.main(["v1.0-val", "--root", str(tmp_path), "--force"]) == 0
    assert target.read_bytes() == before
    target.write_text("old")
    os.utime(target, (0, 0))
    assert tool.main(["--root", str(tmp_path)]) == 0
    assert target.read_bytes() == before
    assert [path.name for path in target.parent.iterdir()] == [target.name]


def broken_row(folder, table, **change):
    path = folder / f"{table}.json"
    rows = json.loads(path.read_text())
    rows[0] = {key: value for key, value in (rows[0] | change).items() if value != "gone"}
    path.write_text(json.dumps(rows))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda f: (f / "object_ann.json").unlink(), "there is no table"),
        (lambda f: (f / "sample.json").write_text("{}"), "sample.json is not a JSON list of rows, or is cut off"),
        (lambda f: (f / "category.json").write_text(""), "category.json is not a JSON list"),
        (lambda f: (f / "object_ann.json").write_bytes((f / "object_ann.json").read_bytes()[:-40]), "is cut off"),
        (lambda f: (f / "category.json").write_text("[1, 2]"), "category.json is not a table of nuImages"),
        (lambda f: (f / "sample.json").write_text("[] []"), "more behind the list"),
        (lambda f: broken_row(f, "sample_data", token="x", filename="y"), None),
        (lambda f: broken_row(f, "sample", key_camera_token="nowhere"), "lacks the image nowhere of sample.json"),
        (lambda f: broken_row(f, "category", name="gone"), "a row without 'name'"),
        (lambda f: broken_row(f, "object_ann", bbox="gone"), "a row without 'bbox'"),
        (lambda f: broken_row(f, "object_ann", bbox=[1, 2, 3]), "is not a table of nuImages: not enough values"),
        (lambda f: broken_row(f, "object_ann", category_token="k99"), "object o0 is of category k99, which no other"),
        (lambda f: broken_row(f, "object_ann", sample_data_token="sweep0"), "object o0 is of image sweep0"),
        (lambda f: broken_row(f, "object_ann", mask={"size": [9, 15], "counts": ""}), "the mask of object o0 has size"),
        (lambda f: broken_row(f, "object_ann", mask={"size": [9, 16], "counts": "~"}), "is not a table of nuImages"),
    ],
)
def test_broken_tables_are_one_sentence(tool, tmp_path, capsys, spoil, words):
    spoil(write_tables(tmp_path))
    assert tool.main(["--root", str(tmp_path)]) == (2 if words else 0)
    said = capsys.readouterr().err
    if words:
        assert words in said
        assert said.count("\n") == 1
        assert not (tmp_path / "annotations").exists()


def test_parts_that_are_not_there(tool, tmp_path, capsys):
    assert tool.main(["--root", str(tmp_path)]) == 2
    assert "unpack nuimages-v1.0-all-metadata there" in capsys.readouterr().err
    assert tool.main(["v1.0-test", "--root", str(tmp_path)]) == 2
    assert "has no part v1.0-test" in capsys.readouterr().err
    assert tool.main(["v1.0-train", "--root", str(tmp_path)]) == 2
    assert f"there is no table {tmp_path}/v1.0-train/category.json" in capsys.readouterr().err


def test_every_class_has_kinds():
    assert set(CLASS_OF.values()) == {category["name"] for category in categories}
