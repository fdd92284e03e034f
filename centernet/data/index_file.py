"""Files of arrays: checked when opened, mapped into memory, built once by whoever comes first.

    8 bytes    b"CNINDEX" and the version
    8 bytes    length of the header, little endian
    header     JSON: what the file was made from, notes, and of each array dtype, shape and offset
    arrays     each at a multiple of 64 bytes
    4 bytes    CRC-32 of everything before

Nothing in a file is ever run; a file that is not whole is made anew.
"""

import contextlib
import hashlib
import json
import logging
import mmap
import os
import tempfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["Table", "fingerprint", "open_or_build", "read_table", "write_table"]

VERSION = 1  # raise it when the content of the arrays changes: existing files are then made anew
_MAGIC = b"CNINDEX" + bytes([VERSION])
_ALIGNMENT = 64
_SAMPLE = 1 << 16  # bytes of the source's head and tail that the fingerprint covers
_LOCK_SECONDS = 3600  # the longest that a process waits for another one to build
_logger = logging.getLogger(__name__)


@dataclass(eq=False)
class Table:
    """Named arrays and notes about them.

    Attributes:
        arrays: of any shape; those of a file are read-only views of it.
        notes: JSON values.
        path: the file, None if the arrays are in memory only.
        checksum: CRC-32 of the file, 0 without one.
    """

    arrays: dict[str, np.ndarray]
    notes: dict[str, Any] = field(default_factory=dict)
    path: Path | None = None
    checksum: int = 0

    def __reduce__(self) -> tuple[Any, ...]:
        # a worker process maps the file itself: a few bytes to send, no memory of its own
        if self.path is None:
            return Table, (self.arrays, self.notes)
        return _reopen, (self.path, self.checksum)


class _NotWhole(Exception):
    """The file is no index, or not all of one; ``str()`` says why."""


def fingerprint(source: Path) -> dict[str, Any]:
    """Size, time of change in ns, and SHA-256 of the first and the last 64 KiB of a file.

    A change in the middle that keeps size and time is not seen.
    """
    with open(source, "rb") as file:
        status = os.fstat(file.fileno())
        digest = hashlib.sha256(file.read(_SAMPLE))
        file.seek(max(0, status.st_size - _SAMPLE))
        digest.update(file.read(_SAMPLE))
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns, "sample": digest.hexdigest()}


def open_or_build(source: Path, options: dict[str, Any], build: Callable[[], Table]) -> Table:
    """The table made from ``source``, mapped from the cache if it is there and ``source`` has not changed.

    The file is named after the absolute path of ``source``, ``options`` and the version of the format, and lies in
    ``index`` below :func:`~..download.cache_folder`. One process builds, the others wait for it. Where nothing can be
    written, the table stays in memory and a line of the log says so.

    Args:
        source: the file that ``build`` reads.
        options: JSON values that the result depends on.
        build: makes the table; its errors are passed on.
    """
    from ..download import cache_folder  # at its first use: it brings in HTTP and TLS

    made_from = {"source": str(source.absolute()), "options": options}
    key = hashlib.sha256(json.dumps([made_from, VERSION], sort_keys=True).encode()).hexdigest()
    path = cache_folder() / "index" / f"{key[:32]}.index"
    made_from |= fingerprint(source)
    table = _read_if_current(path, made_from)
    if table is not None:
        return table
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = _lock(path)
    except OSError as error:
        return _in_memory(path, error, build())
    with lock:
        table = _read_if_current(path, made_from, said=True)
        if table is not None:  # another process has built it in the meantime
            return table
        _logger.info("Indexing %s; this is done once", source)
        table = build()
        table.notes = {**table.notes, "made_from": made_from}
        try:
            write_table(path, table)
            mapped = read_table(path)
        except (OSError, _NotWhole) as error:
            return _in_memory(path, error, table)
        _drop_orphans(path.parent)
        return mapped


def _in_memory(path: Path, error: Exception, table: Table) -> Table:
    reason = getattr(error, "strerror", None) or error
    _logger.warning("%s cannot be written (%s): working without it, each process parses the annotations", path, reason)
    return table


def _read_if_current(path: Path, made_from: dict[str, Any], *, said: bool = False) -> Table | None:
    try:
        table = read_table(path)
    except OSError:  # none there, or none for us
        return None
    except _NotWhole as error:
        if not said:
            _logger.warning("%s is damaged (%s): it is made anew", path, error)
        return None
    if table.notes.get("made_from") == made_from:
        return table
    if not said:
        _logger.info("%s has changed since it was indexed", made_from["source"])
    return None


@contextlib.contextmanager
def _held(lock: Any) -> Iterator[None]:
    try:
        yield
    finally:
        lock.release()


def _lock(path: Path) -> contextlib.AbstractContextManager[None]:
    """Hold ``PATH.lock``. Without locks on this disk several processes may build, each a whole file.

    Raises:
        OSError: the lock file cannot be made.
    """
    import portalocker

    name = path.with_suffix(".lock")
    name.touch()
    lock = portalocker.Lock(str(name), timeout=_LOCK_SECONDS, check_interval=0.1)
    try:
        lock.acquire()
    except portalocker.LockException as error:
        _logger.debug("%s cannot be locked: %s", name, error)
        return contextlib.nullcontext()
    return _held(lock)


def _drop_orphans(folder: Path) -> None:
    """Delete indices whose source is gone, so that the folder does not grow for ever."""
    for path in folder.glob("*.index"):
        with contextlib.suppress(OSError, _NotWhole, KeyError):
            with open(path, "rb") as file:
                header, _ = _read_header(file)
            if not os.path.exists(header["notes"]["made_from"]["source"]):
                path.unlink()


# ---------------------------------------------------------------------------------------------------------- format


def write_table(path: Path, table: Table) -> None:
    """Write a table; the file is there all at once.

    Raises:
        OSError: it cannot be written. Nothing of it is left behind.
    """
    arrays = {name: np.ascontiguousarray(array) for name, array in table.arrays.items()}
    layout, offset = {}, 0
    for name, array in arrays.items():
        layout[name] = {"dtype": array.dtype.str, "shape": array.shape, "offset": offset}
        offset += -(-array.nbytes // _ALIGNMENT) * _ALIGNMENT
    header = json.dumps({"notes": table.notes, "arrays": layout, "size": offset}).encode()
    header += b" " * (-(len(_MAGIC) + 8 + len(header)) % _ALIGNMENT)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=".tmp", dir=path.parent)
    try:
        with open(handle, "wb") as file:
            checksum = 0
            for part in _parts(header, list(arrays.values())):
                file.write(part)
                checksum = zlib.crc32(part, checksum)
            file.write(checksum.to_bytes(4, "little"))
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # it is made private
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _parts(header: bytes, arrays: list[np.ndarray]) -> Iterator[Any]:
    yield _MAGIC
    yield len(header).to_bytes(8, "little")
    yield header
    for array in arrays:
        if array.size:
            yield array.reshape(-1).view(np.uint8).data
        yield b"\0" * (-array.nbytes % _ALIGNMENT)


def read_table(path: Path) -> Table:
    """Map a table into memory after its checksum was compared.

    Raises:
        FileNotFoundError: there is none.
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        header, begin = _read_header(file)
        # read, not mapped: pages that were only checked do not count as memory of this process
        file.seek(0)
        left, checksum = begin + header["size"], 0
        while left:
            chunk = file.read(min(left, 1 << 22))
            if not chunk:
                raise _NotWhole("it is too short")
            checksum = zlib.crc32(chunk, checksum)
            left -= len(chunk)
        if file.read() != checksum.to_bytes(4, "little"):
            raise _NotWhole("its checksum is wrong")
        return _map(path, file, header, begin, checksum)


def _read_header(file: Any) -> tuple[dict[str, Any], int]:
    """Header, and where the arrays begin."""
    size = os.fstat(file.fileno()).st_size
    start = file.read(len(_MAGIC) + 8)
    if len(start) < len(_MAGIC) + 8 or not start.startswith(_MAGIC):
        raise _NotWhole("it does not begin like an index")
    length = int.from_bytes(start[len(_MAGIC) :], "little")
    begin = len(start) + length
    if begin > size:
        raise _NotWhole("it is too short")
    try:
        header = json.loads(file.read(length))
        total = begin + header["size"] + 4
    except (ValueError, KeyError, TypeError) as error:
        raise _NotWhole("its header cannot be read") from error
    if total != size:
        raise _NotWhole(f"it has {size} bytes instead of {total}")
    return header, begin


def _map(path: Path, file: Any, header: dict[str, Any], begin: int, checksum: int) -> Table:
    memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    arrays = {}
    for name, entry in header["arrays"].items():
        count = int(np.prod(entry["shape"]))
        flat = np.frombuffer(memory, entry["dtype"], count, begin + entry["offset"]) if count else np.empty(0)
        arrays[name] = flat.astype(entry["dtype"], copy=False).reshape(entry["shape"])
    return Table(arrays, header["notes"], path, checksum)


def _reopen(path: Path, checksum: int) -> Table:
    """In another process: the file was checked when the first one opened it."""
    with open(path, "rb") as file:
        header, begin = _read_header(file)
        file.seek(-4, os.SEEK_END)
        if file.read() != checksum.to_bytes(4, "little"):
            raise RuntimeError(f"{path} was replaced, because the annotations changed while they were in use")
        return _map(path, file, header, begin, checksum)
