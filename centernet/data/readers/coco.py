"""COCO JSON: one file with images beside it or under a usual place, a folder of them, Roboflow's folders.

Boxes are ``x, y, width, height`` in pixels with the origin at the upper left corner of the upper left pixel; they
become ``[x, y, x + width, y + height]``. Categories are ordered by id, as detectron2 does.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...errors import UserError
from .boxes import annotation, as_numbers, checked_box
from .images import Size, inspect_images, size_agrees
from .problems import Problems
from .source import Record, Source, check_class_names, part_of, part_of_folder, read_text, relative_name

__all__ = ["coco_files", "read_coco", "read_coco_json"]

_SAMPLE = 50  # images that are looked for to find the image folder
_USUAL_NAME = re.compile(r"(instances_)?[a-z]+(20\d\d)?")


def coco_files(folder: Path) -> dict[Path, str]:
    """JSON files of a folder in COCO or Roboflow layout -> their part; {} if it has none of these layouts.

    Layouts: ``annotations/*.json``; ``{train,valid,test}/_annotations.coco.json``; ``_annotations.coco.json``;
    ``*.json`` in the folder itself.
    """
    roboflow = sorted([*folder.glob("_annotations.coco.json"), *folder.glob("*/_annotations.coco.json")])
    if roboflow:
        return {file: part_of_folder(file.parent.name) or "all" for file in roboflow}
    for place in (folder / "annotations", folder / "Annotations", folder):
        files = [file for file in sorted(place.glob("*.json")) if _may_be_coco(file)]
        instances = [file for file in files if file.name.startswith("instances_")]
        if files:
            return {file: part_of(file.stem) or "all" for file in instances or files}
    return {}


def _may_be_coco(file: Path) -> bool:
    """A guess from the first bytes: an object, not a list of results or a file of another tool."""
    with open(file, "rb") as stream:
        return stream.read(64).lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"{" and file.name != "package.json"


def read_coco(folder: Path, problems: Problems) -> list[Source]:
    """Read a folder; see :func:`coco_files` for its layouts.

    Of several files for the same part the one with the usual name (``instances_train2017.json``, ``train.json``)
    counts, and the others are noted.

    Raises:
        UserError: several files could be a part, or one is broken.
    """
    by_part: dict[str, list[Path]] = {}
    for file, part in coco_files(folder).items():
        by_part.setdefault(part, []).append(file)
    sources = []
    for part, files in by_part.items():
        usual = [file for file in files if _USUAL_NAME.fullmatch(file.stem)]
        chosen = files[0] if len(files) == 1 else usual[0] if len(usual) == 1 else None
        if chosen is None:
            names = ", ".join(file.name for file in files)
            raise UserError(
                f"{folder} has several annotation files for the same part ({part}): {names}; name those to use, such "
                f"as --data {files[0]}"
            )
        for file in files:
            if file != chosen:
                problems.add("json-unused", str(file))
        sources.append(read_coco_json(chosen, problems, part=part))
    return sources


def read_coco_json(
    path: Path, problems: Problems, *, part: str | None = None, image_root: Path | None = None
) -> Source:
    """Read one JSON file.

    Args:
        path: the file.
        problems: receives what is wrong with single images, annotations and categories.
        part: 'train', 'val', 'test' or 'all'; default as the file's name, or that of its folder, says.
        image_root: the folder that ``file_name`` is relative to; default: looked for beside the file.

    Raises:
        UserError: not JSON, cut off, not COCO, without images, or none of its images is found.
    """
    content = _load(path)
    classes, index_of = _classes(path, content, problems)
    entries = _image_entries(path, content["images"], problems)
    if not entries:
        raise UserError(f"{path} lists no images: there is nothing to train on")
    root = _image_root(path, list(entries.values())) if image_root is None else image_root
    files = {key: _file(root, entry) for key, entry in entries.items()}
    sizes = inspect_images(files.values(), problems)
    records: dict[Any, Record] = {}
    for key, entry in entries.items():
        size = sizes.get(files[key])
        given = entry.get("width", 0), entry.get("height", 0)
        if size is not None and size_agrees(given, size, files[key], problems):
            name = relative_name(files[key], root)
            records[key] = {"file_name": str(files[key]), "name": name, "height": size.height, "width": size.width}
            records[key]["annotations"] = []
    _add_annotations(path, content["annotations"], index_of, entries, records, problems)
    part = part or part_of(path.stem) or part_of_folder(path.parent.name) or "all"
    source = Source(path, "COCO", classes, declared=True, parts={part: list(records.values())})
    source.files = {path, *files.values()}
    return source


def _load(path: Path) -> dict[str, Any]:
    text = read_text(path)
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        if error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated"):
            raise UserError(f"{path} ends in the middle (line {error.lineno}): the JSON file is cut off") from None
        raise UserError(f"{path}, line {error.lineno}: this is not JSON: {error.msg}") from None
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, deep nesting
        raise UserError(f"{path} is no COCO annotation file: {error}") from None
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise UserError(f"{path} has no list '{key}': COCO files have images, annotations, categories")
    return content


def _classes(path: Path, content: dict[str, Any], problems: Problems) -> tuple[list[str], dict[Any, int]]:
    """Names in the order of the ids, and id -> index."""
    names: dict[Any, str] = {}
    for category in content["categories"]:
        if not isinstance(category, dict) or not isinstance(category.get("name"), str) or not _is_id(category, "id"):
            raise UserError(f"{path} has a category without id or name: give every category both")
        if category["id"] in names:
            raise UserError(f"{path} has two categories with the id {category['id']}: ids must differ")
        names[category["id"]] = category["name"]
    for key in _parents(content):
        problems.add("category-parent", f"{path}: {names.pop(key)}")
    keys = sorted(names, key=lambda key: (isinstance(key, str), key))
    classes = [names[key] for key in keys]
    check_class_names(classes, str(path))
    return classes, {key: index for index, key in enumerate(keys)}


def _parents(content: dict[str, Any]) -> list[Any]:
    """Roboflow's category 0: the parent of all others, with no box of its own."""
    categories = content["categories"]
    if len(categories) < 2 or categories[0].get("id") != 0:
        return []
    name = categories[0]["name"]
    used = any(isinstance(entry, dict) and entry.get("category_id") == 0 for entry in content["annotations"])
    all_children = all(category.get("supercategory") == name for category in categories[1:])
    return [0] if all_children and not used else []


def _is_id(entry: dict[str, Any], key: str) -> bool:
    """Whether an id is a number or a text; some tools write 3.0 for 3, which is the same key."""
    value = entry.get(key)
    return isinstance(value, (int, str, float)) and not isinstance(value, bool) and value == value


def _image_entries(path: Path, images: list[Any], problems: Problems) -> dict[Any, dict[str, Any]]:
    """Id -> entry of the images that can be told apart; LVIS's ``coco_url`` stands in for ``file_name``."""
    entries: dict[Any, dict[str, Any]] = {}
    names: set[str] = set()
    for number, entry in enumerate(images):
        if not isinstance(entry, dict) or not _is_id(entry, "id") or not _image_name(entry):
            problems.add("image-entry-broken", f"{path}, entry {number} of images")
        elif entry["id"] in entries:
            problems.add("image-id-twice", f"{path}, image id {entry['id']}")
        elif _image_name(entry) in names:
            problems.add("image-file-twice", f"{path}, {_image_name(entry)} as image id {entry['id']}")
        else:
            names.add(_image_name(entry))
            entries[entry["id"]] = entry
    return entries


def _image_name(entry: dict[str, Any]) -> str:
    if isinstance(entry.get("file_name"), str):
        return entry["file_name"].replace("\\", "/")
    url = entry.get("coco_url")
    return "/".join(url.split("/")[-2:]) if isinstance(url, str) else ""


def _file(root: Path, entry: dict[str, Any]) -> Path:
    name = _image_name(entry)
    return root / (name if (root / name).exists() else Path(name).name)


def _image_root(path: Path, entries: list[dict[str, Any]]) -> Path:
    """The usual place with most of a sample of the images."""
    sample = entries[:: max(1, len(entries) // _SAMPLE)]
    places = list(_usual_places(path))
    found = [sum(_file(place, entry).is_file() for entry in sample) for place in places]
    if not any(found):
        looked = ", ".join(dict.fromkeys(map(str, places)))
        raise UserError(
            f"none of the images of {path} was found, such as {_image_name(entries[0])}: put them in one of {looked}, "
            f"or name their folder as --data coco_json:{path}:IMAGE_FOLDER"
        )
    return places[found.index(max(found))]


def _usual_places(path: Path) -> Iterator[Path]:
    here, above = path.parent, path.parent.parent
    stem = re.sub(r"^(instances|image_info|person_keypoints|lvis_v[\d.]+)_|_coco$", "", path.stem)
    part = part_of(path.stem) or ""
    names = {stem, part, re.sub("^val$", "valid", part)} - {""}
    for folder in (here, above):
        yield from (folder / "images" / name for name in sorted(names))
        yield from (folder / name for name in sorted(names))
        yield from (folder / name / "images" for name in sorted(names))
        yield from (folder / "images", folder / "JPEGImages", folder / "img", folder / "data", folder)


def _add_annotations(
    path: Path,
    entries: list[Any],
    index_of: dict[Any, int],
    images: dict[Any, Any],
    records: dict[Any, Record],
    problems: Problems,
) -> None:
    """Put each annotation into the record of its image. Those of an image that is left out go with it."""
    ids: set[Any] = set()
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict) or not all(_is_id(entry, key) for key in ("image_id", "category_id")):
            problems.add("annotation-broken", f"{path}, entry {number} of annotations")
            continue
        where = f"{path}, annotation {entry.get('id', f'number {number}')}"
        if _is_id(entry, "id"):
            if entry["id"] in ids:
                problems.add("annotation-id-twice", where)
            ids.add(entry["id"])
        if entry["image_id"] not in images:
            problems.add("annotation-unknown-image", f"{where} of image {entry['image_id']}")
        elif entry["category_id"] not in index_of:
            problems.add("annotation-unknown-category", f"{where} of category {entry['category_id']}")
        elif entry["image_id"] in records:
            record = records[entry["image_id"]]
            made = _annotation(entry, index_of[entry["category_id"]], record, where, problems)
            if made is not None:
                record["annotations"].append(made)


def _annotation(
    entry: dict[str, Any], category: int, record: Record, where: str, problems: Problems
) -> dict[str, Any] | None:
    numbers = as_numbers(entry.get("bbox"), where, problems)
    if numbers is None:
        return None
    x, y, width, height = numbers
    box = checked_box((x, y, x + width, y + height), Size(record["width"], record["height"]), where, problems)
    if box is None:
        return None
    more: dict[str, Any] = {}
    if _is_segmentation(entry.get("segmentation")):
        more["segmentation"] = entry["segmentation"]
        if isinstance(entry.get("area"), (int, float)):
            more["area"] = float(entry["area"])  # of the mask; COCO's size classes go by it
    return annotation(box, category, iscrowd=int(entry.get("iscrowd") in (1, True)), **more)


def _is_segmentation(value: Any) -> bool:
    """Polygons of at least three points, or a run-length encoding."""
    if isinstance(value, dict):
        return {"counts", "size"} <= set(value)
    return (
        isinstance(value, list)
        and bool(value)
        and all(
            isinstance(polygon, list)
            and len(polygon) >= 6
            and len(polygon) % 2 == 0
            and all(isinstance(number, (int, float)) for number in polygon)
            for polygon in value
        )
    )
