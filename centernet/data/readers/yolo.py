"""YOLO: one text file an image, each line ``class cx cy width height`` or ``class x1 y1 x2 y2 x3 y3 ...`` (a polygon),
as parts of the image's width and height.

The image is taken as it is shown, with its EXIF orientation applied. A box becomes ``[(cx - width / 2) * W,
(cy - height / 2) * H, (cx + width / 2) * W, (cy + height / 2) * H]``; a polygon keeps its points and gets the box
around them.
"""

import contextlib
import math
from pathlib import Path
from typing import Any

import yaml

from ...errors import UserError
from .boxes import annotation, checked_box
from .images import Size, image_files, inspect_images
from .problems import Problems
from .source import IMAGE_SUFFIXES, Record, Source, check_class_names, part_of_folder, read_text, relative_name

__all__ = ["find_yaml", "read_yolo", "yolo_parts"]

_NAME_FILES = ("classes.txt", "obj.names", "labels/classes.txt", "labels.txt")
_NOT_LABELS = {"classes.txt", "labels.txt", "train.txt", "val.txt", "test.txt", "notes.txt", "readme.txt"}
_TOLERANCE = 1e-4  # outside 0..1 by no more than this is rounding


def find_yaml(folder: Path) -> Path | None:
    """The data.yaml of a folder: ``data.yaml``, ``dataset.yaml``, or the only YAML file that has 'names'."""
    for name in ("data.yaml", "data.yml", "dataset.yaml"):
        if (folder / name).is_file():
            return folder / name
    files = [file for pattern in ("*.yaml", "*.yml") for file in sorted(folder.glob(pattern))]
    named = []
    for file in files:
        with contextlib.suppress(UserError):  # a file of something else
            named += [file] if "names" in _read_yaml(file) else []
    return named[0] if len(named) == 1 else None


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(read_text(file))
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # the last two: odd dates, deep nesting
        raise UserError(f"{file} is not valid YAML: {' '.join(str(error).split())}") from None
    return content if isinstance(content, dict) else {}


def yolo_parts(folder: Path) -> dict[str, list[Path]]:
    """Part -> image files of a folder without data.yaml; {} if it is in none of YOLO's layouts.

    Layouts: ``images/{train,val}`` with ``labels/{train,val}``; ``{train,valid}/images`` with ``.../labels``;
    ``images`` with ``labels``; images with their text files beside them, in the folder or in ``{train,valid}/``.
    """
    children = [child for child in sorted(folder.iterdir()) if child.is_dir()]
    if (folder / "images").is_dir() and (folder / "labels").is_dir():
        inner = [child for child in sorted((folder / "images").iterdir()) if child.is_dir()]
        places = [child for child in inner if part_of_folder(child.name)] or [folder / "images"]
    elif any((child / "images").is_dir() and (child / "labels").is_dir() for child in children):
        places = [child / "images" for child in children if (child / "images").is_dir() and part_of_folder(child.name)]
    elif _has_labels_beside(folder):
        places = [folder]
    else:
        places = [child for child in children if part_of_folder(child.name) and _has_labels_beside(child)]
    parts: dict[str, list[Path]] = {}
    for place in places:
        name = place.parent.name if place.name == "images" and place.parent != folder else place.name
        part = "all" if place in (folder, folder / "images") else part_of_folder(name) or "all"
        inside_images = "images" in (place.name, place.parent.name)  # else results of a run may lie further down
        parts.setdefault(part, []).extend(image_files(place, IMAGE_SUFFIXES, recursive=inside_images))
    return parts


def _has_labels_beside(folder: Path) -> bool:
    images = image_files(folder, IMAGE_SUFFIXES, recursive=False)
    return any(image.with_suffix(".txt").is_file() for image in images)


def read_yolo(path: Path, problems: Problems) -> list[Source]:
    """Read a folder, or the data set that a ``data.yaml`` describes.

    Classes are the ``names`` of the YAML file, in its order, else the lines of ``classes.txt``, else the class
    numbers up to the largest.

    Raises:
        UserError: the YAML file is broken, or there are no images.
    """
    file = path if path.is_file() else find_yaml(path)
    folder = path.parent if path.is_file() else path
    names: list[str] = []
    if file is not None:
        content = _read_yaml(file)
        names = _yaml_names(file, content)
        parts = _yaml_parts(file, content) or yolo_parts(folder)
    else:
        parts = yolo_parts(folder)
    if not any(parts.values()):
        raise UserError(f"{path} has no images: a YOLO data set has images/train and labels/train, or a data.yaml")
    name_file = next((folder / name for name in _NAME_FILES if (folder / name).is_file()), None)
    if not names and name_file:
        names = [line.strip() for line in read_text(name_file).splitlines() if line.strip()]
        check_class_names(names, str(name_file))
    source = Source(path, "YOLO", names, declared=bool(names))
    source.files.update(entry for entry in (file, name_file) if entry)
    _read_parts(source, folder, parts, problems)
    if not names:
        records = [record for part in source.parts.values() for record in part]
        categories = [entry["category_id"] for record in records for entry in record["annotations"]]
        source.classes = [str(number) for number in range(max(categories, default=-1) + 1)]
        problems.add("names-absent", str(path))
        check_class_names(source.classes, f"{path} (which has no box)")
    return [source]


def _yaml_names(file: Path, content: dict[str, Any]) -> list[str]:
    names = content.get("names") or []
    if isinstance(names, dict):
        if set(names) != set(range(len(names))):
            raise UserError(f"{file}: the numbers of 'names' are not 0 to {len(names) - 1}: count from 0")
        names = [names[number] for number in range(len(names))]
    if not isinstance(names, list) or any(isinstance(name, (dict, list)) or name is None for name in names):
        raise UserError(f"{file}: 'names' must be a list of class names or 'number: name' lines")
    names = [str(name) for name in names]
    if "nc" in content and names and content["nc"] != len(names):
        raise UserError(f"{file}: nc is {content['nc']} but 'names' has {len(names)} entries: correct one of them")
    if names:
        check_class_names(names, str(file))
    return names


def _yaml_parts(file: Path, content: dict[str, Any]) -> dict[str, list[Path]]:
    root = file.parent
    if isinstance(content.get("path"), str):
        root = next((base for base in (root / content["path"], Path(content["path"])) if base.is_dir()), root)
    parts = {}
    for part, keys in {"train": ("train",), "val": ("val", "valid"), "test": ("test",)}.items():
        given: Any = next((content[key] for key in keys if content.get(key)), [])
        places = given if isinstance(given, list) else [given]
        if places and not (part == "test" and not _place(file, root, str(places[0]), must=False)):
            parts[part] = [image for place in places for image in _images_at(file, root, str(place))]
    return parts


def _place(file: Path, root: Path, place: str, *, must: bool = True) -> Path | None:
    """Where an entry of the YAML file is; some tools write '../train/images' for a folder beside the file."""
    for candidate in (root / place, file.parent / place, file.parent / place.lstrip("./")):
        if candidate.exists():
            return candidate
    if must:
        raise UserError(f"{file} names {place}, which is not there: looked in {root}")
    return None


def _images_at(file: Path, root: Path, place: str) -> list[Path]:
    found = _place(file, root, place)
    assert found is not None
    if found.is_dir():
        return image_files(found, IMAGE_SUFFIXES)
    lines = [line.strip() for line in read_text(found).splitlines() if line.strip()]
    return [Path(line) if Path(line).is_absolute() else _listed_image(root, found, line) for line in lines]


def _listed_image(root: Path, listing: Path, line: str) -> Path:
    beside = listing.parent / line
    return beside if beside.exists() else root / line


def _label_file(image: Path) -> Path:
    parts = list(image.parts)
    if "images" in parts[:-1]:
        parts[len(parts) - 2 - parts[-2::-1].index("images")] = "labels"
    return Path(*parts).with_suffix(".txt")


def _read_parts(source: Source, folder: Path, parts: dict[str, list[Path]], problems: Problems) -> None:
    images = list(dict.fromkeys(image for files in parts.values() for image in files))
    sizes = inspect_images(images, problems)
    labels = {image: _label_file(image) for image in images}
    source.files.update(images, labels.values())
    for part, files in parts.items():
        source.parts[part] = []
        for image in files:
            lines = _label_lines(labels[image], problems) if image in sizes else None
            if lines is None:
                continue
            name = relative_name(image, folder)
            record = {"file_name": str(image), "name": name, "height": sizes[image].height, "width": sizes[image].width}
            record["annotations"] = _annotations(labels[image], lines, sizes[image], source.classes, problems)
            source.parts[part].append(record)
    known = set(labels.values())
    for place in sorted({label.parent for label in known}):
        for label in sorted(place.glob("*.txt")):
            if label not in known and label.name.lower() not in _NOT_LABELS and label.read_bytes().strip():
                problems.add("label-without-image", str(label))


def _label_lines(label: Path, problems: Problems) -> list[str] | None:
    """Lines of a label file, [] if there is none, None (noted) if it is not text."""
    if not label.is_file():
        problems.add("image-without-label", str(label))
        return []
    try:
        return label.read_bytes().decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        problems.add("label-not-text", str(label))
        return None


def _annotations(label: Path, lines: list[str], size: Size, names: list[str], problems: Problems) -> list[Record]:
    made = []
    for number, line in enumerate(lines, start=1):
        words = line.split()
        entry = _annotation(words, size, len(names), f"{label}, line {number}", problems) if words else None
        if entry is not None:
            made.append(entry)
    return made


def _annotation(words: list[str], size: Size, classes: int, where: str, problems: Problems) -> Record | None:
    """One line; ``classes`` is 0 if nobody says how many there are."""
    if len(words) != 5 and (len(words) < 7 or len(words) % 2 == 0):
        problems.add("label-line-length", f"{where}: {len(words)} numbers")
        return None
    category = _class_number(words[0])
    if category is None:
        problems.add("label-class-broken", f"{where}: {words[0]}")
        return None
    if classes and category >= classes:
        problems.add("label-class-beyond", f"{where}: {category}, of {classes}")
        return None
    try:
        values = [float(word) for word in words[1:]]
    except ValueError:
        problems.add("box-not-four-numbers", where)
        return None
    if not all(map(math.isfinite, values)):
        problems.add("box-nan", where)
        return None
    if len(values) == 4 and min(values[2:]) < 0:
        problems.add("box-negative", where)
        return None
    if min(values) < -_TOLERANCE or max(values) > 1 + _TOLERANCE:
        problems.add("label-not-normalised", where)
        return None
    return _scaled(values, category, size, where, problems)


def _class_number(word: str) -> int | None:
    try:
        number = float(word)  # some tools write 3.0
    except ValueError:
        return None
    return int(number) if number >= 0 and number.is_integer() else None


def _scaled(values: list[float], category: int, size: Size, where: str, problems: Problems) -> Record | None:
    if len(values) == 4:
        cx, cy, width, height = values
        corners = [cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2]
        more: dict[str, Any] = {}
    else:
        xs, ys = values[::2], values[1::2]
        corners = [min(xs), min(ys), max(xs), max(ys)]
        points = [pixel for x, y in zip(xs, ys, strict=True) for pixel in (x * size.width, y * size.height)]
        more = {"segmentation": [points]}
    pixels = [value * side for value, side in zip(corners, (size.width, size.height) * 2, strict=True)]
    box = checked_box(pixels, size, where, problems)
    return None if box is None else annotation(box, category, **more)
