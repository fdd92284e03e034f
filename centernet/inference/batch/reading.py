"""The bytes of listed pictures, wherever they are, to arrays; for several threads."""

import threading
from collections import OrderedDict

import numpy as np

from ..images import SourceError, load_image, read_picture
from .lists import Listed
from .tables import TableRows

__all__ = ["Reader"]

_OPEN_TABLES = 2


class Reader:
    """Reads pictures. Thread-safe; parts of Parquet files that were read are kept for the next pictures."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tables: OrderedDict[tuple[str, int, str], TableRows] = OrderedDict()

    def read(self, listed: Listed) -> np.ndarray | SourceError:
        """uint8 [H, W, 3] BGR, upright; or what is wrong with the picture: one that cannot be read stops no run."""
        if listed.broken:
            return SourceError(listed.broken)
        name = f"picture {listed.key}"
        try:
            if listed.place is None:
                return load_image(listed.file)
            return read_picture(self._content(listed), name=name).pixels
        except SourceError as error:
            return error
        except Exception as error:  # decoders fail on broken files in ways of their own
            return SourceError(f"{name} cannot be read: {type(error).__name__}: {' '.join(str(error).split())}")

    def _content(self, listed: Listed) -> bytes:
        assert listed.place is not None
        if listed.column:
            content = self._table(listed).read(listed.place[1])
            if content is None:
                raise SourceError(f"picture {listed.key} is missing: its row has no bytes")
            return content
        offset, size = listed.place
        with open(listed.file, "rb") as file:
            file.seek(offset)
            content = file.read(size)
        if len(content) < size:
            raise SourceError(f"picture {listed.key} cannot be read: the tar file ends in it")
        return content

    def _table(self, listed: Listed) -> TableRows:
        assert listed.place is not None
        place = (listed.file, listed.place[0], listed.column)
        with self._lock:
            table = self._tables.pop(place, None) or TableRows(*place)
            self._tables[place] = table
            while len(self._tables) > _OPEN_TABLES:
                self._tables.popitem(last=False)
        return table
