"""The result file of 3D tracking: COCO's layout with videos, cameras and 3D boxes.

Annotations: ``bbox`` (xywh, pixels), ``score`` (2D), ``uncertainty`` (confidence of the depth), ``alpha``, ``roty``,
``dimension`` [h, w, l], ``translation`` (centre, camera frame, metres), ``center_2d``, ``depth`` [1], ``instance_id``,
``category_id`` (from 1), and in modern mode ``velocity`` (world, m/s) and ``sightings`` (of the track until now).
Source: QD-3DT (arXiv 2103.07351), its driver.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...errors import writing
from ..data.records import Record
from ..ops.geometry import matrix_to_quaternion, quaternion_to_euler, unproject, wrap_angle
from ..ops.mode import Mode
from ..tracker.detections import Detections3D, Tracks3D
from .layouts import ResultLayout

ResultFile = dict[str, list[dict[str, Any]]]

_EXTRAS = (
    "timestamp", "camera", "sensor_id", "sample_token", "scene", "scene_token", "is_key_frame", "key_frame_index",
    "car_from_cam",
)  # fmt: skip


class TrackedFrame(NamedTuple):
    """Tracks of one picture, as they are reported.

    Attributes:
        boxes: float ``[T, 4]``, continuous xyxy, pixels.
        scores: float ``[T]``, of the 2D boxes.
        labels, ids: int64 ``[T]``.
        confidence: float ``[T]``, of the depth.
        depth: float ``[T]``, metres.
        dims: float ``[T, 3]``, h, w, l.
        alpha: float ``[T]``.
        center2d: float ``[T, 2]``, projected centre, pixels.
        xyz: float ``[T, 3]``, centre in the camera frame; ``None``: from ``center2d`` and ``depth``.
        yaw: float ``[T]``, in the camera frame; ``None``: from ``alpha``.
        velocity: float ``[T, 3]``, world, m/s; ``None``: not known.
        attributes: T names of nuScenes' attributes; ``None``: the most frequent one of each class.
        sightings: int64 ``[T]``, how often each track was seen; ``None``: not known.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    ids: Tensor
    confidence: Tensor
    depth: Tensor
    dims: Tensor
    alpha: Tensor
    center2d: Tensor
    xyz: Tensor | None = None
    yaw: Tensor | None = None
    velocity: Tensor | None = None
    attributes: Sequence[str] | None = None
    sightings: Tensor | None = None


def tracked_frame(detections: Detections3D, tracks: Tracks3D, mode: Mode) -> TrackedFrame:
    """Tracks with the detections they were seen as.

    Args:
        detections: in the order in which the detector gave them.
        tracks: of these detections.
        mode: ``"modern"``: each track has the confidence of its own detection. ``"parity"``: the i-th track has the
            i-th detection's, which is mostly another object's, as published.
    """
    confidence = detections.confidence
    if mode == "parity":
        confidence = confidence[: len(tracks.ids)]
    else:
        confidence = confidence[tracks.index]
    modern = mode == "modern"
    return TrackedFrame(
        boxes=detections.boxes[tracks.index],
        scores=detections.scores[tracks.index],
        labels=detections.labels[tracks.index],
        ids=tracks.ids,
        confidence=confidence,
        depth=tracks.depth,
        dims=tracks.dims,
        alpha=tracks.alpha,
        center2d=tracks.center2d,
        xyz=tracks.xyz if modern else None,
        yaw=tracks.yaw if modern else None,
        velocity=tracks.velocity if modern else None,
        sightings=tracks.sightings if modern else None,
    )


class TrackingResults:
    """Collects a result file, picture by picture, each video in its own order.

    Args:
        layout: classes of the file.
        mode: ``"parity"``: boxes end at their last pixel, the principal point of ``roty`` is half the width and the
            fourth column of the intrinsics does not count, as published. ``"modern"``: continuous boxes; centre and
            heading are the track's.
        keyframes_only: leave out pictures that say that they are no key frames; ``index`` counts the others.
    """

    def __init__(self, layout: ResultLayout, mode: Mode = "modern", *, keyframes_only: bool = True) -> None:
        self.layout = layout
        self.mode = mode
        self.keyframes_only = keyframes_only
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []
        self._videos: dict[Any, str] = {}

    def add(self, frame: Record, tracked: TrackedFrame) -> None:
        """The tracks of a picture.

        Args:
            frame: its record (see :mod:`..data.records`), with intrinsics.
            tracked: T rows, any device.
        """
        if self.keyframes_only and frame.get("is_key_frame") is False:
            return
        image_id = len(self._images)
        self._images.append(self._image(frame, image_id))
        self._videos.setdefault(frame["video_id"], str(frame.get("video", frame["video_id"])))
        columns = self._columns(frame, tracked)
        for row in range(len(tracked.ids)):
            if columns["category_id"][row] - 1 in self.layout.reported:
                values = {name: column[row] for name, column in columns.items()}
                self._annotations.append(_annotation(values, len(self._annotations), image_id))

    def as_dict(self) -> ResultFile:
        """The file's content; annotations number from 0 in the order in which they came."""
        return {
            "categories": [{"id": number, "name": name} for number, name in enumerate(self.layout.categories, 1)],
            "videos": [{"id": number, "name": name} for number, name in self._videos.items()],
            "images": self._images,
            "annotations": self._annotations,
        }

    def save(self, path: str | Path) -> None:
        """Write it as JSON.

        Raises:
            UserError: the disk refuses.
        """
        path = Path(path)
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(self.as_dict()), "utf-8")

    def _image(self, frame: Record, image_id: int) -> dict[str, Any]:
        index = frame["frame_index"]
        if frame.get("is_key_frame") and self.keyframes_only:
            index = frame.get("key_frame_index", index)
        image = {
            "file_name": frame["file_name"],
            "width": frame["width"],
            "height": frame["height"],
            "cali": frame["intrinsics"],
            "index": index,
            "first_frame": frame["frame_index"] == 0,
            "video_id": frame["video_id"],
            "pose": _euler_pose(frame.get("pose")),
            "fov": 60,
            "near_clip": 0.15,
            "id": image_id,
        }
        if index != frame["frame_index"]:
            image["frame_index"] = frame["frame_index"]  # text files count all pictures
        return image | {key: frame[key] for key in _EXTRAS if key in frame}

    def _columns(self, frame: Record, tracked: TrackedFrame) -> dict[str, list[Any]]:
        """One list a field, one entry a track."""
        double = {
            name: value.detach().double().cpu()
            for name, value in tracked._asdict().items()
            if isinstance(value, Tensor) and name not in ("labels", "ids", "sightings")
        }
        intrinsics = torch.tensor(frame["intrinsics"], dtype=torch.float64)
        boxes, center, depth = double["boxes"], double["center2d"], double["depth"].reshape(-1)
        if self.mode == "parity":
            boxes = boxes - boxes.new_tensor((0.0, 0.0, 1.0, 1.0))
        xyz = double.get("xyz", unproject(center, depth, intrinsics, mode=self.mode))
        ray = torch.atan2(xyz[:, 0], xyz[:, 2])
        if self.mode == "parity":
            ray = torch.atan2(center[:, 0] - frame["width"] / 2, intrinsics[0, 0].expand_as(depth))
        yaw = double.get("yaw", wrap_angle(double["alpha"].reshape(-1) + ray))
        columns = {
            "category_id": tracked.labels + 1,
            "instance_id": tracked.ids,
            "alpha": double["alpha"].reshape(-1),
            "roty": yaw,
            "dimension": double["dims"],
            "translation": xyz,
            "bbox": boxes,
            "center_2d": center,
            "uncertainty": double["confidence"].reshape(-1),
            "depth": depth[:, None],
            "score": double["scores"],
        }
        if "velocity" in double:
            columns["velocity"] = double["velocity"]
        if tracked.sightings is not None:
            columns["sightings"] = tracked.sightings
        written = {name: column.tolist() for name, column in columns.items()}
        return written if tracked.attributes is None else written | {"attribute_name": list(tracked.attributes)}


def _annotation(values: dict[str, Any], number: int, image_id: int) -> dict[str, Any]:
    x1, y1, x2, y2 = values["bbox"]
    return values | {
        "id": number,
        "image_id": image_id,
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "area": (x2 - x1) * (y2 - y1),
        "is_occluded": False,
        "is_truncated": False,
        "iscrowd": False,
        "ignore": False,
        "segmentation": [[x1, y1, x1, y2, x2, y2, x2, y1]],
    }


def _euler_pose(pose: dict[str, Any] | None) -> dict[str, Any] | None:
    """Rotation as angles about x, y, z; matrices are turned into them."""
    if pose is None:
        return None
    rotation = torch.as_tensor(pose["rotation"], dtype=torch.float64)
    if rotation.dim() == 2:
        rotation = quaternion_to_euler(matrix_to_quaternion(rotation))
    return {"rotation": rotation.tolist(), "position": list(pose["position"])}
