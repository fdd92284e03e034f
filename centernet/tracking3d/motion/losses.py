"""How a motion network is scored over a window of a track."""

from typing import NamedTuple

import torch
from torch import Tensor

from ..ops.geometry import wrap_angle
from ..ops.mode import Mode
from .base import MotionModel
from .lstm import HISTORY, MotionNetwork
from .velo_lstm import with_yaw
from .yaw import align_yaw

__all__ = ["MotionLosses", "Unrolled", "Windows", "motion_losses", "unroll", "unroll_parity"]


class Windows(NamedTuple):
    """B stretches of tracks, T moments each.

    Attributes:
        truth, observed: float ``[B, T, 7]``, true boxes and what a detector saw of them, in the world.
        confidence: float ``[B, T]`` in [0, 1], of the detections' depth.
        valid: float ``[B, T]``, 0 where a track was shorter than the window.
        seen: bool ``[B, T]``, whether the detector saw it; the first two moments are. Modern mode; parity mode has the
            truth for an observation where there is none.
        steps: float ``[B, T]``, time since the moment before, in steps of the model; modern mode.
    """

    truth: Tensor
    observed: Tensor
    confidence: Tensor
    valid: Tensor
    seen: Tensor
    steps: Tensor

    def to(self, device: torch.device) -> "Windows":
        return Windows(*(value.to(device) for value in self))


class Unrolled(NamedTuple):
    """Boxes ``[B, T - 1, 7]``: ``refined[:, i]`` of moment ``i + 1``, ``predicted[:, i]`` for moment ``i + 2``."""

    refined: Tensor
    predicted: Tensor


class MotionLosses(NamedTuple):
    """Scalars; ``total = weight * (refine + predict) + (1 - weight) * linear``."""

    total: Tensor
    refine: Tensor
    predict: Tensor
    linear: Tensor


def unroll_parity(network: MotionNetwork, windows: Windows) -> Unrolled:
    """Step through windows as the published training does.

    Predictions are as they enter the loss: turned by pi, in place, where that is nearer to the next observation. What
    lies before the current moment gives gradients through hidden states and displacements alone.
    """
    observed, confidence = windows.observed, windows.confidence
    refine_hidden = predict_hidden = network.first_hidden(len(observed))
    previous, prediction = observed[:, 0], observed[:, 1]
    displacements = observed.new_zeros(len(observed), HISTORY, observed.shape[2])
    refined: list[Tensor] = []
    predicted: list[Tensor] = []
    for t in range(1, observed.shape[1]):
        prediction = with_yaw(prediction, align_yaw(prediction[:, 3], observed[:, t, 3]))
        if predicted:
            predicted[-1] = prediction
        box, refine_hidden = network.refine(
            prediction.detach(), observed[:, t], previous.detach(), confidence[:, t], refine_hidden
        )
        box = with_yaw(box, wrap_angle(box[:, 3]))
        moved = (box - previous)[:, None]
        displacements = moved.expand_as(displacements) if t == 1 else torch.cat((displacements[:, 1:], moved), 1)
        prediction, predict_hidden = network.predict(displacements, box.detach(), predict_hidden)
        prediction = with_yaw(prediction, wrap_angle(prediction[:, 3]))
        previous = box
        refined.append(box)
        predicted.append(prediction)
    return Unrolled(torch.stack(refined, 1), torch.stack(predicted, 1))


def unroll(motion: MotionModel, windows: Windows) -> Unrolled:
    """Step a motion model through windows as a tracker does: training in modern mode, and scoring of any model.

    The refined box of a moment at which the track was not seen is the prediction.
    """
    observed = windows.observed
    state = motion.create(observed[:, 0])
    refined, predicted = [], []
    for t in range(1, observed.shape[1]):
        state, box = motion.predict(state, state.age != 0, windows.steps[:, t, None])
        index = windows.seen[:, t].nonzero().squeeze(1)
        state = motion.update(state, index, observed[index, t], windows.confidence[index, t])
        refined.append(motion.current(state)[:, :7])
        predicted.append(box[:, :7])
    _, box = motion.predict(state, state.age != 0)
    return Unrolled(torch.stack(refined, 1), torch.stack([*predicted[1:], box[:, :7]], 1))


def motion_losses(unrolled: Unrolled, windows: Windows, mode: Mode, weight: float = 0.9) -> MotionLosses:
    """Smooth L1 distance of refined and predicted boxes from the true ones, and a preference for steady motion.

    Args:
        unrolled: of ``windows``.
        windows: with at least one valid moment after the first two.
        mode: ``"parity"`` subtracts yaw as a number; ``"modern"`` along the shorter arc.
        weight: of the distances; the rest is the weight of steadiness.
    """
    refined, predicted = unrolled.refined, unrolled.predicted[:, :-1]
    truth, valid = windows.truth, windows.valid
    refine = _distance(refined, truth[:, 1:], valid[:, 1:], mode)
    predict = _distance(predicted, truth[:, 2:], valid[:, 2:], mode)
    linear = _unsteadiness(refined, valid[:, 1:], mode) + _unsteadiness(predicted, valid[:, 2:], mode)
    return MotionLosses(weight * (refine + predict) + (1 - weight) * linear, refine, predict, linear)


def _distance(boxes: Tensor, truth: Tensor, valid: Tensor, mode: Mode) -> Tensor:
    apart = (_between(truth, _wrapped(boxes), mode) * valid[..., None]).abs()
    return torch.where(apart < 1, 0.5 * apart * apart, apart - 0.5).sum() / valid.sum().clamp(min=1)


def _unsteadiness(boxes: Tensor, valid: Tensor, mode: Mode) -> Tensor:
    boxes = _wrapped(boxes) * valid[..., None]
    moved = _between(boxes[:, :-1], boxes[:, 1:], mode)
    change = (moved[:, :-1] - moved[:, 1:]) * valid[:, 2:, None]
    return change.abs().mean((0, 2)).sum() / valid.sum().clamp(min=1)


def _between(first: Tensor, second: Tensor, mode: Mode) -> Tensor:
    apart = second - first
    return apart if mode == "parity" else _wrapped(apart)


def _wrapped(boxes: Tensor) -> Tensor:
    return with_yaw(boxes, wrap_angle(boxes[..., 3]))
