"""Weights at http(s) addresses, kept in the cache folder (see :mod:`centernet.download`)."""

import hashlib
import re
import urllib.parse

from ..errors import UserError

__all__ = ["fetch_address", "is_address", "sum_in_name"]


def is_address(path: str) -> bool:
    """Whether a path begins with http:// or https://."""
    return path.lower().startswith(("http://", "https://"))


def fetch_address(address: str) -> str:
    """The local path of a file at an http(s) address, downloaded at the first call.

    Options that newer detectron2 takes after a question mark (``?matching_heuristics=True``) are not sent.

    Raises:
        UserError: it cannot be had, or is another file than at the first time, or than its name says.
    """
    from ..download import DownloadError, cache_folder, fetch  # at the first use: it brings in HTTP and TLS

    url = urllib.parse.urlsplit(address)
    query = [part for part in url.query.split("&") if part and not part.startswith("matching_heuristics=")]
    url = url._replace(query="&".join(query), fragment="")
    name = re.sub(r"[^\w.+-]", "_", urllib.parse.unquote(url.path).rpartition("/")[2]).lstrip(".")[-120:] or "weights"
    # a folder for each address: many files have the same name
    host = re.sub(r"[^\w.-]", "_", url.hostname or "").lstrip(".")[:60]
    folder = cache_folder() / "web" / f"{host}-{hashlib.sha256(url.geturl().encode()).hexdigest()[:8]}"
    try:
        return str(fetch([url.geturl()], folder / name, sha256=sum_in_name(name)))
    except DownloadError as error:
        reason = str(error).removeprefix(f"{url.geturl()}: ")
        raise UserError(
            f"the weights file {address} cannot be read: {reason}; fetch it by other means and give its path"
        ) from error


def sum_in_name(name: str) -> str:
    """Beginning of the sha256 that a name tells, as those of torchvision, timm and DLA do: ``dla34-ba72cf86.pth``.

    '' if it tells none. Eight digits that are a date are none.
    """
    found = re.search(r"-([0-9a-f]{8}|[0-9a-f]{64})\.(?:pth|pt|th|pkl|bin|safetensors)$", name)
    if not found or re.fullmatch(r"(19|20)\d\d(0\d|1[0-2])([0-2]\d|3[01])", found[1]):
        return ""
    return found[1]
