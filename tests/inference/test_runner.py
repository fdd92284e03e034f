from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from detectron2.config import CfgNode
from PIL import Image

from centernet.inference import VisualizationDemo
from centernet.inference import runner as runner_module
from centernet.inference.runner import Report, count_detections, run_images, run_videos


@pytest.fixture
def demo(cfg: CfgNode) -> VisualizationDemo:
    return VisualizationDemo(cfg, score_threshold=0.25)


def save(path: Path, picture: np.ndarray) -> Path:
    Image.fromarray(picture[:, :, ::-1]).save(path)
    return path


class FakeWindow:
    """Remembers what is shown; the user presses Esc at the ``escape_at``-th picture."""

    escape_at = 99

    def __init__(self, _: str) -> None:
        self.shown: list[np.ndarray] = []
        FakeWindow.last = self

    def show(self, image: np.ndarray, wait_milliseconds: int = 1) -> bool:
        self.shown.append(image)
        return len(self.shown) < self.escape_at

    def __enter__(self) -> "FakeWindow":
        return self

    def __exit__(self, *_: object) -> None:
        pass


def test_a_broken_picture_is_reported_and_the_rest_goes_on(
    demo: VisualizationDemo, tmp_path: Path, picture: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    paths = [tmp_path / "0.jpg", save(tmp_path / "1.png", picture), save(tmp_path / "2.png", picture)]
    paths[0].write_text("broken")
    report = Report()
    run_images(demo, paths, {path: tmp_path / "out" / path.name for path in paths}, report)
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["1.png", "2.png"]
    assert (report.pictures, len(report.failed)) == (2, 1)
    assert report.detections == 2 * count_detections(demo.run_on_image(picture)[0])
    assert f"{paths[0]} cannot be read" in caplog.text
    assert f"{paths[1]}: {report.detections // 2} instance" in caplog.text
    assert "1 input FAILED" in report.summary()


def test_nothing_is_made_when_no_picture_can_be_read(demo: VisualizationDemo, tmp_path: Path) -> None:
    broken = tmp_path / "0.jpg"
    broken.write_text("broken")
    report = Report()
    run_images(demo, [broken], {broken: tmp_path / "out" / "0.jpg"}, report)
    assert not (tmp_path / "out").exists()
    assert report.summary().startswith("0 pictures: 0 detections")


def test_a_video_is_written_with_the_source_s_size_and_rate(
    demo: VisualizationDemo, tmp_path: Path, write_clip: Callable[..., Path]
) -> None:
    clip, broken, report = write_clip(frames=4, fps=8), tmp_path / "broken.mp4", Report()
    broken.write_text("broken")
    out = {path: tmp_path / "out" / path.name for path in (clip, broken)}
    run_videos(demo, [broken, clip], out, report)
    assert (report.frames, len(report.failed)) == (4, 1)
    assert "4 frames: " in report.summary()
    with runner_module.open_video(out[clip]) as source:
        assert (source.fps, source.frame_count) == (8.0, 4)
        assert next(iter(source)).shape == (90, 120, 3)


def test_the_window_gets_bgr_and_escape_ends(
    demo: VisualizationDemo,
    tmp_path: Path,
    picture: np.ndarray,
    write_clip: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runner_module, "Window", FakeWindow)
    monkeypatch.setattr(FakeWindow, "escape_at", 2)
    demo.score_threshold = 1.0  # nothing is drawn
    paths, report = [save(tmp_path / f"{number}.png", picture) for number in range(3)], Report()
    run_images(demo, paths, None, report)
    assert report.pictures == 2
    np.testing.assert_array_equal(FakeWindow.last.shown[0], picture)

    run_videos(demo, [write_clip(frames=4)], None, report)
    assert report.frames == 2


def test_proposals_and_segments_are_counted() -> None:
    assert count_detections({"proposals": [1, 2]}) == 2
    assert count_detections({"panoptic_seg": (None, [{}, {}, {}])}) == 3
    assert count_detections({"sem_seg": None}) == 0
