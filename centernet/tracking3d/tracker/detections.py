"""What goes into the tracker and what comes out."""

from typing import NamedTuple

from torch import Tensor


class Detections3D(NamedTuple):
    """Detections of one picture, in any order.

    Attributes:
        boxes: float ``[N, 4]``, continuous xyxy, pixels.
        scores: float ``[N]``, of the 2D box.
        labels: int64 ``[N]``, 0-based.
        depth: float ``[N]``, of the centre, metres.
        confidence: float ``[N]`` in [0, 1], of the depth.
        dims: float ``[N, 3]``, h, w, l, metres.
        alpha: float ``[N]``, observation angle, radians.
        center2d: float ``[N, 2]``, projected 3D centre, pixels.
        embeddings: float ``[N, E]``.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    depth: Tensor
    confidence: Tensor
    dims: Tensor
    alpha: Tensor
    center2d: Tensor
    embeddings: Tensor

    def select(self, index: Tensor) -> "Detections3D":
        """The rows of ``index``, integer ``[K]`` or bool ``[N]``."""
        return Detections3D(*(value[index] for value in self))


class Tracks3D(NamedTuple):
    """Tracked objects that a picture shows, best detection (score times confidence) first. Lost tracks are not here.

    Attributes:
        index: int64 ``[T]``, which detection, in the order they were given: ``detections.confidence[index]`` is the
            confidence of each track's own depth.
        ids: int64 ``[T]``, never used twice by one tracker.
        box7: float ``[T, 7]``, in the world, after the motion model has seen the detection.
        xyz: float ``[T, 3]``, the same centre in the camera frame, metres.
        depth: float ``[T]``, its Z.
        yaw, alpha: float ``[T]``, in the camera frame, in [-pi, pi).
        center2d: float ``[T, 2]``, the projected centre, pixels.
        dims: float ``[T, 3]``, h, w, l, metres.
        velocity: float ``[T, 3]``, the motion model's, in the world: metres per second in modern mode, metres per frame
            in parity mode.
        sightings: int64 ``[T]``, how often the track was seen, with this time; ``None``: not known.
    """

    index: Tensor  # type: ignore[assignment]  # tuple.index is not needed
    ids: Tensor
    box7: Tensor
    xyz: Tensor
    depth: Tensor
    yaw: Tensor
    alpha: Tensor
    center2d: Tensor
    dims: Tensor
    velocity: Tensor
    sightings: Tensor | None = None
