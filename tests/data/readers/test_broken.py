"""Broken data sets, each with its own sentence: which one, where, and nothing lost in silence.

``FATAL``: nothing can be used. ``REFUSED``: refused with count and names, and with ``--bad-data skip`` exactly the
broken part is left out. ``NOTED``: harmless, told.
"""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sample_sets import (
    CLASSES,
    coco_content,
    pictures,
    voc_text,
    write_coco,
    write_image,
    write_images,
    write_json,
    write_voc,
    write_yolo,
)

from centernet.data.own_data import prepare_own_data
from centernet.data.readers import KINDS
from centernet.errors import UserError

MADE = pictures(6)  # 2 boxes each


def broken_json(change=None, text=None):
    """A COCO folder whose JSON is changed by ``change(content)`` or, as text, by ``text(text)``."""

    def write(root):
        write_coco(root, MADE)
        content = coco_content(MADE)
        if change is not None:
            change(content)
        written = json.dumps(content)
        write_json(root / "annotations/all.json", written if text is None else text(written))
        return root

    return write


def broken_image(data=None):
    """A COCO folder with the first image replaced by ``data`` (bytes), cut by it (a function), or removed."""

    def write(root):
        file = write_coco(root, MADE) / "images/p0.jpg"
        if data is None:
            file.unlink()
        else:
            file.write_bytes(data(file.read_bytes()) if callable(data) else data)
        return root

    return write


def broken_xml(change):
    """A VOC folder with the first XML file changed."""

    def write(root):
        file = write_voc(root, MADE) / "Annotations/p0.xml"
        file.write_bytes(change(file.read_text()).encode("latin-1"))
        return root

    return write


def broken_label(lines):
    """A YOLO folder with the first label file's second line replaced by bytes or text."""

    def write(root):
        file = write_yolo(root, MADE) / "labels/train/p0.txt"
        first = file.read_bytes().splitlines()[0]
        file.write_bytes(first + b"\n" + (lines if isinstance(lines, bytes) else lines.encode()))
        return root

    return write


def broken_yaml(text):
    def write(root):
        write_yolo(root, MADE)
        (root / "data.yaml").write_text(text)
        return root

    return write


def bbox(*numbers):
    """Change of the first annotation's box."""
    return broken_json(lambda content: content["annotations"][0].update(bbox=list(numbers)))


def first(kind, **values):
    return broken_json(lambda content: content[kind][0].update(values))


def folder_of(*files):
    def write(root):
        for name, text in files:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        return root

    return write


def file_of(name, text):
    return lambda root: folder_of((name, text))(root) / name


def drop(key):
    return broken_json(lambda content: content.pop(key))


def only_images(root):
    write_images(root / "pictures", MADE)
    return root


def no_voc_objects(root):
    write_voc(root, MADE)
    for file in (root / "Annotations").iterdir():
        file.write_text("<annotation></annotation>")
    return root


def odd_ids(root):
    write_coco(root, MADE[:2], part="train_a")
    write_json(root / "annotations/train_b.json", coco_content(MADE[:2]))
    return root


FATAL = {
    "missing folder": (lambda root: root / "nonesuch", r"nonesuch is not there"),
    "empty folder": (lambda root: root, r"is an empty folder"),
    "unknown layout": (folder_of(("readme.md", "hello")), r"is in no known layout"),
    "images without annotations": (only_images, r"has images but no annotations in a known layout"),
    "one XML file": (file_of("a.xml", "<annotation/>"), r"name the folder, not one file of it"),
    "unknown kind of file": (file_of("a.csv", "1,2"), r"a\.csv is no annotation file that can be read"),
    "JSON that is not JSON": (file_of("a.json", "{images: 1}"), r"a\.json, line 1: this is not JSON"),
    "JSON that is cut off": (broken_json(text=lambda t: t[: len(t) // 2]), r"the JSON file is cut off"),
    "JSON that is not UTF-8": (file_of("a.json", b'{"images": "\xff"}'), r"a\.json is not UTF-8 text \(byte 12\)"),
    "JSON that is a list": (file_of("a.json", "[1]"), r"has no list 'images'"),
    "no 'images'": (drop("images"), r"has no list 'images'"),
    "no 'annotations'": (drop("annotations"), r"has no list 'annotations'"),
    "no 'categories'": (drop("categories"), r"has no list 'categories'"),
    "no images in 'images'": (broken_json(lambda c: c["images"].clear()), r"lists no images"),
    "no class": (broken_json(lambda c: c["categories"].clear()), r"names no class"),
    "category without name": (broken_json(lambda c: c["categories"][0].pop("name")), r"a category without id or name"),
    "category id twice": (first("categories", id=2), r"two categories with the id 2"),
    "class name twice": (first("categories", name="bee"), r"two classes called 'bee'"),
    "class name empty": (first("categories", name=" "), r"a class without a name"),
    "several files for a part": (odd_ids, r"several annotation files for the same part"),
    "no boxes at all": (broken_json(lambda c: c["annotations"].clear()), r"has no box to learn from"),
    "no boxes at all, VOC": (no_voc_objects, r"has no object in any of its XML files"),
    "YAML that is not YAML": (broken_yaml("names: [a\n"), r"data\.yaml is not valid YAML"),
    "nc and names differ": (
        broken_yaml("train: images/train\nnc: 2\nnames: [a, b, c]\n"),
        r"nc is 2 but 'names' has 3",
    ),
    "gap in the class numbers": (broken_yaml("train: images/train\nnames: {0: a, 2: b}\n"), r"are not 0 to 1"),
    "names that are no list": (broken_yaml("train: images/train\nnames: ant\n"), r"'names' must be a list"),
    "YAML names a missing folder": (broken_yaml("train: im/x\nnames: [a]\n"), r"names im/x, which is not there"),
    "YOLO without images": (folder_of(("data.yaml", "names: [a]\n")), r"has no images"),
    "list that names itself": (file_of("l.txt", "l.txt\n"), r"l\.txt names itself \(l\.txt -> l\.txt\)"),
    "empty list": (file_of("l.txt", "# nothing\n"), r"l\.txt names nothing"),
    "list of images": (file_of("l.txt", "a.jpg\n"), r"lists images \(a\.jpg\)"),
    "list that is not UTF-8": (file_of("l.txt", b"\xe4rger\n"), r"l\.txt is not UTF-8 text"),
}


@pytest.mark.parametrize("case", FATAL)
def test_nothing_can_be_used(tmp_path, case):
    (tmp_path / "set").mkdir()
    write, sentence = FATAL[case]
    path = write(tmp_path / "set")
    for bad_data in ("refuse", "skip"):
        with pytest.raises(UserError, match=sentence) as caught:
            prepare_own_data([str(path)], tmp_path / "out", bad_data=bad_data)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "out").exists()


def cut(data):
    return data[: len(data) * 2 // 3]


def twice(key):
    """The second image gets the id or file name of the first."""
    return broken_json(lambda content: content["images"][1].update({key: content["images"][0][key]}))


def listed_without_xml(root):
    write_voc(root, MADE, val=("p5",))
    (root / "Annotations/p0.xml").unlink()
    return root


def orphan_label(root):
    (write_yolo(root, MADE) / "labels/train/ghost.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    return root


def both_parts(root):
    write_coco(root, MADE, part="train")
    write_json(root / "annotations/val.json", coco_content(MADE[:1]))
    return root


def exchange(text):
    return text.replace("xmin", "m").replace("xmax", "xmin").replace("<m>", "<xmax>").replace("</m>", "</xmax>")


def swap(old, new):
    return broken_xml(lambda text: text.replace(old, new, 1))


NAN, INF = float("nan"), float("inf")

# case -> (data set, kind, where it is, images left out, boxes left out)
REFUSED = {
    "image file missing": (broken_image(), "image-missing", "p0.jpg", 1, 2),
    "image of zero bytes": (broken_image(b""), "image-empty", "p0.jpg", 1, 2),
    "image unreadable": (broken_image(b"no image" * 9), "image-unreadable", "p0.jpg", 1, 2),
    "image truncated": (broken_image(cut), "image-truncated", "p0.jpg", 1, 2),
    "zero size in the JSON": (first("images", width=0), "image-size-invalid", "p0.jpg: 0x48", 1, 2),
    "other size in the JSON": (first("images", width=99), "image-size-differs", "the image is 36x48", 1, 2),
    "image without file name": (first("images", file_name=None), "image-entry-broken", "entry 0 of images", 1, 2),
    "image id twice": (twice("id"), "image-id-twice", "image id 1", 1, 2),
    "file name twice": (twice("file_name"), "image-file-twice", "p0.jpg as image id 2", 1, 2),
    "annotation that is no object": (first("annotations", image_id=None), "annotation-broken", "entry 0", 0, 1),
    "unknown image id": (
        first("annotations", image_id=77),
        "annotation-unknown-image",
        "of image 77",
        0,
        1,
    ),
    "unknown category": (first("annotations", category_id=9), "annotation-unknown-category", "of category 9", 0, 1),
    "NaN in a box": (bbox(NAN, 1, 5, 5), "box-nan", "annotation 1", 0, 1),
    "infinity in a box": (bbox(1, 1, INF, 5), "box-nan", "annotation 1", 0, 1),
    "negative size": (bbox(9, 9, -3, 5), "box-negative", "annotation 1", 0, 1),
    "zero area": (bbox(9, 9, 0, 5), "box-empty", "annotation 1", 0, 1),
    "wholly outside": (bbox(100, 9, 5, 5), "box-outside", "annotation 1", 0, 1),
    "three numbers": (bbox(1, 2, 3), "box-not-four-numbers", "annotation 1", 0, 1),
    "words for numbers": (bbox(1, 2, "x", 3), "box-not-four-numbers", "annotation 1", 0, 1),
    "no box": (first("annotations", bbox=None), "box-not-four-numbers", "annotation 1", 0, 1),
    "image in both parts": (both_parts, "image-in-both-parts", "p0.jpg", 1, 2),
    "XML that is not XML": (broken_xml(lambda text: text[:-30]), "xml-broken", "p0.xml", 1, 2),
    "XML that is not UTF-8": (swap("<name>ant", "<name>\xe4nt"), "xml-broken", "p0.xml", 1, 2),
    "XML with another size": (swap("<width>36", "<width>37"), "image-size-differs", "37x48", 1, 2),
    "object without bndbox": (
        broken_xml(lambda text: text.replace("bndbox>", "box>", 2)),
        "xml-without-box",
        "p0.xml, object 1",
        0,
        1,
    ),
    "object without name": (swap("<name>ant</name>", ""), "xml-without-name", "p0.xml, object 1", 0, 1),
    "corner that is no number": (swap("<xmin>", "<xmin>a"), "box-not-four-numbers", "p0.xml, object 1", 0, 1),
    "corners exchanged": (broken_xml(exchange), "box-negative", "p0.xml", 0, 2),
    "listed without XML": (listed_without_xml, "xml-missing", "p0.xml", 1, 2),
    "class number beyond the names": (broken_label("7 .5 .5 .2 .2"), "label-class-beyond", "line 2: 7, of 3", 0, 1),
    "class that is no number": (broken_label("ant .5 .5 .2 .2"), "label-class-broken", "line 2: ant", 0, 1),
    "negative class": (broken_label("-1 .5 .5 .2 .2"), "label-class-broken", "line 2: -1", 0, 1),
    "line with four numbers": (broken_label("0 .5 .5 .2"), "label-line-length", "line 2: 4 numbers", 0, 1),
    "values above 1": (broken_label("0 24 18 10 10"), "label-not-normalised", "p0.txt, line 2", 0, 1),
    "label with a word": (broken_label("0 .5 x .2 .2"), "box-not-four-numbers", "p0.txt, line 2", 0, 1),
    "label with nan": (broken_label("0 nan .5 .2 .2"), "box-nan", "p0.txt, line 2", 0, 1),
    "label with a negative size": (broken_label("0 .5 .5 -.2 .2"), "box-negative", "p0.txt, line 2", 0, 1),
    "label without area": (broken_label("0 .5 .5 0 .2"), "box-empty", "p0.txt, line 2", 0, 1),
    "label that is no text": (broken_label(b"\xff\xfe\x00"), "label-not-text", "p0.txt", 1, 2),
    "label without an image": (orphan_label, "label-without-image", "ghost.txt", 0, 0),
}


def totals(folder):
    """Images and boxes that were written."""
    contents = [json.loads((folder / f"{part}.json").read_text()) for part in ("train", "val")]
    return tuple(sum(len(content[key]) for content in contents) for key in ("images", "annotations"))


@pytest.mark.parametrize("case", REFUSED)
def test_refused_or_left_out(tmp_path, case):
    write, kind, where, images, boxes = REFUSED[case]
    path, out = write(tmp_path / "set"), tmp_path / "out"
    with pytest.raises(UserError) as caught:
        prepare_own_data([str(path)], out)
    sentence = str(caught.value)
    assert f"{KINDS[kind].what}: " in sentence
    assert where in sentence
    assert "--bad-data skip" in sentence
    assert not out.exists()
    data = prepare_own_data([str(path)], out, bad_data="skip")
    (line,) = (line for line in data.summary if line.startswith(f"Left out: {KINDS[kind].what}: "))
    assert where in line
    extra = case == "image in both parts"  # it is there twice before, and once after
    assert totals(out) == (6 + extra - images, 12 + 2 * extra - boxes)
    listing = (out / "problems.txt").read_text()
    assert f"{KINDS[kind].what}: {2 if case == 'corners exchanged' else 1}" in listing
    assert where in listing


def no_sizes(content):
    for image in content["images"]:
        del image["width"], image["height"]


def text_numbers(content):
    content["annotations"][0]["bbox"] = ["1", "2", "3.5", "4"]


def rare_class(content):
    content["categories"].append({"id": 9, "name": "unicorn"})


def unlabelled(root):
    (write_yolo(root, MADE) / "labels/train/p0.txt").unlink()
    return root


def nameless(root):
    write_yolo(root, MADE)
    (root / "data.yaml").unlink()
    return root


NOTED = {
    "partly outside": (bbox(-10, 5, 20, 5), "box-clipped", 12),
    "annotation id twice": (first("annotations", id=2), "annotation-id-twice", 12),
    "numbers as text": (broken_json(text_numbers), "box-text", 12),
    "JSON without sizes": (broken_json(no_sizes), "image-size-absent", 12),
    "VOC without size": (broken_xml(lambda text: text.replace("size>", "sizes>")), "image-size-absent", 12),
    "no images for a class": (broken_json(rare_class), "class-without-box", 12),
    "image without a label file": (unlabelled, "image-without-label", 10),
    "YOLO without class names": (nameless, "names-absent", 12),
}


@pytest.mark.parametrize("case", NOTED)
def test_told_and_used(tmp_path, case):
    write, kind, boxes = NOTED[case]
    data = prepare_own_data([str(write(tmp_path / "set"))], tmp_path / "out")
    assert totals(tmp_path / "out") == (6, boxes)
    assert any(line.startswith(f"Note: {KINDS[kind].what}: ") for line in data.summary)
    assert KINDS[kind].what in (tmp_path / "out/problems.txt").read_text()


def test_clipped_to_the_image(tmp_path):
    prepare_own_data([str(bbox(-10, 5, 20, 500)(tmp_path / "set"))], tmp_path / "out", val_fraction=0)
    first_box = json.loads((tmp_path / "out/train.json").read_text())["annotations"][0]
    assert (first_box["bbox"], first_box["area"]) == ([0, 5, 10, 43], 430)


@pytest.mark.parametrize(
    "classes, sentence",
    [
        (["bee", "ant"], r"lacks 'cat', compared with"),
        (["ant", "bee", "cat", "dog"], r"has 'dog' besides, compared with"),
        (["ant", "bee", "Cat "], r"'cat' and 'Cat '"),
    ],
)
def test_sources_with_other_classes(tmp_path, classes, sentence):
    one = write_coco(tmp_path / "one", MADE[:3])
    two = write_coco(tmp_path / "two", [picture._replace(boxes=[]) for picture in MADE[3:]], classes=classes)
    with pytest.raises(UserError, match=sentence):
        prepare_own_data([str(one), str(two)], tmp_path / "out")
    data = prepare_own_data([str(one), str(two)], tmp_path / "out", bad_data="skip")
    assert data.classes == CLASSES + [name for name in classes if name not in CLASSES]


def test_sources_with_another_order_are_matched_by_name(tmp_path):
    one = write_coco(tmp_path / "one", MADE[:3])
    two = write_yolo(tmp_path / "two", MADE[3:], classes=["cat", "bee", "ant"])
    data = prepare_own_data([str(one), str(two)], tmp_path / "out", val_fraction=0)
    assert data.classes == CLASSES
    content = json.loads((tmp_path / "out/train.json").read_text())
    names = {category["id"]: category["name"] for category in content["categories"]}
    found = [names[entry["category_id"]] for entry in content["annotations"]]
    assert found == [box[0] for picture in MADE for box in picture.boxes]
    assert "another order" in (tmp_path / "out/problems.txt").read_text()


def test_every_kind_of_problem_is_covered():
    """A kind that no broken data set here or in the neighbouring tests makes would be untested."""
    elsewhere = {"category-parent", "json-unused", "object-difficult", "classes-differ", "classes-alike"}
    elsewhere |= {"classes-reordered", "class-not-in-training", "part-unused"}
    assert set(KINDS) == {case[1] for case in (*REFUSED.values(), *NOTED.values())} | elsewhere
    assert len(FATAL) + len(REFUSED) + len(NOTED) >= 25


def test_all_kinds_in_one_sentence(tmp_path):
    path = bbox(9, 9, 0, 5)(tmp_path / "set")
    (path / "images/p3.jpg").unlink()
    write_image(path / "images/p4.jpg", (9, 9))
    with pytest.raises(UserError) as caught:
        prepare_own_data([str(path)], tmp_path / "out")
    for kind in ("box-empty", "image-missing", "image-size-differs"):
        assert f"{KINDS[kind].what}: 1 (" in str(caught.value)


def test_first_names_and_the_count(tmp_path):
    write_voc(tmp_path / "set", MADE)
    for picture in MADE[:5]:
        (tmp_path / f"set/Annotations/{picture.name}.xml").write_text(voc_text(picture)[:-9])
    with pytest.raises(UserError, match=r"are not XML: 5 \(.*p0\.xml.*; .*p1\.xml.*; .*p2\.xml.*; \.\.\.\)"):
        prepare_own_data([str(tmp_path / "set")], tmp_path / "out")
