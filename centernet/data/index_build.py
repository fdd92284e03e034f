"""COCO and LVIS JSON into the arrays of an index, one annotation at a time.

The text is decoded element by element with the standard library's decoder, so the memory needed is that of the text and
of the arrays. What is kept of an element follows detectron2's ``load_coco_json`` and ``load_lvis_json``. A file with
anything out of the ordinary in it, and so every broken one, is left to those functions, which report its errors.
"""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.structures import BoxMode

from .index_columns import Columns, Unusual
from .index_file import Table

__all__ = ["stream_coco", "stream_lvis", "table_of_records", "take_elements"]

_SPACE = re.compile(r"[ \t\n\r]*").match
_decode = json.JSONDecoder().raw_decode


def stream_coco(json_file: Path, image_root: str, extra_keys: tuple[str, ...]) -> Table:
    """Table of a COCO JSON file, equal to what ``load_coco_json`` gives.

    Args:
        json_file: a local file.
        image_root: the folder that ``file_name`` of the JSON's images is relative to.
        extra_keys: further keys of the annotations to keep.

    Raises:
        Unusual: the file must be read by ``load_coco_json``.
    """
    keys = ("iscrowd", "bbox", "keypoints", *extra_keys)
    dropped = 0

    def add(annotation: dict[str, Any]) -> None:
        nonlocal dropped
        image, category = annotation["image_id"], annotation["category_id"]
        if annotation.get("ignore", 0) != 0:
            raise Unusual
        entry = {key: annotation[key] for key in keys if key in annotation}
        if annotation.get("segmentation"):
            entry["segmentation"] = _segmentation(annotation["segmentation"])
            if not entry["segmentation"]:
                dropped += 1
                return
        if entry.get("keypoints"):
            numbers = entry["keypoints"]
            entry["keypoints"] = [value if i % 3 == 2 else value + 0.5 for i, value in enumerate(numbers)]
        columns.add(image, category, entry)

    def add_image(image: dict[str, Any]) -> None:
        path = os.path.join(image_root, image["file_name"])
        images.append({"file_name": path, "height": image["height"], "width": image["width"], "image_id": image["id"]})

    columns = Columns()
    images: list[dict[str, Any]] = []
    categories = _read(json_file, columns, add, add_image, optional=("annotations",))
    ids = sorted(category["id"] for category in categories)
    if not ids or len(set(ids)) != len(ids) or set(map(type, ids)) != {int}:
        raise Unusual
    names = [category["name"] for category in sorted(categories, key=lambda category: category["id"])]
    unique = "minival" not in str(json_file)
    table = columns.finish(images, dict(zip(ids, range(len(ids)), strict=True)), unique=unique)
    table.notes |= {"category_ids": ids, "classes": names, "without_segmentation": dropped}
    return table


def stream_lvis(
    json_file: Path, image_root: str, extra_keys: tuple[str, ...], category_map: dict[int, int] | None
) -> Table:
    """Table of an LVIS JSON file, equal to what ``load_lvis_json`` gives.

    Args:
        json_file: a local file.
        image_root: put before the folder and the file of ``coco_url``, as it is.
        extra_keys: further keys of the annotations to keep, which all must have.
        category_map: contiguous number of each category id; None for the id less one.

    Raises:
        Unusual: the file must be read by ``load_lvis_json``.
    """

    def add(annotation: dict[str, Any]) -> None:
        polygons = annotation["segmentation"]
        if type(polygons) is not list or not polygons or any(len(p) % 2 or len(p) < 6 for p in polygons):
            raise Unusual
        entry = {"bbox": annotation["bbox"], "segmentation": polygons}
        entry.update((key, annotation[key]) for key in extra_keys)
        columns.add(annotation["image_id"], annotation["category_id"], entry)

    def add_image(image: dict[str, Any]) -> None:
        folder, file = image["coco_url"].split("/")[-2:]
        path = os.path.join(image_root + folder, file)
        record = {"file_name": path, "height": image["height"], "width": image["width"]}
        lists = {key: image.get(key, []) for key in ("not_exhaustive_category_ids", "neg_category_ids")}
        images.append({**record, "image_id": image["id"], **lists})

    columns = Columns()
    images: list[dict[str, Any]] = []
    _read(json_file, columns, add, add_image, optional=())
    return columns.finish(images, category_map, unique=True)


def table_of_records(records: list[dict[str, Any]]) -> Table:
    """Table of dataset dicts that one of detectron2's functions made.

    Raises:
        Unusual: they hold something that is not from a JSON file.
    """
    columns, images = Columns(), []
    for number, record in enumerate(records):
        for annotation in record["annotations"]:
            entry = dict(annotation)
            if entry.pop("bbox_mode") != BoxMode.XYWH_ABS:
                raise Unusual
            columns.add(number, entry.pop("category_id"), entry)
        images.append({key: value for key, value in record.items() if key != "annotations"})
    return columns.finish(images, None, offset=0, keys=np.arange(len(images)), unique=False)


def _segmentation(value: Any) -> Any:
    if isinstance(value, dict):
        if not isinstance(value["counts"], list):
            return value
        import pycocotools.mask

        return pycocotools.mask.frPyObjects(value, *value["size"])
    return [polygon for polygon in value if len(polygon) % 2 == 0 and len(polygon) >= 6]


# ----------------------------------------------------------------------------------------------------------- reading


def _read(
    json_file: Path,
    columns: Columns,
    add: Callable[[dict[str, Any]], None],
    add_image: Callable[[dict[str, Any]], None],
    *,
    optional: tuple[str, ...],
) -> list[dict[str, Any]]:
    """Pass each annotation and image of a file on; returns the categories."""

    def add_annotation(annotation: dict[str, Any]) -> None:
        columns.ids.append(annotation["id"])  # OverflowError, TypeError: no int64
        add(annotation)

    with open(json_file) as file:  # in the encoding that pycocotools reads
        text = file.read()
    content = _walk(text, {"annotations": add_annotation, "images": add_image})
    if not {"annotations", "images", "categories"} - set(optional) <= content.keys():
        raise Unusual
    categories = content["categories"]
    if type(categories) is not list:
        raise Unusual
    return categories


def _walk(text: str, takers: dict[str, Callable[[Any], None]]) -> dict[str, Any]:
    """Values of a JSON object; elements of the lists under the keys of ``takers`` are passed on instead."""
    content: dict[str, Any] = {}
    at = _SPACE(text, _expect(text, _skip(text, 0), "{")).end()  # type: ignore[union-attr]
    while True:
        key, at = _decode(text, at)
        at = _skip(text, _expect(text, _skip(text, at), ":"))
        if type(key) is not str or key in content:
            raise Unusual
        if key in takers:
            content[key], at = None, take_elements(text, at, takers[key])
        else:
            content[key], at = _decode(text, at)
        at = _skip(text, at)
        if text[at] == "}":
            break
        at = _skip(text, _expect(text, at, ","))
    if _skip(text, at + 1) != len(text):
        raise Unusual
    return content


def take_elements(text: str, at: int, take: Callable[[Any], object]) -> int:
    """Decode the JSON list that begins at ``text[at]`` element by element; returns the place behind it.

    Raises:
        Unusual, IndexError, json.JSONDecodeError: it is no list, or not all of one.
    """
    at = _skip(text, _expect(text, at, "["))
    if text[at] == "]":
        return at + 1
    decode, skip = _decode, _SPACE
    while True:
        element, at = decode(text, at)
        take(element)
        if text[at] != ",":
            at = _skip(text, at)
            if text[at] == "]":
                return at + 1
        at = skip(text, _expect(text, at, ",")).end()  # type: ignore[union-attr]


def _skip(text: str, at: int) -> int:
    return _SPACE(text, at).end()  # type: ignore[union-attr]


def _expect(text: str, at: int, character: str) -> int:
    if text[at] != character:
        raise Unusual
    return at + 1
