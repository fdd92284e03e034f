"""Many pictures and videos through a model, to files or a window, with progress and a report of failures."""

import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..progress import progress
from .outputs import save_image
from .sources import FrameSource, SourceError, load_image, open_video
from .video import Window, write_video
from .visualization_demo import VisualizationDemo

__all__ = ["Report", "count_detections", "run_frames", "run_images", "run_videos"]

logger = logging.getLogger(__name__)

_WINDOW = "centernet"


@dataclass
class Report:
    """What was done. ``failed`` holds one sentence for each input that could not be used."""

    pictures: int = 0
    frames: int = 0
    detections: int = 0
    seconds: float = 0.0
    failed: list[str] = field(default_factory=list)

    def add_failure(self, error: SourceError) -> None:
        """Log and count an input that cannot be used."""
        logger.error("error: %s", error)
        self.failed.append(str(error))

    def summary(self) -> str:
        """One line for the end of a run."""
        done = [_plural(self.pictures, "picture")] if self.pictures or not self.frames else []
        done += [_plural(self.frames, "frame")] if self.frames else []
        rate = (self.pictures + self.frames) / self.seconds if self.seconds > 0 else 0.0
        found = f"{_plural(self.detections, 'detection')} in {self.seconds:.1f} s ({rate:.2f} a second)"
        failed = f"; {_plural(len(self.failed), 'input')} FAILED" if self.failed else ""
        return f"{', '.join(done)}: {found}{failed}"


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def count_detections(predictions: Mapping[str, Any]) -> int:
    """Number of instances, or of proposals where a model gives only those, or of panoptic segments."""
    for key in ("instances", "proposals"):
        if key in predictions:
            return len(predictions[key])
    return len(predictions["panoptic_seg"][1] or ()) if "panoptic_seg" in predictions else 0


def run_images(
    demo: VisualizationDemo, paths: Sequence[Path], results: Mapping[Path, Path] | None, report: Report
) -> None:
    """Predict, draw and write or show pictures. An unreadable one is logged and counted, the rest go on.

    Args:
        demo: model and pen.
        paths: the pictures.
        results: ``{picture: file to write}`` as :func:`~.outputs.plan_outputs` gives it; None shows them in a
            window, where Esc ends and any other key goes on.
        report: counted into.

    Raises:
        UserError: a result cannot be written.
    """
    if results is not None:
        for path in _progress(paths, "picture"):
            drawn = _run_image(demo, path, report)
            if drawn is not None:
                save_image(drawn, results[path])
        return
    with Window(_WINDOW) as window:
        for path in paths:
            drawn = _run_image(demo, path, report)
            if drawn is not None and not window.show(drawn[:, :, ::-1], wait_milliseconds=0):
                return


def _run_image(demo: VisualizationDemo, path: Path, report: Report) -> np.ndarray | None:
    """The drawn picture, uint8 [H, W, 3] RGB; None if the file cannot be read."""
    try:
        image = load_image(path)
    except SourceError as error:
        report.add_failure(error)
        return None
    start = time.perf_counter()
    predictions, drawing = demo.run_on_image(image)
    drawn = drawing.get_image()
    seconds = time.perf_counter() - start
    count = count_detections(predictions)
    report.pictures += 1
    report.detections += count
    report.seconds += seconds
    logger.info("%s: %s, %.2f s", path, _plural(count, "instance"), seconds)
    return drawn


def run_videos(
    demo: VisualizationDemo, paths: Sequence[Path], results: Mapping[Path, Path] | None, report: Report
) -> None:
    """As :func:`run_images`, for video files."""
    for path in paths:
        try:
            with open_video(path) as source:
                run_frames(demo, source, None if results is None else results[path], report)
        except SourceError as error:
            report.add_failure(error)


def run_frames(demo: VisualizationDemo, source: FrameSource, result: Path | None, report: Report) -> None:
    """Predict, draw and write or show the frames of a video or webcam.

    Args:
        demo: model and pen.
        source: an open one.
        result: the video file to write, with the source's size and rate; None shows a window, where Esc ends.
        report: counted into.

    Raises:
        SourceError: the source gives no frame.
        UserError: the result cannot be written.
    """
    start, before = time.perf_counter(), report.frames
    frames = _count_frames(demo, source, report)
    if result is not None:
        write_video(frames, result, source.fps, keep_when_interrupted=source.live)
    else:
        with Window(_WINDOW) as window:
            for frame in frames:
                if not window.show(frame):
                    break
    seconds = time.perf_counter() - start
    report.seconds += seconds
    logger.info("%s: %s, %.1f s", source.name, _plural(report.frames - before, "frame"), seconds)


def _count_frames(demo: VisualizationDemo, source: FrameSource, report: Report) -> Iterator[np.ndarray]:
    bar = _progress(demo.iterate_video(source), "frame", source.frame_count)
    for predictions, frame in bar:
        report.frames += 1
        report.detections += count_detections(predictions)
        yield frame


def _progress(items: Iterable[Any], unit: str, total: int | None = None) -> Iterator[Any]:
    """A progress bar on a terminal, nothing elsewhere; log lines go above it."""
    with progress(f"{unit}s", total, unit=unit) as bar:
        for item in items:
            yield item
            bar.advance()
