"""One set of pictures, three formats, the same boxes; and the layouts that people's folders come in."""

import shutil
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sample_sets import (
    CLASSES,
    Picture,
    boxes_by_name,
    coco_content,
    pictures,
    voc_object,
    voc_text,
    write_coco,
    write_image,
    write_images,
    write_json,
    write_voc,
    write_yolo,
    yolo_line,
)

from centernet.data.readers import Problems, expand_lists, read_sources
from centernet.errors import UserError


def read(path):
    problems = Problems()
    return read_sources(str(path), problems), problems


@st.composite
def picture_lists(draw):
    made = []
    for number in range(draw(st.integers(1, 3))):
        width, height = draw(st.integers(2, 40)), draw(st.integers(2, 40))
        boxes = []
        for _ in range(draw(st.integers(1, 3))):
            x0, y0 = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
            x1, y1 = draw(st.integers(x0 + 1, width)), draw(st.integers(y0 + 1, height))
            boxes.append((draw(st.sampled_from(CLASSES)), x0, y0, x1, y1))
        made.append(Picture(f"p{number}", (width, height), boxes))
    return made


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(picture_lists())
def test_three_formats_give_the_same_boxes(tmp_path, made):
    for name in ("coco", "voc", "yolo"):
        shutil.rmtree(tmp_path / name, ignore_errors=True)
    expected = {p.name: [(name, 0, pytest.approx(list(box), abs=1e-4)) for name, *box in p.boxes] for p in made}
    for name, write in {"coco": write_coco, "voc": write_voc, "yolo": write_yolo}.items():
        sources, problems = read(write(tmp_path / name, made))
        assert boxes_by_name(sources) == expected
        assert not problems.found


def test_records_are_in_detectron2s_format(tmp_path):
    from detectron2.structures import BoxMode

    made = pictures(2)
    for write in (write_coco, write_voc, write_yolo):
        folder = write(tmp_path / write.__name__, made)
        (source,), _ = read(folder)
        (records,) = source.parts.values()
        record = next(record for record in records if record["name"].endswith("p1.jpg"))
        assert (record["width"], record["height"]) == made[1].size
        assert Path(record["file_name"]).is_absolute()
        assert record["name"] == Path(record["file_name"]).name or (folder / record["name"]).is_file()
        for entry in record["annotations"]:
            assert entry["bbox_mode"] == BoxMode.XYXY_ABS
            assert all(type(number) is float for number in entry["bbox"])


@pytest.mark.parametrize("write", [write_voc, write_yolo])
def test_parts_that_the_data_name(tmp_path, write):
    (source,), _ = read(write(tmp_path / "set", pictures(5), val=("p1", "p4")))
    names = {part: sorted(Path(r["name"]).stem for r in records) for part, records in source.parts.items()}
    assert names == {"train": ["p0", "p2", "p3"], "val": ["p1", "p4"]}


def test_coco_folder_with_several_files(tmp_path):
    made = pictures(6)
    folder = write_coco(tmp_path / "set", made[:4], part="instances_train2017")
    write_coco(folder, made[4:], part="instances_val2017")
    write_json(folder / "annotations" / "captions_train2017.json", {})
    write_json(folder / "annotations" / "instances_train2017_small.json", coco_content(made[:1]))
    sources, problems = read(folder)
    assert [{part: len(records) for part, records in source.parts.items()} for source in sources] == [
        {"train": 4},
        {"val": 2},
    ]
    assert problems.notes() == ["json-unused"]
    write_json(folder / "annotations" / "instances_train2014.json", coco_content(made[:1]))
    with pytest.raises(UserError, match=r"several annotation files for the same part \(train\)"):
        read(folder)


def test_roboflow_coco_with_its_parent_category(tmp_path):
    made = pictures(4)
    for part, chosen in {"train": made[:2], "valid": made[2:3], "test": made[3:]}.items():
        write_images(tmp_path / part, chosen)
        content = coco_content(chosen)
        for category in content["categories"]:
            category["supercategory"] = "animals"
        content["categories"].insert(0, {"id": 0, "name": "animals", "supercategory": "none"})
        write_json(tmp_path / part / "_annotations.coco.json", content)
    sources, problems = read(tmp_path)
    assert sorted(part for source in sources for part in source.parts) == ["test", "train", "val"]
    assert all(source.classes == CLASSES for source in sources)
    assert problems.notes() == ["category-parent"]


def _roboflow_yolo(root):
    made = pictures(4)
    for part, chosen in {"train": made[:3], "valid": made[3:]}.items():
        write_images(root / part / "images", chosen)
        (root / part / "labels").mkdir()
        for picture in chosen:
            lines = "\n".join(yolo_line(picture, box) for box in picture.boxes)
            (root / part / "labels" / f"{picture.name}.txt").write_text(lines)
    (root / "data.yaml").write_text(
        "train: ../train/images\nval: ../valid/images\ntest: ../test/images\nnc: 3\nnames: ['ant', 'bee', 'cat']\n"
    )


def _flat_yolo(root):
    made = pictures(4)
    write_images(root, made)
    for picture in made:
        (root / f"{picture.name}.txt").write_text("\n".join(yolo_line(picture, box) for box in picture.boxes))
    (root / "classes.txt").write_text("\n".join(CLASSES) + "\n")


def _images_and_labels(root):
    write_yolo(root, pictures(4))
    for kind in ("images", "labels"):
        for file in (root / kind / "train").iterdir():
            file.rename(root / kind / file.name)
        (root / kind / "train").rmdir()
    (root / "data.yaml").unlink()
    (root / "labels" / "classes.txt").write_text("\n".join(CLASSES))


def _label_studio(root):
    _images_and_labels(root)
    (root / "labels/classes.txt").rename(root / "classes.txt")
    write_json(root / "notes.json", {"categories": [{"id": 0, "name": "ant"}], "info": {}})


def _flat_yolo_with_results_of_a_run(root):
    _flat_yolo(root)
    write_images(root / "output" / "pictures", pictures(9))


def _flat_voc(root):
    made = pictures(4)
    write_images(root, made)
    for picture in made:
        (root / f"{picture.name}.xml").write_text(voc_text(picture))


def _voc_in_parts(root):
    made = pictures(4)
    for part, chosen in {"train": made[:3], "valid": made[3:]}.items():
        write_images(root / part, chosen)
        for picture in chosen:
            (root / part / f"{picture.name}.xml").write_text(voc_text(picture))


def _one_folder_down(root):
    write_voc(root / "VOCdevkit-of-mine", pictures(4))


@pytest.mark.parametrize(
    "layout, parts",
    [
        (_roboflow_yolo, {"train": 3, "val": 1}),
        (_flat_yolo, {"all": 4}),
        (_images_and_labels, {"all": 4}),
        (_label_studio, {"all": 4}),
        (_flat_yolo_with_results_of_a_run, {"all": 4}),
        (_flat_voc, {"all": 4}),
        (_voc_in_parts, {"train": 3, "val": 1}),
        (_one_folder_down, {"all": 4}),
    ],
)
def test_other_layouts(tmp_path, layout, parts):
    layout(tmp_path)
    (source,), problems = read(tmp_path)
    assert {part: len(records) for part, records in source.parts.items()} == parts
    assert source.classes == CLASSES
    expected = {p.name: [(name, 0, pytest.approx(list(box), abs=1e-4)) for name, *box in p.boxes] for p in pictures(4)}
    assert boxes_by_name([source]) == expected
    assert not problems.found


def test_order_of_a_yamls_classes_is_kept(tmp_path):
    (source,), _ = read(write_yolo(tmp_path, pictures(2), classes=["cat", "ant", "bee"]))
    assert source.classes == ["cat", "ant", "bee"]
    (from_yaml,), _ = read(tmp_path / "data.yaml")
    assert from_yaml.classes == source.classes
    assert boxes_by_name([from_yaml]) == boxes_by_name([source])


def test_yolo_polygon_becomes_its_box_and_keeps_its_points(tmp_path):
    folder = write_yolo(tmp_path, [Picture("p0", (40, 20), [])])
    (folder / "labels/train/p0.txt").write_text("1 0.25 0.5 0.75 0.5 0.5 1.0\n")
    (source,), _ = read(folder)
    (entry,) = source.parts["train"][0]["annotations"]
    assert entry["bbox"] == [10, 10, 30, 20]
    assert entry["segmentation"] == [[10, 10, 30, 10, 20, 20]]


def test_coco_keeps_polygons_with_their_area_and_crowds(tmp_path):
    content = coco_content(pictures(1, boxes=2))
    first, second = content["annotations"]
    first |= {"segmentation": [[1, 1, 9, 1, 9, 9]], "area": 32}
    second |= {"iscrowd": 1, "segmentation": {"counts": "abc", "size": [4, 4]}, "area": 5}
    write_images(tmp_path, pictures(1))
    (source,), _ = read(write_json(tmp_path / "a.json", content))
    one, two = source.parts["all"][0]["annotations"]
    assert (one["segmentation"], one["area"], one["iscrowd"]) == ([[1, 1, 9, 1, 9, 9]], 32, 0)
    assert (two["iscrowd"], two["area"]) == (1, 5)


def test_difficult_objects_are_crowds(tmp_path):
    folder = write_voc(tmp_path, pictures(1))
    objects = voc_object("ant", 0, 0, 4, 4) + voc_object("ant", 5, 5, 9, 9, more="<difficult>1</difficult>")
    (folder / "Annotations/p0.xml").write_text(voc_text(pictures(1)[0], objects))
    (source,), problems = read(folder)
    assert boxes_by_name([source])["p0"] == [("ant", 0, [0, 0, 4, 4]), ("ant", 1, [5, 5, 9, 9])]
    assert problems.notes() == ["object-difficult"]


def test_one_pixel_and_the_whole_image_in_voc(tmp_path):
    folder = write_voc(tmp_path, [Picture("p0", (30, 20), [("ant", 0, 0, 1, 1), ("bee", 0, 0, 30, 20)])])
    assert "<xmin>1</xmin><ymin>1</ymin><xmax>1</xmax>" in (folder / "Annotations/p0.xml").read_text()
    (source,), _ = read(folder)
    assert boxes_by_name([source])["p0"] == [("ant", 0, [0, 0, 1, 1]), ("bee", 0, [0, 0, 30, 20])]


def test_sizes_are_those_that_detectron2_reads(tmp_path):
    from detectron2.data.detection_utils import read_image

    folder = write_yolo(tmp_path, [Picture("p0", (40, 20), [("ant", 0, 0, 20, 10)])])
    file = folder / "images/train/p0.jpg"
    exif = Image.Exif()
    exif[274] = 6  # turned by 90 degrees
    with Image.open(file) as image:
        image.save(file, exif=exif)
    (source,), _ = read(folder)
    record = source.parts["train"][0]
    assert read_image(str(file)).shape[:2] == (record["height"], record["width"]) == (40, 20)
    assert record["annotations"][0]["bbox"] == [0, 0, 10, 20]


def test_image_folder_by_name(tmp_path):
    write_image(tmp_path / "elsewhere" / "p0.jpg", (48, 36))
    made = [Picture("p0", (48, 36), [("ant", 1, 2, 9, 9)])]
    file = write_json(tmp_path / "json" / "a.json", coco_content(made))
    with pytest.raises(UserError, match=r"none of the images .* was found"):
        read(file)
    (source,), _ = read(f"coco_json:{file}:{tmp_path / 'elsewhere'}")
    assert boxes_by_name([source])["p0"] == [("ant", 0, [1, 2, 9, 9])]


def test_lists(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "all.txt").write_text("# mine\none\n\nsub/more.txt  # further\n")
    (tmp_path / "sub/more.txt").write_text("two\n/three\n")
    found = expand_lists(["zero", str(tmp_path / "all.txt")])
    assert found == ["zero", str(tmp_path / "one"), str(tmp_path / "sub/two"), "/three"]
