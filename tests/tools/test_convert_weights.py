"""Weights of any kind into safetensors: every value, where they are from, and nothing half written."""

import hashlib
import os
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "tests" / "weights")]

from convert_weights import convert, main  # noqa: E402
from published_files import arrays, write_pickle, write_torch  # noqa: E402

from centernet.errors import UserError  # noqa: E402
from centernet.weights import read_weights  # noqa: E402

TENSORS = {
    "conv1_w": torch.rand(4, 3, 2, 2),
    "res_conv1_bn_s": torch.rand(4).to(torch.float16),
    "count": torch.tensor(3),
}


def same(path: Path) -> bool:
    found = read_weights(path).tensors
    return found.keys() == TENSORS.keys() and all(
        found[name].dtype == value.dtype and torch.equal(found[name], value) for name, value in TENSORS.items()
    )


def test_pickle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_pickle(tmp_path / "R-50.pkl", {"blobs": arrays(TENSORS)}, python=2)
    out = tmp_path / "made" / "R-50.safetensors"
    assert main([str(file), str(out), "--model", "R-50", "--source", "https://example.org/R-50.pkl"]) == 0
    assert same(out)
    metadata = read_weights(out).metadata
    assert metadata["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert {key: metadata[key] for key in ("model", "source", "format")} == {
        "model": "R-50",
        "source": "https://example.org/R-50.pkl",
        "format": "caffe2-pickle",
    }
    printed = capsys.readouterr().out
    assert f"{out}: 3 tensors, 53 values, 0.0 MB" in printed
    assert metadata["sha256"] in printed
    assert os.listdir(out.parent) == [out.name]


def test_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shared = torch.rand(6)
    state = {**TENSORS, "a": shared, "b": shared[:3], "turned": torch.rand(2, 3).T}
    content = {"model": state, "iteration": 89999, "optimizer": {"state": {}}}
    convert(str(write_torch(tmp_path / "a.pth", content)), tmp_path / "a.safetensors")
    file = read_weights(tmp_path / "a.safetensors")
    assert all(torch.equal(file.tensors[name], value) for name, value in state.items())
    assert (file.metadata["iteration"], file.training) == ("89999", {})
    assert "left out: optimizer" in capsys.readouterr().out


def test_converting_again_keeps_the_origin(tmp_path: Path) -> None:
    first = write_torch(tmp_path / "a.pth", TENSORS)
    one = convert(str(first), tmp_path / "1.safetensors", model="M", source="S")
    two = convert(str(tmp_path / "1.safetensors"), tmp_path / "2.safetensors")
    assert one == two == read_weights(tmp_path / "2.safetensors").metadata
    three = convert(str(tmp_path / "2.safetensors"), tmp_path / "3.safetensors", model="N")
    assert three == {**one, "model": "N"}
    assert same(tmp_path / "3.safetensors")


def test_what_cannot_be_converted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = write_torch(tmp_path / "a.pth", TENSORS)
    (tmp_path / "b.pth").write_bytes(b"<html>")
    out = tmp_path / "out.safetensors"
    for words, sentence in (
        ((good, tmp_path / "out.pth"), "must end in .safetensors"),
        ((tmp_path / "b.pth", out), "is a web page"),
        ((tmp_path / "no.pth", out), "there is no such file"),
    ):
        assert main([str(word) for word in words]) == 2
        assert sentence in capsys.readouterr().err
    assert not out.exists()


def test_a_full_disk_leaves_the_previous_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, out = str(write_torch(tmp_path / "a.pth", TENSORS)), tmp_path / "a.safetensors"
    convert(file, out)
    before = out.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="cannot be written: No space left on device"):
        convert(file, out, model="another")
    assert out.read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["a.pth", "a.safetensors"]
