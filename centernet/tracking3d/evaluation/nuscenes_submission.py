"""Detection and tracking submissions of nuScenes, from a result file.

The images of the result file need ``sample_token``, ``camera`` and a pose, as the reader's records have them.
Source: the devkit's format (Caesar et al., CVPR 2020); QD-3DT's conversion.
"""

import json
import math
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from ...errors import UserError, writing
from ..data.constants import sheet
from ..ops.geometry import euler_to_matrix, matrix_to_quaternion, quaternion_multiply
from ..ops.mode import Mode
from .records import ResultFile

Task = Literal["detection", "tracking"]

CAMERA_ORDER = ("CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_BACK_RIGHT", "CAM_BACK", "CAM_BACK_LEFT", "CAM_FRONT_LEFT")
TRACKING_CLASSES = ("bicycle", "bus", "car", "motorcycle", "pedestrian", "trailer", "truck")
ATTRIBUTES = {
    "car": "vehicle.parked",
    "truck": "vehicle.parked",
    "trailer": "vehicle.parked",
    "construction_vehicle": "vehicle.parked",
    "bus": "vehicle.moving",
    "pedestrian": "pedestrian.moving",
    "bicycle": "cycle.without_rider",
    "motorcycle": "cycle.without_rider",
    "barrier": "",
    "traffic_cone": "",
}
"""The most frequent one of each class."""

_PUBLISHED_ATTRIBUTES = ATTRIBUTES | {"barrier": "cycle.with_rider", "traffic_cone": "cycle.with_rider"}
_MAX_BOXES = 500  # of a sample; the devkit refuses more
_META = {"use_camera": True, "use_lidar": False, "use_radar": False, "use_map": False, "use_external": False}


class _Box(NamedTuple):
    name: str
    track: int
    camera: str
    center: tuple[float, float, float]
    score: float
    entry: dict[str, Any]


def submission(
    results: ResultFile, task: Task, mode: Mode = "modern", *, merge: bool = True, scored: bool = True
) -> dict[str, Any]:
    """Content of a submission.

    Args:
        results: content of a result file of nuScenes.
        task: tracking has only :data:`TRACKING_CLASSES`.
        mode: ``"parity"``: of what two cameras see within a radius, the first camera's stays; velocities of detections
            are steps between key frames, not divided by their time, and those of tracks 0. ``"modern"``: the higher
            score stays, no id is twice in a sample, velocities are m/s, rotations turn about Z only, and the score of a
            track that was seen n times until now is n / (n + 1) of its box's: false tracks are short.
        merge: False leaves boxes of different cameras alone.
        scored: the score is that of the box times that of its depth; False: of the box.

    Returns:
        ``{"results": {sample token: boxes}, "meta": ...}``; samples without boxes have an empty list.

    Raises:
        UserError: an image without sample token or pose.
    """
    names = {category["id"]: category["name"] for category in results["categories"]}
    of_image: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in results["images"]}
    for annotation in results["annotations"]:
        of_image[annotation["image_id"]].append(annotation)
    velocities = _Velocities(mode)
    samples: dict[str, list[list[_Box]]] = {}
    for image in sorted(results["images"], key=_camera_rank):
        token, pose = image.get("sample_token"), image.get("pose")
        if token is None or pose is None:
            raise UserError(
                f"{image['file_name']} has no {'pose' if token else 'sample token'} in the result file: read the "
                "pictures with read_nuscenes"
            )
        kept = [a for a in of_image[image["id"]] if task == "detection" or names[a["category_id"]] in TRACKING_CLASSES]
        boxes = _boxes(image, kept, names, task, mode, scored)
        boxes = [velocities.give(box, annotation, image) for box, annotation in zip(boxes, kept, strict=True)]
        samples.setdefault(token, []).append(boxes)
    merged = {token: _merged(cameras, mode, merge) for token, cameras in samples.items()}
    written = {token: [_entry(box, token, task, mode) for box in boxes] for token, boxes in merged.items()}
    return {"results": written, "meta": dict(_META)}


def save_submission(content: dict[str, Any], path: str | Path) -> None:
    """Write a submission as JSON.

    Raises:
        UserError: the disk refuses.
    """
    path = Path(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content), "utf-8")


def _camera_rank(image: dict[str, Any]) -> tuple[int, Any, int]:
    camera = image.get("camera", "")
    rank = CAMERA_ORDER.index(camera) if camera in CAMERA_ORDER else len(CAMERA_ORDER)
    return rank, str(image["video_id"]), image["index"]


def _boxes(
    image: dict[str, Any],
    annotations: list[dict[str, Any]],
    names: dict[int, str],
    task: Task,
    mode: Mode,
    scored: bool,
) -> list[_Box]:
    """The annotations of an image in the world."""
    if not annotations:
        return []
    rotation = euler_to_matrix(torch.tensor(image["pose"]["rotation"], dtype=torch.float64))
    position = torch.tensor(image["pose"]["position"], dtype=torch.float64)

    def column(key: str) -> torch.Tensor:
        return torch.tensor([annotation[key] for annotation in annotations], dtype=torch.float64)

    centers = column("translation") @ rotation.T + position
    half, zero = column("roty") / 2, torch.zeros(len(annotations), dtype=torch.float64)
    about_y = torch.stack((half.cos(), zero, half.sin(), zero), -1)
    turns = quaternion_multiply(matrix_to_quaternion(rotation), about_y)
    if mode == "modern":
        w, x, y, z = turns.unbind(-1)
        half = torch.atan2(2 * (x * y + w * z), 1 - 2 * (y * y + z * z)) / 2
        turns = torch.stack((half.cos(), zero, zero, half.sin()), -1)
    sizes = column("dimension")[:, [1, 2, 0]]
    sizes = torch.where(sizes > 0, sizes, 0.1)
    scores = column("score") * column("uncertainty") if scored else column("score")
    if task == "tracking" and mode == "modern" and "sightings" in annotations[0]:
        seen = column("sightings")
        scores = scores * seen / (seen + 1)
    rows = zip(annotations, centers.tolist(), turns.tolist(), sizes.tolist(), scores.tolist(), strict=True)
    return [
        _Box(
            names[annotation["category_id"]],
            annotation["instance_id"],
            image.get("camera", ""),
            (center[0], center[1], center[2]),
            score,
            {"translation": center, "size": size, "rotation": turn, "velocity": [0.0, 0.0]}
            | {key: annotation[key] for key in ("attribute_name",) if key in annotation},
        )
        for annotation, center, turn, size, score in rows
    ]


class _Velocities:
    """Velocities in the ground plane, from the motion model or from where the track was seen before."""

    def __init__(self, mode: Mode) -> None:
        self.mode = mode
        self._last: dict[tuple[Any, int], tuple[tuple[float, float, float], float | None]] = {}

    def give(self, box: _Box, annotation: dict[str, Any], image: dict[str, Any]) -> _Box:
        key = image["video_id"], box.track
        before, seconds = self._last.get(key), image.get("timestamp")
        self._last[key] = box.center, seconds
        velocity = annotation.get("velocity") if self.mode == "modern" else None
        if velocity is None and before is not None:
            step = box.center[0] - before[0][0], box.center[1] - before[0][1]
            elapsed = 1.0
            if self.mode == "modern":
                elapsed = seconds - before[1] if seconds is not None and before[1] is not None else 0.5
            velocity = [step[0] / elapsed, step[1] / elapsed]
        return box._replace(entry=box.entry | {"velocity": list(velocity[:2]) if velocity else [0.0, 0.0]})


def _merged(cameras: list[list[_Box]], mode: Mode, merge: bool) -> list[_Box]:
    """The boxes of a sample, without what a camera sees that another one reported."""
    radii = sheet("nuscenes").merge_radius
    if mode == "parity":
        boxes: list[_Box] = []
        for camera in cameras:
            boxes = [box for box in camera if not (merge and _same_place(box, boxes, radii))] + boxes
        return boxes
    boxes, seen = [], set()
    for box in sorted((box for camera in cameras for box in camera), key=lambda box: -box.score):
        others = [other for other in boxes if other.camera != box.camera]
        if box.track in seen or (merge and _same_place(box, others, radii)):
            continue
        seen.add(box.track)
        boxes.append(box)
    return boxes[:_MAX_BOXES]


def _same_place(box: _Box, others: list[_Box], radii: dict[str, float]) -> bool:
    radius = radii.get(box.name, radii[""])
    return any(
        box.name == other.name
        and math.hypot(box.center[0] - other.center[0], box.center[1] - other.center[1]) < radius
        for other in others
    )


def _entry(box: _Box, token: str, task: Task, mode: Mode) -> dict[str, Any]:
    entry = {"sample_token": token, **box.entry}
    attribute = entry.pop("attribute_name", None)
    if task == "tracking":
        if mode == "parity":
            entry["velocity"] = [0.0, 0.0]
        return entry | {"tracking_id": str(box.track), "tracking_name": box.name, "tracking_score": box.score}
    if attribute is None:
        attribute = (_PUBLISHED_ATTRIBUTES if mode == "parity" else ATTRIBUTES)[box.name]
    return entry | {"detection_name": box.name, "detection_score": box.score, "attribute_name": attribute}
