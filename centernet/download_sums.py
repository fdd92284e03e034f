"""What is known of downloaded files: their sha256 in ``checksums.json`` beside them, and locks between processes."""

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .errors import UserError

__all__ = ["OtherFile", "accept", "check_sum", "lock", "read_json", "write_json"]

logger = logging.getLogger(__name__)

CHECKSUMS = "checksums.json"
_LOCK_SECONDS = 6 * 3600  # the longest that a process waits for another one's download


class OtherFile(Exception):
    """A file is not the one that it should be; ``str()`` says what it is instead and what can be done."""


def check_sum(path: Path, expected: str = "") -> None:
    """Compare a file with the sum recorded at its first use; if there is none, record it.

    Args:
        path: a file.
        expected: its sha256, or the beginning of it; '' if it is not known.

    Raises:
        UserError: the sum is another one.
    """
    known = read_json(path.with_name(CHECKSUMS)).get(path.name)
    actual = _sha256(path)
    if not actual.startswith(expected):
        raise UserError(
            f"{path} is not the file that it should be (sha256 {actual[:12]}..., not {expected}...): delete it to have "
            "it fetched again"
        )
    if known is None:
        with contextlib.suppress(OSError):  # a cache that somebody filled and made read-only
            _record_sum(path, actual)
    elif actual != known:
        raise UserError(
            f"{path} is not the file that was first used (sha256 {actual[:12]}..., not {known[:12]}...): delete it to "
            f"have it fetched again, or delete its line in {path.with_name(CHECKSUMS)} if you replaced it yourself"
        )


def accept(path: Path, arrived: Path, expected: str = "") -> None:
    """Record the sum of a file that has arrived, unless another one is known for it.

    Args:
        path: where it will be.
        arrived: where it is.
        expected: its sha256, or the beginning of it; '' if it is not known.

    Raises:
        OtherFile: the sum is neither the expected one nor the one recorded when ``path`` was first used.
    """
    actual = _sha256(arrived)
    if not actual.startswith(expected):
        raise OtherFile(f"another file than its name says (sha256 {actual[:12]}..., not {expected}...)")
    known = read_json(path.with_name(CHECKSUMS)).get(path.name)
    if known not in (None, actual):
        raise OtherFile(
            f"another file than the one first used as {path.name} (sha256 {actual[:12]}..., not {str(known)[:12]}...); "
            f"if you want the new one, delete its line in {path.with_name(CHECKSUMS)}"
        )
    _record_sum(path, actual)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _record_sum(path: Path, digest: str) -> None:
    sums = path.with_name(CHECKSUMS)
    with lock(sums):
        write_json(sums, {**read_json(sums), path.name: digest})


@contextlib.contextmanager
def lock(path: Path) -> Iterator[None]:
    """Hold ``PATH.lock``; the system releases it when the process dies."""
    import portalocker

    lock = portalocker.Lock(str(path) + ".lock", timeout=_LOCK_SECONDS)
    try:
        try:
            lock.acquire(fail_when_locked=True)
        except portalocker.AlreadyLocked:
            logger.info("Another process is fetching %s: waiting for it", path.name)
            lock.acquire(fail_when_locked=False, check_interval=0.2)
    except portalocker.LockException as error:
        raise UserError(
            f"{path}.lock cannot be locked ({error}): set CENTERNET_CACHE to a folder on a disk of this machine"
        ) from error
    try:
        yield
    finally:
        lock.release()


def read_json(path: Path) -> dict[str, Any]:
    """The dict in a file; {} if there is none."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Replace a file in one step."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", "utf-8")
    os.replace(temporary, path)
