"""Readers of other people's data: COCO, Pascal VOC, YOLO and lists of them, recognised by what is in the folder."""

from collections.abc import Iterable
from pathlib import Path

from ...errors import UserError
from .coco import coco_files, read_coco, read_coco_json
from .images import image_files
from .listing import listed_paths
from .problems import KINDS, Problems
from .source import IMAGE_SUFFIXES, Record, Source
from .voc import read_voc, voc_parts
from .yolo import find_yaml, read_yolo, yolo_parts

__all__ = ["KINDS", "Problems", "Record", "Source", "expand_lists", "read_sources"]

_LAYOUTS = (
    "a COCO JSON file, or a folder with annotations/*.json (COCO), train/_annotations.coco.json (Roboflow), "
    "Annotations/*.xml (Pascal VOC), data.yaml or images/ and labels/ (YOLO)"
)
_ON_THE_FLY = "coco_json:"


def expand_lists(paths: Iterable[str]) -> list[str]:
    """``paths`` with every list (``.txt``) replaced by what it names."""
    expanded: list[str] = []
    for path in paths:
        expanded += listed_paths(_existing(path)) if path.lower().endswith(".txt") else [path]
    return expanded


def read_sources(path: str, problems: Problems) -> list[Source]:
    """Read one data set in whatever format it is in.

    Args:
        path: a COCO JSON file, a YOLO data.yaml, ``coco_json:JSON:IMAGE_FOLDER``, or a folder.
        problems: receives what is wrong with single images and boxes.

    Returns:
        One source, or several where a folder has several annotation files.

    Raises:
        UserError: the path is not there, its format is unknown, or nothing in it can be used.
    """
    if path.startswith(_ON_THE_FLY):
        json_file, _, image_root = path[len(_ON_THE_FLY) :].rpartition(":")
        return [read_coco_json(_existing(json_file), problems, image_root=_existing(image_root))]
    found = _existing(path)
    if found.is_dir():
        try:
            return _read_folder(found, problems)
        except OSError as error:
            raise UserError(f"{error.filename or found} cannot be read: {error.strerror or error}") from None
    suffix = found.suffix.lower()
    if suffix == ".json":
        return [read_coco_json(found, problems)]
    if suffix in (".yaml", ".yml"):
        return read_yolo(found, problems)
    hint = ": name the folder, not one file of it" if suffix in {".xml", *IMAGE_SUFFIXES} else f": name {_LAYOUTS}"
    raise UserError(f"--data {path} is no annotation file that can be read{hint}")


def _read_folder(folder: Path, problems: Problems, *, may_descend: bool = True) -> list[Source]:
    entries = [entry for entry in sorted(folder.iterdir()) if not entry.name.startswith(".")]
    if not entries:
        raise UserError(f"--data {folder} is an empty folder: put {_LAYOUTS} there")
    if voc_parts(folder):
        return read_voc(folder, problems)
    if find_yaml(folder):
        return read_yolo(folder, problems)
    annotations = coco_files(folder)
    loose = all(file.parent == folder for file in annotations)  # such as the notes.json beside YOLO's folders
    if annotations and not (loose and (folder / "labels").is_dir()):
        return read_coco(folder, problems)
    if yolo_parts(folder):
        return read_yolo(folder, problems)
    folders = [entry for entry in entries if entry.is_dir()]
    if may_descend and len(folders) == 1:  # an archive unpacked into a folder of its name
        return _read_folder(folders[0], problems, may_descend=False)
    if image_files(folder, IMAGE_SUFFIXES):
        raise UserError(f"--data {folder} has images but no annotations in a known layout: it needs {_LAYOUTS}")
    raise UserError(f"--data {folder} is in no known layout: name {_LAYOUTS}")


def _existing(path: str) -> Path:
    found = Path(path).expanduser()
    if not path or not found.exists():
        above = found.parent
        while not above.exists():
            above = above.parent
        raise UserError(f"--data {path} is not there (of its path, {above.resolve()} exists): check the spelling")
    return found.absolute()
