"""demo.py from outside: sentences, exit codes, and what is (and is not) written."""

import csv
import json
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

    def test_outputs(self, demo: Demo, folder: Path, video: Path, tmp_path: Path) -> None:
        before = (folder / "one.png").read_bytes()
        self.check(demo("--input", folder, "--output", tmp_path / "a.jpg"), "names one file")
        self.check(demo("--input", folder, "--output", folder), "would be overwritten")
        assert (folder / "one.png").read_bytes() == before
        if sys.platform not in ("win32", "darwin"):
            self.check(demo("--input", folder), "there is no display")
            self.check(demo("--video-input", video), "there is no display")
        (tmp_path / "file").touch()
        self.check(demo("--input", folder, "--output", tmp_path / "file" / "new"), "is a file, not a folder")
        self.check(demo("--input", folder, "--output", tmp_path / "file" / "new" / "out"), "cannot be written")

    def test_options(self, demo: Demo, folder: Path, video: Path, tmp_path: Path) -> None:
        words = ("--input", folder, "--output", tmp_path / "out")
        self.check(demo(*words, "--save-results", "found.txt"), "found.txt has no ending")
        self.check(demo(*words, "--save-results", tmp_path), "has no ending")
        (tmp_path / "file").touch()
        self.check(demo(*words, "--save-results", tmp_path / "file" / "found.csv"), "is a file, not a folder")
        self.check(demo(*words, "--batch-size", 0), "--batch-size is 0")
        self.check(demo(*words, "--track"), "no video among the inputs")
        self.check(demo("--input", folder, "--resume"), "--resume goes on with files")

    def test_config_and_weights(self, demo: Demo, folder: Path, tmp_path: Path) -> None:
        words = ("--input", folder, "--output", tmp_path / "out")
        self.check(demo(*words, config="configs/CenterNet2_R51_1x.yaml"), "CenterNet2_R51_1x.yaml")
        self.check(demo(*words, opts=("MODEL.WEIGHTS", "nowhere.pth")), "nowhere.pth")
        self.check(demo(*words, opts=("MODEL.ROI_HEADS.NUM_CLASSES", 3)), "do not fit this config")
        self.check(demo(*words, opts=("MODEL.ROI_HEADS.NUM_CLASES", 3)), "MODEL.ROI_HEADS.NUM_CLASSES")
        self.check(demo(*words, "--confidence-threshold", 1.5), "from 0 to 1")


class TestSavedResults:
    def test_pictures_and_a_video_in_one_table(
        self, demo: Demo, folder: Path, video: Path, tmp_path: Path
    ) -> None:
        table = tmp_path / "found.csv"
        words = ("--input", folder, video, "--output", tmp_path / "out", "--save-results", table)
        code, out, _ = demo(*words, "--batch-size", 2)
        assert code == 0
        assert f"results in {tmp_path / 'out'} and {table}" in out
        assert names(tmp_path / "out") == ["clip.mp4", "one.png", "two.jpg"]
        with table.open(newline="") as stream:
            rows = list(csv.DictReader(stream))
        found = int(out.split(": ")[1].split(" ")[0])
        assert len(rows) == found > 10
        assert {row["file"] for row in rows} == {str(folder / "one.png"), str(folder / "two.jpg"), str(video)}
        assert {row["frame"] for row in rows} == {"", "0", "1", "2"}
        assert {row["time"] for row in rows} == {"", "0.0", "0.1", "0.2"}

    def test_without_output_nothing_is_drawn_and_no_display_is_needed(
        self, demo: Demo, folder: Path, tmp_path: Path
    ) -> None:
        code, out, _ = demo("--input", folder, "--save-results", tmp_path / "new" / "found.coco.json")
        assert code == 0
        content = json.loads((tmp_path / "new" / "found.coco.json").read_text())
        assert [image["file_name"] for image in content["images"]] == [
            str(folder / "one.png"),
            str(folder / "two.jpg"),
        ]
        assert f": {len(content['annotations'])} detections" in out
        assert names(tmp_path / "new") == ["found.coco.json"]

    @pytest.mark.parametrize("kind", ["json", "csv"])
    def test_ctrl_c_leaves_whole_files_and_resume_does_the_rest(
        self, demo: Demo, folder: Path, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
    ) -> None:
        words = ("--input", folder, video)
        demo(*words, "--output", tmp_path / "whole", "--save-results", tmp_path / f"whole.{kind}")
        words += ("--output", tmp_path / "out", "--save-results", tmp_path / f"found.{kind}")

        from centernet.inference import runner

        save = runner.save_image

        def interrupted(image: np.ndarray, path: Path) -> None:
            if path.name == "two.jpg":
                raise KeyboardInterrupt
            save(image, path)

        with monkeypatch.context() as patch:
            patch.setattr(runner, "save_image", interrupted)
            code, out, _ = demo(*words)
        assert code == 130
        assert out.startswith("interrupted after 2 pictures: ")
        assert names(tmp_path / "out") == ["one.png"]
        assert "one.png" in (tmp_path / f"found.{kind}").read_text()

        (tmp_path / "out" / ".two.999999.part.jpg").touch()  # of a killed process
        (tmp_path / "out" / f".two.{os.getppid()}.part.jpg").touch()  # of one at work
        code, out, _ = demo(*words, "--resume")
        assert code == 0
        assert out.startswith("1 picture, 3 frames: ")
        assert "; 1 input finished before" in out
        assert names(tmp_path / "out") == [f".two.{os.getppid()}.part.jpg", "clip.mp4", "one.png", "two.jpg"]
        assert (tmp_path / f"found.{kind}").read_bytes() == (tmp_path / f"whole.{kind}").read_bytes()
        assert not (tmp_path / f".found.{kind}.part").exists()

    def test_resume_by_drawn_pictures_alone(self, demo: Demo, folder: Path, tmp_path: Path) -> None:
        words = ("--input", folder, "--output", tmp_path / "out", "--resume")
        demo(*words)
        first = (tmp_path / "out" / "one.png").stat().st_mtime_ns
        (tmp_path / "out" / "two.jpg").unlink()
        code, out, _ = demo(*words)
        assert (code, out.split(":")[0]) == (0, "1 picture")
        assert (tmp_path / "out" / "one.png").stat().st_mtime_ns == first
        code, out, _ = demo(*words)
        assert (code, out.split(":")[0]) == (0, "0 pictures")
        assert "2 inputs finished before" in out


class TestPictureModes:
    def test_the_heatmap_lies_below_the_boxes(
        self, demo: Demo, folder: Path, tmp_path: Path, picture: np.ndarray
    ) -> None:
        out = tmp_path / "found.png"
        words = ("--input", folder / "one.png", "--output", out, "--confidence-threshold", 1)
        code, _, _ = demo(*words, "--heatmap")
        assert code == 0
        drawn = np.asarray(Image.open(out))
        assert drawn.shape == picture.shape
        assert (drawn != picture).mean() > 0.3  # the small model sees something everywhere

    def test_tracks_are_in_the_results(self, demo: Demo, video: Path, tmp_path: Path) -> None:
        pytest.importorskip("trackers", reason="needs the extra [video]")
        table = tmp_path / "found.json"
        words = ("--video-input", video, "--output", tmp_path / "out", "--save-results", table)
        code, _, _ = demo(*words, "--track", "--confidence-threshold", 0.2)
        assert code == 0
        ids = [
            [entry["track_id"] for entry in frame["detections"]]
            for frame in json.loads(table.read_text())["images"]
        ]
        assert set(ids[0]) == {-1}
        given = [number for number in ids[1] if number > 0]
        assert given
        assert len(set(given)) == len(given)
        assert set(given) & set(ids[2])

    @pytest.mark.parametrize("size", [2, 5])
    def test_batches_find_the_same(self, demo: Demo, folder: Path, video: Path, tmp_path: Path, size: int) -> None:
        scores = []
        for number in (1, size):
            file = tmp_path / f"{number}.json"
            demo("--input", folder, video, "--save-results", file, "--batch-size", number)
            images = json.loads(file.read_text())["images"]
            scores.append([[entry["score"] for entry in image["detections"]] for image in images])
        for one, other in zip(*scores, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-4)


class TestBadInputs:
    """Among good ones: said, counted, and the rest is done."""

    def check(self, demo: Demo, folder: Path, bad: Path, sentence: str, caplog: pytest.LogCaptureFixture) -> None:
        out = folder.parent / "out"
        code, printed, _ = demo("--input", folder / "one.png", bad, "--output", out)
        assert code == 1
        assert names(out) == ["one.png"]
        assert printed.startswith("1 picture: ")
        assert "1 input FAILED" in printed
        errors = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
        assert len(errors) == 1
        assert sentence in errors[0]
        assert str(bad) in errors[0]

    @pytest.mark.parametrize(
        ("name", "content", "sentence"),
        [
            ("empty.mp4", b"", "cannot be opened"),
            ("text.avi", b"hello", "cannot be opened"),
            ("empty.jpg", b"", "cannot be read"),
        ],
    )
    def test_broken_files(
        self,
        demo: Demo,
        folder: Path,
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
        name: str,
        content: bytes,
        sentence: str,
    ) -> None:
        (tmp_path / name).write_bytes(content)
        self.check(demo, folder, tmp_path / name, sentence, caplog)

    def test_a_video_whose_end_is_missing(
        self, demo: Demo, folder: Path, video: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        os.truncate(video, video.stat().st_size // 3)  # an mp4's table is at its end
        self.check(demo, folder, video, "cannot be opened", caplog)

    def test_a_picture_that_is_a_line(
        self, demo: Demo, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        Image.fromarray(np.zeros((1, 5000, 3), dtype=np.uint8)).save(tmp_path / "line.png")
        self.check(demo, folder, tmp_path / "line.png", "too narrow", caplog)

    def test_a_video_that_does_not_say_how_long_it_is(
        self, demo: Demo, tmp_path: Path, picture: np.ndarray
    ) -> None:
        from centernet.inference.sources import open_video

        stream = tmp_path / "stream.mpg"  # pictures one after the other, without a container
        stream.write_bytes(b"".join(cv2.imencode(".jpg", picture)[1].tobytes() for _ in range(4)))
        with open_video(stream) as source:
            assert source.frame_count is None
        code, out, _ = demo("--video-input", stream, "--output", tmp_path / "out.mp4")
        assert (code, out.split(":")[0]) == (0, "4 frames")

    def test_frames_whose_size_changes(self, demo: Demo, tmp_path: Path, picture: np.ndarray) -> None:
        stream = tmp_path / "stream.mpg"
        large = np.repeat(np.repeat(picture, 2, axis=0), 2, axis=1)
        frames = [picture, picture, large, large]
        stream.write_bytes(b"".join(cv2.imencode(".jpg", frame)[1].tobytes() for frame in frames))
        code, out, _ = demo("--video-input", stream, "--output", tmp_path / "out.mp4", "--batch-size", 4)
        assert (code, out.split(":")[0]) == (0, "4 frames")

    def test_equal_names_do_not_overwrite_each_other(self, demo: Demo, folder: Path, tmp_path: Path) -> None:
        other = tmp_path / "other" / "one.png"
        other.parent.mkdir()
        other.write_bytes((folder / "one.png").read_bytes())
        code, _, _ = demo("--input", folder / "one.png", other, "--output", tmp_path / "out")
        assert code == 0
        assert names(tmp_path / "out") == ["one.png", "one_2.png"]


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
