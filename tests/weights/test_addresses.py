"""Weights at http addresses: resumed, kept, and compared with what their names and the first use say."""

import hashlib
import io
import json
from pathlib import Path

import pytest
import torch
from file_server import serving

from centernet.errors import UserError
from centernet.weights import fetch, read_weights
from centernet.weights.addresses import sum_in_name
from centernet.weights.sources import TimmHandler, _Source


def saved(value: float) -> bytes:
    stream = io.BytesIO()
    torch.save({"a": torch.full((9,), value)}, stream)
    return stream.getvalue()


FIRST, SECOND = saved(1), saved(2)
NAME = f"dla34-{hashlib.sha256(FIRST).hexdigest()[:8]}.pth"


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving() as server:
        server.files[f"models/{NAME}"] = FIRST
        yield server


def test_fetched_once_with_its_sum_and_resumed(server, own_cache):
    address, server.drops = f"{server.url}/models/{NAME}", [100]
    assert read_weights(address).tensors["a"].tolist() == [1] * 9
    local = Path(fetch(address))
    assert [asked for _, asked in server.requests] == [None, "bytes=100-"]
    assert (local.name, local.is_relative_to(own_cache)) == (NAME, True)
    assert json.loads((local.parent / "checksums.json").read_text()) == {NAME: hashlib.sha256(FIRST).hexdigest()}
    server.shutdown()  # offline
    assert fetch(address) == str(local)


def test_another_file_than_the_name_says(server):
    server.files[f"models/{NAME}"] = SECOND
    with pytest.raises(UserError, match=r"another file than its name says .*; fetch it by other means and give its"):
        fetch(f"{server.url}/models/{NAME}")


def test_another_file_than_the_first_one(server):
    server.files["model_final.pth"] = FIRST
    local = Path(fetch(f"{server.url}/model_final.pth"))
    local.unlink()
    server.files["model_final.pth"] = SECOND
    with pytest.raises(UserError, match=r"than the one first used as model_final.pth .* delete its line in"):
        fetch(f"{server.url}/model_final.pth")


def test_files_of_one_name_are_kept_apart(server):
    server.files |= {"a/model_final.pth": FIRST, "b/model_final.pth": SECOND}
    values = [read_weights(f"{server.url}/{folder}/model_final.pth").tensors["a"][0].item() for folder in "ab"]
    assert values == [1, 2]


def test_options_of_detectron2_are_not_sent_others_are(server):
    server.files["w.pth"] = FIRST
    one = fetch(f"{server.url}/w.pth?matching_heuristics=True")
    assert fetch(f"{server.url}/w.pth") == one
    assert len(server.requests) == 1
    assert fetch(f"{server.url}/w.pth?key=2") != one
    assert Path(one).name == "w.pth"


@pytest.mark.parametrize("path", ["/..", "/%2e%2e%2f%2e%2e%2fetc%2fpasswd", "/", "/a\\b.pth", f"/{'x' * 400}.pth"])
def test_names_stay_in_the_cache(server, own_cache, path):
    from urllib.parse import unquote

    server.files[unquote(path)[1:]] = FIRST
    assert Path(fetch(server.url + path)).resolve().is_relative_to(own_cache.resolve() / "web")


def test_timm_addresses_come_the_same_way(server, monkeypatch, own_cache):
    from centernet.weights import sources

    server.files["t.pth"] = FIRST
    monkeypatch.setattr(sources, "_timm_source", lambda name: _Source("", (), f"{server.url}/{name}.pth"))
    assert Path(TimmHandler()._get_local_path("timm://t")).is_relative_to(own_cache)


def test_offline_is_one_sentence():
    with pytest.raises(UserError) as caught:
        fetch("http://127.0.0.1:9/dla34-ba72cf86.pth")
    assert str(caught.value).startswith("the weights file http://127.0.0.1:9/dla34-ba72cf86.pth cannot be read: ")
    assert str(caught.value).endswith("; fetch it by other means and give its path")
    assert str(caught.value).count("127.0.0.1:9") == 1


@pytest.mark.parametrize(
    "name, told",
    [
        ("dla34-ba72cf86.pth", "ba72cf86"),
        ("efficientnet-lite0-57934424.pth", "57934424"),
        ("model-20200130.pth", ""),
        ("model_final_280758.pkl", ""),
        ("R-50.pkl", ""),
        ("a-ba72cf86.yaml", ""),
        ("a-ba72cf8.pth", ""),
        (f"a-{'0a' * 32}.safetensors", "0a" * 32),
    ],
)
def test_sums_in_names(name, told):
    assert sum_in_name(name) == told
