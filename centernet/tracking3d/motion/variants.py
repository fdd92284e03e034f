"""The networks of which no weights were released; the tracker runs the plain :class:`.lstm.LSTM` and
:class:`.velo_lstm.VeloLSTM`.

``Conf`` in a name: the refinement sees the confidence of the observation; ``Loc``: a prediction adds a mean of the past
displacements; ``Traj``: it also sees the past locations.
"""

import torch
from torch import Tensor

from .lstm import LSTM

__all__ = ["ConfLSTM", "LocConfLSTM", "LocLSTM", "LocTrajLSTM"]


class ConfLSTM(LSTM):
    """The refinement also sees the mean of both embedded locations, weighed by the confidence. 530,304 parameters."""

    refine_parts = 3

    def _features(self, prediction: Tensor, observation: Tensor, confidence: Tensor) -> tuple[Tensor, ...]:
        predicted, observed = super()._features(prediction, observation, confidence)
        weight = self._plain(confidence)[:, None]
        return predicted, observed, weight * observed + (1 - weight) * predicted


class LocLSTM(LSTM):
    """A prediction adds a mean of the past displacements. 498,432 parameters."""

    attends = True


class LocConfLSTM(LocLSTM):
    """The refinement also sees the embedded confidence. 531,264 parameters."""

    refine_parts = 3
    sees_confidence = True

    def _features(self, prediction: Tensor, observation: Tensor, confidence: Tensor) -> tuple[Tensor, ...]:
        seen = super()._features(prediction, observation, confidence)
        return *seen, self.conf2feat(self._plain(confidence)[:, None])


class LocTrajLSTM(LocLSTM, ConfLSTM):
    """Refines as :class:`ConfLSTM`; a prediction sees displacements and locations. 596,736 parameters."""

    predict_parts = 3

    def predict_along(
        self, displacements: Tensor, location: Tensor, hidden: Tensor, predicted: Tensor, refined: Tensor
    ) -> tuple[Tensor, Tensor]:
        """As :meth:`.lstm.MotionNetwork.predict`, with the locations of the same steps.

        Args:
            displacements: float ``[M, T, D]``, oldest first.
            location: float ``[M, D]``.
            hidden: float ``[M, 2, layers, hidden]``.
            predicted, refined: float ``[M, T, D]``, the last T locations of either kind, oldest first.
        """
        displaced = self.vel2feat(self._plain(displacements))
        places = [self.loc2feat(self._plain(locations)) for locations in (predicted, refined)]
        return self._step(torch.cat((displaced, *places), -1), displacements, location, hidden)

    def predict(self, displacements: Tensor, location: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Is not possible: see :meth:`predict_along`."""
        raise TypeError("LocTrajLSTM predicts with past locations: call predict_along")
