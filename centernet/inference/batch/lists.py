"""A picture of a run, and lists that a user wrote down: COCO's ``images``, or a path a line."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from ...errors import UserError

__all__ = ["Listed", "listed_by_json", "listed_by_text", "refuse_repeats"]


class Listed(NamedTuple):
    """A picture that a run is about; plain values, so that it can travel to another machine.

    Attributes:
        image_id: in the result; of the list or table, or 1, 2, 3 ...
        key: its name in the result.
        file: the picture, or the tar or Parquet file that holds it; absolute.
        place: of a tar file, offset and bytes; of a Parquet file, row group and row in it; None for a file of its own.
        column: of a Parquet file.
        broken: one sentence if it is known to be lost.
    """

    image_id: int | str
    key: str
    file: str
    place: tuple[int, int] | None = None
    column: str = ""
    broken: str = ""


def listed_by_json(file: Path, image_root: Path | None) -> list[tuple[dict[str, Any], Path]]:
    """Entries of ``images`` of a COCO JSON file, each with its picture's path.

    Args:
        image_root: what ``file_name`` is relative to; the folder of ``file`` if None.

    Raises:
        UserError: it cannot be read, is no such file, or lists nothing.
    """
    try:
        images = json.loads(file.read_text(encoding="utf-8-sig"))["images"]
        root = image_root or file.parent
        found = [(dict(image), root / image["file_name"]) for image in images]
        nameless = next((image for image, _ in found if not isinstance(image.get("id"), int | str)), None)
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} is no COCO file: it needs 'images' with 'id' and 'file_name'") from error
    if nameless is not None:
        image_id = nameless.get("id")
        what = "no 'id'" if image_id is None else f"the 'id' {image_id!r}: give an integer or a text"
        raise UserError(f"{file}: the image '{nameless['file_name']}' has {what}")
    if not found:
        raise UserError(f"{file} lists no image")
    return found


def listed_by_text(file: Path, image_root: Path | None) -> list[tuple[str, Path]]:
    """Lines that are not empty, each with its picture's path.

    Args:
        image_root: what the lines are relative to; the folder of ``file`` if None.

    Raises:
        UserError: it cannot be read as UTF-8 text, or names nothing.
    """
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read as a list of pictures: {error}") from error
    root = image_root or file.parent
    found = [(line, root / line) for line in lines if line]
    if not found:
        raise UserError(f"{file} names no picture")
    return found


def refuse_repeats(values: Iterable[Any], what: str, source: str) -> None:
    """Raise :class:`UserError` if two ``values`` are equal: it names the first that comes a second time."""
    seen = set()
    for value in values:
        if value in seen:
            raise UserError(f"two of the pictures that {source} names have the same {what} ({value!r})")
        seen.add(value)
