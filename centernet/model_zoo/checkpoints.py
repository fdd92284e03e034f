"""Trained weights of the zoo: from a folder or mirror that the user names, else from the authors' Google Drive."""

import hashlib
import logging
import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

from detectron2.utils.file_io import PathHandler, PathManager

from ..download import DownloadError, cache_folder, fetch
from ..errors import UserError
from .lookup import get_config_file, info
from .rows import Row, drive_page

__all__ = ["ZooHandler", "get_checkpoint", "is_at_hand", "register_zoo_addresses"]

logger = logging.getLogger(__name__)

DRIVE = "https://drive.google.com/uc?export=download&id={}"
_SUFFIXES = (".pth", ".safetensors")


def get_checkpoint(name: str) -> str:
    """Path of a model's trained weights, downloaded at the first call (see :mod:`centernet.download`).

    ``CENTERNET_WEIGHTS``, a folder or the http address of one, is looked in first, for ``NAME.pth`` and then
    ``NAME.safetensors``; then the cache; then Google Drive.

    Raises:
        UserError: no such model, none of its weights were published, or they cannot be had; the sentence says where
            to put the file.
    """
    row = info(name)
    place = os.getenv("CENTERNET_WEIGHTS", "").strip()
    reasons: list[str] = []
    given = None
    if place.startswith(("http://", "https://")):
        given = _from_mirror(row, place.rstrip("/"), reasons)
    elif place:
        given = _from_folder(row, Path(place.removeprefix("file://")).expanduser())
    if given is not None:
        return str(given)
    if (present := _in_folder(row, cache_folder())) is not None:
        return str(fetch([], present))
    cached = cache_folder() / f"{row.name}.pth"
    also = f" ({'; '.join(reasons)})" if reasons else ""
    if not row.drive_ids:
        why = f" because {row.withheld}" if row.withheld else ""
        raise UserError(
            f"no trained weights of {row.name} were published{why}{also}: train it, or put yours as {cached.name} "
            "into a folder and set CENTERNET_WEIGHTS to that"
        )
    try:
        return str(fetch([DRIVE.format(drive_id) for drive_id in row.drive_ids], cached))
    except DownloadError as error:
        raise UserError(
            f"the weights of {row.name} cannot be downloaded ({'; '.join([*reasons, str(error)])}): open "
            f"{' or '.join(drive_page(drive_id) for drive_id in row.drive_ids)} in a browser and save the file as "
            f"{cached}, or set CENTERNET_WEIGHTS to a folder or mirror that has {cached.name}"
        ) from error


def _from_folder(row: Row, folder: Path) -> Path | None:
    if not folder.is_dir():
        raise UserError(f"CENTERNET_WEIGHTS: there is no folder {folder}; correct it, or unset it to use the cache")
    return _in_folder(row, folder)


def _in_folder(row: Row, folder: Path) -> Path | None:
    files = [folder / f"{row.name}{suffix}" for suffix in _SUFFIXES]
    return next((file for file in files if file.is_file()), None)


def is_at_hand(name: str) -> bool:
    """Whether :func:`get_checkpoint` has the weights of a model without asking the network.

    Raises:
        UserError: no such model.
    """
    row = info(name)
    place = os.getenv("CENTERNET_WEIGHTS", "").strip()
    folders = [cache_folder()]
    if place.startswith(("http://", "https://")):  # a mirror is asked before the cache is looked into
        folders = [_mirror_folder(place.rstrip("/"))]
    elif place:
        folders.append(Path(place.removeprefix("file://")).expanduser())
    return any(_in_folder(row, folder) is not None for folder in folders)


def _from_mirror(row: Row, address: str, reasons: list[str]) -> Path | None:
    folder = _mirror_folder(address)
    files = [folder / f"{row.name}{suffix}" for suffix in _SUFFIXES]
    for file in [file for file in files if file.is_file()] or files:
        try:
            return fetch([f"{address}/{quote(file.name)}"], file)
        except DownloadError as error:
            reasons.append(str(error))
    return None


def _mirror_folder(address: str) -> Path:
    # one for each mirror: what one serves is not what another does
    return cache_folder() / f"mirror-{hashlib.sha256(address.encode()).hexdigest()[:8]}"


class ZooHandler(PathHandler):
    """``zoo://NAME``, wherever detectron2 takes a path: the trained weights of NAME, fetched when they are opened.

    ``zoo://NAME.yaml`` is its config.
    """

    PREFIX = "zoo://"

    def _get_supported_prefixes(self) -> list[str]:
        return [self.PREFIX]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        name = path.removeprefix(self.PREFIX)
        return get_config_file(name.removesuffix(".yaml")) if name.endswith(".yaml") else get_checkpoint(name)

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs: Any) -> Any:
        if not set(mode) <= set("rbt"):
            raise UserError(f"{path} is a published file and cannot be written")
        return open(self._get_local_path(path), mode, buffering)


def register_zoo_addresses() -> None:
    """Make detectron2 understand ``zoo://``; done when the package is imported, and twice does no harm."""
    try:
        PathManager.register_handler(ZooHandler(), allow_override=False)
    except KeyError:
        logger.debug("zoo:// is registered already")
