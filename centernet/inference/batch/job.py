"""A run over many pictures on the disk: a folder of finished parts, which a run that was killed goes on with.

The list of pictures is cut into shards of equal size. Each shard's part is one file that appears at once when it is
done, so a picture is in the result exactly once whatever happens, and nothing else has to be written down.
"""

import contextlib
import hashlib
import json
import logging
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...errors import UserError, writing
from ..outputs import atomic_path
from .identity import check_same_run
from .lists import Listed
from .parts import Label, read_label

__all__ = ["Job", "held"]

logger = logging.getLogger(__name__)

_HEADER, _LOCK = "_job.json", "_lock"  # readers of Parquet folders skip names that begin with _


@contextlib.contextmanager
def held(folder: Path) -> Iterator[Path]:
    """Keep a folder of parts, made if it is not there, for this process alone.

    Raises:
        UserError: another process has it; it holds other files; it cannot be made.
    """
    import portalocker

    with writing(folder):
        if folder.is_dir() and not (folder / _LOCK).exists() and any(folder.iterdir()):
            raise UserError(f"the folder {folder} holds other files: give another --output")
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / _LOCK, "a+")  # noqa: SIM115
    with lock:
        try:
            portalocker.lock(lock, portalocker.LOCK_EX | portalocker.LOCK_NB)
        except portalocker.LockException as error:
            lock.seek(0)
            holder = lock.read().strip() or "another process"
            raise UserError(f"{folder} is being written by {holder}: wait for it, or give another --output") from error
        with writing(folder):
            lock.truncate(0)
            lock.write(f"process {os.getpid()} on {socket.gethostname()}")
            lock.flush()
        yield folder


class Job:
    """The shards of a run and their parts.

    Attributes:
        folder: of the parts.
        header: what the run is, in words and digests; another run is refused by it.
        digest: of ``header``; each part has it.
        listed: the pictures.
        shard_size: pictures of a shard; the last one may have fewer.
    """

    def __init__(self, folder: Path, header: Mapping[str, Any], listed: Sequence[Listed], shard_size: int) -> None:
        self.folder = folder
        self.listed = listed
        self.shard_size = shard_size
        self.header = {**header, "pictures": _digest(listed), "shard size": shard_size}
        self.digest = hashlib.sha256(json.dumps(self.header, sort_keys=True).encode()).hexdigest()

    def __len__(self) -> int:
        """Number of shards."""
        return -(-len(self.listed) // self.shard_size)

    def shard(self, number: int) -> Sequence[Listed]:
        """Pictures of a shard."""
        return self.listed[number * self.shard_size : (number + 1) * self.shard_size]

    def part(self, number: int) -> Path:
        """The file of a shard's result."""
        return self.folder / f"part-{number:05d}.parquet"

    def parts(self) -> Iterator[tuple[Path, Label]]:
        """Finished parts in the order of the pictures.

        Raises:
            UserError: one is missing or damaged.
        """
        for number in range(len(self)):
            label = read_label(self.part(number))
            if label is None:
                raise UserError(f"{self.part(number)} is missing or damaged: give the same command once more")
            yield self.part(number), label

    def open(self, *, retry_broken: bool = False) -> list[int]:
        """Take over the folder, which :func:`held` has made: what a kill left half-written is removed.

        Returns:
            Shards that have no whole part yet; with ``retry_broken`` also those with broken pictures.

        Raises:
            UserError: it is of another run, or cannot be written.
        """
        file = self.folder / _HEADER
        with writing(self.folder):
            for leftover in self.folder.glob(".*.part*"):
                leftover.unlink()
            if not file.exists():
                with atomic_path(file) as temporary:
                    _write(temporary, (json.dumps(self.header, indent=1) + "\n").encode())
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            found = None
        if not isinstance(found, dict):
            raise UserError(f"{file} is damaged: delete {self.folder} or give another --output")
        check_same_run(self.folder, self.header, found)
        return self._unfinished(retry_broken)

    def _unfinished(self, retry_broken: bool) -> list[int]:
        missing = []
        for number in range(len(self)):
            if not self.part(number).exists():
                missing.append(number)
                continue
            label = read_label(self.part(number))
            if label is None or label.job != self.digest or label.shard != number:
                logger.warning("%s is damaged and made anew", self.part(number))
                missing.append(number)
            elif retry_broken and label.broken:
                missing.append(number)
        return missing

    def write(self, number: int, content: bytes) -> None:
        """Store a shard's part: whole and on the disk, or not at all.

        Raises:
            UserError: the disk is full or the folder gone.
        """
        with atomic_path(self.part(number)) as temporary:
            _write(temporary, content)


def _write(file: Path, content: bytes) -> None:
    with file.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def _digest(listed: Sequence[Listed]) -> str:
    digest = hashlib.sha256()
    for entry in listed:
        digest.update(json.dumps(entry).encode() + b"\n")
    return digest.hexdigest()
