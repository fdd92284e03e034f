"""Frames in, tracks out: detector, tracker and motion model of one config."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.structures import Instances
from torch import Tensor, nn

from ...errors import UserError
from ...inference.weights import load_weights
from ...modeling.build import build_detector
from ...modeling.finite_check import settle_finite_checks
from ..data.mapper import FrameMapper
from ..data.records import Record, camera_of
from ..evaluation.records import TrackedFrame, tracked_frame
from ..ops.geometry import Camera
from ..ops.mode import Mode, checked_mode
from ..tracker.cameras import CameraRig
from ..tracker.detections import Detections3D
from ..tracker.tracker import IdCounter, QuasiDenseTracker
from .tracker_config import tracker_builder

__all__ = ["VideoTracker", "detections_of"]

_MOMENT = 0.7  # frames; nuScenes' cameras are up to 0.51 apart at 12 Hz
_FIELDS = ("pred_depth", "pred_depth_confidence", "pred_dims", "pred_alpha", "pred_center2d", "embeddings")


def detections_of(instances: Instances) -> Detections3D:
    """What the model found in a picture, for the tracker; rows keep the detector's order.

    Args:
        instances: of :meth:`..modeling.meta_arch.QD3DT.inference`.

    Raises:
        UserError: the model gives no 3D boxes.
    """
    if not all(instances.has(name) for name in _FIELDS):
        raise UserError("this model gives no 3D boxes: take a config of configs/tracking3d")
    depth, confidence, dims, alpha, center2d, embeddings = (instances.get(name) for name in _FIELDS)
    return Detections3D(
        boxes=instances.pred_boxes.tensor,
        scores=instances.scores,
        labels=instances.pred_classes,
        depth=depth,
        confidence=confidence,
        dims=dims,
        alpha=alpha,
        center2d=center2d,
        embeddings=embeddings,
    )


class VideoTracker:
    """Detects and tracks, frame by frame. Not thread-safe.

    A frame is a record with its picture (of :func:`..data.iterate_source` or :func:`..data.synthetic_records`: "image"
    uint8 RGB ``[H, W, 3]``, or none and a "file_name" to read), or an input of :class:`..data.FrameMapper`, as the test
    loader gives ("image" ``[3, H', W']``). It has "video_id", "frame_index" and "intrinsics"; "pose" and "timestamp" if
    they are known, and "camera" where there are several.

    Each camera has a tracker, which begins anew when the frames' ``video_id`` is another one (or ``frame_index`` is 0),
    so videos may come one after the other or all cameras of a scene side by side. Ids are never used twice.

    Attributes:
        mode: ``MODEL.TRACKING3D.MODE``.
        model: in ``eval()``.
        across: whether all cameras of a moment share one tracker.
    """

    def __init__(self, cfg: CfgNode, model: nn.Module | None = None, *, across: bool = False, **rules: Any) -> None:
        """
        Args:
            cfg: ``MODEL`` and ``INPUT`` are read.
            model: on its device, with its weights; ``None``: built from ``cfg`` with ``MODEL.WEIGHTS``.
            across: ``True``: one tracker in the world frame for all cameras of a scene; an object keeps its id from
                camera to camera. Frames then come through :meth:`step_cameras` or :meth:`track_video`.
            rules: fields of :class:`..tracker.rules.TrackerRules` that the config has no keys for.

        Raises:
            UserError: a config without 3D boxes, or with wrong values; weights that are missing or do not fit.
        """
        if cfg.MODEL.META_ARCHITECTURE != "QD3DT":
            raise UserError(
                f"the config's MODEL.META_ARCHITECTURE is {cfg.MODEL.META_ARCHITECTURE}, which finds no 3D boxes: take "
                "a config of configs/tracking3d"
            )
        self.mode: Mode = checked_mode(cfg.MODEL.TRACKING3D.MODE)
        self.across = across
        build = tracker_builder(cfg, **rules)  # before the model: its mistakes are told at once
        self._build = build
        self._rig = CameraRig(build, across=True)
        self._ids = IdCounter() if not across else self._rig.id_counter
        self._trackers: dict[str, QuasiDenseTracker] = {}
        self._videos: dict[str, Any] = {}
        self._posed: dict[Any, bool] = {}  # video: whether its frames have poses
        self._frame_seconds = 1.0 / cfg.MODEL.TRACKING3D.DATA.FRAME_RATE
        self._mapper = FrameMapper(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST, cfg.INPUT.FORMAT, self.mode)
        if model is None:
            model = build_detector(cfg)
            load_weights(model, cfg.MODEL.WEIGHTS, strict=cfg.MODEL.WEIGHTS_STRICT)
        self.model = model.eval()

    def reset(self) -> None:
        """Forget all tracks. Ids go on."""
        self._rig.reset()
        for tracker in self._trackers.values():
            tracker.reset()
        self._videos.clear()
        self._posed.clear()

    def detect(self, frames: Sequence[Record]) -> list[Detections3D]:
        """Detections of frames, in one forward pass, without tracking."""
        with torch.no_grad():
            found = self.model([self._input(frame) for frame in frames]) if frames else []
        settle_finite_checks(self.model)
        return [detections_of(one["instances"]) for one in found]

    def step(self, frame: Record) -> TrackedFrame:
        """Tracks of the next frame of its video; tensors on the model's device.

        Raises:
            UserError: no intrinsics, a broken calibration or pose, poses for some frames of a video only, frames out of
                order, ``across``, or a picture that cannot be read.
        """
        if self.across:
            raise UserError("this tracker sees all cameras of a moment together: hand the frames to step_cameras()")
        return self.track(frame, self.detect([frame])[0])

    def track(self, frame: Record, detections: Detections3D) -> TrackedFrame:
        """:meth:`step` with detections from elsewhere; "image" is not needed."""
        name = str(frame.get("camera", ""))
        if name not in self._trackers:
            self._trackers[name] = self._build(self._ids)
        tracker = self._trackers[name]
        video = frame.get("video_id", 0)
        if self._videos.setdefault(name, video) != video:
            tracker.reset()
            self._videos[name] = video
        camera = self._camera(frame, detections)
        seconds = frame.get("timestamp")
        if seconds is None:  # not left to the tracker, whose step may be that of a motion network
            seconds = frame["frame_index"] * self._frame_seconds
        tracks = tracker.step(detections, camera, frame["frame_index"], seconds)
        return tracked_frame(detections, tracks, self.mode)

    def step_cameras(self, frames: Sequence[Record], index: int | None = None) -> list[TrackedFrame]:
        """Tracks of all pictures of one moment, in their order.

        Args:
            frames: one a camera; a camera without a picture is left out.
            index: number of the moment in the scene, 0 begins a new one; ``None``: the smallest ``frame_index``.

        Raises:
            UserError: as :meth:`step`.
        """
        found = self.detect(frames)
        if not self.across:
            return [self.track(frame, one) for frame, one in zip(frames, found, strict=True)]
        views = {
            str(frame.get("camera", number)): (one, self._camera(frame, one))
            for number, (frame, one) in enumerate(zip(frames, found, strict=True))
        }
        if len(views) < len(frames):
            raise UserError(f"{len(frames)} pictures of one moment are of {len(views)} cameras: give one of each")
        index = min((frame["frame_index"] for frame in frames), default=0) if index is None else index
        times = [frame["timestamp"] for frame in frames if frame.get("timestamp") is not None]
        tracks = self._rig.step(views, index, min(times) if times else index * self._frame_seconds)
        return [tracked_frame(one, seen, self.mode) for one, seen in zip(found, tracks.values(), strict=True)]

    def track_video(self, frames: Iterable[Record]) -> Iterator[tuple[Record, TrackedFrame]]:
        """Each frame with its tracks, in order, as they are asked for; any number of videos.

        With ``across``, frames of a scene (key "scene", else "video_id") come in the order of time. Those of one moment
        are of different cameras and less than 0.7 frames of ``DATA.FRAME_RATE`` apart.

        Raises:
            UserError: as :meth:`step`.
        """
        if not self.across:
            for frame in frames:
                yield frame, self.step(frame)
            return
        scene, index = object(), 0
        for moment in moments(frames, _MOMENT * self._frame_seconds):
            here = _scene(moment[0])
            index, scene = (index + 1, scene) if here == scene else (0, here)
            yield from zip(moment, self.step_cameras(moment, index), strict=True)

    def _input(self, frame: Record) -> Record:
        image = frame.get("image")
        return frame if isinstance(image, Tensor) else self._mapper(frame)

    def _camera(self, frame: Record, detections: Detections3D) -> Camera:
        camera = camera_of(frame)
        video, posed = frame.get("video_id", 0), frame.get("pose") is not None
        if frame["frame_index"] == 0:  # a new video
            self._posed[video] = posed
        if self._posed.setdefault(video, posed) != posed:
            raise UserError(
                f"{frame.get('file_name', 'a frame')} has {'a' if posed else 'no'} pose, and the frames of its video "
                f"before it have {'none' if posed else 'one'}: give poses for all frames of a video, or for none"
            )
        return Camera(*(value.to(detections.boxes.device) for value in camera))


def moments(frames: Iterable[Record], tolerance: float) -> Iterator[list[Record]]:
    """Frames of all cameras of a scene, cut where the next moment begins.

    Args:
        frames: in the order of time.
        tolerance: seconds that pictures of one moment are apart at most.
    """
    moment: list[Record] = []
    for frame in frames:
        if moment and not _together(moment, frame, tolerance):
            yield moment
            moment = []
        moment.append(frame)
    if moment:
        yield moment


def _together(moment: list[Record], frame: Record, tolerance: float) -> bool:
    first = moment[0]
    if _scene(first) != _scene(frame) or any(other.get("camera") == frame.get("camera") for other in moment):
        return False
    times = first.get("timestamp"), frame.get("timestamp")
    if times[0] is None or times[1] is None:
        return bool(first["frame_index"] == frame["frame_index"])
    return bool(abs(times[1] - times[0]) < tolerance)


def _scene(frame: Record) -> Any:
    return frame.get("scene", frame.get("video_id"))
