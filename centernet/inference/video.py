"""Frames into a video file, and frames or pictures into a window."""

import logging
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from ..errors import UserError
from .outputs import atomic_path
from .sound import add_sound

__all__ = ["Window", "check_display", "write_video"]

logger = logging.getLogger(__name__)

# codecs that OpenCV's wheels carry, by container
_CODECS = {".mp4": "mp4v", ".m4v": "mp4v", ".mov": "mp4v", ".mkv": "mp4v", ".avi": "MJPG"}
_ESCAPE = 27


def write_video(
    frames: Iterable[np.ndarray],
    path: Path,
    fps: float,
    keep_when_interrupted: bool = False,
    sound_of: Path | None = None,
) -> int:
    """Write frames to a video file that appears under its name only when complete.

    Args:
        frames: uint8 [H, W, 3] BGR; the first one gives the size, later ones are resized to it where they
            differ.
        path: ``.mp4``, ``.m4v``, ``.mov``, ``.mkv`` (codec mp4v) or ``.avi`` (Motion JPEG).
        fps: frames a second.
        keep_when_interrupted: an interrupt (Ctrl-C) is the normal end, as for a webcam: what is there is
            kept.
        sound_of: a video whose sound is copied into this one, where that is possible (:mod:`~.sound`).

    Returns:
        the number of frames written.

    Raises:
        UserError: a container not named above, a file that cannot be written, or no frame.
    """
    codec = _CODECS.get(path.suffix.lower())
    if codec is None:
        raise UserError(f"a video cannot be written as {path.name}: give one of {', '.join(_CODECS)}")
    with atomic_path(path) as temporary:
        with _Writer(temporary, codec, fps, path) as writer:
            try:
                for frame in frames:
                    writer.write(frame)
            except KeyboardInterrupt:
                if not keep_when_interrupted or writer.count == 0:
                    raise
            if writer.count == 0:
                raise UserError(f"{path} is not written: there is no frame")
        if sound_of is not None:
            add_sound(temporary, sound_of)
        return writer.count


class _Writer:
    """OpenCV's writer, which silently drops frames of another size and does not say that a file is closed."""

    def __init__(self, temporary: Path, codec: str, fps: float, path: Path) -> None:
        self._temporary, self._codec, self._fps, self._path = temporary, codec, fps, path
        self._writer: Any = None
        self._size = (0, 0)
        self.count = 0

    def write(self, frame: np.ndarray) -> None:
        import cv2

        size = (frame.shape[1], frame.shape[0])
        if self._writer is None:
            self._size = size
            self._writer = cv2.VideoWriter(str(self._temporary), cv2.VideoWriter.fourcc(*self._codec), self._fps, size)
            if not self._writer.isOpened():
                raise UserError(f"{self._path} cannot be written: no {self._codec} encoder, or a closed folder")
        if size != self._size:
            frame = cv2.resize(frame, self._size)
        self._writer.write(np.ascontiguousarray(frame))
        self.count += 1

    def __enter__(self) -> "_Writer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.release()


def check_display() -> None:
    """Make sure that a window can be opened here.

    Raises:
        UserError: there is no display (OpenCV would end the whole program), or this OpenCV was built without
            windows.
    """
    on_unix_desktop = sys.platform not in ("win32", "darwin")
    if on_unix_desktop and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise UserError("there is no display to open a window on: give --output FILE or FOLDER to write the results")
    import cv2

    try:
        cv2.namedWindow("centernet")
        cv2.destroyWindow("centernet")
    except cv2.error as error:
        raise UserError(
            "this OpenCV cannot open windows (a headless build?): give --output FILE or FOLDER instead"
        ) from error


class Window:
    """A window on the screen; a context manager."""

    def __init__(self, title: str) -> None:
        self._title = title

    def show(self, image_bgr: np.ndarray, wait_milliseconds: int = 1) -> bool:
        """Show uint8 [H, W, 3] BGR and wait for a key (0: as long as it takes). False: it was Esc."""
        import cv2

        cv2.imshow(self._title, np.ascontiguousarray(image_bgr))
        return cv2.waitKey(wait_milliseconds) & 0xFF != _ESCAPE

    def __enter__(self) -> "Window":
        import cv2

        cv2.namedWindow(self._title, cv2.WINDOW_NORMAL)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        import cv2

        cv2.destroyAllWindows()
