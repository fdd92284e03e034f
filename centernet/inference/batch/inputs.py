"""Which pictures a run is about: folders, lists, COCO JSON, Parquet and WebDataset tar files, in one fixed order."""

import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ...errors import UserError
from ..sources import IMAGE_EXTENSIONS, find_inputs
from .lists import Listed, listed_by_json, listed_by_text, refuse_repeats
from .tables import rows_of_tables
from .tars import members_of_tars

__all__ = ["Columns", "list_pictures"]

logger = logging.getLogger(__name__)

_TABLES, _TARS, _LISTS = (".parquet", ".pq"), (".tar",), (".json", ".txt")
_COMPRESSED_TARS = (".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")


class Columns(NamedTuple):
    """Columns of Parquet files; '' for those that the files themselves suggest."""

    image: str = ""
    image_id: str = ""


def list_pictures(names: Sequence[str], root: Path | None = None, columns: Columns | None = None) -> list[Listed]:
    """All pictures that the user named, in an order that depends on nothing but their names.

    Args:
        names: folders (with their sub-folders), globs or files: pictures, or Parquet files, or tar files; or one COCO
            JSON or text list.
        root: what file names in lists and Parquet files are relative to (default: the folder of the list), and what
            names in the result are relative to (default: the deepest folder that holds them all).
        columns: of Parquet files.

    Returns:
        The pictures. What is known to be lost already (a tar file that ends too early) is among them, with a reason.

    Raises:
        UserError: nothing there, several kinds at once, an unreadable list, an id or key twice.
    """
    source = " ".join(names)
    lists = [name for name in names if name.endswith(_LISTS) and not Path(name).expanduser().is_dir()]
    if lists and len(names) > 1:
        raise UserError(f"{lists[0]} is a list of pictures, which is given alone: give one kind at a time")
    if len(names) == 1 and names[0].endswith(_LISTS):
        pictures = _of_list(Path(names[0]).expanduser(), root)
    else:
        files, kind = _files_of_one_kind(names)
        base = root or Path(os.path.commonpath([file.absolute().parent for file in files]))
        if kind == "Parquet files":
            pictures = rows_of_tables(files, base, root, *(columns or Columns()))
        elif kind == "tar files":
            pictures = members_of_tars(files, base)
        else:
            keys = [Path(os.path.relpath(file.absolute(), base.absolute())).as_posix() for file in files]
            pictures = [Listed(n, key, str(file)) for n, (key, file) in enumerate(zip(keys, files, strict=True), 1)]
    if not any(not picture.broken for picture in pictures):
        reason = f": {pictures[0].broken}" if pictures else ""
        raise UserError(f"{source} names no picture{reason}")
    refuse_repeats((picture.image_id for picture in pictures), "id", source)
    refuse_repeats((picture.key for picture in pictures), "name", source)
    # workers may run in another folder
    return [picture._replace(file=os.path.abspath(picture.file)) for picture in pictures]


def _of_list(file: Path, root: Path | None) -> list[Listed]:
    if file.suffix == ".json":
        return [Listed(r["id"], str(r["file_name"]), str(path)) for r, path in listed_by_json(file, root)]
    return [Listed(n, line, str(path)) for n, (line, path) in enumerate(listed_by_text(file, root), start=1)]


def _files_of_one_kind(names: Sequence[str]) -> tuple[list[Path], str]:
    """Files of the named folders and the named files, each once; ``pictures``, ``Parquet files`` or ``tar files``."""
    found: dict[Path, str] = {}
    for name in names:
        folder = Path(name).expanduser()
        if folder.is_dir():
            found.update(_of_folder(folder))
        else:
            found.update((file, _kind(file) or "pictures") for file in find_inputs([name]).all)
    kinds = sorted(set(found.values()))
    if len(kinds) > 1:
        raise UserError(f"{' '.join(names)} names {' and '.join(kinds)}: give one kind at a time")
    return list(found), kinds[0]


def _of_folder(folder: Path) -> dict[Path, str]:
    """Its files of one kind, pictures before others; how many files are not looked at is logged."""
    files = {file: _kind(file) for file in _walk(folder)}
    for file, kind in files.items():  # _notes of who wrote Parquet files; a camera's _DSC0001.jpg is a photo
        if kind == "Parquet files" and file.name.startswith("_"):
            files[file] = None
    kinds = set(files.values())
    kind = next((kind for kind in ("pictures", "tar files", "Parquet files") if kind in kinds), None)
    if kind is None:
        raise UserError(f"folder {folder} holds no picture ({', '.join(IMAGE_EXTENSIONS)}), .tar or .parquet file")
    others = Counter(file.suffix.lower() or "no extension" for file, other in files.items() if other != kind)
    if others:
        told = ", ".join(f"{count} {suffix}" for suffix, count in others.most_common(5))
        logger.info("%s: %d files that are no %s are not looked at (%s)", folder, others.total(), kind, told)
    return {file: kind for file, other in files.items() if other == kind}


def _kind(file: Path) -> str | None:
    name = file.name.lower()
    if name.endswith(_COMPRESSED_TARS):
        raise UserError(f"{file} is a compressed tar file, which has to be read in one go: unpack it to .tar")
    for kind, suffixes in (("pictures", IMAGE_EXTENSIONS), ("Parquet files", _TABLES), ("tar files", _TARS)):
        if name.endswith(suffixes):
            return kind
    return None


def _walk(folder: Path) -> Iterator[Path]:
    """Files below a folder, sorted, hidden ones not. Links to folders are followed, each folder is seen once."""
    seen = set()
    for here, folders, files in os.walk(folder, followlinks=True, onerror=_refuse):
        status = os.stat(here)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(here, name) for name in sorted(files) if not name.startswith("."))


def _refuse(error: OSError) -> None:
    raise UserError(f"folder {error.filename} cannot be read: {error.strerror}") from error
