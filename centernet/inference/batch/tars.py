"""WebDataset: pictures in tar files, found once by their headers and then read at their offsets."""

import os
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..sources import IMAGE_EXTENSIONS
from .lists import Listed

__all__ = ["members_of_tars"]

_END = bytes(tarfile.BLOCKSIZE)


def members_of_tars(files: Sequence[Path], base: Path) -> list[Listed]:
    """Pictures of tar files, in the order of the files and of their members; keys are ``photos.tar/0001.jpg``.

    A file that is damaged gives what is whole of it and one picture that is ``broken``.
    """
    found: list[Listed] = []
    for file in files:
        name = Path(os.path.relpath(file.absolute(), base.absolute())).as_posix()
        try:
            for member, offset, size in _members(file):
                found.append(Listed(len(found) + 1, f"{name}/{member}", str(file), (offset, size)))
        except (tarfile.TarError, OSError, EOFError, ValueError) as error:
            reason = f"tar file {file} is damaged, pictures of it may be missing: {error}"
            found.append(Listed(len(found) + 1, name, str(file), broken=reason))
    return found


def _members(file: Path) -> Iterator[tuple[str, int, int]]:
    """Name, offset of the bytes and size of each picture.

    Raises:
        tarfile.TarError, OSError: no tar file, or it ends too early.
    """
    with tarfile.open(file, "r:") as archive:
        while (member := archive.next()) is not None:
            archive.members = []  # type: ignore[attr-defined]  # tarfile keeps all, which may be millions
            if member.isreg() and member.name.lower().endswith(IMAGE_EXTENSIONS):
                yield member.name, member.offset_data, member.size
        archive.fileobj.seek(archive.offset)  # type: ignore[union-attr]
        if archive.fileobj.read(tarfile.BLOCKSIZE) != _END:  # type: ignore[union-attr]
            raise tarfile.ReadError("the mark at its end is missing")
