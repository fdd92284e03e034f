"""Pictures and videos that visitors bring, and the ones that are shown to those who bring none."""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from ...data.datasets.digits import CLASSES as DIGITS
from ...data.datasets.digits_render import PHOTOS, draw_scene, load_photo, load_source
from ...errors import UserError
from ..sources import VIDEO_EXTENSIONS, SourceError, load_image, open_video
from .findings import Findings

__all__ = ["MOST_FRAMES", "MOST_PICTURES", "Shot", "Uploads", "example_pictures", "holds_video", "read_uploads"]

MOST_PICTURES = 50
MOST_FRAMES = 300
_STORED_SIDE = 1280  # pixels; larger pictures are kept at this size for drawing
_QUALITY = 95
_SCENES = 6
_SHOWN_PHOTOS = ("astronaut", "chelsea", "china", "coffee", "flower", "rocket")


@dataclass
class Shot:
    """A picture, or a frame of a video, with what was found in it.

    Attributes:
        name: the visitor's name of the file.
        width, height: of the original, pixels.
        jpeg: the picture for drawing, at most 1280 pixels on its longer side.
        findings: boxes in pixels of the original.
        heatmap: P(object) of the first stage on the stored picture, float32 ``[H, W]``; None until it is asked for.
    """

    name: str
    width: int
    height: int
    jpeg: bytes
    findings: Findings
    heatmap: np.ndarray | None = None

    @classmethod
    def of(cls, name: str, image_bgr: np.ndarray, findings: Findings) -> "Shot":
        """Keep a picture (uint8 ``[H, W, 3]``, BGR) with its detections."""
        picture = Image.fromarray(np.ascontiguousarray(image_bgr[:, :, ::-1]))
        picture.thumbnail((_STORED_SIDE, _STORED_SIDE))
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=_QUALITY, subsampling=0)
        return cls(name, image_bgr.shape[1], image_bgr.shape[0], file.getvalue(), findings)

    def pixels(self) -> np.ndarray:
        """The stored picture, uint8 ``[H, W, 3]`` RGB."""
        return np.asarray(Image.open(io.BytesIO(self.jpeg)).convert("RGB"))


@dataclass(frozen=True)
class Uploads:
    """What a visitor has brought.

    Attributes:
        pictures: ``(name, uint8 [H, W, 3] BGR)`` one after the other. A picture that cannot be read raises
            :class:`~..sources.SourceError` from its :func:`next`; the one after that gives the next picture.
        count: of pictures; of a video's frames at most.
    """

    pictures: Iterator[tuple[str, np.ndarray]]
    count: int


def holds_video(paths: Sequence[str]) -> bool:
    """Whether there is a video among the files."""
    return any(Path(path).suffix.lower() in VIDEO_EXTENSIONS for path in paths)


def read_uploads(paths: Sequence[str]) -> Uploads:
    """Open what a visitor has brought: pictures, or one video.

    Raises:
        UserError: too much was brought, or a video together with other files.
        SourceError: the video cannot be read.
    """
    files = [Path(path) for path in paths]
    video = holds_video(paths)
    if video and len(files) > 1:
        raise UserError("one video or several pictures, please: this page shows a video alone")
    if len(files) > MOST_PICTURES:
        raise UserError(
            f"{len(files)} pictures are too many for this page, which takes {MOST_PICTURES} at a time: "
            "give the folder to demo.py --input instead"
        )
    return _read_video(files[0]) if video else Uploads(_Pictures(files), len(files))


class _Pictures:
    """An iterator that survives its exceptions, which a generator would not."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = iter(files)

    def __iter__(self) -> "_Pictures":
        return self

    def __next__(self) -> tuple[str, np.ndarray]:
        file = next(self._files)
        with _naming(file):
            return file.name, load_image(file)


def _read_video(video: Path) -> Uploads:
    with _naming(video):
        source = open_video(video)
    count = source.frame_count or 0
    if count > MOST_FRAMES:
        source.__exit__(None, None, None)
        raise UserError(
            f"the video {video.name} has {count:,} frames, but this page takes {MOST_FRAMES}: cut it, or give it to "
            "demo.py --video-input"
        )

    def frames() -> Iterator[tuple[str, np.ndarray]]:
        with source, _naming(video):
            for number, frame in enumerate(source):
                if number == MOST_FRAMES:  # the file did not say how many
                    raise UserError(
                        f"the video {video.name} has more than the {MOST_FRAMES} frames that this page takes: cut it, "
                        "or give it to demo.py --video-input"
                    )
                yield f"{video.name}, frame {number + 1}", frame

    return Uploads(frames(), count or MOST_FRAMES)


@contextmanager
def _naming(file: Path) -> Iterator[None]:
    """Errors name the file as the visitor does; the folder is the server's affair."""
    try:
        yield
    except SourceError as error:
        raise SourceError(str(error).replace(str(file), file.name)) from error


def example_pictures(class_names: Sequence[str]) -> list[tuple[str, np.ndarray]]:
    """Pictures to begin with, ``(title, uint8 [H, W, 3] RGB)``: handwritten digits for a model of digits, photographs
    for others; none where scikit-learn or scikit-image is not installed."""
    try:
        return _scenes() if list(class_names) == DIGITS else _photos()
    except UserError:  # a package is missing
        return []


@cache
def _scenes() -> list[tuple[str, np.ndarray]]:
    source = load_source("val")
    scenes = [draw_scene(source, np.random.default_rng([7, number])) for number in range(_SCENES)]
    return [(f"digits {number}", scene.pixels) for number, scene in enumerate(scenes, start=1)]


@cache
def _photos() -> list[tuple[str, np.ndarray]]:
    return [(photo.name, np.asarray(load_photo(photo))) for photo in PHOTOS if photo.name in _SHOWN_PHOTOS]
