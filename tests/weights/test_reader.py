"""Files of every kind: what goes in comes out, and what is no weights file is one sentence."""

import collections
import contextlib
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from published_files import CONTAINERS, arrays, write_pickle, write_safetensors, write_torch

from centernet.errors import UserError
from centernet.weights import read_weights, unpickler

TENSORS = {
    "a.weight": torch.arange(6.0).reshape(2, 3) / 7,
    "a.num_batches_tracked": torch.tensor(5),
    "b.weight": torch.linspace(-1, 1, 24).reshape(2, 3, 2, 2).to(torch.float16),
}


def same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor] = TENSORS) -> bool:
    """Names, types, shapes and every value."""
    return list(found) == list(expected) and all(
        type(a) is torch.Tensor and a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
        for a, b in zip(found.values(), expected.values(), strict=True)
    )


@pytest.mark.parametrize("container", CONTAINERS)
def test_round_trip(tmp_path: Path, container: str) -> None:
    file = CONTAINERS[container](tmp_path / "a.bin", TENSORS)  # the kind is told from the bytes
    found = read_weights(file).tensors
    assert same({name: found[name] for name in TENSORS})
    assert len(found) == len(TENSORS)


@pytest.mark.parametrize("key", ["model", "state_dict", "model_state"])
@pytest.mark.parametrize("legacy", [False, True])
def test_below_the_usual_keys(tmp_path: Path, key: str, legacy: bool) -> None:
    content = {key: {f"module.{name}": value for name, value in TENSORS.items()}, "iteration": 7}
    file = read_weights(write_torch(tmp_path / "a.pth", content, legacy=legacy))
    assert same(file.tensors)
    assert file.training == {"iteration": 7}
    assert file.format == ("pytorch-legacy" if legacy else "pytorch")


def test_a_prefix_that_is_not_common_stays(tmp_path: Path) -> None:
    content = {"module.a": torch.ones(1), "b": torch.ones(1)}
    assert list(read_weights(write_torch(tmp_path / "a.pth", content)).tensors) == list(content)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("protocol", [2, 4])
def test_solver_state_beside_the_weights(tmp_path: Path, legacy: bool, protocol: int) -> None:
    """Numbers of numpy in a scheduler and newer pickle protocols are beyond weights_only."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], 0.1, momentum=0.9)
    optimizer.param_groups[0]["params"][0].grad = torch.ones(2)
    optimizer.step()
    scheduler = {"last_lr": [np.float64(0.25)], "milestones": collections.Counter([3, 3]), "step": np.int64(4)}
    tensors = collections.OrderedDict(TENSORS)
    tensors._metadata = {"": {"version": 1}}  # as Module.state_dict
    content = {
        "model": tensors,
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler,
        "iteration": 7,
        "parameter": torch.nn.Parameter(torch.ones(3)),
    }
    file = read_weights(write_torch(tmp_path / "a.pth", content, legacy=legacy, protocol=protocol))
    assert same(file.tensors)
    assert str(file.training["optimizer"]) == str(optimizer.state_dict())
    assert file.training["scheduler"] == {"last_lr": [0.25], "milestones": {3: 2}, "step": 4}
    assert file.training["parameter"].tolist() == [1, 1, 1]


@pytest.mark.parametrize("numpy", [1, 2])
@pytest.mark.parametrize("python, protocol", [(2, 2), (3, 2), (3, 4), (3, 5)])
def test_pickles_of_all_ages(tmp_path: Path, numpy: int, python: int, protocol: int) -> None:
    content = {"model": arrays(TENSORS), "__author__": "MSRA", "matching_heuristics": True}
    file = read_weights(write_pickle(tmp_path / "a.pkl", content, protocol=protocol, numpy=numpy, python=python))
    assert same(file.tensors)
    assert (file.format, file.metadata, file.training) == ("detectron2-pickle", {"author": "MSRA"}, {})


def test_arrays_of_every_order(tmp_path: Path) -> None:
    array = np.arange(6.0).reshape(2, 3)
    content = {
        "fortran": np.asfortranarray(array),
        "foreign": array.astype(">f4"),
        "scalar": np.float32(2.5),
        "empty": np.empty((0, 3), np.float32),
        "tensor": torch.arange(6.0).reshape(2, 3).T,
        "number": 3,
    }
    found = read_weights(write_pickle(tmp_path / "a.pkl", content)).tensors
    assert found["fortran"].tolist() == found["foreign"].tolist() == array.tolist()
    assert found["tensor"].tolist() == array.T.tolist()
    assert (found["scalar"].item(), found["number"].item(), found["empty"].shape) == (2.5, 3, (0, 3))


def test_caffe2_blobs(tmp_path: Path) -> None:
    one = np.ones(2, np.float32)
    blobs = {"conv1_w": one, "conv1_w_momentum": one, "lr": "text"}
    for content in ({"blobs": blobs, "cfg": "text"}, blobs):
        file = read_weights(write_pickle(tmp_path / "a.pkl", content, python=2))
        assert (list(file.tensors), file.format) == (["conv1_w"], "caffe2-pickle")


def test_metadata_of_safetensors(tmp_path: Path) -> None:
    file = read_weights(write_safetensors(tmp_path / "a.safetensors", TENSORS, source="here"))
    assert (file.format, file.metadata) == ("safetensors", {"source": "here"})


def test_options_of_newer_detectron2_after_the_name(tmp_path: Path) -> None:
    file = write_torch(tmp_path / "a.pth", TENSORS)
    assert same(read_weights(f"{file}?matching_heuristics=True").tensors)


DRIVE = b"<!DOCTYPE html><html><head><title>Google Drive - Virus scan warning</title></head><body>big</body></html>"


@pytest.mark.parametrize("ending", [".pth", ".pkl", ".safetensors"])
@pytest.mark.parametrize(
    "content, sentence",
    [
        (b"", "is empty"),
        (DRIVE, "page of Google Drive"),
        (b"\n <html><body>404</body></html>", r"web page \(HTML\)"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "XML"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "Git LFS"),
        (b"_BASE_: x.yaml\nMODEL:\n", "text file"),
        (b'{"a": 1}', "text file"),
        (b"\x1f\x8b\x08\x00aaaaaaaaaaaaaaa", "packed archive"),
        (b"\x89PNG\r\n\x1a\n\x00\xff\xfe", "no kind of weights file"),
    ],
)
def test_what_is_no_weights_file(tmp_path: Path, ending: str, content: bytes, sentence: str) -> None:
    file = tmp_path / f"model{ending}"
    file.write_bytes(content)
    with pytest.raises(UserError, match=rf"model{ending} cannot be read: .*{sentence}") as error:
        read_weights(file)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "content, sentence",
    [
        ([torch.zeros(1)], "holds a list, not a dict of tensors"),
        ({"model": [1]}, "holds no dict of tensors under 'model'"),
        ({"state_dict": {}}, "holds no tensor"),
        ({}, "holds no tensor"),
        ({"a": "text"}, "holds under a a str, not a tensor"),
        ({3: torch.zeros(1)}, "an entry whose name is 3"),
        ({"model": {"a": None}}, "holds under a a NoneType"),
    ],
)
def test_files_without_tensors(tmp_path: Path, content: object, sentence: str) -> None:
    for file in (write_torch(tmp_path / "a.pth", content), write_pickle(tmp_path / "a.pkl", content)):
        with pytest.raises(UserError, match=sentence):
            read_weights(file)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_other_archives(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("photo.jpg", b"x")
    with pytest.raises(UserError, match="a zip archive, but not one of PyTorch's"):
        read_weights(tmp_path / "a.zip")
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), tmp_path / "a.pt")
    with pytest.raises(UserError, match="a TorchScript program"):
        read_weights(tmp_path / "a.pt")


@pytest.mark.parametrize("record", ["data/0", "data.pkl", "version"])
def test_compressed_archives(tmp_path: Path, record: str) -> None:
    """PyTorch would unpack a few bytes to gigabytes; it never writes such archives."""
    whole = zipfile.ZipFile(write_torch(tmp_path / "a.pth", {"a": torch.zeros(1 << 20)}))
    with zipfile.ZipFile(tmp_path / "b.pth", "w") as archive:
        for name in whole.namelist():
            packed = zipfile.ZIP_DEFLATED if name.endswith(f"/{record}") else zipfile.ZIP_STORED
            archive.writestr(name, whole.read(name), packed)
    with pytest.raises(
        UserError, match=rf"compressed archive \(1 of \d records, such as \w+/{record}\), which PyTorch"
    ):
        read_weights(tmp_path / "b.pth")


def test_records_that_claim_more_than_the_file_has(tmp_path: Path) -> None:
    file = write_torch(tmp_path / "a.pth", {"a": torch.zeros(64)})
    data = file.read_bytes()
    (entry,) = [k for k in range(len(data)) if data[k : k + 4] == b"PK\1\2" and data[k + 46 : k + 54] == b"a/data/0"]
    sizes = (1 << 30).to_bytes(4, "little") * 2
    file.write_bytes(data[: entry + 20] + sizes + data[entry + 28 :])
    with pytest.raises(UserError, match="its records claim more bytes than the file has"):
        read_weights(file)


@pytest.mark.parametrize("write", [write_torch, write_pickle])
def test_tensors_that_repeat_a_value(tmp_path: Path, write: Callable[[Path, object], Path]) -> None:
    few = torch.ones(1).expand(1 << 20)
    assert read_weights(write(tmp_path / "a.pth", {"a": few})).tensors["a"].shape == (1 << 20,)
    for content in ({"a": torch.ones(1).expand(1 << 36)}, {str(k): few for k in range(20)}):
        with pytest.raises(UserError, match="that are repetitions of a few values"):
            read_weights(write(tmp_path / "a.pth", content))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["meta", "sparse_coo", "sparse_csr", "quint8", "nested"])
def test_tensors_without_plain_values(tmp_path: Path, kind: str) -> None:
    dense = torch.eye(3)
    make = {
        "meta": lambda: dense.to("meta"),
        "sparse_coo": dense.to_sparse,
        "sparse_csr": dense.to_sparse_csr,
        "quint8": lambda: torch.quantize_per_tensor(dense, 0.1, 0, torch.quint8),
        "nested": lambda: torch.nested.nested_tensor([dense, dense[:2]]),
    }
    file = write_torch(tmp_path / "a.pth", {"model": {"a.weight": make[kind]()}})
    with pytest.raises(UserError, match=rf"under a.weight a .*{kind}.*, not a plain dense one"):
        read_weights(file)


def test_the_cause_is_the_right_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_pickle(tmp_path / "a.pkl", {"a": np.array([None])})
    with pytest.raises(UserError, match="what it holds is refused .*load it where it is trusted") as error:
        read_weights(file)
    assert "damaged" not in str(error.value)
    (tmp_path / "b.pkl").write_bytes(b"\x80\x02]q\x00h\x00a.")
    with pytest.raises(UserError, match="nested without an end"):
        read_weights(tmp_path / "b.pkl")
    for reason, sentence in ((MemoryError(), "more memory than there is"), (PermissionError(13, "No"), "allow this")):
        monkeypatch.setattr(unpickler, "load_plain", lambda _, reason=reason: raises(reason))
        with pytest.raises(UserError, match=sentence):
            read_weights(file)


def raises(error: Exception) -> None:
    raise error


def test_what_cannot_be_fetched(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no\.pth cannot be read: there is no such file"):
        read_weights(tmp_path / "no.pth")
    with pytest.raises(UserError, match="it is a folder"):
        read_weights(tmp_path)
    with pytest.raises(UserError, match="cannot be read: .*; fetch it by other means and give its path"):
        read_weights("http://127.0.0.1:9/a.pth")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("whole")
    return {name: write(folder / name, TENSORS).read_bytes() for name, write in CONTAINERS.items()}


@pytest.mark.parametrize("container", CONTAINERS)
def test_every_truncation_is_a_sentence(tmp_path: Path, whole: dict[str, bytes], container: str) -> None:
    data, file = whole[container], tmp_path / "a.pth"
    for end in sorted({*range(0, len(data), max(1, len(data) // 150)), *range(len(data) - 20, len(data))}):
        file.write_bytes(data[:end])
        with pytest.raises(UserError, match=r"a\.pth cannot be read: ") as error:
            read_weights(file)
        assert "\n" not in str(error.value)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_is_a_sentence_or_harmless(tmp_path: Path, whole: dict[str, bytes], data: st.DataObject) -> None:
    damaged = bytearray(whole[data.draw(st.sampled_from(sorted(CONTAINERS)))])
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    file = tmp_path / "a.pth"
    file.write_bytes(damaged)
    with contextlib.suppress(UserError):
        assert all(type(value) is torch.Tensor for value in read_weights(file).tensors.values())
