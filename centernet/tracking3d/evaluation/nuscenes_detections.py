"""Detections of nuScenes' result format, brought to the cameras: tracker input without pixels."""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...errors import UserError
from ..data.constants import NUSCENES_CLASSES
from ..data.records import Record, box3d_bounds, camera_of
from ..ops.geometry import project, wrap_angle, yaw_to_alpha
from ..tracker.detections import Detections3D


class CameraDetections(NamedTuple):
    """What one picture shows.

    Attributes:
        frame: its record.
        detections: N rows, float64; the boxes are the projections (whole pictures where they leave it), all embeddings
            are the same, confidences are 1.
        xyz: float64 ``[N, 3]``, camera frame; yaw: ``[N]``.
        velocity: float64 ``[N, 3]``, world, m/s.
        attributes: N names.
    """

    frame: Record
    detections: Detections3D
    xyz: Tensor
    yaw: Tensor
    velocity: Tensor
    attributes: list[str]


def read_nuscenes_detections(path: str | Path, frames: Sequence[Record]) -> list[CameraDetections]:
    """Detections for each frame of a reader.

    Args:
        path: JSON (or .json.gz) in the format of detection submissions.
        frames: records of :func:`..data.nuscenes.read_nuscenes`, all cameras. A box belongs to the camera whose axis
            points to it most closely.

    Returns:
        one for each frame, in their order.

    Raises:
        UserError: no such file, or no detections of nuScenes.
    """
    path = Path(path)
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        results = json.loads(content)["results"]
        found: list[CameraDetections | None] = [None] * len(frames)
        samples: dict[str, list[int]] = {}
        for number, frame in enumerate(frames):
            samples.setdefault(frame["sample_token"], []).append(number)
        for token, numbers in samples.items():
            split = _in_cameras(results.get(token, []), [frames[number] for number in numbers])
            for number, seen in zip(numbers, split, strict=True):
                found[number] = seen
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}; give a detection submission") from error
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise UserError(
            f"{path} holds no detections of nuScenes ({type(error).__name__}: {error}): give a detection submission"
        ) from error
    return [seen for seen in found if seen is not None]


def _in_cameras(boxes: list[dict[str, Any]], frames: list[Record]) -> list[CameraDetections]:
    def column(key: str, width: int) -> Tensor:
        return torch.tensor([box[key] for box in boxes], dtype=torch.float64).reshape(len(boxes), width)

    center, size, turn = column("translation", 3), column("size", 3), column("rotation", 4)
    w, x, y, z = turn.unbind(1)
    heading = torch.stack((1 - 2 * (y * y + z * z), 2 * (x * y + w * z), torch.zeros_like(w)), 1)
    cameras = [camera_of(frame) for frame in frames]
    local = torch.stack([(center - camera.position) @ camera.rotation for camera in cameras])
    owner = (local[..., 2] / local.norm(dim=-1).clamp(min=1e-6)).argmax(0)
    labels = torch.tensor([NUSCENES_CLASSES.index(box["detection_name"]) for box in boxes], dtype=torch.int64)
    scores = torch.tensor([box["detection_score"] for box in boxes], dtype=torch.float64)
    velocity = torch.nn.functional.pad(column("velocity", 2), (0, 1))
    found = []
    for number, (frame, camera) in enumerate(zip(frames, cameras, strict=True)):
        rows = (owner == number).nonzero().squeeze(1)
        xyz, ahead = local[number, rows], heading[rows] @ camera.rotation
        yaw = wrap_angle(-torch.atan2(ahead[:, 2], ahead[:, 0]))
        dims = size[rows][:, [2, 0, 1]]
        bounds, visible = box3d_bounds(xyz, yaw, dims, camera.intrinsics, (frame["height"], frame["width"]))
        whole = bounds.new_tensor((0.0, 0.0, frame["width"], frame["height"]))
        detections = Detections3D(
            boxes=torch.where(visible[:, None], bounds, whole),
            scores=scores[rows],
            labels=labels[rows],
            depth=xyz[:, 2],
            confidence=torch.ones_like(yaw),
            dims=dims,
            alpha=yaw_to_alpha(yaw, xyz),
            center2d=project(xyz, camera.intrinsics)[0],
            embeddings=yaw.new_ones(len(rows), 1),
        )
        names = [boxes[row].get("attribute_name", "") for row in rows.tolist()]
        found.append(CameraDetections(frame, detections, xyz, yaw, velocity[rows], names))
    return found
