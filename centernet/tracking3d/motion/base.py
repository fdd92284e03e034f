"""What a tracker asks of a motion model.

A state vector is ``[X, Y, Z, yaw, h, w, l, vx, vy, vz]``: world metres and radians, the last three displacement per
step of the model. One step is one frame in parity mode, and ``TrackerRules.frame_seconds`` in modern mode.
"""

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from ..ops.batched import Batched, concat

__all__ = ["MotionModel", "MotionState", "concat"]


@dataclass(frozen=True)
class MotionState(Batched):
    """What a model knows of ``M`` tracks; each model adds its own tensors ``[M, ...]``.

    Attributes:
        age: int64 ``[M]``, how often the track was predicted.
    """

    age: Tensor


class MotionModel(Protocol):
    """Batched over tracks. States are values: every method returns a new one and leaves its argument alone."""

    def create(self, box7: Tensor) -> Any:
        """State of new tracks, first seen as ``box7``: float ``[N, 7]``, N may be 0. dtype and device are those of
        ``box7``."""

    def predict(self, state: Any, advance: Tensor, elapsed: float | Tensor = 1.0) -> tuple[Any, Tensor]:
        """One prediction for every track; its age grows by one.

        Args:
            state: of M tracks.
            advance: bool ``[M]``, whether the prediction becomes the state (the first prediction of a track does not,
                as published; the Kalman filter does not care, as published).
            elapsed: how many steps of the model lie between the last prediction and this one, one number or float
                ``[M, 1]``; models without a notion of time take it for 1.

        Returns:
            the new state and the prediction, float ``[M, 10]``.
        """

    def update(self, state: Any, index: Tensor, box7: Tensor, confidence: Tensor) -> Any:
        """State after some of the tracks were seen.

        Args:
            state: of M tracks.
            index: int64 ``[K]``, which of them; none twice.
            box7: float ``[K, 7]``, as what.
            confidence: float ``[K]`` in [0, 1], of their depth.
        """

    def current(self, state: Any) -> Tensor:
        """State vectors, float ``[M, 10]``."""
