"""Where results go: planned before any work, never onto an input, never half-written."""

import errno
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import UserError
from .sources import VIDEO_EXTENSIONS

__all__ = ["atomic_path", "check_writable", "plan_outputs", "remove_leftovers", "save_image"]

_CANNOT_WRITE = (
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EEXIST,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ENAMETOOLONG,
)
_WRITABLE_IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
_LARGEST_SIDES = {".jpg": 65500, ".jpeg": 65500, ".webp": 16383}  # pixels; others hold more than memory does
_WRITABLE_VIDEOS = (".mp4", ".m4v", ".mov", ".mkv", ".avi")


def plan_outputs(inputs: Sequence[Path], output: str | Path) -> dict[Path, Path]:
    """Say which file each input's result goes to. Nothing is created.

    Args:
        inputs: pictures and videos.
        output: a file name (by its extension) for one input; otherwise a folder, existing or not. In a
            folder, results keep their input's name (``.png`` or ``.mp4`` where that format cannot be
            written); of equal names from different folders the later ones get ``_2``, ``_3``...

    Returns:
        ``{input: result}`` in the order of ``inputs``.

    Raises:
        UserError: several inputs for one file name, a picture for a video's file name or the reverse, a
            folder's place taken by a file, or a result that would overwrite an input.
    """
    folder = Path(output).expanduser()
    names_file = folder.suffix.lower() in _WRITABLE_IMAGES + _WRITABLE_VIDEOS and not folder.is_dir()
    if names_file and not str(output).endswith(("/", os.sep)):
        plan = _plan_file(inputs, folder)
    else:
        plan = _plan_folder(inputs, folder)
    _protect_inputs(inputs, plan)
    return plan


def _plan_file(inputs: Sequence[Path], file: Path) -> dict[Path, Path]:
    if len(inputs) != 1:
        raise UserError(f"--output {file} names one file, but there are {len(inputs)} inputs: give a folder")
    if _is_video(inputs[0]) != (file.suffix.lower() in _WRITABLE_VIDEOS):
        kind, wanted = ("video", _WRITABLE_VIDEOS) if _is_video(inputs[0]) else ("picture", _WRITABLE_IMAGES)
        raise UserError(f"{inputs[0]} is a {kind}, but --output {file} is not: use {', '.join(wanted)} or a folder")
    if file.parent.exists() and not file.parent.is_dir():
        raise UserError(f"--output {file}: {file.parent} is a file, not a folder")
    return {inputs[0]: file}


def _plan_folder(inputs: Sequence[Path], folder: Path) -> dict[Path, Path]:
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--output {folder} is an existing file, and no picture or video by its name: give another")
    plan: dict[Path, Path] = {}
    taken: set[str] = set()
    for path in inputs:
        writable, fallback = (_WRITABLE_VIDEOS, ".mp4") if _is_video(path) else (_WRITABLE_IMAGES, ".png")
        suffix = path.suffix if path.suffix.lower() in writable else fallback
        name, number = path.stem + suffix, 1
        while name.lower() in taken:  # lower: some file systems do not tell A.jpg from a.jpg
            number += 1
            name = f"{path.stem}_{number}{suffix}"
        taken.add(name.lower())
        plan[path] = folder / name
    return plan


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_EXTENSIONS


def _protect_inputs(inputs: Sequence[Path], plan: dict[Path, Path]) -> None:
    # by identity on the disk, so that links and other spellings of a path are caught too
    originals = {(status.st_dev, status.st_ino) for status in (path.stat() for path in inputs if path.exists())}
    for result in plan.values():
        if result.exists() and (result.stat().st_dev, result.stat().st_ino) in originals:
            raise UserError(f"{result} would be overwritten, and it is one of the inputs: give another --output")


def check_writable(path: Path) -> None:
    """Make sure that ``path`` could be written, before any work. Nothing is created.

    Raises:
        UserError: its folder cannot be written to, or cannot be made.
    """
    folder = path.absolute().parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        raise UserError(f"{path} cannot be written: {folder} is a file, not a folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"{path} cannot be written: folder {folder} is closed to you; give another place")


def remove_leftovers(path: Path) -> None:
    """Remove what killed processes left of ``path`` (see :func:`atomic_path`)."""
    pattern = re.compile(rf"\.{re.escape(path.stem)}\.(\d+)\.part(?:\.sound)?{re.escape(path.suffix)}")
    for entry in path.parent.glob(".*.part*"):
        match = pattern.fullmatch(entry.name)
        if match and not _is_running(int(match[1])):
            entry.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    if sys.platform == "win32":  # where signal 0 is no question but an interrupt
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    return True


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary name beside ``path`` to write to; it becomes ``path`` if the block succeeds.

    The folder is made if it is not there. When the block fails or is interrupted, nothing is left and an
    older ``path`` stays.

    Raises:
        UserError: the folder cannot be made or written to, or the disk is full.
    """
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        if error.errno not in _CANNOT_WRITE:
            raise
        raise UserError(f"{path} cannot be written: {error.strerror}") from error


def save_image(image_rgb: np.ndarray, path: Path) -> None:
    """Write uint8 [H, W, 3] **RGB** to ``path``, whole or not at all; the extension is the format.

    Raises:
        UserError: the folder cannot be made or written to, or the format has no room for so many pixels.
    """
    side, largest = max(image_rgb.shape[:2]), _LARGEST_SIDES.get(path.suffix.lower())
    if largest is not None and side > largest:
        raise UserError(
            f"{path} cannot be written: the picture is {side} pixels long and {path.suffix} holds at most {largest}; "
            "give a name in .png"
        )
    with atomic_path(path) as temporary:
        Image.fromarray(image_rgb).save(temporary, quality=95)
