"""Whether a file of weights has its end: a server that tells no length cannot be told from a lost connection.

Only the structure is looked at; no value is read and no name of a pickle is imported. What is of no known kind passes.
"""

import json
import os
import pickle
import pickletools
import struct
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

__all__ = ["ends_early"]

_LEGACY_MAGIC = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # in the first pickle of torch.save before 1.6
_WIDTHS = {"Double": 8, "Float": 4, "Half": 2, "BFloat16": 2, "Long": 8, "Int": 4, "Short": 2, "Char": 1, "Byte": 1}
_WIDTHS |= {"Bool": 1, "ComplexDouble": 16, "ComplexFloat": 8}


def ends_early(path: Path) -> str:
    """'' if a file is whole as far as can be seen, else what is missing.

    Args:
        path: of any name. Looked at are zip archives (PyTorch's .pth), PyTorch's older format, pickles, safetensors.
    """
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        head = file.read(64)
        file.seek(0)
        if head.startswith(b"PK\x03\x04"):
            return "" if zipfile.is_zipfile(file) else "the archive has no end"
        if head[8:9] == b"{" and struct.unpack("<Q", head[:8])[0] < 100_000_000:
            return _missing(_end_of_safetensors(file), size)
        if head[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
            try:
                end = _end_of_legacy(file) if _LEGACY_MAGIC in head[:32] else _end_of_pickle(file)
            except EOFError:
                return "the pickle has no end"
            return _missing(end, size)
    return ""


def _missing(end: int, size: int) -> str:
    return f"it ends after {size} of {end} bytes" if size < end else ""


def _end_of_safetensors(file: BinaryIO) -> int:
    """Bytes that the header asks for; 0 if that cannot be said."""
    length = struct.unpack("<Q", file.read(8))[0]
    header = file.read(length)
    if len(header) < length:
        return 8 + length
    try:
        ends = [entry["data_offsets"][1] for name, entry in json.loads(header).items() if name != "__metadata__"]
        return 8 + length + int(max(ends, default=0))
    except (ValueError, LookupError, TypeError, AttributeError):
        return 0


def _end_of_pickle(file: BinaryIO) -> int:
    """Where one pickle ends, which is read from where the file is; EOFError: nowhere."""
    try:
        for _ in pickletools.genops(file):
            pass
    except (ValueError, struct.error, MemoryError) as error:
        if not file.read(1):
            raise EOFError from error
        return 0  # damaged, or no pickle; the reader says so
    return file.tell()


def _end_of_legacy(file: BinaryIO) -> int:
    """Five pickles, of which the fourth names the storages and the fifth their order; each storage is a length in 8
    bytes and its values.
    """
    for _ in range(3):
        _end_of_pickle(file)
    storages = _Storages(file)
    try:
        storages.load()
        _end_of_pickle(file)
    except EOFError:
        raise
    except Exception as error:
        if not file.read(1):
            raise EOFError from error
        return 0
    return file.tell() + sum(8 + length for length in storages.lengths.values())


class _Storages(pickle._Unpickler):
    """Goes through a pickle, makes nothing, and notes how many bytes each storage has."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self.lengths: dict[Any, int] = {}

    def find_class(self, module: str, name: str) -> Any:
        return _Name(name)

    def persistent_load(self, storage: Any) -> Any:
        kind, name, key, _, count = storage[:5]
        width = _WIDTHS[name.name.removesuffix("Storage")]
        if kind == "storage" and isinstance(count, int):
            self.lengths[key] = width * count
        return _Name("")


class _Name:
    """In the place of everything that a pickle names or makes."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, *_: Any) -> "_Name":
        return _Name("")

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, value: Any) -> None:
        pass

    def extend(self, values: Any) -> None:
        pass
