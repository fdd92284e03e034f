"""A text file that lists data sets, one a line, relative to the file; '#' begins a comment."""

from pathlib import Path

from ...errors import UserError
from .source import IMAGE_SUFFIXES, read_text

__all__ = ["listed_paths"]


def listed_paths(file: Path, chain: tuple[Path, ...] = ()) -> list[str]:
    """The data sets that a list names; lists in it are followed.

    Raises:
        UserError: the file is no text, empty, names itself, or lists images.
    """
    real = file.resolve()
    if real in chain:
        names = " -> ".join(path.name for path in (*chain[chain.index(real) :], real))
        raise UserError(f"the list {file} names itself ({names}): take that line out")
    lines = [line.split("#")[0].strip() for line in read_text(file).splitlines()]
    paths = []
    for line in filter(None, lines):
        path = Path(line) if line.startswith("coco_json:") else file.parent / Path(line).expanduser()
        if path.suffix.lower() in IMAGE_SUFFIXES:
            raise UserError(f"{file} lists images ({line}): a list names data sets; name their folder instead")
        if path.suffix.lower() == ".txt":
            paths += listed_paths(path, (*chain, real))
        else:
            paths.append(str(path))
    if not paths:
        raise UserError(f"the list {file} names nothing: write one data set a line into it")
    return paths
