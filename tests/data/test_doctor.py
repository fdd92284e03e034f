"""The dataset doctor on data with every illness it knows, its report, and the tool's exit status."""

import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image, ImageFilter

sys.path.insert(0, str(Path(__file__).resolve().parent))

from sample_sets import CLASSES, coco_content, pictures, write_coco, write_image, write_json, write_voc

from centernet.data import ensure_registered
from centernet.data.doctor import examine_data, examine_registered
from centernet.data.doctor_images import fingerprints, near_pairs, same_groups
from centernet.data.doctor_report import report_content, report_html, summary_lines, write_report
from centernet.data.doctor_sheet import choose_records, class_colour, contact_sheet
from centernet.data.doctor_sizes import input_scales, measure_sizes


def smooth_image(path, seed, quality=90):
    """A picture with structure at the scale that the difference hash sees, unlike noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.RandomState(seed).randint(0, 256, (12, 16, 3), np.uint8)
    Image.fromarray(coarse).resize((160, 120), Image.Resampling.BICUBIC).save(path, quality=quality)
    return str(path)


def findings(report):
    return {finding.what.split(" (")[0].split(":")[0]: finding for finding in report.findings}


@pytest.fixture
def sick(tmp_path):
    """COCO data with: a picture in both parts, a repeated picture, an empty image, a box twice, a rare class."""
    made = pictures(9)
    made[8] = made[8]._replace(boxes=[])
    folder = write_coco(tmp_path / "set", made[:6], part="train")
    write_coco(folder, made[6:], part="val")
    for seed, picture in enumerate(made):
        write_image(folder / f"images/{picture.name}.jpg", picture.size, seed)
    content = json.loads((folder / "annotations/train.json").read_text())
    content["categories"].append({"id": 9, "name": "<b>dog & co</b>"})
    content["annotations"].append({**content["annotations"][0], "id": 99})
    write_json(folder / "annotations/train.json", content)
    content = coco_content(made[6:])
    content["categories"].append({"id": 9, "name": "<b>dog & co</b>"})
    write_json(folder / "annotations/val.json", content)
    images = folder / "images"
    (images / "p7.jpg").write_bytes((images / "p1.jpg").read_bytes())  # validation = training
    (images / "p5.jpg").write_bytes((images / "p4.jpg").read_bytes())
    return folder


def test_findings(sick, base_cfg):
    report = examine_data([str(sick)], base_cfg)
    found = findings(report)
    leak = found["the same picture in training and in validation"]
    assert leak.level == "error"
    assert [name.rsplit("/", 1)[1] for name in leak.where[0].split(" = ")] == ["p1.jpg", "p7.jpg"]
    repeated = found["the same picture several times in one part"]
    assert repeated.level == "warning"
    assert "p4.jpg" in repeated.where[0]
    assert "p0.jpg: 1" in found["images in which an object of one class is annotated several times"].where[0]
    assert "p8.jpg" in found["images without boxes"].where[0]
    assert found["classes without a single box"].where == ["<b>dog & co</b>"]
    assert [finding.level for finding in report.findings] == sorted(
        (finding.level for finding in report.findings), key=["error", "warning", "note"].index
    )
    assert report.count("error") == 1


def test_counts(sick, base_cfg):
    report = examine_data([str(sick)], base_cfg)
    made = pictures(9)
    for part, chosen in {"train": made[:6], "val": made[6:8]}.items():
        names = [box[0] for picture in chosen for box in picture.boxes] + ["ant"] * (part == "train")
        assert report.boxes[part].tolist() == [names.count(name) for name in [*CLASSES, "dog"]]
        sets = [{box[0] for box in picture.boxes} for picture in chosen]
        assert report.images[part].tolist() == [sum(name in entry for entry in sets) for name in [*CLASSES, "dog"]]
    content = report_content(report)
    assert content["parts"] == {"train": {"images": 6, "boxes": 13}, "val": {"images": 3, "boxes": 4}}
    assert content["classes"][0]["train_boxes"] == report.boxes["train"][0]


def test_healthy_data(tmp_path, base_cfg):
    folder = write_coco(tmp_path, pictures(6), part="train")
    report = examine_data([str(folder)], base_cfg)
    assert report.count("error") == 0
    assert not [finding for finding in report.findings if finding.where]


def test_what_readers_found_is_an_error(tmp_path, base_cfg):
    folder = write_voc(tmp_path / "set", pictures(4))
    (folder / "JPEGImages/p0.jpg").write_bytes(b"")
    found = findings(examine_data([str(folder)], base_cfg))
    assert found["image files of zero bytes"].level == "error"


def test_broken_pixels_behind_a_good_header_and_end(tmp_path, base_cfg):
    """Training would stop there; the readers, which look at both ends only, let it pass."""
    folder = write_coco(tmp_path / "set", pictures(4))
    file = folder / "images/p0.jpg"
    file.write_bytes(file.read_bytes().replace(b"\xff\xdb", b"\xff\xe5"))  # no quantisation table any more
    found = findings(examine_data([str(folder)], base_cfg))
    kind = "images that cannot be decoded"
    assert found[kind].level == "error"
    assert len(found[kind].where) == 1
    assert "p0.jpg" in found[kind].where[0]


def test_fingerprints(tmp_path):
    files = [smooth_image(tmp_path / f"{seed}.jpg", seed) for seed in range(6)]
    files.append(smooth_image(tmp_path / "again.jpg", 2, quality=60))
    (tmp_path / "copy.jpg").write_bytes((tmp_path / "3.jpg").read_bytes())
    with Image.open(files[4]) as image:
        image.filter(ImageFilter.GaussianBlur(1)).resize((80, 60)).save(tmp_path / "small.png")
    files += [str(tmp_path / "copy.jpg"), str(tmp_path / "small.png"), str(tmp_path / "absent.jpg")]
    prints = fingerprints(files)
    assert isinstance(prints[9], str)
    assert same_groups(prints) == [[3, 7]]
    assert near_pairs(prints) == [(2, 6), (4, 8)]
    assert near_pairs([]) == []


def test_progress_reaches_the_end(tmp_path, base_cfg):
    calls = []
    examine_data([str(write_coco(tmp_path, pictures(3)))], base_cfg, progress=lambda *numbers: calls.append(numbers))
    assert calls == [(1, 3), (2, 3), (3, 3)]


def test_registered_names(write_coco, base_cfg, forget_datasets):
    train, val = write_coco("own_train", 4), write_coco("own_val", 3)
    report = examine_registered([train, val], base_cfg)
    assert {part: len(records) for part, records in report.parts.items()} == {"train": 4, "val": 3}
    assert report.classes == ["ant", "bee"]
    assert findings(report)["the same picture in training and in validation"].level == "error"  # the same seeds


def test_names_of_other_loaders(tmp_path, base_cfg, forget_datasets):
    from detectron2.data import DatasetCatalog, MetadataCatalog
    from detectron2.structures import BoxMode

    file = str(write_image(tmp_path / "a.jpg", (40, 30)))
    entry = {"bbox": [1, 2, 10, 20], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0}
    record = {"file_name": file, "width": 40, "height": 30, "image_id": 1, "annotations": [entry]}
    DatasetCatalog.register("doctor_other", lambda: [record])
    MetadataCatalog.get("doctor_other").thing_classes = ["thing"]
    ensure_registered(["doctor_other"])
    report = examine_registered(["doctor_other"], base_cfg)
    assert report.parts["train"][0]["annotations"][0]["bbox"] == [1, 2, 11, 22]


def record_of(width, height, *boxes):
    annotations = [{"bbox": list(box), "iscrowd": 0, "category_id": 0} for box in boxes]
    return {"width": width, "height": height, "annotations": annotations}


def test_input_scales(base_cfg):
    base_cfg.INPUT.MIN_SIZE_TRAIN, base_cfg.INPUT.MAX_SIZE_TRAIN = (600, 800, 1000), 1200
    scales = input_scales(base_cfg, np.array([400, 800, 100]), np.array([400, 400, 1600]))
    assert scales.tolist() == [2.0, 1.5, 0.75]
    base_cfg.INPUT.CUSTOM_AUG, base_cfg.INPUT.TRAIN_SIZE, base_cfg.INPUT.SCALE_RANGE = (
        "EfficientDetResizeCrop",
        640,
        (0.5, 1.5),
    )
    assert input_scales(base_cfg, np.array([320]), np.array([160])).tolist() == [2.0]


def test_sizes_and_levels(base_cfg):
    base_cfg.INPUT.MIN_SIZE_TRAIN = (800,)
    sizes = measure_sizes(base_cfg, [record_of(400, 400, (0, 0, 30, 40), (0, 0, 60, 80), (0, 0, 90, 120))])
    assert sizes.half_diagonals.tolist() == [50, 100, 150]
    assert sizes.scale == 2
    assert sizes.shares == pytest.approx([1 / 3, 2 / 3, 1 / 3, 0, 0])  # 150 belongs to two
    assert sizes.percentiles()["50"] == 100


def test_advice_on_small_objects(base_cfg):
    base_cfg.INPUT.MIN_SIZE_TRAIN = (800,)
    small = [record_of(800, 800, *[(0, 0, 4, 4)] * 3, *[(0, 0, 90, 90)] * 7)]
    advice = measure_sizes(base_cfg, small).advice[0]
    assert advice.level == "warning"
    assert "30% of the objects are narrower than 8 pixels" in advice.text
    assert "INPUT.MIN_SIZE_TRAIN and INPUT.MIN_SIZE_TEST to about 1600" in advice.text
    tiny = [record_of(800, 800, *[(0, 0, 1, 1)] * 3, *[(0, 0, 90, 90)] * 7)]
    assert "into tiles" in measure_sizes(base_cfg, tiny).advice[0].text


def test_advice_on_one_level(base_cfg):
    base_cfg.INPUT.MIN_SIZE_TRAIN = (800,)
    (advice,) = measure_sizes(base_cfg, [record_of(800, 800, *[(0, 0, 60, 80)] * 9)]).advice
    assert "100% of the objects fall to level 1" in advice.text
    ranges = json.loads(re.search(r'"(\[\[.*?\]\])"', advice.text).group(1))
    assert [low for low, _ in ranges] == sorted(low for low, _ in ranges)
    assert all(low < high for low, high in ranges)
    assert (ranges[0][0], ranges[-1][1]) == (0, 10_000_000)
    for (_, high), (low, _), stride in zip(ranges, ranges[1:], base_cfg.MODEL.CENTERNET.FPN_STRIDES[1:], strict=False):
        assert low < high  # no gap between levels
        assert high >= 2 * stride
    base_cfg.MODEL.CENTERNET.SOI = ranges  # the advice can be followed
    measure_sizes(base_cfg, [record_of(800, 800, (0, 0, 60, 80))])


def test_advice_on_enlarged_images(base_cfg):
    base_cfg.INPUT.MIN_SIZE_TRAIN = (800,)
    texts = [advice.text for advice in measure_sizes(base_cfg, [record_of(200, 200, (0, 0, 60, 80))]).advice]
    assert "enlarged 4.0 times" in texts[0]
    assert not measure_sizes(base_cfg, []).advice


def test_choice_of_pictures_shows_every_class():
    records = [record_of(9, 9, (0, 0, 1, 1)) for _ in range(50)]
    for index, category in {7: 1, 30: 2}.items():
        records[index]["annotations"][0]["category_id"] = category
    chosen = choose_records(records, 3, 4)
    assert len(chosen) == 4
    assert len({id(record) for record in chosen}) == 4
    assert {record["annotations"][0]["category_id"] for record in chosen} == {0, 1, 2}
    assert len(choose_records(records[:2], 3, 4)) == 2


def test_sheet_draws_boxes_in_the_right_place(tmp_path):
    Image.new("RGB", (720, 540)).save(tmp_path / "a.png")
    record = record_of(720, 540, (200, 100, 600, 500)) | {"file_name": str(tmp_path / "a.png"), "name": "a.png"}
    pixels = np.asarray(contact_sheet([record], ["thing"]))
    ys, xs = np.nonzero((pixels == class_colour(0)).all(axis=2))
    assert (xs.min() - 6, ys.min() - 6) == (100, 50)  # half size, after the margin
    assert abs(xs.max() - 6 - 299) <= 1
    assert abs(ys.max() - 6 - 249) <= 1


class Page(HTMLParser):
    """Collects what a browser would fetch and checks that tags are closed in order."""

    VOID = ("meta", "img", "br", "rect")

    def __init__(self):
        super().__init__()
        self.open, self.fetched = [], []

    def handle_starttag(self, tag, attrs):
        self.fetched += [value for key, value in attrs if key in ("src", "href", "data")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.fetched += [value for key, value in attrs if key in ("src", "href", "data")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_report_files(sick, base_cfg, tmp_path):
    report = examine_data([str(sick)], base_cfg)
    paths = write_report(report, tmp_path / "report")
    assert sorted(path.name for path in paths) == ["pictures.jpg", "report.html", "report.json"]
    assert json.loads(paths[0].read_text())["findings"][0]["level"] == "error"
    text = (tmp_path / "report/report.html").read_text()
    page = Page()
    page.feed(text)
    assert page.open == []
    assert [link.split(",")[0] for link in page.fetched] == ["data:image/jpeg;base64"]
    assert not re.search(r"https?://|<script|url\(", text)
    assert "<b>dog" not in text
    assert "&lt;b&gt;dog &amp; co&lt;/b&gt;" in text
    assert '<meta name="viewport"' in text  # or a phone shrinks it to nothing
    bars = re.findall(r'width:([\d.]+)%;[^>]*></i><i style="width:([\d.]+)%', text)
    assert len(bars) == len(report.classes)
    assert max(float(train) + float(val) for train, val in bars) == pytest.approx(62, abs=0.02)
    for drawing in re.findall(r"<svg.*?</svg>", text, re.S):
        ElementTree.fromstring(drawing)


def test_report_without_any_box(tmp_path, base_cfg):
    content = coco_content([picture._replace(boxes=[]) for picture in pictures(2)])
    write_coco(tmp_path, pictures(2))
    write_json(tmp_path / "annotations/all.json", content)
    report = examine_data([str(tmp_path)], base_cfg)
    assert findings(report)["no box to learn from in the training part"].level == "error"
    assert "No objects." in report_html(report, b"")
    assert summary_lines(report)[-1].startswith("1 errors, ")


@pytest.fixture
def tool(load_tool):
    return load_tool("check_dataset")


def test_exit_status(tool, sick, tmp_path, capsys):
    out = ["--output", str(tmp_path / "out")]
    assert tool.main(["--data", str(sick), *out]) == 1
    assert "error: the same picture in training and in validation" in capsys.readouterr().out
    assert tool.main(["--data", str(write_coco(tmp_path / "good", pictures(5))), *out]) == 0
    assert tool.main(["--data", str(tmp_path / "nonesuch"), *out]) == 2
    assert tool.main(["nonesuch", *out]) == 2
    assert tool.main(out) == 2
    assert "name the data" in capsys.readouterr().err
