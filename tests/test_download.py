"""Downloads from a real server: resumed, retried, checked, fetched once by two processes."""

import hashlib
import io
import json
import os
import pickle
import shutil
import ssl
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from file_server import serving

from centernet.download import DownloadError, cache_folder, download, fetch
from centernet.download_check import ends_early
from centernet.download_page import Page
from centernet.errors import UserError

CONTENT = b"something" + os.urandom(299_991)  # of no known kind
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


@pytest.mark.parametrize("etag", ['"one"', None], ids=["with an ETag", "without"])
def test_a_file_that_changed_meanwhile_is_not_patched_together(server, tmp_path, quick, etag):
    server.etag, server.drops = etag, [100_000]
    with pytest.raises(DownloadError):
        download(f"{server.url}/a.pth", tmp_path / "a.pth", **quick, retries=-1)
    server.files["a.pth"] = other = os.urandom(300_000)
    server.etag = etag and '"two"'
    download(f"{server.url}/a.pth", tmp_path / "a.pth", **quick)
    assert (tmp_path / "a.pth").read_bytes() == other


def test_a_server_that_ignores_if_range(server, tmp_path, quick):
    server.drops, server.heeds_if_range = [100_000], False
    with pytest.raises(DownloadError):
        download(f"{server.url}/a.pth", tmp_path / "a.pth", **quick, retries=-1)
    server.files["a.pth"], server.etag = CONTENT[::-1], '"two"'
    download(f"{server.url}/a.pth", tmp_path / "a.pth", **quick)
    assert (tmp_path / "a.pth").read_bytes() == CONTENT[::-1]


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
        ("http://drive.google.com/download", None),
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


def test_another_file_in_the_place_of_a_deleted_one_is_refused(server, tmp_path, quick):
    path = fetch([f"{server.url}/a.pth"], tmp_path / "a.pth", **quick)
    path.unlink()
    server.files["a.pth"], server.files["b.pth"] = CONTENT[::-1], CONTENT
    with pytest.raises(DownloadError, match="than the one first used as a.pth .* delete its line in ") as error:
        fetch([f"{server.url}/a.pth"], path, **quick)
    assert "\n" not in str(error.value)
    assert left_in(tmp_path) == ["checksums.json"]
    assert fetch([f"{server.url}/a.pth", f"{server.url}/b.pth"], path, **quick).read_bytes() == CONTENT
    path.unlink()
    (tmp_path / "checksums.json").unlink()  # what the sentence says
    assert fetch([f"{server.url}/a.pth"], path, **quick).read_bytes() == CONTENT[::-1]


def test_the_sum_that_a_file_must_have(server, tmp_path, quick):
    assert fetch([f"{server.url}/a.pth"], tmp_path / "a.pth", sha256=SUM[:8], **quick).read_bytes() == CONTENT
    with pytest.raises(UserError, match=r"a.pth is not the file that it should be .* not 12345678..."):
        fetch([], tmp_path / "a.pth", sha256="12345678")
    with pytest.raises(DownloadError, match="gives another file than its name says"):
        fetch([f"{server.url}/a.pth"], tmp_path / "b.pth", sha256="12345678", **quick)
    assert left_in(tmp_path) == ["a.pth", "checksums.json"]
    assert sums(tmp_path) == {"a.pth": SUM}


def written(kind):
    """A file of weights: of several types, one of which shares its values."""
    import torch

    shared = torch.arange(40.0)
    content = {"a": shared, "b": shared[:3], "c": torch.arange(9), "d": torch.ones(5, dtype=torch.bool), "e": [1]}
    stream = io.BytesIO()
    if kind == "safetensors":
        tensors = {name: content[name].clone() for name in "abcd"}
        return pytest.importorskip("safetensors.torch").save(tensors, {"source": "here"})
    if kind.startswith("pickle"):
        return pickle.dumps({name: content[name].numpy() for name in "abcd"}, int(kind[-1]))
    torch.save(content, stream, _use_new_zipfile_serialization=kind == "zip")
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["zip", "legacy", "pickle 2", "pickle 4", "safetensors"])
def test_a_file_of_untold_length_must_have_its_end(server, tmp_path, quick, kind):
    server.files["w.pth"] = content = written(kind)
    server.tells_length, server.drops = False, [len(content) - 3]  # as HTTP/1.0 does
    download(f"{server.url}/w.pth", tmp_path / "w.pth", **quick)
    assert (tmp_path / "w.pth").read_bytes() == content
    assert len(server.requests) == 2
    server.ranges, server.drops = False, [len(content) // 2] * 3
    with pytest.raises(DownloadError, match=r"w.pth: (it ends after|the (archive|pickle) has no end)"):
        download(f"{server.url}/w.pth", tmp_path / "v.pth", **quick, retries=1)
    assert left_in(tmp_path) == ["checksums.json", "v.pth.part", "v.pth.part.json", "w.pth"]
    assert list(sums(tmp_path)) == ["w.pth"]


@pytest.mark.parametrize("kind", ["zip", "legacy", "pickle 2", "pickle 4", "safetensors"])
def test_where_a_file_ends(tmp_path, kind):
    content, file = written(kind), tmp_path / "a"
    for end in {*range(16, len(content), max(1, len(content) // 60)), len(content) - 1}:
        file.write_bytes(content[:end])
        assert ends_early(file), end
    file.write_bytes(content)
    assert ends_early(file) == ""


def test_a_file_that_is_cut_off_on_the_server(server, tmp_path, quick):
    server.files["w.pth"] = written("zip")[:-3]
    with pytest.raises(DownloadError, match="gives a file that is not whole: the archive has no end"):
        download(f"{server.url}/w.pth", tmp_path / "w.pth", **quick)
    assert (len(server.requests), left_in(tmp_path)) == (1, [])


def test_looking_for_the_end_runs_nothing(tmp_path):
    abort = b"cposix\nabort\n)R."
    for data in (abort, b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.K\x01.K\x01." + abort + b"N."):
        (tmp_path / "a").write_bytes(b"\x80\x02" + data)
        assert ends_early(tmp_path / "a") == ""


def test_no_redirection_leaves_tls(server, tmp_path, quick):
    server.redirects["/old"] = f"{server.url}/a.pth"
    download(f"{server.url}/old", tmp_path / "a.pth", **quick)  # plain to plain
    with serving(tls(tmp_path)) as guarded, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(tmp_path / "certificate.pem"))
        guarded.files["a.pth"] = CONTENT
        guarded.redirects["/inside"] = f"{guarded.url}/a.pth"
        guarded.redirects["/outside"] = f"{server.url}/a.pth"
        download(f"{guarded.url}/inside", tmp_path / "b.pth", **quick)
        asked = len(server.requests)
        with pytest.raises(DownloadError, match="/outside leads to http://.* not protected"):
            download(f"{guarded.url}/outside", tmp_path / "c.pth", **quick)
        assert len(server.requests) == asked
    server.redirects["/ftp"] = "ftp://127.0.0.1/a.pth"
    with pytest.raises(DownloadError, match="not followed"):
        download(f"{server.url}/ftp", tmp_path / "c.pth", **quick)


def tls(folder):
    """A context for a server on this machine, with ``certificate.pem``, which says so."""
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    if not shutil.which("openssl"):
        pytest.skip("openssl is not installed")
    request = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    request += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(request, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


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
