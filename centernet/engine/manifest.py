"""What lies beside a checkpoint to tell whether it is whole and where it comes from.

``model_0000999.pth`` has a manifest ``model_0000999.json``: ``iteration``, ``size`` (bytes) and ``sha256`` of the
file, ``run`` (whose it is), ``config_sha256``, ``code`` (version and commit), ``torch``, ``detectron2``, ``world_size``
and ``entries``, the names of what is inside. Random states, scaler, EMA and the position in the data are in the file
itself. Checkpoints without a manifest (of detectron2, or of earlier versions) are judged by the checksums of their zip
archive.
"""

import contextlib
import hashlib
import json
import subprocess
import zipfile
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import detectron2
import torch
from detectron2.utils import comm

from .. import __name__ as _package
from .atomic_file import Written, write_text_atomically

__all__ = ["Manifest", "code_version", "damage", "manifest_of", "read_manifest", "write_manifest"]

_BLOCK = 1 << 22  # bytes
_whole: set[tuple[str, int, int]] = set()  # path, size and time of files that were found whole


class Manifest(NamedTuple):
    """The entries that a later run needs."""

    iteration: int  # the last one done; -1 if the file does not say
    size: int  # bytes
    sha256: str
    run: str
    config_sha256: str


def manifest_of(checkpoint: Path) -> Path:
    """Where the manifest of a checkpoint is."""
    return checkpoint.with_suffix(".json")


def write_manifest(
    checkpoint: Path, written: Written, *, iteration: int, run: str, config_sha256: str, entries: Iterable[str]
) -> None:
    """Write the manifest of a checkpoint that is on the disk already.

    Raises:
        UserError: the disk is full or the folder is gone.
    """
    content = {
        "iteration": iteration,
        **written._asdict(),
        "run": run,
        "config_sha256": config_sha256,
        "code": code_version(),
        "torch": str(torch.__version__),
        "detectron2": getattr(detectron2, "__version__", ""),
        "world_size": comm.get_world_size(),
        "entries": list(entries),
    }
    write_text_atomically(manifest_of(checkpoint), json.dumps(content, indent=1) + "\n")


def read_manifest(checkpoint: Path) -> Manifest | None:
    """The manifest of a checkpoint, None if there is none that can be read."""
    try:
        content = json.loads(manifest_of(checkpoint).read_bytes())
        sha256, run, config_sha256 = (str(content[key]) for key in ("sha256", "run", "config_sha256"))
        return Manifest(int(content["iteration"]), int(content["size"]), sha256, run, config_sha256)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def damage(checkpoint: Path) -> str:
    """What is wrong with a checkpoint, in a few words; '' if it is whole. Reads the file, once a process."""
    try:
        status = checkpoint.stat()
        known = (str(checkpoint.resolve()), status.st_size, status.st_mtime_ns)
        if known in _whole:
            return ""
        found = _damage(checkpoint)
    except FileNotFoundError:
        return "it is not there"
    except OSError as error:
        return error.strerror or str(error)
    if not found:
        _whole.add(known)
    return found


def _damage(checkpoint: Path) -> str:
    manifest = read_manifest(checkpoint)
    if manifest is None:
        return _damage_of_archive(checkpoint)
    size = checkpoint.stat().st_size
    if size != manifest.size:
        return f"it has {size} bytes, not {manifest.size}"
    if _sha256(checkpoint) != manifest.sha256:
        return "its content is not what was saved (SHA-256 differs)"
    return ""


@cache
def code_version() -> dict[str, Any]:
    """Version of this package and, in a git checkout, the commit and whether files were changed since."""
    from .. import __version__

    root = Path(__file__).resolve().parents[2]
    version: dict[str, Any] = {_package.rpartition(".")[2]: __version__, "commit": None, "modified": None}
    if (root / ".git").exists():
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            version["commit"] = _git(root, "rev-parse", "HEAD")
            version["modified"] = bool(_git(root, "status", "--porcelain", "--untracked-files=no"))
    return version


def _git(root: Path, *words: str) -> str:
    command = ["git", "-C", str(root), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with open(file, "rb", buffering=0) as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _damage_of_archive(checkpoint: Path) -> str:
    """By the checksums of the archive; PyTorch's older format has none and is left to whoever loads it."""
    with open(checkpoint, "rb") as stream:
        head = stream.read(4)
    if not head:
        return "it is empty"
    if head != b"PK\x03\x04":
        return ""
    try:
        with zipfile.ZipFile(checkpoint) as archive:
            broken = archive.testzip()
    except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError) as error:
        return f"it is cut off or damaged ({error})"
    return f"its part {broken} is damaged" if broken else ""
