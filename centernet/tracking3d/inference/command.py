"""``demo.py --tracking3d``: its arguments, and the run from frames to a video, pictures and a result file."""

import argparse
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from detectron2.config import CfgNode
from torch import Tensor, nn

from ...errors import UserError
from ...inference.outputs import atomic_path, check_writable, plan_outputs, save_image
from ...inference.runner import Report
from ...inference.sources import VIDEO_EXTENSIONS, SourceError, open_video
from ...inference.video import Window, check_display, write_video
from ...inference.visualize import resolve_metadata
from ...progress import progress
from ..data.folder import IMAGE_SUFFIXES, iterate_source, read_intrinsics, read_poses
from ..data.records import Record
from ..evaluation.layouts import ResultLayout
from ..evaluation.records import TrackedFrame, TrackingResults
from .drawing import Picture
from .scene_view import SceneView
from .video_tracker import VideoTracker

__all__ = ["Plan", "add_arguments", "class_names", "make_plan", "refuse_leftovers", "run"]

logger = logging.getLogger(__name__)

_NOT_IN_3D = ("web", "heatmap", "track", "optimize", "resume", "host", "port", "share")


class Plan(NamedTuple):
    """A run, checked before a model is built.

    Attributes:
        source: folder of pictures, or a video.
        intrinsics, poses: files.
        video: the video to write.
        pictures: the picture to write for each of the folder.
        records: the result file to write.
        threshold: smallest 2D score of what is drawn and written.
        frames_per_second: of a video; ``None`` for a folder, where the config says it.
    """

    source: Path
    intrinsics: Path
    poses: Path | None
    video: Path | None
    pictures: dict[Path, Path]
    records: Path | None
    threshold: float
    frames_per_second: float | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """``--tracking3d``, ``--intrinsics`` and ``--poses``."""
    add = parser.add_argument
    wing = "boxes and tracks in 3D, for a config of configs/tracking3d and one folder of frames or one video"
    add("--tracking3d", action="store_true", help=wing)
    matrix = "--tracking3d: the camera matrix in pixels, 3x3 or 3x4 (.txt, .json, .npy, or KITTI's calibration)"
    add("--intrinsics", metavar="FILE", help=matrix)
    poses = "--tracking3d: a pose a frame, camera to world (.txt, 12 numbers a line; .json, .npy); default: it stands"
    add("--poses", metavar="FILE", help=poses)


def refuse_leftovers(args: argparse.Namespace, cfg: CfgNode | None = None) -> None:
    """What belongs to 3D in a run that is not.

    Raises:
        UserError: ``--intrinsics`` or ``--poses``, or a 3D config, without ``--tracking3d``.
    """
    if args.intrinsics or args.poses:
        raise UserError("--intrinsics and --poses belong to --tracking3d")
    if cfg is not None and cfg.MODEL.META_ARCHITECTURE == "QD3DT":
        raise UserError("this config is for boxes in 3D: add --tracking3d and --intrinsics FILE (docs/TRACKING3D.md)")


def make_plan(args: argparse.Namespace) -> Plan:
    """Check the command line of a 3D run.

    Raises:
        UserError: options that do not go together, no or wrong intrinsics or poses, no such source, results that cannot
            be written.
    """
    if extra := [f"--{name}" for name in _NOT_IN_3D if getattr(args, name)]:
        raise UserError(f"{', '.join(extra)}: not with --tracking3d, which always tracks: leave it out")
    if args.webcam is not None or args.batch_size != 1:
        what = "--batch-size" if args.webcam is None else "--webcam"
        raise UserError(f"{what}: not with --tracking3d, which takes the frames of one folder or video, one by one")
    if not args.config_file:
        raise UserError("--tracking3d needs --config-file FILE, one of configs/tracking3d")
    if not args.intrinsics:
        raise UserError(
            "--tracking3d needs --intrinsics FILE, the camera's 3x3 matrix in pixels: rows fx 0 cx, 0 fy cy, 0 0 1 "
            "(docs/TRACKING3D.md says how to get it)"
        )
    source = _source(args)
    intrinsics = Path(args.intrinsics).expanduser()
    poses = None if args.poses is None else Path(args.poses).expanduser()
    read_intrinsics(intrinsics)  # mistakes now, not after the model is built
    if poses is not None:
        read_poses(poses)
    rate = None
    if not source.is_dir():
        with open_video(source) as video:
            rate = video.fps
    records = None if args.save_results is None else Path(args.save_results).expanduser()
    if records is not None:
        if records.suffix != ".json":
            raise UserError(f"--save-results {records}: 3D results are written as FILE.json")
        check_writable(records)
    video_file, pictures = _results(args.output, source)
    if args.output is None and records is None:
        check_display()
    return Plan(source, intrinsics, poses, video_file, pictures, records, args.confidence_threshold, rate)


def _source(args: argparse.Namespace) -> Path:
    names = [args.video_input] if args.video_input is not None else args.input
    path = Path(names[0]).expanduser()
    if len(names) > 1 or (path.is_file() and path.suffix.lower() in IMAGE_SUFFIXES):
        raise UserError("--tracking3d follows objects from frame to frame: give one folder of pictures, or one video")
    if not path.exists():
        raise UserError(f"input {path} does not exist")
    return path


def _results(output: str | None, source: Path) -> tuple[Path | None, dict[Path, Path]]:
    """The video, or the pictures, to write."""
    if output is None:
        return None, {}
    path = Path(output).expanduser()
    if not source.is_dir():
        path = plan_outputs([source], output)[source]
    elif path.suffix.lower() not in VIDEO_EXTENSIONS or path.is_dir():
        frames = sorted(file for file in source.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
        return None, plan_outputs(frames, output) if frames else {}
    check_writable(path)
    return path, {}


def class_names(cfg: CfgNode) -> list[str]:
    """Names by label: the config's, else those of its data set."""
    return list(cfg.MODEL.TRACKING3D.CLASSES) or list(resolve_metadata(cfg).thing_classes)


def run(plan: Plan, cfg: CfgNode, report: Report, model: nn.Module | None = None) -> None:
    """Track, draw, write.

    Args:
        plan: of :func:`make_plan`.
        cfg: with ``MODEL.DEVICE`` settled.
        report: counted into; pictures that cannot be read are named there and left out.
        model: as for :class:`.video_tracker.VideoTracker`.

    Raises:
        UserError: a config without 3D boxes, weights that do not fit, poses that are too few, a result that cannot be
            written, or no frame at all.
    """
    tracker = VideoTracker(cfg, model)
    names = class_names(cfg)
    hidden = set(cfg.MODEL.TRACKING3D.HIDDEN_CLASSES)
    shown = frozenset(label for label in range(len(names)) if label not in hidden)
    results = TrackingResults(ResultLayout(tuple(names), shown), tracker.mode)
    rate = plan.frames_per_second or cfg.MODEL.TRACKING3D.DATA.FRAME_RATE
    drawing = plan.video is not None or bool(plan.pictures) or plan.records is None
    view = SceneView(names, tracker.mode) if drawing else None
    start = time.perf_counter()
    try:
        _consume(_frames(plan, tracker, view, results, report, rate), plan, rate)
    finally:  # also of Ctrl-C: what was found so far is whole
        report.seconds += time.perf_counter() - start
        if plan.records is not None and report.frames:
            with atomic_path(plan.records) as temporary:
                results.save(temporary)
    if not report.frames:
        raise UserError(f"no frame of {plan.source} can be read: get the files again")


def _frames(
    plan: Plan, tracker: VideoTracker, view: SceneView | None, results: TrackingResults, report: Report, rate: float
) -> Iterator[tuple[Record, Picture | None]]:
    """Each frame, and what it looks like if there is a view."""
    ids: set[int] = set()

    def skip(error: UserError) -> None:
        report.add_failure(SourceError(str(error)))

    records = iterate_source(plan.source, plan.intrinsics, plan.poses, frames_per_second=rate, on_error=skip)
    for record, tracked in tracker.track_video(map(_checked, records)):
        frame = _above(tracked, plan.threshold)
        report.frames += 1
        report.detections += len(frame.ids)
        ids.update(frame.ids.tolist())
        results.add(record, frame)
        yield record, view.draw(record, frame) if view is not None else None
    logger.info("%s: %d objects in %d frames", plan.source, len(ids), report.frames)


def _consume(frames: Iterator[tuple[Record, Picture | None]], plan: Plan, rate: float) -> None:
    """To the video, the pictures, the window, or nowhere."""
    total = None
    if plan.source.is_dir():
        total = sum(file.suffix.lower() in IMAGE_SUFFIXES for file in plan.source.iterdir())
    with progress("frames", total, unit="frame") as bar:
        if plan.video is not None:
            sound = None if plan.source.is_dir() else plan.source
            write_video(_bgr(frames, bar.advance), plan.video, rate, sound_of=sound)
        elif plan.pictures or plan.records is not None:
            for record, picture in frames:
                if picture is not None:
                    save_image(picture, plan.pictures[Path(record["file_name"])])
                bar.advance()
    if plan.video is None and not plan.pictures and plan.records is None:
        with Window("centernet") as window:
            for picture in _bgr(frames, lambda: None):
                if not window.show(picture):
                    break


def _bgr(frames: Iterator[tuple[Record, Picture | None]], done: Callable[[], None]) -> Iterator[Picture]:
    for _, picture in frames:
        if picture is not None:
            yield np.ascontiguousarray(picture[..., ::-1])
        done()


def _checked(record: Record) -> Record:
    """
    Raises:
        UserError: the camera matrix is of pictures of another size.
    """
    cx, cy = record["intrinsics"][0][2], record["intrinsics"][1][2]
    if not (0 < cx < record["width"] and 0 < cy < record["height"]):
        raise UserError(
            f"the intrinsics have their centre at ({cx:g}, {cy:g}), outside {record['file_name']} of "
            f"{record['width']}x{record['height']} pixels: give those of pictures of this size (all six numbers scale "
            "with it)"
        )
    return record


def _above(frame: TrackedFrame, threshold: float) -> TrackedFrame:
    keep = frame.scores >= threshold
    columns = frame._asdict()
    chosen: dict[str, Any] = {name: x[keep] if isinstance(x, Tensor) else x for name, x in columns.items()}
    return TrackedFrame(**chosen)
