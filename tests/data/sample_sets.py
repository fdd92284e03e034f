"""The same small pictures and boxes, written in every format that the readers know."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

CLASSES = ["ant", "bee", "cat"]


class Picture(NamedTuple):
    """``boxes``: (class, x0, y0, x1, y1) in whole pixels, ends exclusive."""

    name: str
    size: tuple[int, int]
    boxes: list[tuple[str, int, int, int, int]]


def pictures(count=8, boxes=2, seed=0):
    """``count`` pictures of 48x36 or 36x48 with random boxes inside."""
    random = np.random.RandomState(seed)
    made = []
    for number in range(count):
        size = (48, 36) if number % 3 else (36, 48)
        rows = []
        for k in range(boxes):
            x0, y0 = random.randint(0, size[0] - 8), random.randint(0, size[1] - 8)
            x1, y1 = random.randint(x0 + 6, size[0] + 1), random.randint(y0 + 6, size[1] + 1)
            rows.append((CLASSES[(number + k) % len(CLASSES)], x0, y0, x1, y1))
        made.append(Picture(f"p{number}", size, rows))
    return made


def write_image(path, size, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    width, height = size
    pixels = np.random.RandomState(seed).randint(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def write_images(folder, made):
    for seed, picture in enumerate(made):
        write_image(folder / f"{picture.name}.jpg", picture.size, seed)


def coco_content(made, classes=CLASSES):
    images, annotations = [], []
    for number, picture in enumerate(made, start=1):
        width, height = picture.size
        images.append({"id": number, "file_name": f"{picture.name}.jpg", "width": width, "height": height})
        for name, x0, y0, x1, y1 in picture.boxes:
            annotations.append({"id": len(annotations) + 1, "image_id": number, "bbox": [x0, y0, x1 - x0, y1 - y0]})
            annotations[-1]["category_id"] = classes.index(name) + 1
    categories = [{"id": number, "name": name} for number, name in enumerate(classes, start=1)]
    return {"images": images, "annotations": annotations, "categories": categories}


def write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def write_coco(folder, made, part="all", classes=CLASSES):
    """``annotations/<part>.json`` and ``images/``."""
    folder = Path(folder)
    write_images(folder / "images", made)
    write_json(folder / "annotations" / f"{part}.json", coco_content(made, classes))
    return folder


def voc_object(name, x0, y0, x1, y1, more=""):
    corners = f"<xmin>{x0 + 1}</xmin><ymin>{y0 + 1}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax>"
    return f"<object><name>{name}</name>{more}<bndbox>{corners}</bndbox></object>"


def voc_text(picture, objects=None):
    width, height = picture.size
    size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    objects = "".join(voc_object(*box) for box in picture.boxes) if objects is None else objects
    return f"<annotation><filename>{picture.name}.jpg</filename>{size}{objects}</annotation>"


def write_voc(folder, made, val=()):
    """``Annotations/``, ``JPEGImages/`` and, with ``val`` (names), ``ImageSets/Main/{train,val}.txt``."""
    folder = Path(folder)
    write_images(folder / "JPEGImages", made)
    (folder / "Annotations").mkdir()
    for picture in made:
        (folder / "Annotations" / f"{picture.name}.xml").write_text(voc_text(picture))
    if val:
        sets = folder / "ImageSets" / "Main"
        sets.mkdir(parents=True)
        (sets / "val.txt").write_text("\n".join(val))
        (sets / "train.txt").write_text("\n".join(p.name for p in made if p.name not in val))
    return folder


def yolo_line(picture, box, classes=CLASSES):
    width, height = picture.size
    name, x0, y0, x1, y1 = box
    values = ((x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height)
    return f"{classes.index(name)} " + " ".join(f"{value:.8f}" for value in values)


def write_yolo(folder, made, val=(), classes=CLASSES):
    """``images/{train,val}``, ``labels/{train,val}`` and ``data.yaml``."""
    folder = Path(folder)
    for part in ("train", "val") if val else ("train",):
        chosen = [p for p in made if (p.name in val) == (part == "val")]
        write_images(folder / "images" / part, chosen)
        (folder / "labels" / part).mkdir(parents=True)
        for picture in chosen:
            lines = "\n".join(yolo_line(picture, box, classes) for box in picture.boxes)
            (folder / "labels" / part / f"{picture.name}.txt").write_text(lines + "\n")
    names = "\n".join(f"  {number}: {name}" for number, name in enumerate(classes))
    val_line = "val: images/val\n" if val else ""
    (folder / "data.yaml").write_text(f"path: .\ntrain: images/train\n{val_line}names:\n{names}\n")
    return folder


def boxes_by_name(sources):
    """{image stem: [(class, iscrowd, box)]} over all parts."""
    found = {}
    for source in sources:
        for records in source.parts.values():
            for record in records:
                found[Path(record["file_name"]).stem] = [
                    (source.classes[entry["category_id"]], entry["iscrowd"], entry["bbox"])
                    for entry in record["annotations"]
                ]
    return found
