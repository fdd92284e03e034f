"""VeloLSTM, the network of the released weights, and how a tracker steps such a network for all tracks at once."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..ops.geometry import wrap_angle
from ..ops.mode import Mode
from .base import MotionState
from .lstm import HISTORY, MotionNetwork, run
from .variants import LocConfLSTM
from .yaw import align_yaw

__all__ = ["LSTMMotionState", "VeloLSTM", "VeloLSTMMotion"]

_HEADING_MEMORY = 0.8


class VeloLSTM(LocConfLSTM):
    """Sees displacements alone, so the origin of the world does not matter; 532,160 parameters.

    A refinement is a blend, per dimension, of the predicted with the observed displacement; a prediction a mean of past
    displacements. ``loc2feat`` and ``pred2vel`` are inherited and not used; released files hold them.

    Source: Hu et al., QD-3DT (arXiv 2103.07351) section 3.4.
    """

    gates = True

    def refine(
        self, prediction: Tensor, observation: Tensor, previous: Tensor, confidence: Tensor, hidden: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See :meth:`.lstm.MotionNetwork.refine`."""
        predicted, observed = prediction - previous, observation - previous
        features = (
            self.vel2feat(self._plain(predicted)),
            self.vel2feat(self._plain(observed)),
            self.conf2feat(self._plain(confidence)[:, None]),
        )
        output, hidden = run(self.refine_lstm, torch.cat(features, -1)[:, None], hidden)
        gate = self.conf2atten(output[:, -1]).sigmoid().to(observed.dtype)
        return previous + gate * observed + (1 - gate) * predicted, hidden


@dataclass(frozen=True)
class LSTMMotionState(MotionState):
    """What is known of ``M`` tracks.

    Attributes:
        vector: float ``[M, 10]``, see :mod:`.base`.
        previous: float ``[M, 7]``, as refined when the track was seen last.
        displacements: float ``[M, 5, 7]``, per step of the model, oldest first.
        yaws: float ``[M, 6]``, of the last refined boxes, newest last, turned by pi where the track turned out to look
            the other way; parity mode.
        mean_yaw: float ``[M]``, of these at the last update; parity mode.
        since: float ``[M]``, steps since the track was seen; modern mode.
        heading: float ``[M]``, sightings that looked the way that the track does minus those that looked the other way,
            older ones counting less; modern mode.
        updates: int64 ``[M]``, how often the track was seen after the first time.
        refine_hidden, predict_hidden: float ``[M, 2, layers, hidden]``.
    """

    vector: Tensor
    previous: Tensor
    displacements: Tensor
    yaws: Tensor
    mean_yaw: Tensor
    since: Tensor
    heading: Tensor
    updates: Tensor
    refine_hidden: Tensor
    predict_hidden: Tensor


class VeloLSTMMotion:
    """A :class:`VeloLSTM` (or plain :class:`.lstm.LSTM`) as a motion model.

    Args:
        network: on the device of the boxes. In ``eval()`` nothing is recorded for gradients; boxes keep their dtype.
        mode: ``"parity"``: a displacement is between two sightings, however long they lie apart, yaw is subtracted as a
            number, and a track looks the way it was seen to look last, as published. ``"modern"``: displacements are
            per step of the model, predictions go as far as the time that has passed, yaw differences are wrapped, and
            which end of an object is its front is decided by the majority of its sightings. Each wants weights of its
            own training.

    Source: QD-3DT's ``LSTM3DTracker``, which steps one track after the other.
    """

    def __init__(self, network: MotionNetwork, mode: Mode = "modern") -> None:
        self.network = network
        self.mode = mode

    def create(self, box7: Tensor) -> LSTMMotionState:
        """See :class:`.base.MotionModel`."""
        count = len(box7)
        number = torch.zeros(count, dtype=torch.int64, device=box7.device)
        hidden = self.network.first_hidden(count)
        return LSTMMotionState(
            age=number,
            vector=torch.cat((box7, box7.new_zeros(count, 3)), 1),
            previous=box7,
            displacements=box7.new_zeros(count, HISTORY, 7),
            yaws=box7[:, 3:4].expand(-1, HISTORY + 1),
            mean_yaw=box7[:, 3],
            since=box7.new_zeros(count),
            heading=box7.new_ones(count),
            updates=number,
            refine_hidden=hidden,
            predict_hidden=hidden,
        )

    def predict(
        self, state: LSTMMotionState, advance: Tensor, elapsed: float | Tensor = 1.0
    ) -> tuple[LSTMMotionState, Tensor]:
        """See :class:`.base.MotionModel`; ``elapsed`` may be float ``[M]``; parity mode takes it for 1."""
        with torch.set_grad_enabled(self._learns):
            location = state.vector[:, :7]
            if self.mode == "parity":
                target, hidden = self.network.predict(state.displacements, location, state.predict_hidden)
                speed = target[:, :3] - state.previous[:, :3]
            else:
                steps = torch.as_tensor(elapsed, dtype=location.dtype, device=location.device).reshape(-1, 1)
                moved, hidden = self.network.predict(
                    state.displacements, torch.zeros_like(location), state.predict_hidden
                )
                target, speed = location + steps * moved, moved[:, :3]
                state = replace(state, since=state.since + steps[:, 0])
            predicted = torch.cat((target[:, :3], wrap_angle(target[:, 3:4]), target[:, 4:], speed), 1)
            moves = advance[:, None]
            state = replace(
                state,
                age=state.age + 1,
                vector=torch.where(moves, predicted, state.vector),
                predict_hidden=torch.where(moves[..., None, None], hidden, state.predict_hidden),
            )
            return state, predicted

    def update(self, state: LSTMMotionState, index: Tensor, box7: Tensor, confidence: Tensor) -> LSTMMotionState:
        """See :class:`.base.MotionModel`."""
        with torch.set_grad_enabled(self._learns):
            return state.put(index, self._seen(state.select(index), box7, confidence))

    def current(self, state: LSTMMotionState) -> Tensor:
        """See :class:`.base.MotionModel`."""
        return state.vector

    @property
    def _learns(self) -> bool:
        return self.network.training and torch.is_grad_enabled()

    def _seen(self, state: LSTMMotionState, box7: Tensor, confidence: Tensor) -> LSTMMotionState:
        seen = self._seen_parity if self.mode == "parity" else self._seen_modern
        return replace(seen(state, box7, confidence), updates=state.updates + 1)

    def _seen_parity(self, state: LSTMMotionState, box7: Tensor, confidence: Tensor) -> LSTMMotionState:
        # the first time, what is seen stands for the prediction too, as in training
        predicted = torch.where((state.age == 1)[:, None], box7, state.vector[:, :7])
        predicted = with_yaw(predicted, align_yaw(predicted[:, 3], box7[:, 3]))
        refined, hidden = self.network.refine(predicted, box7, state.previous, confidence, state.refine_hidden)
        refined = with_yaw(refined, wrap_angle(refined[:, 3]))
        apart = (box7[:, 3] - state.mean_yaw).abs()
        turned = (apart > math.pi / 2) & (apart < 1.5 * math.pi)
        yaws = torch.where(turned[:, None], wrap_angle(state.yaws + math.pi), state.yaws)
        moved = refined - with_yaw(state.previous, yaws[:, -1])
        yaws = torch.cat((yaws[:, 1:], refined[:, 3:4]), 1)
        displacements = _shifted(state, moved)
        displacements = torch.cat(
            (displacements[..., :3], moved[:, None, 3:4].expand(-1, HISTORY, 1), displacements[..., 4:]), 2
        )
        return replace(
            state,
            vector=torch.cat((refined, state.vector[:, 7:]), 1),
            previous=refined,
            displacements=displacements,
            yaws=yaws,
            mean_yaw=wrap_angle(yaws).mean(1),
            refine_hidden=hidden,
        )

    def _seen_modern(self, state: LSTMMotionState, box7: Tensor, confidence: Tensor) -> LSTMMotionState:
        # which end is the front is voted on; the half turn that a detection differs by is no motion
        agrees = wrap_angle(box7[:, 3] - state.vector[:, 3]).abs() <= math.pi / 2
        heading = _HEADING_MEMORY * state.heading + torch.where(agrees, 1.0, -1.0)
        turn = math.pi * (heading < 0).to(box7.dtype)
        yaw = wrap_angle(state.vector[:, 3] + turn)
        box7 = with_yaw(box7, align_yaw(box7[:, 3], yaw))
        previous = with_yaw(state.previous, yaw - wrap_angle(yaw - state.previous[:, 3] - turn))
        first = (state.updates == 0)[:, None]
        predicted = torch.where(first, box7, with_yaw(state.vector[:, :7], yaw))
        steps = state.since.clamp(min=1e-3)[:, None]
        moved, hidden = self.network.refine(
            (predicted - previous) / steps,
            (box7 - previous) / steps,
            torch.zeros_like(previous),
            confidence,
            state.refine_hidden,
        )
        refined = previous + steps * moved
        refined = with_yaw(refined, wrap_angle(refined[:, 3]))
        return replace(
            state,
            vector=torch.cat((refined, moved[:, :3]), 1),
            previous=refined,
            displacements=_shifted(state, moved),
            since=torch.zeros_like(state.since),
            heading=heading.abs(),
            refine_hidden=hidden,
        )


def with_yaw(box7: Tensor, yaw: Tensor) -> Tensor:
    """``box7 [..., 7]`` with another ``yaw [...]``."""
    return torch.cat((box7[..., :3], yaw[..., None], box7[..., 4:]), -1)


def _shifted(state: LSTMMotionState, newest: Tensor) -> Tensor:
    """The displacements after another one; the first one fills them."""
    known = torch.cat((state.displacements[:, 1:], newest[:, None]), 1)
    return torch.where((state.updates == 0)[:, None, None], newest[:, None], known)
