"""What every reader returns: images with their boxes in detectron2's format, and the names of the classes."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import UserError

__all__ = [
    "IMAGE_SUFFIXES",
    "Record",
    "Source",
    "check_class_names",
    "part_of",
    "part_of_folder",
    "read_text",
    "relative_name",
]

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}

# A dataset dict of detectron2: file_name (absolute), height, width (pixels, EXIF orientation applied), annotations
# (bbox XYXY_ABS in floats, bbox_mode, category_id from 0 in the order of Source.classes, iscrowd, and segmentation
# and area where given); besides, name: the path relative to the source, with '/', by which images are split.
Record = dict[str, Any]

_PARTS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev", "minival"),
    "test": ("test", "testing"),
}


@dataclass
class Source:
    """One data set as it was read.

    Attributes:
        path: what the user named.
        format: 'COCO', 'Pascal VOC', 'YOLO'.
        classes: names; ``category_id`` of the records is an index into them.
        declared: True if the data list their classes, False if they were collected from the objects.
        parts: 'train', 'val', 'test' or 'all' (no split given) -> records.
        files: every file that was looked at, whether it was there or not.
    """

    path: Path
    format: str
    classes: list[str]
    declared: bool
    parts: dict[str, list[Record]] = field(default_factory=dict)
    files: set[Path] = field(default_factory=set)


def part_of(name: str) -> str | None:
    """'train', 'val' or 'test' if a file name says so (``instances_val2017``), else None."""
    words = re.split(r"[^a-z]+", name.lower())
    found = {part for part, synonyms in _PARTS.items() if any(word in synonyms for word in words)}
    return found.pop() if len(found) == 1 else None


def part_of_folder(name: str) -> str | None:
    """'train', 'val' or 'test' if a folder is called so (``valid``, ``val2017``), else None.

    More than :func:`part_of` it asks for: a folder ``my_test_3`` is just a folder.
    """
    return part_of(name) if re.fullmatch(r"[a-z]+(20\d\d)?", name.lower()) else None


def relative_name(file: Path, root: Path) -> str:
    """``file`` as seen from ``root``, with '/'; its bare name if it lies elsewhere."""
    try:
        return file.relative_to(root).as_posix()
    except ValueError:
        return file.name


def read_text(path: Path) -> str:
    """A UTF-8 text, with or without byte order mark.

    Raises:
        UserError: the file cannot be read or is not UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text (byte {error.start}): save it as UTF-8") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None


def check_class_names(classes: Sequence[str], where: str) -> None:
    """Raise :class:`UserError` if there is no class, or a name is empty or given twice."""
    if not classes:
        raise UserError(f"{where} names no class: list at least one")
    seen: set[str] = set()
    for name in classes:
        if not name.strip():
            raise UserError(f"{where} has a class without a name: give every class one")
        if name in seen:
            raise UserError(f"{where} has two classes called '{name}': rename one or join them")
        seen.add(name)
