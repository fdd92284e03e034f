"""Waymo's result file: an ``Objects`` message of boxes in the vehicle's frame, from a result file.

Neither TensorFlow nor ``waymo-open-dataset`` is needed to write it; field numbers are those of the published
``metrics.proto`` and ``label.proto`` (Apache-2.0). Images of the result file need ``car_from_cam``, ``timestamp`` and
``scene``, as the reader's records have them.
"""

import math
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ...errors import UserError, writing
from ..data.protobuf_wire import Message, field
from ..ops.mode import Mode
from .records import ResultFile

__all__ = ["TYPES", "WaymoObject", "objects_message", "read_objects", "save_objects", "score_objects"]

TYPES = {"car": 1, "pedestrian": 2, "cyclist": 4}
"""``Label.Type``; other classes are not written."""

_POINTS = 100  # lidar points in a box; a camera counts none, and 0 would not be scored
_RADIUS, _SMALL_RADIUS = 2.0, 1.0  # metres within which two cameras' boxes are one object


class WaymoObject(NamedTuple):
    """Attributes: ``context`` (the segment), ``micros``; ``box``: centre x, y, z, width, length, height (metres) and
    heading (radians) in the vehicle's frame; ``kind``: of :data:`TYPES`; ``track``; ``score``; ``camera``."""

    context: str
    micros: int
    box: tuple[float, ...]
    kind: int
    track: str
    score: float
    camera: str = ""


def objects_message(results: ResultFile, mode: Mode = "modern") -> bytes:
    """The serialised ``Objects``.

    Args:
        results: content of a result file of Waymo.
        mode: ``"parity"``: of what two cameras see close to each other, the first camera's stays, and vehicles have the
            smaller radius, as published. ``"modern"``: the higher score stays, pedestrians have the smaller radius, and
            no track is twice in a frame.

    Raises:
        UserError: an image without ``car_from_cam``, ``timestamp`` or ``scene``.
    """
    names = {category["id"]: category["name"] for category in results["categories"]}
    found: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in results["images"]}
    for annotation in results["annotations"]:
        if names[annotation["category_id"]] in TYPES:
            found[annotation["image_id"]].append(annotation)
    frames: dict[tuple[str, int], list[WaymoObject]] = {}
    for image in results["images"]:
        boxes = list(_boxes(image, found[image["id"]], names))
        frames.setdefault((image["scene"], _micros(image)), []).extend(boxes)
    return b"".join(field(1, _serialised(box)) for boxes in frames.values() for box in _merged(boxes, mode))


def save_objects(content: bytes, path: str | Path) -> None:
    """Write :func:`objects_message`.

    Raises:
        UserError: the disk refuses.
    """
    path = Path(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def read_objects(path: str | Path) -> list[WaymoObject]:
    """The objects of such a file.

    Raises:
        UserError: it cannot be read.
    """
    try:
        return [_parsed(entry) for entry in Message(Path(path).read_bytes()).messages(1)]
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is no file of Waymo objects ({error}): write it again") from error


def score_objects(result: str | Path, truth: str | Path, program: str | Path) -> dict[str, dict[str, float]]:
    """What Waymo's program says, run as a process of its own.

    Args:
        result: of :func:`save_objects`.
        truth: the labels in the same format (Waymo gives ``gt_validation.bin``).
        program: ``compute_tracking_metrics_main`` or ``compute_detection_metrics_main``, built from
            waymo-open-dataset.

    Returns:
        numbers such as MOTA and MOTP by breakdown, such as ``OBJECT_TYPE_TYPE_VEHICLE_1_LEVEL_2``.

    Raises:
        UserError: the program is not there, fails or says nothing of scores.
    """
    try:
        process = subprocess.run([str(program), str(result), str(truth)], capture_output=True, text=True, check=False)
    except OSError as error:
        raise UserError(
            f"Waymo's metrics cannot be run ({program}: {error.strerror}): build compute_tracking_metrics_main from "
            "waymo-open-dataset and name it, or hand the file in at Waymo's server"
        ) from error
    scores = {}
    for line in process.stdout.splitlines():
        name, _, values = line.partition(":")
        pairs = [pair.split() for pair in values.replace("]", "[").split("[") if len(pair.split()) == 2]
        if pairs:
            scores[name.strip()] = {key: float(value) for key, value in pairs}
    if process.returncode or not scores:
        last = (process.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"{program} gave no scores ({last}): check {result} and {truth}")
    return scores


def _micros(image: dict[str, Any]) -> int:
    return round(image["timestamp"] * 1e6)


def _boxes(image: dict[str, Any], annotations: list[dict[str, Any]], names: dict[int, str]) -> Iterator[WaymoObject]:
    for key in ("car_from_cam", "timestamp", "scene"):
        if image.get(key) is None:
            raise UserError(f"{image['file_name']} has no {key} in the result file: read the pictures with read_waymo")
    to_car = torch.tensor(image["car_from_cam"], dtype=torch.float64)
    for annotation in annotations:
        center = to_car[:3, :3] @ torch.tensor(annotation["translation"], dtype=torch.float64) + to_car[:3, 3]
        yaw = annotation["roty"]
        x, y, _ = (to_car[:3, :3] @ torch.tensor([math.cos(yaw), 0.0, -math.sin(yaw)], dtype=torch.float64)).tolist()
        height, width, length = (size if size > 0 else 0.1 for size in annotation["dimension"])
        yield WaymoObject(
            image["scene"],
            _micros(image),
            (*center.tolist(), width, length, height, math.atan2(y, x)),
            TYPES[names[annotation["category_id"]]],
            str(annotation["instance_id"]),
            annotation["score"] * annotation["uncertainty"],
            str(image.get("camera", "")),
        )


def _merged(boxes: list[WaymoObject], mode: Mode) -> list[WaymoObject]:
    """The boxes of a frame, without what another camera reported."""
    small = TYPES["pedestrian"] if mode == "modern" else TYPES["car"]
    kept: list[WaymoObject] = []
    for box in sorted(boxes, key=lambda box: -box.score) if mode == "modern" else boxes:
        radius = _SMALL_RADIUS if box.kind == small else _RADIUS
        same = (
            other.kind == box.kind and other.camera != box.camera and math.dist(other.box[:2], box.box[:2]) < radius
            for other in kept
        )
        again = mode == "modern" and any(other.track == box.track for other in kept)
        if not again and not any(same):
            kept.append(box)
    return kept


def _serialised(box: WaymoObject) -> bytes:
    sides = b"".join(field(number, float(value)) for number, value in enumerate(box.box, 1))
    label = field(1, sides) + field(3, box.kind) + field(4, box.track) + field(7, _POINTS)
    scored = field(1, label) + field(2, float(box.score), single=True)
    return scored + field(4, box.context) + field(5, box.micros)


def _parsed(entry: Message) -> WaymoObject:
    label = entry.message(1)
    sides = label.message(1)
    box = tuple((sides.doubles(number) or [0.0])[0] for number in range(1, 8))
    return WaymoObject(entry.text(4), entry.integer(5), box, label.integer(3), label.text(4), entry.single(2))
