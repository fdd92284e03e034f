"""No motion: a track stays where it was seen last, smoothed."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..ops.geometry import wrap_angle
from ..ops.mode import Mode
from .base import MotionState


@dataclass(frozen=True)
class ConstantPositionState(MotionState):
    """Attributes: ``vector``, float ``[M, 10]``, see :mod:`.base`; its last three are zero."""

    vector: Tensor


class ConstantPosition:
    """A track moves 0.9 of the way to what is seen of it; it is predicted where it is.

    Args:
        mode: ``"parity"`` smooths yaw as a number, also across the jump at pi; ``"modern"`` along the shorter arc.

    Source: QD-3DT's ``DummyTracker``.
    """

    momentum = 0.9

    def __init__(self, mode: Mode = "modern") -> None:
        self.mode = mode

    def create(self, box7: Tensor) -> ConstantPositionState:
        """See :class:`.base.MotionModel`."""
        age = torch.zeros(len(box7), dtype=torch.int64, device=box7.device)
        return ConstantPositionState(age, torch.cat((box7, box7.new_zeros(len(box7), 3)), 1))

    def predict(
        self, state: ConstantPositionState, advance: Tensor, elapsed: float | Tensor = 1.0
    ) -> tuple[ConstantPositionState, Tensor]:
        """See :class:`.base.MotionModel`; ``advance`` and ``elapsed`` change nothing."""
        return replace(state, age=state.age + 1), state.vector

    def update(
        self, state: ConstantPositionState, index: Tensor, box7: Tensor, confidence: Tensor
    ) -> ConstantPositionState:
        """See :class:`.base.MotionModel`; ``confidence`` is not used."""
        old = state.vector[index]
        seen = torch.cat((box7, torch.zeros_like(old[:, 7:])), 1)
        step = seen - old
        if self.mode == "modern":
            step[:, 3] = wrap_angle(step[:, 3])
        new = old + self.momentum * step
        if self.mode == "modern":
            new[:, 3] = wrap_angle(new[:, 3])
        return replace(state, vector=state.vector.index_copy(0, index, new))

    def current(self, state: ConstantPositionState) -> Tensor:
        """See :class:`.base.MotionModel`."""
        return state.vector
