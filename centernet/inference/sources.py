"""Where pictures come from: files, folders, globs, video files and webcams, each with its own clear error."""

import glob
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from ..errors import UserError
from .images import SourceError, load_image

__all__ = [
    "IMAGE_EXTENSIONS",
    "VIDEO_EXTENSIONS",
    "FrameSource",
    "Inputs",
    "SourceError",
    "check_single_input",
    "find_inputs",
    "load_image",
    "open_video",
    "open_webcam",
]

logger = logging.getLogger(__name__)

IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")
VIDEO_EXTENSIONS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv")

_DEFAULT_FPS = 25.0


@dataclass(frozen=True)
class Inputs:
    """What the user named, in order and without repeats."""

    images: tuple[Path, ...]
    videos: tuple[Path, ...]

    @property
    def all(self) -> tuple[Path, ...]:
        return self.images + self.videos


def find_inputs(names: Sequence[str]) -> Inputs:
    """Turn what the user typed into files.

    Args:
        names: each one a file, a folder (its pictures and videos by known extension, sorted, sub-folders
            not), or a glob (``*``, ``?``, ``[...]``, ``**``; sorted). A file with a video's extension is a
            video, any other file a picture.

    Raises:
        UserError: a path that does not exist, a folder without pictures, a glob without match, or no name at
            all.
    """
    files: dict[Path, None] = {}  # an ordered set: overlapping names give a file once
    for name in names:
        files.update(dict.fromkeys(_expand(name)))
    if not files:
        raise UserError("no input is named: give pictures, a folder, a glob or a video")
    videos = tuple(path for path in files if path.suffix.lower() in VIDEO_EXTENSIONS)
    images = tuple(path for path in files if path.suffix.lower() not in VIDEO_EXTENSIONS)
    return Inputs(images=images, videos=videos)


def _expand(name: str) -> list[Path]:
    path = Path(name).expanduser()
    if path.is_dir():
        found = sorted(entry for entry in path.iterdir() if _is_known(entry))
        if not found:
            known = ", ".join(IMAGE_EXTENSIONS)
            raise UserError(f"folder {name} holds no picture ({known}); sub-folders are not searched")
        return found
    if path.exists():  # before the glob: a file may be called a[1].jpg
        return [path]
    if glob.has_magic(name):
        matches = [Path(match) for match in sorted(glob.glob(str(path), recursive=True))]
        found = [match for match in matches if match.is_file()]
        if not found:
            raise UserError(f"no file matches {name}")
        return found
    raise UserError(f"input {name} does not exist")


def _is_known(entry: Path) -> bool:
    # macOS leaves ._name.jpg files beside the real ones
    known = entry.suffix.lower() in IMAGE_EXTENSIONS + VIDEO_EXTENSIONS
    return known and not entry.name.startswith(".") and entry.is_file()


def check_single_input(inputs: Inputs) -> None:
    """Read a lone picture or open a lone video, so that a broken one is told before a model is built.

    Raises:
        SourceError: it cannot be read.
    """
    if len(inputs.all) != 1:
        return
    if inputs.images:
        load_image(inputs.images[0])
    else:
        with open_video(inputs.videos[0]):
            pass


class FrameSource:
    """An open video file or webcam, iterated over once for its uint8 [H, W, 3] BGR frames; a context manager.

    Attributes:
        name: for messages.
        fps: frames a second; 25 where the source does not say.
        frame_count: as the file declares it, None where unknown.
        live: True for a webcam, which ends only when the user stops it.
    """

    def __init__(self, capture: Any, name: str, live: bool) -> None:
        import cv2

        self._capture = capture
        self.name = name
        self.live = live
        fps = float(capture.get(cv2.CAP_PROP_FPS))
        self.fps = fps if math.isfinite(fps) and 0.1 <= fps <= 1000 else _DEFAULT_FPS
        count = capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.frame_count: int | None = int(count) if not live and math.isfinite(count) and count >= 1 else None

    def __iter__(self) -> Iterator[np.ndarray]:
        frames = 0
        while True:
            success, frame = self._capture.read()
            if not success:
                break
            frames += 1
            yield frame
        if frames == 0:
            raise SourceError(f"{self.name} opens, but no frame of it can be read")
        # OpenCV does not tell a broken file from its end; counts are a little off even in good files
        if self.frame_count is not None and frames < 0.9 * self.frame_count:
            logger.warning("%s ended after %d of %d frames: it may be damaged", self.name, frames, self.frame_count)

    def __enter__(self) -> "FrameSource":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._capture.release()


def open_video(path: str | Path) -> FrameSource:
    """Open a video file.

    Raises:
        SourceError: the file does not exist or is no video that OpenCV can decode.
    """
    if not Path(path).is_file():
        raise SourceError(f"video {path} does not exist")
    import cv2

    capture = cv2.VideoCapture(str(path))
    if not capture.isOpened():
        raise SourceError(f"video {path} cannot be opened: it is no video, or of a kind that OpenCV does not know")
    return FrameSource(capture, f"video {path}", live=False)


def open_webcam(index: int = 0) -> FrameSource:
    """Open a webcam.

    Args:
        index: 0 is the first camera.

    Raises:
        SourceError: there is no such camera, or it is in use.
    """
    capture = _open(index)
    if not capture.isOpened():
        raise SourceError(f"webcam {index} cannot be opened: none is connected, or another program uses it")
    return FrameSource(capture, f"webcam {index}", live=True)


def _open(source: str | int) -> Any:
    """OpenCV's capture, without the lines that it prints when it cannot open something."""
    import cv2

    log = getattr(getattr(cv2, "utils", None), "logging", None)
    if log is None:
        return cv2.VideoCapture(source)
    level = log.getLogLevel()
    log.setLogLevel(log.LOG_LEVEL_SILENT)
    try:
        return cv2.VideoCapture(source)
    finally:
        log.setLogLevel(level)
