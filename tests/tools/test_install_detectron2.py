"""tools/install_detectron2.py: the mends on fabricated sources, what it refuses, and what it leaves alone."""

from __future__ import annotations

import importlib
import importlib.util
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

TOOLS = Path(__file__).resolve().parents[2] / "tools"


@pytest.fixture(scope="module")
def tool() -> Iterator[ModuleType]:
    """The command line as a module; tools/ is no package."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(TOOLS))
        yield importlib.import_module("install_detectron2")


@pytest.fixture(scope="module")
def mends(tool: ModuleType) -> ModuleType:
    """The table of mends."""
    return importlib.import_module("detectron2_mends")


# What the mends expect of each file, and nothing else of it.
SOURCES = {
    "layers/deform_conv.py": "from detectron2 import _C\n",
    "layers/roi_align_rotated.py": "import math\n\nfrom detectron2 import _C\n",
    "layers/rotated_boxes.py": "from detectron2 import _C\niou = lambda a, b: _C.box_iou_rotated(a, b)\n",
    "layers/mask_ops.py": "def paste(np, mask):\n    return np.array(mask, copy=False)\n",
    "evaluation/coco_evaluation.py": (
        "COCOeval = object\nfrom detectron2.evaluation.fast_eval_api import COCOeval_opt\n"
    ),
    "evaluation/pascal_voc_evaluation.py": "a = x.astype(np.bool)\n# b = x.astype(np.bool)\n",
    "evaluation/sem_seg_evaluation.py": "a = np.int, np.float, np.float\n" * 2 + "b = np.float\n",
    "data/build.py": "a = (np.int, np.int, np.int64, np.float32)\n",
    "data/datasets/pascal_voc.py": "a = np.str\n",
    "structures/masks.py": "a = (np.bool, np.bool, np.bool, np.bool_)\n",
    "utils/video_visualizer.py": "a = np.bool\n",
    "utils/visualizer.py": "a = (np.bool, np.bool, np.bool)\n",
    "data/transforms/transform.py": "def f(interp=Image.LINEAR, other=Image.BILINEAR): ...\n",
    "model_zoo/model_zoo.py": (
        "import os\nimport pkg_resources\n\n\ndef get_config_file(config_path):\n"
        "    return pkg_resources.resource_filename(\n"
        '        "detectron2.model_zoo", os.path.join("configs", config_path)\n    )\n'
    ),
    "modeling/anchor_generator.py": "y, x = torch.meshgrid(shifts_y, shifts_x)\n",
    "modeling/meta_arch/retinanet.py": "name = str(type(get_norm(norm, 1)))\n",
    "export/__init__.py": "from .api import *\nfrom .flatten import TracingAdapter\n",
}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A fabricated source tree, with everything that is mended or packed."""
    for name, text in SOURCES.items():
        path = tmp_path / "source" / "detectron2" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    root = tmp_path / "source"
    (root / "detectron2" / "__init__.py").write_text('__version__ = "0.6"\n')
    (root / "detectron2" / "model_zoo" / "configs").mkdir()
    (root / "detectron2" / "model_zoo" / "configs" / "Base.yaml").write_text("VERSION: 2\n")
    (root / "detectron2" / "layers" / "csrc.cpp").write_text("// compiled sources stay out\n")
    (root / "projects" / "PointRend" / "point_rend").mkdir(parents=True)
    (root / "projects" / "PointRend" / "point_rend" / "__init__.py").write_text("")
    (root / "LICENSE").write_text("Apache License\n")
    return root


def test_every_mend_is_applied_and_counted(mends: ModuleType, source: Path) -> None:
    times = mends.apply_mends(source)

    assert times == sum(mend.times for mend in mends.MENDS)
    mended = {name: (source / "detectron2" / name).read_text() for name in SOURCES}
    assert mended["data/build.py"] == "a = (int, int, np.int64, np.float32)\n"
    assert mended["structures/masks.py"] == "a = (bool, bool, bool, np.bool_)\n"
    assert mended["evaluation/pascal_voc_evaluation.py"] == "a = x.astype(bool)\n# b = x.astype(bool)\n"
    assert mended["data/datasets/pascal_voc.py"] == "a = str\n"
    assert mended["layers/mask_ops.py"].endswith("return np.asarray(mask)\n")
    assert mended["data/transforms/transform.py"].count("Image.BILINEAR") == 2
    assert mended["modeling/anchor_generator.py"].endswith('(shifts_y, shifts_x, indexing="ij")\n')
    assert "get_norm(norm, 32)" in mended["modeling/meta_arch/retinanet.py"]
    assert "pkg_resources" not in mended["model_zoo/model_zoo.py"]


def test_the_mended_config_lookup_finds_the_configs_beside_it(mends: ModuleType, source: Path) -> None:
    mends.apply_mends(source)
    path = source / "detectron2" / "model_zoo" / "model_zoo.py"
    scope: dict[str, object] = {"__file__": str(path)}

    exec(compile(path.read_text(), path, "exec"), scope)

    found = scope["get_config_file"]("Base.yaml")  # type: ignore[operator]
    assert Path(found).read_text() == "VERSION: 2\n"


def test_a_missing_operator_says_so_when_it_is_called_not_at_import(mends: ModuleType, source: Path) -> None:
    mends.apply_mends(source)
    code = "import detectron2.layers.rotated_boxes as r\nr.iou(1, 2)"

    done = subprocess.run([sys.executable, "-c", code], cwd=source, capture_output=True, text=True)

    assert "NotImplementedError: The compiled operator box_iou_rotated is not in this" in done.stderr


def test_evaluation_falls_back_to_the_official_protocol(mends: ModuleType, source: Path) -> None:
    mends.apply_mends(source)
    code = "import detectron2.evaluation.coco_evaluation as c\nassert c.COCOeval_opt is c.COCOeval"

    subprocess.run([sys.executable, "-c", code], cwd=source, check=True)


@pytest.mark.parametrize(
    "name, text",
    [
        ("data/build.py", "a = np.int\n"),  # once, not twice
        ("utils/video_visualizer.py", "a = bool\n"),  # mended by somebody else already
        ("model_zoo/model_zoo.py", "import pkg_resources\npkg_resources.resource_filename('a', 'b')\n"),
    ],
)
def test_unexpected_sources_are_refused(mends: ModuleType, source: Path, name: str, text: str) -> None:
    (source / "detectron2" / name).write_text(text)

    with pytest.raises(mends.MendError, match=rf"detectron2/{name} is not as expected"):
        mends.apply_mends(source)


def test_a_missing_file_is_refused(mends: ModuleType, source: Path) -> None:
    (source / "detectron2" / "utils" / "visualizer.py").unlink()

    with pytest.raises(mends.MendError, match=r"have no detectron2/utils/visualizer\.py"):
        mends.apply_mends(source)


def test_the_wheel_is_pure_and_complete(
    tool: ModuleType, mends: ModuleType, source: Path, tmp_path: Path
) -> None:
    mends.apply_mends(source)

    wheel = tool.build_wheel(source, tmp_path)

    assert wheel.name == "detectron2-0.6-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        record = archive.read("detectron2-0.6.dist-info/RECORD").decode()
        assert b"Name: detectron2\nVersion: 0.6\n" in archive.read("detectron2-0.6.dist-info/METADATA")
    assert "detectron2/model_zoo/configs/Base.yaml" in names
    assert "detectron2/projects/point_rend/__init__.py" in names
    assert "detectron2-0.6.dist-info/licenses/LICENSE" in names
    assert not [name for name in names if name.endswith(".cpp")]
    assert sorted(line.split(",")[0] for line in record.splitlines()) == sorted(names)


def test_pip_installs_the_wheel(tool: ModuleType, source: Path, tmp_path: Path) -> None:
    wheel = tool.build_wheel(source, tmp_path)
    target = tmp_path / "target"

    tool.run_pip(
        ["install", "--no-deps", "--no-index", "--target", str(target), str(wheel)], tmp_path / "pip.log"
    )

    assert (target / "detectron2" / "__init__.py").is_file()
    assert "Successfully installed detectron2-0.6" in (tmp_path / "pip.log").read_text()


def test_another_file_than_the_known_sdist_is_refused(tool: ModuleType, tmp_path: Path) -> None:
    wrong = tmp_path / "pb1-detectron2-0.6.tar.gz"
    wrong.write_bytes(b"something else")

    with pytest.raises(tool.InstallError, match=r"has SHA-256 [0-9a-f]{64}, not 5d2e9e51.*; refused"):
        tool.install(wrong, tmp_path / "pip.log")
    assert not (tmp_path / "pip.log").exists()  # pip was not even called


def test_a_missing_local_sdist_is_one_sentence(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tool, "why_not_working", lambda: "not installed")

    code = tool.main(["--sdist", str(tmp_path / "none.tar.gz"), "--log", str(tmp_path / "pip.log")])

    assert code == 1
    assert capsys.readouterr().err == f"install_detectron2: There is no file {tmp_path / 'none.tar.gz'}.\n"


def test_nothing_is_done_when_detectron2_works(
    tool: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tool, "why_not_working", lambda: None)
    monkeypatch.setattr(tool, "install", lambda *_: pytest.fail("installed over a working detectron2"))

    assert tool.main([]) == 0
    assert capsys.readouterr().out == "detectron2 is there and works: nothing to do.\n"


@pytest.mark.parametrize(
    "output, sentence",
    [
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES", "another file than the one"),
        ("Max retries exceeded\nERROR: No matching distribution found", "no network, or"),
    ],
)
def test_a_failed_download_is_one_sentence(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str, sentence: str
) -> None:
    def fail(*_: object) -> str:
        raise tool.InstallError(output)

    monkeypatch.setattr(tool, "run_pip", fail)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: object())

    with pytest.raises(tool.InstallError, match=sentence) as caught:
        tool.fetch_sdist(tmp_path, tmp_path / "pip.log")
    assert "\n" not in str(caught.value)


def test_what_pip_finds_but_refuses_is_fetched_without_pip(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = tmp_path / "pb1-detectron2-0.6.tar.gz"
    served.write_bytes(b"the sdist")
    (tmp_path / "folder").mkdir()

    def refuse(*_: object) -> None:
        raise tool.InstallError(
            f"  Found link {served.as_uri()}#sha256=0 (from index), version: 0.6\nERROR: no"
        )

    monkeypatch.setattr(tool, "run_pip", refuse)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: object())

    fetched = tool.fetch_sdist(tmp_path / "folder", tmp_path / "pip.log")

    assert fetched.parent == tmp_path / "folder"
    assert fetched.read_bytes() == b"the sdist"


def test_a_link_that_does_not_answer_is_one_sentence(tool: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(tool.InstallError, match="could not be downloaded: .*pip's words: .*log"):
        tool.fetch_link((tmp_path / "none.tar.gz").as_uri(), tmp_path, tmp_path / "pip.log")


def test_the_download_asks_for_torch_first(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torch" else object())

    with pytest.raises(tool.InstallError, match="torch is not installed"):
        tool.fetch_sdist(tmp_path, tmp_path / "pip.log")


def test_an_installation_that_does_not_work_is_removed_again(
    tool: ModuleType, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    archive = tmp_path / "sdist.tar.gz"
    subprocess.run(["tar", "-czf", str(archive), "-C", str(tmp_path), "source"], check=True)
    monkeypatch.setattr(tool, "check_hash", lambda _: None)
    monkeypatch.setattr(tool, "run_pip", lambda arguments, _: calls.append(arguments[0]))
    monkeypatch.setattr(tool, "why_not_working", lambda: "ImportError: broken")

    with pytest.raises(tool.InstallError, match="removed again: ImportError: broken"):
        tool.install(archive, tmp_path / "pip.log")
    assert calls == ["install", "uninstall"]


@pytest.mark.slow
def test_the_index_has_the_sdist_and_every_mend_fits(
    tool: ModuleType, mends: ModuleType, tmp_path: Path
) -> None:
    """Needs the network: the only test that sees the real sources."""
    sdist = tool.fetch_sdist(tmp_path, tmp_path / "pip.log")
    tool.check_hash(sdist)
    with tarfile.open(sdist) as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", None)
        archive.extractall(tmp_path / "source")
    source = next((tmp_path / "source").iterdir())

    mends.apply_mends(source)
    alias = re.compile(r"\bnp\.(bool|int|float|object|str|complex|long)\b|\bpkg_resources\b")
    left = [path.name for path in (source / "detectron2").rglob("*.py") if alias.search(path.read_text())]
    assert left == []
