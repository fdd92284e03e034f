"""Downloads from a real server: resumed, retried, checked, fetched once by two processes."""

import hashlib
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from file_server import serving

from centernet.download import DownloadError, cache_folder, download, fetch
from centernet.download_page import Page
from centernet.errors import UserError

CONTENT = os.urandom(300_000)
SUM = hashlib.sha256(CONTENT).hexdigest()
REPOSITORY = Path(__file__).parents[1]


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving() as server:
        server.files["a.pth"] = server.files["drive.pth"] = CONTENT
        yield server


@pytest.fixture
def quick():
    return {"backoff": 0.01, "timeout": 5.0}


def left_in(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


def sums(folder):
    return json.loads((folder / "checksums.json").read_text())


def test_whole_file_with_its_sum(server, tmp_path, quick):
    path = fetch([f"{server.url}/a.pth"], tmp_path / "deep" / "a.pth", **quick)
    assert path.read_bytes() == CONTENT
    assert left_in(path.parent) == ["a.pth", "checksums.json"]
    assert sums(path.parent) == {"a.pth": SUM}
    fetch([f"{server.url}/a.pth"], path, **quick)
    assert len(server.requests) == 1


def test_lost_connections_go_on_where_they_stopped(server, tmp_path, quick):
    server.drops = [100_000, 100_000, 250_000]  # the second one brings nothing
    download(f"{server.url}/a.pth", tmp_path / "a.pth", **quick)
    assert (tmp_path / "a.pth").read_bytes() == CONTENT
    assert [asked for _, asked in server.requests] == [None, "bytes=100000-", "bytes=100000-", "bytes=250000-"]
    assert server.sent == [(0, 100_000), (100_000, 100_000), (100_000, 250_000), (250_000, 300_000)]


def test_chunks_that_end_early_are_no_whole_file(server, tmp_path, quick):
    server.chunked, server.drops = True, [100_000]  # and no length is told
    download(f"{server.url}/a.pth", tmp_path / "a.pth", **quick)
    assert (tmp_path / "a.pth").read_bytes() == CONTENT
    assert [asked for _, asked in server.requests] == [None, "bytes=100000-"]


def test_an_interrupted_download_goes_on_in_a_later_call(server, tmp_path, quick):
    server.drops = [120_000]
    with pytest.raises(DownloadError, match=r"a.pth: the connection ended after 120000 of 300000 bytes$"):
        download(f"{server.url}/a.pth", tmp_path / "a.pth", **quick, retries=-1)
    assert left_in(tmp_path) == ["a.pth.part", "a.pth.part.json"]
    assert (tmp_path / "a.pth.part").read_bytes() == CONTENT[:120_000]
    download(f"{server.url}/a.pth", tmp_path / "a.pth", **quick)
    assert (tmp_path / "a.pth").read_bytes() == CONTENT
    assert server.sent[1:] == [(120_000, 300_000)]
    assert left_in(tmp_path) == ["a.pth", "checksums.json"]


def test_a_server_without_ranges_starts_again(server, tmp_path, quick):
    server.ranges, server.drops = False, [100_000]
    download(f"{server.url}/a.pth", tmp_path / "a.pth", **quick)
    assert (tmp_path / "a.pth").read_bytes() == CONTENT
    assert server.sent == [(0, 100_000), (0, 300_000)]


@pytest.mark.parametrize("etag", ['"one"', None], ids=["with an ETag", "by its length"])
def test_a_file_that_changed_meanwhile_is_not_patched_together(server, tmp_path, quick, etag):
    server.etag, server.drops = etag, [100_000]
    with pytest.raises(DownloadError):
        download(f"{server.url}/a.pth", tmp_path / "a.pth", **quick, retries=-1)
    server.files["a.pth"] = other = os.urandom(300_000 if etag else 200_000)
    server.etag = etag and '"two"'
    download(f"{server.url}/a.pth", tmp_path / "a.pth", **quick)
    assert (tmp_path / "a.pth").read_bytes() == other


def test_a_part_from_another_link_is_not_used(server, tmp_path, quick):
    server.files["b.pth"] = other = os.urandom(300_000)
    server.drops = [100_000] * 2
    path = fetch([f"{server.url}/gone", f"{server.url}/a.pth"], tmp_path / "a.pth", **quick)
    assert path.read_bytes() == CONTENT
    path.unlink()
    server.drops = [100_000]
    with pytest.raises(DownloadError):
        download(f"{server.url}/b.pth", path, **quick, retries=-1)
    download(f"{server.url}/a.pth", path, **quick)
    assert path.read_bytes() == CONTENT != other


def test_a_part_that_is_already_whole(server, tmp_path, quick):
    server.drops = [100_000]
    with pytest.raises(DownloadError):
        download(f"{server.url}/a.pth", tmp_path / "a.pth", **quick, retries=-1)
    (tmp_path / "a.pth.part").write_bytes(CONTENT)  # as a process leaves it that is killed before the renaming
    download(f"{server.url}/a.pth", tmp_path / "a.pth", **quick)
    assert (tmp_path / "a.pth").read_bytes() == CONTENT
    assert server.sent == [(0, 100_000)]


def test_overlong_part_is_thrown_away(server, tmp_path, quick):
    server.drops = [100_000]
    with pytest.raises(DownloadError):
        download(f"{server.url}/a.pth", tmp_path / "a.pth", **quick, retries=-1)
    (tmp_path / "a.pth.part").write_bytes(CONTENT + b"more")
    download(f"{server.url}/a.pth", tmp_path / "a.pth", **quick)
    assert (tmp_path / "a.pth").read_bytes() == CONTENT


def test_passing_errors_are_tried_again_and_lasting_ones_are_not(server, tmp_path, quick):
    server.failures = [503, 429]
    download(f"{server.url}/a.pth", tmp_path / "a.pth", **quick)
    assert len(server.requests) == 3
    server.failures = [500] * 3
    with pytest.raises(DownloadError, match="the server answers 500"):
        download(f"{server.url}/a.pth", tmp_path / "b.pth", **quick, retries=2)
    with pytest.raises(DownloadError, match=r"/nothing: the server answers 404 Not Found$"):
        download(f"{server.url}/nothing", tmp_path / "b.pth", **quick)
    assert len(server.requests) == 7


def test_a_server_that_falls_silent(server, tmp_path):
    server.delay = 1.0
    with pytest.raises(DownloadError, match="timed out"):
        download(f"{server.url}/a.pth", tmp_path / "a.pth", timeout=0.1, retries=1, backoff=0.01)
    assert len(server.requests) == 2


def test_a_connection_that_hangs_midway_costs_nothing(server, tmp_path):
    server.drops, server.stalls = [100_000], [30.0]
    download(f"{server.url}/a.pth", tmp_path / "a.pth", timeout=0.3, backoff=0.01)
    server.resume.set()
    assert (tmp_path / "a.pth").read_bytes() == CONTENT
    assert server.sent == [(0, 100_000), (100_000, 300_000)]


def test_a_killed_download_goes_on_in_another_process(server, tmp_path, quick):
    server.drops, server.stalls = [100_000], [60.0]
    with start_fetch(server, tmp_path) as process:
        process.stdin.write("go\n")
        process.stdin.flush()
        part, deadline = tmp_path / "a.pth.part", time.monotonic() + 30
        while not (part.exists() and part.stat().st_size == 100_000):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.kill()
    server.resume.set()
    assert fetch([f"{server.url}/a.pth"], tmp_path / "a.pth", **quick).read_bytes() == CONTENT
    assert [asked for _, asked in server.requests] == [None, "bytes=100000-"]


def test_the_large_file_page_of_google_drive_is_answered(server, tmp_path, quick):
    server.drops = [100_000]
    download(f"{server.url}/uc?export=download&id=abc", tmp_path / "a.pth", **quick)
    assert (tmp_path / "a.pth").read_bytes() == CONTENT
    assert server.sent == [(0, 100_000), (100_000, 300_000)]
    assert [path for path, _ in server.requests] == ["/uc", "/download"] * 2


def test_a_web_page_is_no_file(server, tmp_path, quick):
    with pytest.raises(DownloadError, match=r"web page \(Google Drive - Quota exceeded\) instead of the file$"):
        download(f"{server.url}/quota", tmp_path / "a.pth", **quick)
    server.files["disguised"] = b"\n<!DOCTYPE html><html>"
    with pytest.raises(DownloadError, match="disguised gives a web page instead of the file$"):
        download(f"{server.url}/disguised", tmp_path / "a.pth", **quick)
    server.files["nothing"] = b""
    with pytest.raises(DownloadError, match="nothing gives an empty file$"):
        download(f"{server.url}/nothing", tmp_path / "a.pth", **quick)
    assert left_in(tmp_path) == []


@pytest.mark.parametrize(
    "action, leads_to",
    [
        ("/download?authuser=0", "https://drive.google.com/download?authuser=0&confirm=t"),
        ("https://drive.usercontent.google.com/download", "https://drive.usercontent.google.com/download?confirm=t"),
        ("https://google.com.example.org/download", None),
        ("file:///etc/download", None),
        ("/upload", None),
    ],
)
def test_where_a_confirmation_may_lead(action, leads_to):
    page = Page("https://drive.google.com/uc?id=1", f"<form action='{action}'><input type=hidden name=confirm value=t>")
    assert page.confirmation() == leads_to


def test_a_file_that_changed_on_the_disk_is_refused(server, tmp_path, quick):
    path = fetch([f"{server.url}/a.pth"], tmp_path / "a.pth", **quick)
    path.write_bytes(CONTENT[:-1] + b"?")
    with pytest.raises(UserError, match=r"a.pth is not the file that was first used .* delete it to have it fetched"):
        fetch([f"{server.url}/a.pth"], path, **quick)
    path.unlink()
    assert fetch([f"{server.url}/a.pth"], path, **quick).read_bytes() == CONTENT


def test_the_sum_of_a_file_put_there_by_hand_is_recorded(tmp_path):
    (tmp_path / "a.pth").write_bytes(CONTENT)
    (tmp_path / "checksums.json").write_text('{"b.pth": "0"}')
    fetch([], tmp_path / "a.pth")
    assert sums(tmp_path) == {"a.pth": SUM, "b.pth": "0"}


def test_a_disk_without_room(server, tmp_path, quick):
    with pytest.raises(UserError, match=r"no room for a.pth of 953,674,316,406 MB: free some, or set CENTERNET_CACHE"):
        download(f"{server.url}/endless", tmp_path / "a.pth", **quick)
    (tmp_path / "b.pth.part").symlink_to("/dev/full")  # every write to it fails as on a full disk
    with pytest.raises(UserError, match="has no room for b.pth of 0 MB") as caught:
        download(f"{server.url}/a.pth", tmp_path / "b.pth", **quick)
    assert not isinstance(caught.value, DownloadError)  # another link would not help


def test_nobody_there(tmp_path, quick):
    with serving() as server:
        pass
    with pytest.raises(DownloadError, match="refused"):
        download(f"{server.url}/a.pth", tmp_path / "a.pth", backoff=60.0)
    with pytest.raises(DownloadError, match=r"file:///etc/passwd is no http address"):
        download("file:///etc/passwd", tmp_path / "a.pth")


# the module alone: importing the whole package takes seconds
FETCH = f"""
import logging, sys, types
from pathlib import Path
package = types.ModuleType("centernet")
package.__path__ = [{str(REPOSITORY / "centernet")!r}]
sys.modules["centernet"] = package
from centernet.download import fetch
logging.basicConfig(level=logging.INFO)
print("ready", flush=True)
sys.stdin.readline()
print(len(fetch([sys.argv[1]], Path(sys.argv[2])).read_bytes()))
"""


def start_fetch(server, folder):
    """A process that fetches a.pth when a line is written to it."""
    command = [sys.executable, "-c", FETCH, f"{server.url}/a.pth", str(folder / "a.pth")]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
    assert process.stdout.readline() == "ready\n"
    return process


def test_two_threads_download_once(server, tmp_path, quick):
    server.delay = 0.3
    with ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(fetch, [f"{server.url}/a.pth"], tmp_path / "a.pth", **quick) for _ in range(2)]
    assert [job.result().read_bytes() == CONTENT for job in jobs] == [True, True]
    assert len(server.requests) == 1


def test_two_processes_download_once(server, tmp_path):
    server.delay = 1.0
    processes = [start_fetch(server, tmp_path) for _ in range(2)]
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = [process.communicate(timeout=60) for process in processes]
    assert [answer for answer, _ in answers] == ["300000\n"] * 2, answers
    logs = "".join(log for _, log in answers)
    assert (logs.count("Downloading a.pth"), logs.count("Another process is fetching a.pth")) == (1, 1)
    assert len(server.requests) == 1
    assert left_in(tmp_path) == ["a.pth", "checksums.json"]


def test_where_files_are_kept(monkeypatch):
    for name in ("CENTERNET_CACHE", "FVCORE_CACHE"):
        monkeypatch.delenv(name, raising=False)
    assert cache_folder() == Path.home() / ".cache" / "centernet"
    monkeypatch.setenv("FVCORE_CACHE", "/a")
    assert cache_folder() == Path("/a/centernet")
    monkeypatch.setenv("CENTERNET_CACHE", "/b")
    assert cache_folder() == Path("/b")


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written.*set CENTERNET_CACHE to a folder of yours"):
        fetch(["http://127.0.0.1:9/a.pth"], tmp_path / "file" / "a.pth")
