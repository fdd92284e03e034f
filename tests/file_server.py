"""A real HTTP server on this machine that serves files in every way in which servers misbehave."""

import contextlib
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

CONFIRMATION = """<!DOCTYPE html><html><head><title>Google Drive - Virus scan warning</title></head><body>
<form id="download-form" action="{url}/download" method="get"><input type="submit" value="Download anyway"/>
<input type="hidden" name="id" value="abc"><input type="hidden" name="confirm" value="t-1">
<input type="hidden" name="uuid" value="u&amp;2"></form></body></html>"""
QUOTA = "<!DOCTYPE html><html><head><title>Google Drive -\n Quota exceeded</title></head><body>no</body></html>"


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):
        server = self.server
        url = urlsplit(self.path)
        path, query = unquote(url.path), parse_qs(url.query)
        server.requests.append((path, self.headers.get("Range")))
        if path == "/uc":  # Google Drive: small files at once, large ones after a question
            return self.page(CONFIRMATION.format(url=server.url))
        if path == "/download":
            if (query["confirm"], query["uuid"], query["id"]) != (["t-1"], ["u&2"], ["abc"]):
                return self.page(QUOTA)
            path = "/drive.pth"
        if path == "/quota":
            return self.page(QUOTA)
        if path == "/endless":
            self.send_response(200)
            self.send_header("Content-Length", str(10**18))
            return self.end_headers()
        if path in server.redirects:
            self.send_response(302)
            self.send_header("Location", server.redirects[path])
            self.send_header("Content-Length", "0")
            return self.end_headers()
        if server.failures:
            return self.send_error(server.failures.pop(0))
        if path[1:] not in server.files:
            return self.send_error(404)
        time.sleep(server.delay)
        return self.send_file(server.files[path[1:]])

    def page(self, text):
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def send_file(self, content):
        server, start = self.server, 0
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        condition = self.headers.get("If-Range", server.etag) if server.heeds_if_range else server.etag
        if server.ranges and asked and condition == server.etag:
            start = int(asked[1])
            if start >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.send_header("Content-Length", "0")
                return self.end_headers()
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if server.etag:
            self.send_header("ETag", server.etag)
        if server.chunked:
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            whole = not server.drops
            part = content[start : server.drops.pop(0) if server.drops else len(content)]
            self.wfile.write(b"%x\r\n%b\r\n%b" % (len(part), part, b"0\r\n\r\n" if whole else b""))
            return None
        if server.tells_length:
            self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        stop = min(server.drops.pop(0) if server.drops else len(content), len(content))
        self.wfile.write(content[start:stop])
        server.sent.append((start, max(start, stop)))
        if server.stalls:
            server.resume.wait(server.stalls.pop(0))
        return None


class FileServer(ThreadingHTTPServer):
    """``files`` by name; of the next answers, one each: ``drops``, the byte of the file where it ends, ``failures``,
    its HTTP state, ``stalls``, how long it hangs at its end (or until ``resume`` is set). ``redirects``: where
    paths lead to. ``tls``: the context of a server of https.
    """

    daemon_threads = True

    def __init__(self, tls=None):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.requests, self.sent, self.drops, self.failures = {}, [], [], [], []
        self.ranges, self.etag, self.delay = True, '"one"', 0.0
        self.stalls, self.resume = [], threading.Event()
        self.chunked, self.tells_length, self.heeds_if_range = False, True, True
        self.redirects = {}
        if tls:
            self.socket = tls.wrap_socket(self.socket, server_side=True)
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self.server_port}"

    def handle_error(self, *args):
        """A client that left is no error here."""


@contextlib.contextmanager
def serving(tls=None):
    with FileServer(tls) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield server
        server.shutdown()
