"""Detections of one or several pictures into the world, checked and sorted."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ...errors import UserError
from ..ops.geometry import Camera, lift_boxes
from ..ops.mode import Mode
from .detections import Detections3D
from .memory import Sightings, concat

_ROTATION_ERROR = 1e-3  # of R R^T from the identity; float32 and rounded files stay far below


def sightings(
    views: Sequence[tuple[Detections3D, Camera]], frame: int, use_confidence: bool, mode: Mode, dtype: torch.dtype
) -> tuple[Sightings, int]:
    """All detections of a moment in the world, the highest score times confidence first.

    Args:
        views: pictures with their cameras, at least one.
        frame: for messages.
        use_confidence: without it, every confidence is 1.
        mode: of lifting.
        dtype: of what is in the world.

    Returns:
        the detections, and how many were left out because of values that are not finite.

    Raises:
        UserError: a camera that cannot be used.
    """
    lifted, left_out = [], 0
    for number, (detections, camera) in enumerate(views):
        check_camera(camera, frame, number if len(views) > 1 else None)
        finite = _finite(detections)
        index = finite.nonzero().squeeze(1)
        left_out += len(finite) - len(index)
        lifted.append(_lifted(detections, index, camera, number, mode, dtype))
    seen: Sightings = concat(lifted)
    if not use_confidence:
        seen = replace(seen, confidence=torch.ones_like(seen.confidence))
    order = (seen.scores * seen.confidence).argsort(descending=True, stable=True)
    return seen.select(order), left_out


def _lifted(
    detections: Detections3D, index: Tensor, camera: Camera, number: int, mode: Mode, dtype: torch.dtype
) -> Sightings:
    chosen = detections.select(index)
    here = Camera(*(value.to(device=index.device, dtype=dtype) for value in camera))
    boxes = lift_boxes(
        chosen.center2d.to(dtype),
        chosen.depth.to(dtype),
        chosen.alpha.to(dtype),
        chosen.dims.to(dtype),
        here,
        mode=mode,
    )
    return Sightings(
        index=index,
        boxes=chosen.boxes,
        scores=chosen.scores,
        confidence=chosen.confidence,
        labels=chosen.labels,
        embeddings=chosen.embeddings,
        box7=boxes.box7,
        roll_pitch=boxes.roll_pitch,
        view=torch.full_like(index, number),
        origin=here.position.expand(len(index), 3),
    )


def _finite(detections: Detections3D) -> Tensor:
    finite = torch.ones(len(detections.boxes), dtype=torch.bool, device=detections.boxes.device)
    for value in detections:
        finite &= value.reshape(len(finite), -1).isfinite().all(1) if value.numel() else True
    return finite


def check_camera(camera: Camera, frame: int, number: int | None) -> None:
    """
    Args:
        camera: one picture's.
        frame: for messages.
        number: which of several views, for messages.

    Raises:
        UserError: no pose, values that are not finite, intrinsics that cannot be inverted, a rotation that is none.
    """
    where = f"frame {frame}" if number is None else f"frame {frame}, view {number}"
    for name, value, shape in zip(("intrinsics", "rotation", "position"), camera, ((3, 4), (3, 3), (3,)), strict=True):
        if value is None:
            raise UserError(
                f"{where} has no {name}: give the camera's (for a pose, identity and zeros if it stands still)"
            )
        if tuple(value.shape) != shape:
            raise UserError(f"{where}: the camera's {name} has the shape {tuple(value.shape)}: give {shape}")
        if not bool(value.isfinite().all()):
            raise UserError(f"{where}: the camera's {name} holds values that are not finite: mend the calibration file")
    if not bool(torch.linalg.det(camera.intrinsics[:, :3].double()).abs() > 0):
        raise UserError(f"{where}: the camera's intrinsics cannot be inverted: give focal lengths above 0")
    rotation = camera.rotation.double()
    identity = torch.eye(3, dtype=rotation.dtype, device=rotation.device)
    proper = bool(torch.linalg.det(rotation) > 0)
    if not proper or bool((rotation @ rotation.T - identity).abs().max() > _ROTATION_ERROR):
        raise UserError(f"{where}: the camera's rotation is none: give an orthonormal matrix, camera to world")
