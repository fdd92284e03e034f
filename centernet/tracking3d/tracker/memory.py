"""What the tracker remembers of objects: one row each, in the order in which they came."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..motion.base import MotionState
from ..ops.batched import Batched, concat
from ..ops.geometry import wrap_angle
from ..ops.mode import Mode

__all__ = ["BACKDROP", "DISCARDED", "Entries", "Sightings", "begin", "concat", "continued"]

BACKDROP = -1
"""Id of what is no track (yet)."""
DISCARDED = -2
"""Id of a detection that is neither tracked nor remembered: too weak, on top of a track."""


@dataclass(frozen=True)
class Sightings(Batched):
    """Detections as the tracker handles them, best first.

    Attributes:
        index: int64 ``[N]``, row among the detections as given.
        boxes: float ``[N, 4]``, xyxy, pixels.
        scores, confidence: float ``[N]``.
        labels: int64 ``[N]``.
        embeddings: float ``[N, E]``.
        box7: float ``[N, 7]``, in the world.
        roll_pitch: float ``[N, 2]``, see :class:`..ops.geometry.LiftedBoxes`.
        view: int64 ``[N]``, which camera.
        origin: float ``[N, 3]``, its place in the world.
    """

    index: Tensor
    boxes: Tensor
    scores: Tensor
    confidence: Tensor
    labels: Tensor
    embeddings: Tensor
    box7: Tensor
    roll_pitch: Tensor
    view: Tensor
    origin: Tensor


@dataclass(frozen=True)
class Entries(Batched):
    """Tracks, or backdrops: untracked detections of the last frame, against which detections are held too.

    Attributes:
        ids: int64 ``[M]``; :data:`BACKDROP` for backdrops.
        boxes: float ``[M, 4]``, last seen in the picture.
        view: int64 ``[M]``, by which camera.
        labels: int64 ``[M]``.
        embeddings: float ``[M, E]``, running mean.
        box7: float ``[M, 7]``; parity mode: moved on while the track is lost; modern mode: as refined when it was seen
            last.
        velocity: float ``[M, 7]``, running mean of the refined box's change; per frame in parity mode, per second in
            modern mode.
        changes: int64 ``[M]``, how many changes that mean has seen.
        last_frame: int64 ``[M]``, when it was seen last.
        last_seconds: float64 ``[M]``, the same on the clock.
        motion: state of the motion model, M rows.
    """

    ids: Tensor
    boxes: Tensor
    view: Tensor
    labels: Tensor
    embeddings: Tensor
    box7: Tensor
    velocity: Tensor
    changes: Tensor
    last_frame: Tensor
    last_seconds: Tensor
    motion: MotionState


def begin(seen: Sightings, ids: Tensor, motion: MotionState, frame: int, seconds: float) -> Entries:
    """Entries of detections that were not tracked before; ``ids`` int64 ``[N]``."""
    return Entries(
        ids=ids,
        boxes=seen.boxes,
        view=seen.view,
        labels=seen.labels,
        embeddings=seen.embeddings,
        box7=seen.box7,
        velocity=torch.zeros_like(seen.box7),
        changes=torch.zeros_like(ids),
        last_frame=torch.full_like(ids, frame),
        last_seconds=torch.full(ids.shape, seconds, dtype=torch.float64, device=ids.device),
        motion=motion,
    )


def continued(
    entries: Entries, seen: Sightings, refined: Tensor, frame: int, seconds: float, momentum: float, mode: Mode
) -> Entries:
    """Entries after they were seen again: everything but their motion, which the motion model has updated.

    Args:
        entries: K rows.
        seen: K detections of them.
        refined: float ``[K, 7]``, box in the world by the motion model.
        frame, seconds: now.
        momentum: weight of the new embedding.
        mode: ``"modern"`` wraps differences of yaw and divides by seconds instead of frames.
    """
    change = refined - entries.box7
    if mode == "modern":
        change[:, 3] = wrap_angle(change[:, 3])
        velocity = change / (seconds - entries.last_seconds).to(change)[:, None]
    else:
        velocity = change / (frame - entries.last_frame).to(change)[:, None]
    changes = entries.changes.to(change)[:, None]
    return replace(
        entries,
        boxes=seen.boxes,
        view=seen.view,
        labels=seen.labels,
        embeddings=entries.embeddings + momentum * (seen.embeddings - entries.embeddings),
        box7=refined,
        velocity=(entries.velocity * changes + velocity) / (changes + 1),
        changes=entries.changes + 1,
        last_frame=torch.full_like(entries.last_frame, frame),
        last_seconds=torch.full_like(entries.last_seconds, seconds),
    )
