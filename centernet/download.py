"""Files from the network, whole or not at all: resumed, retried, checked, by one process at a time.

What arrives goes to ``FILE.part``, beside it ``FILE.part.json`` says which link it came from, and the whole file is
renamed. sha256 sums are in ``checksums.json`` of the same folder: recorded when a file is first used, compared each
time after, also when the file was deleted and comes again. A part is gone on with only if the server says by an ETag
or a date that it still has the same file.
"""

import contextlib
import errno
import http.client
import logging
import os
import re
import shutil
import socket
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .download_check import ends_early
from .download_page import Page, is_page, read_page
from .download_sums import OtherFile, accept, check_sum, lock, read_json, write_json
from .errors import UserError
from .progress import progress

__all__ = ["DownloadError", "cache_folder", "download", "fetch"]

logger = logging.getLogger(__name__)

_CHUNK = 1 << 18  # bytes a read, at most
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_UNREACHABLE = (errno.ECONNREFUSED, errno.ENETUNREACH, errno.EHOSTUNREACH)
_TRY_AGAIN = (408, 425, 429, 500, 502, 503, 504)  # HTTP states that pass


class DownloadError(UserError):
    """A link does not give its file; another link, or the same one later, may."""


class _Interrupted(Exception):
    """The transfer stopped for a reason that may pass; ``str()`` says which."""

    unreachable = False


def cache_folder() -> Path:
    """Folder of downloaded files: ``CENTERNET_CACHE``, else ``FVCORE_CACHE/centernet``, else ``~/.cache/centernet``."""
    own, shared = os.getenv("CENTERNET_CACHE"), os.getenv("FVCORE_CACHE")
    return Path(own or (os.path.join(shared, "centernet") if shared else "~/.cache/centernet")).expanduser()


def fetch(links: Sequence[str], path: Path, *, sha256: str = "", **how: Any) -> Path:
    """Give the file ``path``, downloading it if it is not there.

    Args:
        links: http(s) addresses of the same file; the first one that gives it is taken.
        path: where the file is, or goes. Its folder is made.
        sha256: its sum, or the beginning of it; '' if it is not known.
        **how: passed to :func:`download`.

    Returns:
        ``path``, whose sha256 is the one recorded at its first use.

    Raises:
        DownloadError: no link gives the file, or they give another one than the one recorded.
        UserError: the folder cannot be written, the disk is full, or the file is not the one recorded.
    """
    if not path.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with lock(path):
                if not path.is_file():  # else another process has fetched it in the meantime
                    _fetch_first(links, path, {**how, "sha256": sha256})
                    return path
        except (PermissionError, NotADirectoryError, FileExistsError) as error:
            raise UserError(
                f"{path} cannot be written ({error.strerror}): set CENTERNET_CACHE to a folder of yours"
            ) from error
    check_sum(path, sha256)
    return path


def _fetch_first(links: Sequence[str], path: Path, how: dict[str, Any]) -> None:
    reasons = []
    for link in links:
        try:
            download(link, path, **how)
            return
        except DownloadError as error:
            logger.debug("%s", error)
            reasons.append(str(error))
    raise DownloadError("; ".join(reasons) or f"there is no link for {path.name}")


def download(
    link: str,
    path: Path,
    *,
    sha256: str = "",
    timeout: float = 30.0,
    retries: int = 4,
    backoff: float = 0.5,
    most_bytes: int | None = None,
) -> None:
    """Download ``link`` to ``path``, going on where an earlier call was interrupted; records the sha256.

    Google Drive's page that asks whether a large file shall be downloaded unchecked is answered.

    Args:
        link: an http(s) address.
        path: replaced in one step when everything has arrived; its folder must exist.
        sha256: the sum that the file must have, or the beginning of it; '' for any.
        timeout: seconds without a byte after which a connection counts as lost.
        retries: attempts in a row that bring nothing new, after the first, before this gives up.
        backoff: seconds before the first such attempt, twice as many before each next one.
        most_bytes: size above which the file is not wanted; None: any.

    Raises:
        DownloadError: the link does not give a file (what has arrived stays, for the next call), or another one than
            the one that was recorded under this name.
        UserError: the disk is full.
    """
    if urllib.parse.urlsplit(link).scheme not in ("http", "https"):
        raise DownloadError(f"{link} is no http address")
    part = _Part(path, most_bytes)
    logger.info("Downloading %s from %s", path.name, link)
    furthest, failures = part.resume_from(link), 0
    while True:
        try:
            _transfer(link, part, timeout)
            _finish(link, part, sha256)
            return
        except _Interrupted as stop:
            failures = failures + 1 if part.size <= furthest else 0
            if failures > retries or (stop.unreachable and part.size <= furthest):
                raise DownloadError(f"{link}: {stop}") from stop
            furthest = max(furthest, part.size)
            logger.info("%s: %s; trying again", path.name, stop)
            time.sleep(backoff * 2 ** max(failures - 1, 0))
        except OSError as error:  # those of the network are _Interrupted by now
            if error.errno not in _DISK_FULL:
                raise
            raise _disk_full(part) from error


def _finish(link: str, part: "_Part", sha256: str) -> None:
    with open(part.file, "rb") as file:
        head = file.read(64).lstrip().lower()
    if not head or head.startswith((b"<!doctype html", b"<html")):
        part.discard()
        raise DownloadError(f"{link} gives {'a web page instead of the file' if head else 'an empty file'}")
    if reason := ends_early(part.file):
        if part.total is None:  # nobody has said how long it is: the connection may have ended early
            raise _Interrupted(reason)
        part.discard()
        raise DownloadError(f"{link} gives a file that is not whole: {reason}")
    try:
        accept(part.path, part.file, sha256)
    except OtherFile as error:
        part.discard()
        raise DownloadError(f"{link} gives {error}") from error
    os.replace(part.file, part.path)
    part.discard()


# ---------------------------------------------------------------------------------------------------- transfer


class _Part:
    """The beginning of a file, and from where it came."""

    def __init__(self, path: Path, most_bytes: int | None = None) -> None:
        self.path = path
        self.most_bytes = most_bytes
        self.file = path.with_name(path.name + ".part")
        self._origin = path.with_name(path.name + ".part.json")
        self.validator: str | None = None  # ETag or date: says that the server still has the same file
        self.total: int | None = None  # bytes of the whole file

    @property
    def size(self) -> int:
        try:
            return self.file.stat().st_size
        except OSError:
            return 0

    def resume_from(self, link: str) -> int:
        """Bytes that are here of this link's file; 0 if they are another's, or may be of an older version of it."""
        origin = read_json(self._origin)
        if origin.get("link") != link or not origin.get("validator"):
            return 0
        self.validator, self.total = origin["validator"], origin.get("total")
        return self.size

    def start(self, link: str, validator: str | None, total: int | None) -> None:
        self.validator, self.total = validator, total
        write_json(self._origin, {"link": link, "validator": validator, "total": total})

    def check_size(self, link: str, size: int | None) -> None:
        """Give up on a file that is, or says that it is, too large."""
        if self.most_bytes is not None and size is not None and size > self.most_bytes:
            self.discard()
            raise DownloadError(f"{link} gives more than {self.most_bytes / 2**20:,.0f} MB, more than it should be")

    def discard(self) -> None:
        for file in (self.file, self._origin):
            file.unlink(missing_ok=True)


def _transfer(link: str, part: _Part, timeout: float) -> None:
    """One connection's worth of bytes; returns when the file is whole."""
    have = part.resume_from(link)
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(), _Redirects())
    response = _request(opener, link, part, have, timeout)
    if response is not None and is_page(response):
        page = _read_page(response)
        response.close()
        confirmed = page.confirmation()
        if confirmed is None:
            raise _no_file(link, page)
        response = _request(opener, confirmed, part, have, timeout)
    if response is None:
        return
    with contextlib.closing(response):
        if is_page(response):
            raise _no_file(link, _read_page(response))
        _receive(response, link, part, have)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows no redirection that leaves TLS, or HTTP: on the way the file could be exchanged."""

    def redirect_request(
        self, request: urllib.request.Request, file: Any, code: int, message: str, headers: Any, address: str
    ) -> urllib.request.Request | None:
        scheme = urllib.parse.urlsplit(address).scheme
        if scheme != "https" and (request.type == "https" or scheme != "http"):
            file.close()
            raise DownloadError(f"{request.full_url} leads to {address}, which is not protected and not followed")
        return super().redirect_request(request, file, code, message, headers, address)


def _read_page(response: Any) -> Page:
    try:
        return read_page(response)
    except (OSError, http.client.HTTPException) as error:
        raise _lost(error) from error


def _no_file(link: str, page: Page) -> DownloadError:
    return DownloadError(f"{link} gives a web page{f' ({page.title})' if page.title else ''} instead of the file")


def _request(opener: Any, url: str, part: _Part, have: int, timeout: float) -> Any:
    """The answer to a request for the bytes from ``have`` on; None if there are no more."""
    headers = {"User-Agent": "centernet", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        headers["If-Range"] = str(part.validator)
    try:
        return opener.open(urllib.request.Request(url, headers=headers), timeout=timeout)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and have:
            if error.headers.get("Content-Range", "").endswith(f"/{have}"):
                return None
            part.discard()
            raise _Interrupted("the file there has changed") from error
        if error.code in _TRY_AGAIN:
            raise _Interrupted(f"the server answers {error.code} {error.reason}") from error
        raise DownloadError(f"{url}: the server answers {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        raise _lost(error) from error


def _lost(error: Exception) -> _Interrupted:
    reason = getattr(error, "reason", error)
    stop = _Interrupted(str(getattr(reason, "strerror", None) or reason) or type(reason).__name__)
    stop.unreachable = (
        isinstance(reason, socket.gaierror | ssl.SSLCertVerificationError)
        or getattr(reason, "errno", None) in _UNREACHABLE
        or "Tunnel connection failed" in str(reason)  # a proxy that refuses
    )
    return stop


def _receive(response: Any, link: str, part: _Part, have: int) -> None:
    total = response.headers.get("Content-Length")
    total = int(total) if total and total.isdigit() else None
    if response.status == 206:
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        whole = int(found[2]) if found and found[2] != "*" else None
        changed = _validator(response) not in (None, part.validator)  # servers may ignore If-Range
        if not found or int(found[1]) != have or changed or (part.total and whole and whole != part.total):
            part.discard()
            raise _Interrupted("the server sends another part than the one asked for")
        total = whole or part.total
    else:
        have = 0  # the server knows no ranges, or has another file now
    part.check_size(link, total)
    _check_space(part, total, have)
    part.start(link, _validator(response) or (part.validator if have else None), total)
    _write(response, link, part, have, total)
    if total is not None and part.size < total:
        raise _Interrupted(f"the connection ended after {part.size} of {total} bytes")


def _validator(response: Any) -> str | None:
    etag = response.headers.get("ETag")
    # weak tags are not allowed where ranges are asked for
    return etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified")


def _write(response: Any, link: str, part: _Part, have: int, total: int | None) -> None:
    bar = progress(part.path.name, total, unit="B", done=have, keep=False)
    with bar as shown, open(part.file, "ab" if have else "wb") as file:
        while chunk := _read(response):
            file.write(chunk)
            shown.advance(len(chunk))
            have += len(chunk)
            part.check_size(link, have)
        file.flush()
        os.fsync(file.fileno())


def _read(response: Any) -> bytes:
    try:
        return response.read1(_CHUNK)  # what is there already: a connection lost later costs none of it
    except (OSError, http.client.HTTPException) as error:
        raise _lost(error) from error


def _check_space(part: _Part, total: int | None, have: int) -> None:
    if total is not None and total - have > shutil.disk_usage(part.path.parent).free:
        part.total = total
        raise _disk_full(part)


def _disk_full(part: _Part) -> UserError:
    size = f" of {part.total / 2**20:,.0f} MB" if part.total else ""
    return UserError(
        f"the disk that holds {part.path.parent} has no room for {part.path.name}{size}: free some, or set "
        "CENTERNET_CACHE to a folder on another disk (what has arrived is kept)"
    )
