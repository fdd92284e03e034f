"""Parquet files as input: pictures as bytes or as paths in one column, their ids in another."""

import os
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

from ...errors import UserError
from .arrow import pyarrow
from .lists import Listed

__all__ = ["TableRows", "rows_of_tables"]

_PATHS = ("path", "file_name", "filename", "image_path", "image", "file")
_IDS = ("image_id", "id")
_ROWS, _KEPT = 16, 8  # rows read at a time, and how many such chunks stay: loaders are a little out of order


def rows_of_tables(
    files: Sequence[Path], base: Path, root: Path | None, image_column: str, id_column: str
) -> list[Listed]:
    """One picture a row, in the order of files and rows; keys are ``rows.parquet#7``, or the path that the row has.

    Args:
        base: what names of files in keys are relative to.
        root: what paths in a column are relative to; the folder of the Parquet file if None.
        image_column: bytes, text (paths), or Hugging Face's ``{bytes, path}``; '' for the only such column.
        id_column: integers or texts; '' for ``image_id`` or ``id`` where there is one, and 1, 2, 3 ... otherwise.

    A file that is damaged gives one picture that is ``broken``.

    Raises:
        UserError: no such column, or nothing in it that could be meant.
    """
    _, parquet = pyarrow()
    found: list[Listed] = []
    for file in files:
        name = Path(os.path.relpath(file.absolute(), base.absolute())).as_posix()
        try:
            table = parquet.ParquetFile(file)
        except (OSError, ValueError) as error:
            reason = f"Parquet file {file} cannot be read, its pictures are missing: {str(error).splitlines()[0]}"
            found.append(Listed(name, name, str(file), broken=reason))
            continue
        column, kind = _image_column(table.schema_arrow, image_column, file)
        ids = _ids(table, id_column, file) or range(len(found) + 1, len(found) + 1 + table.metadata.num_rows)
        if kind == "path":
            folder = root or file.parent
            paths = table.read(columns=[column]).column(0).to_pylist()
            found += [_by_path(i, f"{name}#{n}", folder, p) for n, (i, p) in enumerate(zip(ids, paths, strict=True))]
            continue
        places = ((g, r) for g in range(table.num_row_groups) for r in range(table.metadata.row_group(g).num_rows))
        rows = enumerate(zip(ids, places, strict=True))
        found += [Listed(i, f"{name}#{n}", str(file), place, column) for n, (i, place) in rows]
    return found


def _by_path(image_id: Any, row: str, folder: Path, path: str | None) -> Listed:
    if not path:
        return Listed(image_id, row, "", broken=f"row {row} names no picture")
    return Listed(image_id, path, str(folder / path))


def _image_column(schema: Any, wanted: str, file: Path) -> tuple[str, str]:
    """The column of pictures, and whether it holds ``bytes``, a ``path``, or a ``struct`` with bytes."""
    kinds = {field.name: kind for field in schema if (kind := _kind(field))}
    if wanted:
        if wanted not in kinds:
            what = "is neither bytes nor text" if wanted in schema.names else "is not there"
            raise UserError(f"{file}: the image column '{wanted}' {what}; its columns are {', '.join(schema.names)}")
        return wanted, kinds[wanted]
    holding = [name for name, kind in kinds.items() if kind != "path"]
    if not holding:
        holding = [name for name in _PATHS if name in kinds][:1]
    if len(holding) != 1:
        raise UserError(
            f"{file}: which column holds the pictures? Name it with --image-column (there are "
            f"{', '.join(schema.names)})"
        )
    return holding[0], kinds[holding[0]]


def _kind(field: Any) -> str | None:
    types = pyarrow()[0].types
    if types.is_struct(field.type):
        return "struct" if field.type.get_field_index("bytes") >= 0 else None
    if types.is_binary(field.type) or types.is_large_binary(field.type):
        return "bytes"
    return "path" if types.is_string(field.type) or types.is_large_string(field.type) else None


def _ids(table: Any, wanted: str, file: Path) -> list[int | str] | None:
    names = table.schema_arrow.names
    if wanted and wanted not in names:
        raise UserError(f"{file}: the id column '{wanted}' is not there; its columns are {', '.join(names)}")
    column = wanted or next((name for name in _IDS if name in names), None)
    if column is None:
        return None
    ids = table.read(columns=[column]).column(0).to_pylist()
    if not all(isinstance(value, int | str) for value in ids):
        raise UserError(f"{file}: the id column '{column}' must hold an integer or a text in every row")
    return ids


class TableRows:
    """Reads pictures of one column of a row group from front to back, a few rows at a time; for several threads.

    A row that lies behind costs a new start, so readers should ask nearly in order.
    """

    def __init__(self, file: str, group: int, column: str) -> None:
        self.place = (file, group, column)
        self._lock = Lock()
        self._restart()

    def _restart(self) -> None:
        file, group, column = self.place
        table = pyarrow()[1].ParquetFile(file, buffer_size=1 << 20)
        self._chunks: Iterator[Any] = table.iter_batches(_ROWS, row_groups=[group], columns=[column])
        self._kept: deque[tuple[int, Any]] = deque(maxlen=_KEPT)
        self._next = 0

    def read(self, row: int) -> bytes | None:
        """The bytes of a row; None where the row has none.

        Raises:
            OSError, ValueError: the file is gone or damaged.
        """
        with self._lock:
            if row < self._next and not any(start <= row for start, _ in self._kept):
                self._restart()
            while row >= self._next:
                chunk = next(self._chunks, None)
                if chunk is None:
                    raise OSError("the file is shorter than it was")
                self._kept.append((self._next, chunk.column(0)))
                self._next += len(chunk)
            start, column = next(pair for pair in reversed(self._kept) if pair[0] <= row)
            value = column[row - start].as_py()
        found: bytes | None = value.get("bytes") if isinstance(value, dict) else value
        return found
