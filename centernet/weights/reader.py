"""Weights from a file of any published kind, as tensors by name. No code of a file runs.

The kind is told from the bytes, not from the name: PyTorch's zip and its older format, pickles of detectron2's model
zoo and of Caffe2, safetensors. What is no weights file at all, such as a download page, is said in one sentence.
"""

import contextlib
import logging
import os
import pickle
import struct
import tarfile
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import detectron2.checkpoint  # noqa: F401  registers catalog:// addresses
import numpy as np
import torch
from detectron2.utils.file_io import PathManager

from ..errors import UserError
from . import unpickler
from .addresses import fetch_address, is_address

__all__ = ["UNREADABLE", "WeightsFile", "fetch", "read_weights"]

logger = logging.getLogger(__name__)

# What reading a damaged file raises, somewhere in pickle, zip, numpy or torch, and what a failed download does.
UNREADABLE = (
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    tarfile.TarError,
    struct.error,
    EOFError,
    OSError,
    RuntimeError,  # with RecursionError
    ArithmeticError,  # OverflowError
    MemoryError,
    ValueError,  # UnicodeDecodeError
    LookupError,
    AssertionError,
    AttributeError,
    TypeError,
)

_LEGACY_MAGIC = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # in the first pickle of torch.save before 1.6
_MODEL_KEYS = ("model", "state_dict", "model_state", "model_state_dict")
_MOST_REPEATED = 64 << 20  # bytes that tensors may claim beyond the values that a file holds for them


class WeightsFile(NamedTuple):
    """What a file holds."""

    tensors: dict[str, torch.Tensor]  # by the names of the file, on the CPU, without a common "module."
    format: str  # pytorch, pytorch-legacy, pickle, detectron2-pickle, caffe2-pickle or safetensors
    metadata: dict[str, str]  # such as author, model, source
    training: dict[str, Any]  # what a checkpoint holds besides: iteration, optimizer, scheduler, ...; plain values only


def read_weights(path: str | Path) -> WeightsFile:
    """Read a file of weights.

    Args:
        path: a file, or an address that detectron2 understands; that one is downloaded and kept.

    Entries beside the weights that hold objects, such as a Namespace, are left out, with one line of the log.

    Raises:
        UserError: it cannot be fetched, is damaged or is something else, or would need code of its own to run.
    """
    local = fetch(path)
    with _one_sentence(path):
        kind = _kind(local, path)
        if kind == "safetensors":
            return _read_safetensors(local)
        if kind == "pickle":
            with open(local, "rb") as file:
                content = unpickler.load_plain(file)
        else:
            content = _read_torch(local, kind, path)
        return _sort_content(content, kind, path)


def fetch(path: str | Path) -> str:
    """A local path of ``path``; an address is downloaded once.

    Raises:
        UserError: there is no such file, or the address cannot be reached.
    """
    for local in (str(path), str(path).partition("?")[0]):  # newer detectron2 takes options after a question mark
        if os.path.isfile(local):
            return local
    if is_address(str(path)):
        return fetch_address(str(path))
    try:
        local = str(PathManager.get_local_path(str(path)))
    except UNREADABLE as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise UserError(
            f"the weights file {path} cannot be read: {reason}; fetch it by other means and give its path"
        ) from error
    if not os.path.isfile(local):
        what = "it is a folder" if os.path.isdir(local) else "there is no such file"
        raise UserError(f"the weights file {path} cannot be read: {what}")
    return local


@contextlib.contextmanager
def _one_sentence(path: str | Path) -> Iterator[None]:
    try:
        yield
    except unpickler.RefusedGlobal as error:
        raise UserError(
            f"the weights file {path} cannot be read: it holds Python objects ({error.name}) that only running code "
            "of the file could restore; load it where it is trusted, save its tensors alone, for example with "
            "safetensors.torch.save_file, and give that file"
        ) from error
    except unpickler.RefusedContent as error:
        raise UserError(
            f"the weights file {path} cannot be read: what it holds is refused ({error}); load it where it is trusted, "
            "save its tensors alone, for example with safetensors.torch.save_file, and give that file"
        ) from error
    except RecursionError as error:
        raise UserError(f"the weights file {path} cannot be read: its content is nested without an end") from error
    except MemoryError as error:
        raise UserError(
            f"the weights file {path} cannot be read: it asks for more memory than there is; close other programs, or "
            "read it on a larger machine"
        ) from error
    except PermissionError as error:
        raise UserError(
            f"the weights file {path} cannot be read: {error.strerror}; allow this user to read it"
        ) from error
    except UNREADABLE as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
        raise UserError(
            f"the weights file {path} cannot be read: it is damaged or not complete ({reason}); fetch it again"
        ) from error


# ------------------------------------------------------------------------------------------------------ kinds


def _kind(local: str, path: str | Path) -> str:
    """pytorch, pytorch-legacy, pickle or safetensors, from the bytes of the file."""
    size = os.path.getsize(local)
    with open(local, "rb") as file:
        head = file.read(4096)
        file.seek(max(0, size - 1))
        last = file.read(1)
    if head.startswith(b"PK\x03\x04"):
        return "pytorch"
    if head.startswith(b"\x80") and _LEGACY_MAGIC in head[:32]:
        return "pytorch-legacy"
    if head[8:9] == b"{" and struct.unpack("<Q", head[:8])[0] < 100_000_000:
        return "safetensors"
    if head.startswith(b"\x80") or (head[:1] in (b"(", b"}", b"]", b"c") and last == b"."):
        return "pickle"
    raise UserError(f"the weights file {path} cannot be read: {_what_else(head, size)}")


def _what_else(head: bytes, size: int) -> str:
    if not size:
        return "it is empty (0 bytes); fetch it again"
    start = head.lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html", b"<head")):
        if b"google drive" in start or b"drive.google" in start or b"virus scan" in start:
            return (
                "it is a page of Google Drive (a warning, or that too many have fetched it), saved in the place of the "
                "file; open the address in a browser, confirm, and save what comes"
            )
        return "it is a web page (HTML), saved in the place of the file; open the address in a browser and see"
    if start.startswith(b"<?xml"):
        return "it is a server's answer (XML), saved in the place of the file; the address is wrong or not allowed"
    if head.startswith(b"version https://git-lfs"):
        return "it is a pointer of Git LFS, not the file itself; run 'git lfs pull' where it lies"
    if head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf", b"Rar!")) or head[257:262] == b"ustar":
        return "it is a packed archive; unpack it and give the weights inside"
    with contextlib.suppress(UnicodeDecodeError):
        head[:1000].decode("ascii")
        return "it is a text file, not weights"
    return f"it is no kind of weights file that is known here (.pth, .pkl or .safetensors; {size} bytes)"


def _read_torch(local: str, kind: str, path: str | Path) -> Any:
    if kind == "pytorch":
        _check_archive(local, path)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Detected pickle protocol", UserWarning)
        try:
            content = torch.load(local, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:
            # numbers of numpy beside the weights, a newer pickle protocol, or something to refuse by its name
            content = torch.load(local, map_location="cpu", weights_only=False, pickle_module=unpickler)
    return unpickler.without_stand_ins(content)


def _check_archive(local: str, path: str | Path) -> None:
    """Refuse archives that hold no tensors, that are larger than they look, and programs, which ``torch.load`` may run.

    Before PyTorch sees the archive: it reads some records, however large, when it opens one.
    """
    with zipfile.ZipFile(local) as archive:
        records = archive.infolist()
    names = {record.filename.partition("/")[2] for record in records}
    if "constants.pkl" in names:
        raise _unreadable(path, "it is a TorchScript program; save its state_dict")
    if "data.pkl" not in names:
        raise _unreadable(path, "it is a zip archive, but not one of PyTorch's")
    if packed := [record.filename for record in records if record.compress_type != zipfile.ZIP_STORED]:
        raise _unreadable(
            path,
            f"it is a compressed archive ({len(packed)} of {len(records)} records, such as {packed[0]}), which PyTorch "
            "never writes; unpack it and pack it again without compression (zip -0), if you trust where it is from",
        )
    if sum(record.file_size for record in records) > os.path.getsize(local):
        raise _unreadable(path, "its records claim more bytes than the file has; fetch it from where it was published")
    # what is checked here must be what torch.load sees
    if "constants.pkl" in (seen := set(torch._C.PyTorchFileReader(local).get_all_records())) or seen - names:
        raise _unreadable(path, "it holds two archives in one; fetch it from where it was published")


def _unreadable(path: str | Path, why: str) -> UserError:
    return UserError(f"the weights file {path} cannot be read: {why}")


def _read_safetensors(local: str) -> WeightsFile:
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError:
        raise UserError(f"{local} is a .safetensors file: install the package safetensors to read it") from None
    try:
        with safe_open(local, framework="pt", device="cpu") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it is no dict
            metadata = dict(file.metadata() or {})
    except SafetensorError as error:
        raise ValueError(str(error)) from error
    return WeightsFile(tensors, "safetensors", metadata, {})


# ---------------------------------------------------------------------------------------------------- content


def _sort_content(content: Any, kind: str, path: str | Path) -> WeightsFile:
    """Find the tensors in what a file holds: below one of the usual keys, or all of it."""
    if not isinstance(content, Mapping):
        raise _no_weights(path, f"a {type(content).__name__}, not a dict of tensors")
    rest = dict(content)
    metadata = {key.strip("_"): rest.pop(key) for key in list(rest) if key in ("__author__",)}
    found: Any = None
    for key in (*_MODEL_KEYS, "blobs"):
        if key in rest and not isinstance(rest[key], torch.Tensor | np.ndarray):
            found = rest.pop(key)
            if not isinstance(found, Mapping):
                raise _no_weights(path, f"no dict of tensors under '{key}'")
            if kind == "pickle":
                kind = "caffe2-pickle" if key == "blobs" else "detectron2-pickle"
            break
    else:
        found, rest = rest, {}
        if kind == "pickle" and any(str(name).endswith("_w") for name in found):
            kind = "caffe2-pickle"
    rest.pop("matching_heuristics", None)
    if kind == "caffe2-pickle":  # the solver's state is among the weights, and texts beside them
        found = {name: v for name, v in found.items() if isinstance(v, np.ndarray) and not name.endswith("_momentum")}
    tensors = {name: _as_tensor(name, value, path) for name, value in found.items()}
    if not tensors:
        raise _no_weights(path, "no tensor")
    _check_repetition(tensors, path)
    if all(name.startswith("module.") for name in tensors):
        tensors = {name[len("module.") :]: value for name, value in tensors.items()}
    metadata = {key: value for key, value in metadata.items() if isinstance(value, str)}
    return WeightsFile(tensors, kind, metadata, _plain_entries(rest, path))


def _plain_entries(rest: dict[Any, Any], path: str | Path) -> dict[Any, Any]:
    """Without the entries in which there are objects."""
    objects = {key: names for key, value in rest.items() if (names := unpickler.inert_names((key, value)))}
    if objects:
        found = ", ".join(f"{key} ({', '.join(sorted(names))})" for key, names in objects.items())
        logger.info("%s: left out what is not plain beside the weights: %s", path, found)
    return {key: value for key, value in rest.items() if key not in objects}


def _as_tensor(name: object, value: Any, path: str | Path) -> torch.Tensor:
    if not isinstance(name, str):
        raise _no_weights(path, f"an entry whose name is {name!r}, not a text")
    if isinstance(value, torch.Tensor):
        kind = _odd_kind(value)
        if kind:
            raise _no_weights(path, f"under {name} a {kind}, not a plain dense one")
        return value.detach()
    if isinstance(value, np.ndarray):
        return torch.from_numpy(np.ascontiguousarray(value, value.dtype.newbyteorder("=")).reshape(value.shape))
    if isinstance(value, int | float):
        return torch.tensor(value)
    what = value.name if isinstance(value, unpickler.Inert) else type(value).__name__
    raise _no_weights(path, f"under {name} a {what}, not a tensor")


def _odd_kind(value: torch.Tensor) -> str:
    """What a tensor is that has no values of its own type, one for each element; '' for others."""
    if value.is_meta:
        return "tensor without values (on the device 'meta')"
    if value.is_nested:
        return "nested tensor"
    if value.layout != torch.strided:
        return f"sparse tensor ({str(value.layout).removeprefix('torch.')})"
    return f"quantised tensor ({str(value.dtype).removeprefix('torch.')})" if value.is_quantized else ""


def _check_repetition(tensors: Mapping[str, torch.Tensor], path: str | Path) -> None:
    """Refuse tensors that repeat few values (a stride of 0) so often that a copy of them would fill the memory."""
    repeated = 0
    for name, value in tensors.items():
        needed = value.numel() * value.element_size()
        repeated += max(0, needed - value.untyped_storage().nbytes())
        if repeated > _MOST_REPEATED:
            raise _no_weights(path, f"under {name} {needed / 1e6:,.0f} MB that are repetitions of a few values")


def _no_weights(path: str | Path, what: str) -> UserError:
    return UserError(f"the weights file {path} holds {what}; give a file of weights by name")
