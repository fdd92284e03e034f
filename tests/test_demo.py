"""demo.py from outside: sentences, exit codes, and what is (and is not) written."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from PIL import Image

from centernet.config_file import load_config

ROOT = Path(__file__).resolve().parents[1]
CONFIG = str(ROOT / "configs" / "CenterNet2_R50_1x.yaml")
SMALL = [
    *("MODEL.RESNETS.DEPTH", "18", "MODEL.RESNETS.RES2_OUT_CHANNELS", "64", "MODEL.RESNETS.NORM", "BN"),
    *(
        "MODEL.FPN.OUT_CHANNELS",
        "64",
        "MODEL.CENTERNET.NUM_CLS_CONVS",
        "1",
        "MODEL.ROI_BOX_HEAD.FC_DIM",
        "32",
    ),
    *("MODEL.CENTERNET.NUM_BOX_CONVS", "1", "MODEL.CENTERNET.PRIOR_PROB", "0.3"),
    *("INPUT.MIN_SIZE_TEST", "96", "INPUT.MAX_SIZE_TEST", "160", "TEST.DETECTIONS_PER_IMAGE", "5"),
]

Demo = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of the small model."""
    torch.manual_seed(0)
    model = build_model(load_config(CONFIG, [*SMALL, "MODEL.DEVICE", "cpu"]))
    file = tmp_path_factory.mktemp("weights") / "model_final.pth"
    torch.save({"model": model.state_dict()}, file)
    return file


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path: Path, picture: np.ndarray) -> Path:
    """Two pictures."""
    for name in ("one.png", "two.jpg"):
        (tmp_path / "in").mkdir(exist_ok=True)
        Image.fromarray(picture).save(tmp_path / "in" / name)
    return tmp_path / "in"


@pytest.fixture
def video(tmp_path: Path, picture: np.ndarray) -> Path:
    path = tmp_path / "clip.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10, (120, 90))
    for shift in range(3):
        writer.write(np.roll(picture, shift, axis=1))
    writer.release()
    return path


@pytest.fixture
def demo(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, weights: Path) -> Demo:
    """Runs demo.py's ``main`` with the small model: ``demo(words...) -> exit code, stdout, stderr``."""
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    import demo as module

    # logging.basicConfig() leaves pytest's handlers alone, so log lines are looked for with caplog
    def run(*words: object, config: str = CONFIG, opts: tuple[object, ...] = ()) -> tuple[int, str, str]:
        options = [*SMALL, "MODEL.WEIGHTS", weights, *opts]
        line = ["--config-file", config, *words, "--opts", *options]
        code = module.main([str(word) for word in line])
        return code, *capsys.readouterr()

    return run


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class TestResults:
    def test_one_picture_to_a_file(
        self, demo: Demo, folder: Path, tmp_path: Path, picture: np.ndarray
    ) -> None:
        code, out, _ = demo("--input", folder / "one.png", "--output", tmp_path / "new" / "found.png")
        assert code == 0
        assert "1 picture: " in out
        assert np.asarray(Image.open(tmp_path / "new" / "found.png")).shape == picture.shape

    @pytest.mark.parametrize("kind", ["folder", "glob", "list"])
    def test_several_to_a_folder(self, demo: Demo, folder: Path, tmp_path: Path, kind: str) -> None:
        several = {
            "folder": [folder],
            "glob": [folder / "*.*"],
            "list": [folder / "one.png", folder / "two.jpg"],
        }
        code, out, _ = demo("--input", *several[kind], "--output", tmp_path / "out")
        assert code == 0
        assert names(tmp_path / "out") == ["one.png", "two.jpg"]
        assert "2 pictures: " in out

    @pytest.mark.parametrize("flag", ["--input", "--video-input"])
    def test_a_video(self, demo: Demo, video: Path, tmp_path: Path, flag: str) -> None:
        code, out, _ = demo(flag, video, "--output", tmp_path / "out")
        assert code == 0
        assert names(tmp_path / "out") == ["clip.mp4"]
        assert "3 frames: " in out

    def test_the_threshold_decides_what_is_drawn(
        self, demo: Demo, folder: Path, tmp_path: Path, picture: np.ndarray, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("INFO", "centernet")
        arguments = (
            "--input",
            folder / "one.png",
            "--output",
            tmp_path / "found.png",
            "--confidence-threshold",
        )
        demo(*arguments, 1)
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "found.png")), picture)
        assert "one.png: 0 instances" in caplog.text
        demo(*arguments, 0.1)
        assert (np.asarray(Image.open(tmp_path / "found.png")) != picture).any()

    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
    def test_no_gpu_is_said(
        self, demo: Demo, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("INFO", "centernet")
        demo("--input", folder, "--output", tmp_path / "out")
        assert "CPU" in caplog.text

    def test_a_broken_picture_among_good_ones(self, demo: Demo, folder: Path, tmp_path: Path) -> None:
        (folder / "broken.jpg").write_text("hello")
        code, out, _ = demo("--input", folder, "--output", tmp_path / "out")
        assert code == 1
        assert "2 pictures: " in out
        assert "1 input FAILED" in out
        assert names(tmp_path / "out") == ["one.png", "two.jpg"]


class TestMistakes:
    """Each is one sentence and exit code 2, and nothing is written."""

    @pytest.fixture(autouse=True)
    def nothing_is_written(self, tmp_path: Path, folder: Path) -> None:
        yield
        assert not (tmp_path / "out").exists()

    def check(self, result: tuple[int, str, str], sentence: str) -> None:
        code, _, err = result
        assert code == 2
        assert sentence in err
        assert len(err.strip().splitlines()) == 1
        assert err.startswith("error: ")

    def test_inputs(self, demo: Demo, folder: Path, tmp_path: Path) -> None:
        out = ("--output", tmp_path / "out")
        (tmp_path / "empty").mkdir()
        broken = folder / "broken.jpg"
        broken.write_text("hello")
        self.check(demo("--input", "nowhere.jpg", *out), "input nowhere.jpg does not exist")
        self.check(demo("--input", tmp_path / "empty", *out), "holds no picture")
        self.check(demo("--input", folder / "*.webp", *out), "no file matches")
        self.check(demo("--input", broken, *out), f"picture {broken} cannot be read")
        self.check(demo("--video-input", "nowhere.mp4", *out), "video nowhere.mp4 does not exist")
        self.check(demo("--webcam", 97, *out), "webcam 97 cannot be opened")

    def test_outputs(self, demo: Demo, folder: Path, tmp_path: Path) -> None:
        before = (folder / "one.png").read_bytes()
        self.check(demo("--input", folder, "--output", tmp_path / "a.jpg"), "names one file")
        self.check(demo("--input", folder, "--output", folder), "would be overwritten")
        assert (folder / "one.png").read_bytes() == before
        if sys.platform not in ("win32", "darwin"):
            self.check(demo("--input", folder), "there is no display")

    def test_config_and_weights(self, demo: Demo, folder: Path, tmp_path: Path) -> None:
        words = ("--input", folder, "--output", tmp_path / "out")
        self.check(demo(*words, config="configs/CenterNet2_R51_1x.yaml"), "CenterNet2_R51_1x.yaml")
        self.check(demo(*words, opts=("MODEL.WEIGHTS", "nowhere.pth")), "nowhere.pth")
        self.check(demo(*words, opts=("MODEL.ROI_HEADS.NUM_CLASSES", 3)), "do not fit this config")
        self.check(demo(*words, opts=("MODEL.ROI_HEADS.NUM_CLASES", 3)), "MODEL.ROI_HEADS.NUM_CLASSES")
        self.check(demo(*words, "--confidence-threshold", 1.5), "from 0 to 1")


def test_one_kind_of_source(demo: Demo, folder: Path) -> None:
    with pytest.raises(SystemExit, match="2"):
        demo("--input", folder, "--webcam")
    with pytest.raises(SystemExit, match="2"):
        demo()


def test_from_the_shell(folder: Path, tmp_path: Path, weights: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if "DISPLAY" not in key}

    def run(*words: object) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, str(ROOT / "demo.py"), *(str(word) for word in words)]
        return subprocess.run(
            line, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False
        )

    without_model = run("--input", folder, "--output", "out")
    assert without_model.returncode == 2
    assert without_model.stderr.startswith("error: which model?")

    (folder / "broken.jpg").write_text("hello")
    # without --config-file: the default config, found from any folder
    some = run("--input", folder, "--output", "out", "--opts", *SMALL, "MODEL.WEIGHTS", weights)
    assert some.returncode == 1, some.stderr
    assert "broken.jpg cannot be read" in some.stderr
    assert "one.png: " in some.stderr
    assert "Traceback" not in some.stderr
    assert "1 input FAILED; results in out" in some.stdout
    assert names(tmp_path / "out") == ["one.png", "two.jpg"]
