"""A world to track in: boxes that move steadily, seen by cameras without error."""

import math

import torch

from centernet.tracking3d.ops.geometry import Camera, lower_boxes, wrap_angle
from centernet.tracking3d.tracker.detections import Detections3D

FORWARD = torch.tensor([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
"""Camera to world: looks along X, Z up."""


def camera(heading: float = 0.0, position=(0.0, 0.0, 1.5), focal: float = 700.0) -> Camera:
    """1200 x 700 pixels, looking into ``heading`` (radians from X to Y)."""
    cos, sin = math.cos(heading), math.sin(heading)
    turn = torch.tensor([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])
    intrinsics = torch.tensor([[focal, 0.0, 600.0, 0.0], [0.0, focal, 350.0, 0.0], [0.0, 0.0, 1.0, 0.0]])
    return Camera(intrinsics, turn @ FORWARD, torch.tensor(position))


def look(box7: torch.Tensor, here: Camera, size: int = 16, score: float = 0.95) -> tuple[Detections3D, torch.Tensor]:
    """Detections of the boxes ``[N, 7]`` that ``here`` sees, and which boxes they are. Embeddings tell boxes apart."""
    roll_pitch = torch.tensor([[-math.pi / 2, 0.0]]).expand(len(box7), 2)
    seen = lower_boxes(box7, roll_pitch, here)
    u, v = seen.center2d.unbind(1)
    index = ((seen.depth > 1) & (u > 0) & (u < 1200) & (v > 0) & (v < 700)).nonzero().squeeze(1)
    half = 700.0 / seen.depth.clamp(min=1)[:, None] * torch.tensor([1.5, 0.8])
    boxes = torch.cat((seen.center2d - half, seen.center2d + half), 1)
    embeddings = torch.zeros(len(box7), size)
    embeddings[torch.arange(len(box7)), torch.arange(len(box7)) % size] = 4.0
    detections = Detections3D(
        boxes=boxes,
        scores=torch.full((len(box7),), score),
        labels=torch.zeros(len(box7), dtype=torch.int64),
        depth=seen.depth,
        confidence=torch.full((len(box7),), 0.9),
        dims=seen.dims,
        alpha=seen.alpha,
        center2d=seen.center2d,
        embeddings=embeddings,
    )
    return detections.select(index), index


def boxes_at(start: torch.Tensor, velocity: torch.Tensor, seconds: float) -> torch.Tensor:
    """``start [N, 7]`` moved by ``velocity [N, 3]``, m/s, looking where it goes."""
    moved = start.clone()
    moved[:, :3] += velocity * seconds
    moved[:, 3] = wrap_angle(torch.atan2(velocity[:, 1], velocity[:, 0]))
    return moved


def three_cars() -> tuple[torch.Tensor, torch.Tensor]:
    """Boxes and velocities of cars ahead: one drives away, one comes, one crosses."""
    start = torch.tensor(
        [
            [15.0, 3.0, 0.8, 0.0, 1.6, 1.8, 4.2],
            [60.0, -4.0, 0.8, 0.0, 1.6, 1.8, 4.2],
            [25.0, 12.0, 0.8, 0.0, 1.6, 1.8, 4.2],
        ]
    )
    velocity = torch.tensor([[8.0, 0.0, 0.0], [-9.0, 0.0, 0.0], [0.0, -5.0, 0.0]])
    return start, velocity
