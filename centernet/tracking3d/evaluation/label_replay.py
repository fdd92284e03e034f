"""A tracker tested without pictures: KITTI's labels as its detections, perfect or spoilt."""

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from ..data.constants import KITTI_CLASSES
from ..data.kitti_files import parse_labels
from ..data.records import Boxes3D, box3d_bounds
from ..motion.checkpoint import build_motion
from ..ops.geometry import Camera, project, yaw_to_alpha
from ..ops.mode import Mode
from ..tracker.detections import Detections3D
from ..tracker.rules import KITTI_RULES
from ..tracker.tracker import QuasiDenseTracker

INTRINSICS = ((721.5377, 0.0, 609.5593, 0.0), (0.0, 721.5377, 172.854, 0.0), (0.0, 0.0, 1.0, 0.0))
"""Of KITTI's left colour camera on most days; the label files come without their own."""

PICTURE = (375, 1242)


class Noise(NamedTuple):
    """How detections are spoilt.

    Attributes:
        metres: standard deviation of each coordinate of the centres.
        dropped: share of the detections that is missing.
        false: false detections as a share of the true ones.
        seed: of all of it.
    """

    metres: float = 0.0
    dropped: float = 0.0
    false: float = 0.0
    seed: int = 0


def kitti_camera() -> Camera:
    """The camera of :data:`INTRINSICS` with X right, Y ahead and Z up as the world's axes, standing still."""
    rotation = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]], dtype=torch.float64)
    return Camera(torch.tensor(INTRINSICS, dtype=torch.float64), rotation, torch.zeros(3, dtype=torch.float64))


def label_detections(text: str, frames: int, noise: Noise | None = None) -> list[Detections3D]:
    """Detections of each frame of a label file.

    Args:
        text: of a tracking label file; DontCare is left out.
        frames: number of frames.
        noise: default: none.

    Returns:
        float64, scores and confidences 1 (0.6 to 1 with noise), equal embeddings: nothing tells objects apart but where
        they are and what class they have.
    """
    noise = noise or Noise()
    labels = parse_labels(text, "a label file", tracking=True)
    generator = torch.Generator().manual_seed(noise.seed)
    detections = []
    for frame in range(frames):
        boxes = labels.boxes.select(labels.frames == frame)
        spoilt = noise.metres or noise.dropped or noise.false
        detections.append(_detections(_spoilt(boxes, noise, generator) if spoilt else boxes, generator, bool(spoilt)))
    return detections


def _spoilt(boxes: Boxes3D, noise: Noise, generator: torch.Generator) -> Boxes3D:
    """Moved, some missing, some invented where the picture shows the ground."""

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    count = len(boxes.classes)
    invented = int((uniform(count) < noise.false).sum())
    boxes = boxes.select(uniform(count) >= noise.dropped)
    step = noise.metres * torch.randn(len(boxes.classes), 3, generator=generator, dtype=torch.float64)
    xyz = boxes.xyz + step * step.new_tensor((1.0, 0.2, 1.0))  # cars stay on the ground
    moved = boxes._replace(xyz=torch.cat((xyz[:, :2], xyz[:, 2:].clamp(min=1.0)), 1))
    depth = 5 + 45 * uniform(invented)
    sideways = (uniform(invented) - 0.5) * depth
    place = torch.stack((sideways, torch.full_like(depth, 0.9), depth), 1)
    yaw = (uniform(invented) - 0.5) * 2 * torch.pi
    dims = place.new_tensor((1.5, 1.6, 4.0)).expand(invented, 3)
    bounds, _ = box3d_bounds(place, yaw, dims, place.new_tensor(INTRINSICS), PICTURE)
    car = torch.full((invented,), KITTI_CLASSES.index("car"))
    ghosts = Boxes3D(bounds, car, torch.full_like(car, -1), place, yaw, dims, yaw_to_alpha(yaw, place))
    return Boxes3D(*(torch.cat(columns) for columns in zip(moved, ghosts, strict=True)))


def _detections(boxes: Boxes3D, generator: torch.Generator, spoilt: bool) -> Detections3D:
    count = len(boxes.classes)
    scores = torch.ones(count, dtype=torch.float64)
    if spoilt:
        scores = 1 - 0.4 * torch.rand(count, generator=generator, dtype=torch.float64)
    return Detections3D(
        boxes=boxes.boxes,
        scores=scores,
        labels=boxes.classes,
        depth=boxes.xyz[:, 2],
        confidence=torch.ones_like(scores),
        dims=boxes.dims,
        alpha=yaw_to_alpha(boxes.yaw, boxes.xyz),
        center2d=project(boxes.xyz, boxes.xyz.new_tensor(INTRINSICS))[0],
        embeddings=torch.ones(count, 1, dtype=torch.float64),
    )


def tracker_for_labels(mode: Mode, confirm_sightings: int = 1) -> QuasiDenseTracker:
    """A Kalman tracker without appearance, for detections of which none is a duplicate of another.

    Args:
        mode: of the tracker.
        confirm_sightings: as in :class:`..tracker.rules.TrackerRules`; 2 for noisy detections.
    """
    rules = replace(
        KITTI_RULES,
        appearance_cue="none",
        assignment="hungarian",
        match_affinity=0.3,  # the camera turns and drives, and nobody tells the tracker
        duplicate_iou=1.0,
        low_score_iou=1.0,
        confirm_sightings=confirm_sightings,
    )
    return QuasiDenseTracker(rules, build_motion("Kalman", mode=mode, step_seconds=rules.frame_seconds), mode)


def replay(tracker: QuasiDenseTracker, detections: list[Detections3D]) -> str:
    """Track a sequence.

    Args:
        tracker: begins a new video.
        detections: of each frame.

    Returns:
        the text of KITTI's tracking file; cars and pedestrians only, boxes as they were detected.
    """
    camera, written = kitti_camera(), []
    for frame, found in enumerate(detections):
        tracks = tracker.step(found, camera, frame)
        rows = (tracks.index, tracks.ids, tracks.xyz, tracks.yaw, tracks.alpha, tracks.dims)
        for index, track, xyz, yaw, alpha, dims in zip(*(row.tolist() for row in rows), strict=True):
            name = KITTI_CLASSES[int(found.labels[index])]
            if name not in ("car", "pedestrian"):
                continue
            values = (alpha, *found.boxes[index].tolist(), *dims, xyz[0], xyz[1] + dims[0] / 2, xyz[2], yaw)
            numbers = " ".join(f"{value:.6f}" for value in (*values, float(found.scores[index])))
            written.append(f"{frame} {track} {name} -1 -1 {numbers}\n")
    return "".join(written)
