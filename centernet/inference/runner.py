"""Many pictures and videos through a model, to files or a window, with progress and a report of failures."""

import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..progress import Bar, progress
from .outputs import remove_leftovers, save_image
from .result_files import ResultFile
from .sources import FrameSource, Inputs, SourceError, load_image, open_video
from .video import Window, write_video
from .visualization_demo import VisualizationDemo

__all__ = ["Report", "count_detections", "leave_out_finished", "run_frames", "run_images", "run_inputs", "run_videos"]

logger = logging.getLogger(__name__)

_WINDOW = "centernet"


@dataclass
class Report:
    """What was done. ``failed`` holds one sentence for each input that could not be used."""

    pictures: int = 0
    frames: int = 0
    detections: int = 0
    seconds: float = 0.0
    skipped: int = 0
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
        skipped = f"; {_plural(self.skipped, 'input')} finished before" if self.skipped else ""
        failed = f"; {_plural(len(self.failed), 'input')} FAILED" if self.failed else ""
        return f"{', '.join(done)}: {found}{skipped}{failed}"


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def count_detections(predictions: Mapping[str, Any]) -> int:
    """Number of instances, or of proposals where a model gives only those, or of panoptic segments."""
    for key in ("instances", "proposals"):
        if key in predictions:
            return len(predictions[key])
    return len(predictions["panoptic_seg"][1] or ()) if "panoptic_seg" in predictions else 0


def leave_out_finished(
    inputs: Inputs, results: Mapping[Path, Path] | None, saved: ResultFile | None, report: Report
) -> Inputs:
    """The inputs that an interrupted run has not finished: whose drawn result or saved detections are missing.

    What killed processes left half-written is removed. ``report.skipped`` counts the others.
    """

    def is_finished(path: Path) -> bool:
        drawn = results is None or results[path].is_file()
        return drawn and (saved is None or str(path) in saved.finished)

    for result in (results or {}).values():
        remove_leftovers(result)
    images, videos = (
        tuple(path for path in paths if not is_finished(path)) for paths in (inputs.images, inputs.videos)
    )
    report.skipped += len(inputs.all) - len(images) - len(videos)
    return Inputs(images=images, videos=videos)


def run_inputs(
    demo: VisualizationDemo,
    inputs: Inputs,
    results: Mapping[Path, Path] | None,
    report: Report,
    saved: ResultFile | None = None,
) -> None:
    """:func:`run_images` and :func:`run_videos` with one progress bar over all pictures and frames."""
    unit = "frame" if not inputs.images else "image" if inputs.videos else "picture"
    showing = results is None and saved is None
    with nullcontext() if showing else progress(f"{unit}s", _total(inputs), unit=unit) as bar:
        run_images(demo, inputs.images, results, report, saved, bar)
        run_videos(demo, inputs.videos, results, report, saved, bar)


def _total(inputs: Inputs) -> int | None:
    """Pictures and frames; None where a video does not say how many it has, and where nobody would see it."""
    total = len(inputs.images)
    for path in inputs.videos if sys.stderr.isatty() else ():
        try:
            with open_video(path) as source:
                if source.frame_count is None:
                    return None
                total += source.frame_count
        except SourceError:  # told when its turn comes
            continue
    return total


def run_images(
    demo: VisualizationDemo,
    paths: Sequence[Path],
    results: Mapping[Path, Path] | None,
    report: Report,
    saved: ResultFile | None = None,
    bar: Bar | None = None,
) -> None:
    """Predict, draw and write or show pictures. An unreadable one is logged and counted, the rest go on.

    Args:
        demo: model and pen.
        paths: the pictures.
        results: ``{picture: file to write}`` as :func:`~.outputs.plan_outputs` gives it. None: nothing is drawn if
            detections are ``saved``; otherwise pictures are shown in a window, where Esc ends and any other key
            goes on.
        report: counted into.
        saved: what is found is added to it.
        bar: advanced by each picture; None: one of its own.

    Raises:
        UserError: a result cannot be written.
    """
    if results is None and saved is None:
        with Window(_WINDOW) as window:
            for _, drawn in _run_images(demo, paths, report, None):
                if not window.show(drawn, wait_milliseconds=0):
                    return
        return
    with _timed(report), _own_or(bar, "picture", len(paths)) as shown:
        for path, drawn in _run_images(demo, paths, report, saved, shown, draw=results is not None):
            if results is not None:
                save_image(drawn[:, :, ::-1], results[path])
            if saved is not None:
                saved.finish(str(path))


def _run_images(
    demo: VisualizationDemo,
    paths: Sequence[Path],
    report: Report,
    saved: ResultFile | None,
    bar: Bar | None = None,
    draw: bool = True,
) -> Iterator[tuple[Path, np.ndarray]]:
    """Each readable picture, drawn: uint8 [H, W, 3] BGR."""
    start = time.perf_counter()
    for result in demo.iterate_images(map(_load, paths), draw=draw):
        if isinstance(result, SourceError):
            report.add_failure(result)
        elif isinstance(result, Exception):
            raise result
        else:
            path, predictions, drawn = result
            seconds = time.perf_counter() - start
            count = count_detections(predictions)
            if saved is not None:
                saved.add(str(path), drawn.shape[:2], predictions)
            report.pictures += 1
            report.detections += count
            if bar is None:
                report.seconds += seconds
            logger.info("%s: %s, %.2f s", path, _plural(count, "instance"), seconds)
            start = time.perf_counter()
            yield path, drawn
            if bar is None:  # a window, in which somebody looks at it
                start = time.perf_counter()
        if bar is not None:
            bar.advance()


def _load(path: Path) -> tuple[Path, np.ndarray] | SourceError:
    try:
        return path, load_image(path)
    except SourceError as error:
        return error


def run_videos(
    demo: VisualizationDemo,
    paths: Sequence[Path],
    results: Mapping[Path, Path] | None,
    report: Report,
    saved: ResultFile | None = None,
    bar: Bar | None = None,
) -> None:
    """As :func:`run_images`, for video files. The sound of a video goes with it where that is possible."""
    for path in paths:
        try:
            with open_video(path) as source:
                run_frames(demo, source, None if results is None else results[path], report, saved, bar, path)
        except SourceError as error:
            report.add_failure(error)


def run_frames(
    demo: VisualizationDemo,
    source: FrameSource,
    result: Path | None,
    report: Report,
    saved: ResultFile | None = None,
    bar: Bar | None = None,
    path: Path | None = None,
) -> None:
    """Predict, draw and write or show the frames of a video or webcam.

    Args:
        demo: model and pen.
        source: an open one.
        result: the video file to write, with the source's size and rate. None: as in :func:`run_images`.
        report: counted into.
        saved: what is found is added to it.
        bar: advanced by each frame; None: one of its own.
        path: the file of ``source``, whose sound is kept.

    Raises:
        SourceError: the source gives no frame.
        UserError: the result cannot be written.
    """
    name = source.name if path is None else str(path)
    showing = result is None and saved is None
    before = report.frames
    with _timed(report) as seconds, nullcontext(bar) if showing else _own_or(bar, "frame", source.frame_count) as shown:
        frames = _run_frames(demo, source, report, saved, shown, name, draw=showing or result is not None)
        if result is not None:
            write_video(frames, result, source.fps, keep_when_interrupted=source.live, sound_of=path)
        elif showing:
            with Window(_WINDOW) as window:
                while (frame := next(frames, None)) is not None and window.show(frame):
                    pass
        else:
            _exhaust(frames, until_interrupted=source.live)
    if saved is not None:
        saved.finish(name)
    frames_done = report.frames - before
    rate = frames_done / max(seconds(), 1e-9)
    logger.info("%s: %s, %.1f s, %.2f a second", source.name, _plural(frames_done, "frame"), seconds(), rate)


def _run_frames(
    demo: VisualizationDemo,
    source: FrameSource,
    report: Report,
    saved: ResultFile | None,
    bar: Bar | None,
    name: str,
    draw: bool,
) -> Iterator[np.ndarray]:
    for number, (predictions, frame) in enumerate(demo.iterate_video(source, draw=draw)):
        report.frames += 1
        report.detections += count_detections(predictions)
        if saved is not None:
            saved.add(name, frame.shape[:2], predictions, frame=number, time=number / source.fps)
        yield frame
        if bar is not None:
            bar.advance(note=name if bar.is_due else "")


def _exhaust(frames: Iterator[np.ndarray], until_interrupted: bool) -> None:
    try:
        for _ in frames:
            pass
    except KeyboardInterrupt:
        if not until_interrupted:
            raise


@contextmanager
def _timed(report: Report) -> Iterator[Callable[[], float]]:
    """Adds the time inside to ``report``, also when it ends with an error; gives that time."""
    start = time.perf_counter()
    end = start
    try:
        yield lambda: end - start
    finally:
        end = time.perf_counter()
        report.seconds += end - start


def _own_or(bar: Bar | None, unit: str, total: int | None) -> AbstractContextManager[Bar]:
    """``bar``, or one on a terminal and nothing elsewhere; log lines go above it."""
    return nullcontext(bar) if bar is not None else progress(f"{unit}s", total, unit=unit)
