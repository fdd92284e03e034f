"""Sizes of many image files, read from their headers on several threads, and whether the files are whole."""

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from ...errors import UserError
from .problems import Problems

__all__ = ["Size", "image_files", "inspect_image", "inspect_images", "size_agrees"]

_EXIF_ORIENTATION = 274
_TRANSPOSED = (5, 6, 7, 8)  # EXIF orientations that swap width and height
_JPEG_END = b"\xff\xd9"
_TAIL = 64  # bytes; some cameras pad after the end marker


class Size(NamedTuple):
    """Pixels, after the EXIF orientation is applied, as detectron2 reads images."""

    width: int
    height: int


def inspect_images(files: Iterable[Path], problems: Problems, *, threads: int = 8) -> dict[Path, Size]:
    """Sizes of the images that can be read; the others go to ``problems``, each once, in the given order."""
    unique = list(dict.fromkeys(files))
    sizes: dict[Path, Size] = {}
    with ThreadPoolExecutor(threads) as pool:
        for file, result in zip(unique, pool.map(inspect_image, unique), strict=True):
            if isinstance(result, Size):
                sizes[file] = result
            else:
                problems.add(result, str(file))
    return sizes


def inspect_image(file: Path) -> Size | str:
    """Size of one image, or the kind of problem that it has (a key of :data:`~.problems.KINDS`).

    Of a JPEG the header and the end marker are read, and the pixels only if the marker is not there; files of
    other formats are decoded.
    """
    from PIL import Image

    try:
        if not file.is_file():
            return "image-missing"
        if not file.stat().st_size:
            return "image-empty"
        image = Image.open(file)
    except Exception:  # Pillow's plugins raise whatever their format suggests
        return "image-unreadable"
    with image:
        try:
            if image.format != "JPEG" or not _ends_as_jpeg(file):
                image.load()
            width, height = image.size
            if image.getexif().get(_EXIF_ORIENTATION) in _TRANSPOSED:
                width, height = height, width
        except Exception:  # as above; the header was readable, the pixels are not
            return "image-truncated"
    return Size(width, height)


def _ends_as_jpeg(file: Path) -> bool:
    with open(file, "rb") as stream:
        stream.seek(-min(_TAIL, file.stat().st_size), os.SEEK_END)
        return _JPEG_END in stream.read()


def size_agrees(given: tuple[Any, Any], size: Size, file: Path, problems: Problems) -> bool:
    """Whether width and height as annotations give them are those of the image; 0, 0 is no size given.

    A difference is noted as a problem of ``file``: the boxes were drawn on another picture.
    """
    if given == (0, 0):
        problems.add("image-size-absent", str(file))
        return True
    if not all(isinstance(side, (int, float)) and side > 0 for side in given):
        problems.add("image-size-invalid", f"{file}: {given[0]}x{given[1]}")
        return False
    if given != size:
        turned = ", which its EXIF orientation turns" if given == (size.height, size.width) else ""
        sizes = f"{given[0]}x{given[1]}, the image is {size.width}x{size.height}"
        problems.add("image-size-differs", f"{file}: {sizes}{turned}")
        return False
    return True


def image_files(folder: Path, suffixes: Iterable[str], *, recursive: bool = True) -> list[Path]:
    """Image files of a folder, sorted by path; hidden ones (``._a.jpg`` of macOS) are not images.

    Raises:
        UserError: the folder cannot be listed.
    """
    try:
        files = folder.rglob("*") if recursive else folder.iterdir()
        return sorted(file for file in files if file.suffix.lower() in suffixes and not file.name.startswith("."))
    except OSError as error:
        raise UserError(f"the folder {folder} cannot be listed: {error.strerror or error}") from None
