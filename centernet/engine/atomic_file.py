"""Files that are either the old one or the new one, whatever happens while they are written."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from ..errors import UserError

__all__ = ["TEMPORARY_SUFFIX", "write_atomically", "write_text_atomically"]

TEMPORARY_SUFFIX = ".tmp"


def write_atomically(path: str | Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file through ``write(file)`` so that no reader and no kill ever sees a part of it.

    The bytes go to ``path + '.tmp'`` in the same folder, are synced to the disk and renamed. A process killed
    on the way leaves the previous file, and a ``.tmp`` that the next write replaces.

    Raises:
        UserError: the disk is full, or the folder is gone or cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        _remove(temporary)
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from error
    except BaseException:
        _remove(temporary)
        raise


def write_text_atomically(path: str | Path, text: str) -> None:
    """:func:`write_atomically` for a text, in UTF-8."""
    write_atomically(path, lambda file: file.write(text.encode()))


def _sync_folder(folder: Path) -> None:
    """The rename itself lasts only once the folder is on the disk; file systems without this are let be."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    with contextlib.suppress(OSError):
        os.fsync(descriptor)
    os.close(descriptor)


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):  # the folder is gone or read-only: the error that led here says so
        path.unlink(missing_ok=True)
