"""Files that are either the old one or the new one, whatever happens while they are written."""

import contextlib
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, NamedTuple

from ..errors import writing

__all__ = ["TEMPORARY_SUFFIX", "Written", "write_atomically", "write_text_atomically"]

TEMPORARY_SUFFIX = ".tmp"


class Written(NamedTuple):
    """What went into a file."""

    size: int  # bytes
    sha256: str  # hexadecimal


def write_atomically(path: str | Path, write: Callable[[BinaryIO], object]) -> Written:
    """Write a file through ``write(file)`` so that no reader and no kill ever sees a part of it.

    The bytes go to ``path + '.tmp'`` in the same folder, are synced to the disk and renamed. A process killed
    on the way leaves the previous file, and a ``.tmp`` that the next write replaces. The file can be written from
    front to end only.

    Raises:
        UserError: the disk is full, or the folder is gone or cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
    try:
        with writing(path):
            with open(temporary, "wb") as file:
                stream = _HashingStream(file)
                write(stream)  # type: ignore[arg-type]
                written = stream.finish()
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            _sync_folder(path.parent)
    except BaseException:
        _remove(temporary)
        raise
    return written


def write_text_atomically(path: str | Path, text: str) -> None:
    """:func:`write_atomically` for a text, in UTF-8."""
    write_atomically(path, lambda file: file.write(text.encode()))


class _HashingStream:
    """Passes bytes on and hashes them.

    The first error is kept until :meth:`finish`: it would be lost in ``torch.save``, whose C++ side reports one
    of its own when it closes the archive.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self._size = 0
        self._error: OSError | None = None

    def write(self, data: bytes | bytearray | memoryview) -> int:
        count = memoryview(data).nbytes
        if self._error is None:
            try:
                self._file.write(data)
            except OSError as error:
                self._error = error
            else:
                self._hash.update(data)
                self._size += count
        return count

    def flush(self) -> None:
        if self._error is None:
            try:
                self._file.flush()
            except OSError as error:
                self._error = error

    def finish(self) -> Written:
        if self._error is not None:
            raise self._error
        return Written(self._size, self._hash.hexdigest())


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
