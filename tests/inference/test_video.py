import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from centernet.errors import UserError
from centernet.inference.sources import open_video
from centernet.inference.video import Window, check_display, write_video


def frames(count: int, height: int = 90, width: int = 120) -> list[np.ndarray]:
    return [np.full((height, width, 3), 20 * number, dtype=np.uint8) for number in range(count)]


@pytest.mark.parametrize("name", ["a.mp4", "a.avi", "a.mkv", "a.mov"])
def test_frames_come_back_in_order_with_size_and_rate(tmp_path: Path, name: str) -> None:
    path = tmp_path / "new" / name
    assert write_video(frames(5), path, fps=12.5) == 5
    with open_video(path) as source:
        assert source.fps == pytest.approx(12.5)
        means = [frame.mean() for frame in source]
    np.testing.assert_allclose(means, [0, 20, 40, 60, 80], atol=4)
    assert [file.name for file in path.parent.iterdir()] == [name]


def test_a_frame_of_another_size_is_fitted_in(tmp_path: Path) -> None:
    assert write_video([*frames(2), *frames(1, 91, 121)], tmp_path / "a.mp4", fps=10) == 3
    with open_video(tmp_path / "a.mp4") as source:
        assert [frame.shape for frame in source] == [(90, 120, 3)] * 3


def interrupted_after(count: int) -> Iterator[np.ndarray]:
    yield from frames(count)
    raise KeyboardInterrupt


def test_an_interrupted_video_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        write_video(interrupted_after(3), tmp_path / "a.mp4", fps=10)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_webcam_keeps_what_it_saw(tmp_path: Path) -> None:
    assert write_video(interrupted_after(3), tmp_path / "a.mp4", fps=10, keep_when_interrupted=True) == 3
    with open_video(tmp_path / "a.mp4") as source:
        assert len(list(source)) == 3


def test_mistakes_are_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot be written as a\.gif"):
        write_video(frames(1), tmp_path / "a.gif", fps=10)
    with pytest.raises(UserError, match="there is no frame"):
        write_video([], tmp_path / "a.mp4", fps=10)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="always a display there")
def test_no_display_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(UserError, match="there is no display .* give --output"):
        check_display()


def test_an_opencv_without_windows_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise cv2.error("The function is not implemented")

    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(cv2, "namedWindow", refuse)
    with pytest.raises(UserError, match="cannot open windows"):
        check_display()


def test_the_window_shows_and_ends_with_escape(monkeypatch: pytest.MonkeyPatch) -> None:
    keys, shown = [ord("n"), 27], []
    monkeypatch.setattr(cv2, "namedWindow", lambda *_: None)
    monkeypatch.setattr(cv2, "destroyAllWindows", lambda: shown.append("closed"))
    monkeypatch.setattr(cv2, "imshow", lambda _, image: shown.append(image.shape))
    monkeypatch.setattr(cv2, "waitKey", lambda _: keys.pop(0))
    with Window("test") as window:
        assert window.show(frames(1)[0])
        assert not window.show(frames(1)[0])
    assert shown == [(90, 120, 3), (90, 120, 3), "closed"]
