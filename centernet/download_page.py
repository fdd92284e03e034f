"""Web pages that come where a file was asked for, and the button on Google Drive's that leads to the file."""

import html.parser
import urllib.parse
from typing import Any

__all__ = ["Page", "is_page", "read_page"]

_LONGEST = 1 << 20  # bytes of a page that are read


class Page(html.parser.HTMLParser):
    """A page's title, and its form that downloads.

    Args:
        url: address of the page.
        text: its HTML.
    """

    def __init__(self, url: str, text: str) -> None:
        super().__init__()
        self.url = url
        self._title = ""
        self._action: str | None = None
        self._fields: dict[str, str] = {}
        self._in_title = False
        self.feed(text)

    @property
    def title(self) -> str:
        return " ".join(self._title.split())

    def confirmation(self) -> str | None:
        """The address behind "download anyway" of Google Drive's page about large files; None on other pages.

        It leads to the host of the page or to Google, nowhere else.
        """
        if self._action is None or "confirm" not in self._fields:
            return None
        url = urllib.parse.urlsplit(urllib.parse.urljoin(self.url, self._action))
        schemes = ("https",) if self.url.startswith("https:") else ("http", "https")
        same_host = url.hostname == urllib.parse.urlsplit(self.url).hostname
        if url.scheme not in schemes or not (same_host or (url.hostname or "").endswith(".google.com")):
            return None
        query = urllib.parse.parse_qsl(url.query) + list(self._fields.items())
        return url._replace(query=urllib.parse.urlencode(query)).geturl()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self._in_title = tag == "title"
        if tag == "form" and (values.get("action") or "").partition("?")[0].endswith("/download"):
            self._action = values["action"]
        elif tag == "input" and self._action and values.get("type") == "hidden" and values.get("name"):
            self._fields[str(values["name"])] = values.get("value") or ""

    def handle_endtag(self, tag: str) -> None:
        self._in_title = False

    def handle_data(self, data: str) -> None:
        if self._in_title:
            self._title += data


def is_page(response: Any) -> bool:
    """Whether an HTTP answer says that it is a web page."""
    return response.headers.get_content_type() in ("text/html", "application/xhtml+xml")


def read_page(response: Any) -> Page:
    """The page of an HTTP answer."""
    return Page(response.url, response.read(_LONGEST).decode("utf-8", "replace"))
