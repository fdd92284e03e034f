"""Recurrent networks that refine and predict boxes: what they share, and the plain one.

Two LSTMs, one to blend what is predicted with what is seen, one to predict; each has a hidden state for every track.
Locations are ``[X, Y, Z, yaw, h, w, l]`` (metres, radians; D = 7), displacements their change per step. Parameters
have the published names, so that a published state dict loads as it is.
"""

import torch
from torch import Tensor, nn

__all__ = ["LSTM", "MotionNetwork"]

HISTORY = 5
"""Displacements that a prediction looks at."""


class MotionNetwork(nn.Module):
    """Base of the networks; all of them are batched over tracks and take and return hidden states.

    Args:
        size: D, of a location.
        feature: width of what a location, displacement or confidence is embedded in.
        hidden: width of the LSTMs.
        layers: of each LSTM.
        dropout: between these layers in training.

    Attributes:
        refine_parts, predict_parts: features side by side at the input of either LSTM.
        attends: a prediction adds a mean of past displacements, weighed per dimension.
        sees_confidence: the confidence of an observation is embedded on its own.
        gates: the refinement blends prediction and observation, weighed per dimension.
    """

    refine_parts = 2
    predict_parts = 1
    attends = False
    sees_confidence = False
    gates = False

    def __init__(
        self, size: int = 7, feature: int = 64, hidden: int = 128, layers: int = 2, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.size, self.layers, self.hidden = size, layers, hidden
        self.loc2feat = nn.Linear(size, feature)
        self.pred2vel = nn.Linear(hidden, size, bias=False)
        self.vel2feat = nn.Linear(size, feature)
        between = dropout if layers > 1 else 0.0
        self.pred_lstm = nn.LSTM(self.predict_parts * feature, hidden, layers, dropout=between)
        self.refine_lstm = nn.LSTM(self.refine_parts * feature, hidden, layers, dropout=between)
        if self.attends:
            self.pred2atten = nn.Linear(hidden, size, bias=False)
        if self.sees_confidence:
            self.conf2feat = nn.Linear(1, feature, bias=False)
        self.apply(_initialise)
        if self.gates:  # keeps PyTorch's initialisation, as published
            self.conf2atten = nn.Linear(hidden, size, bias=False)

    def first_hidden(self, count: int) -> Tensor:
        """Zeros, float ``[count, 2, layers, hidden]``: h and c of one LSTM for new tracks."""
        return self.pred2vel.weight.new_zeros(count, 2, self.layers, self.hidden)

    def refine(
        self, prediction: Tensor, observation: Tensor, previous: Tensor, confidence: Tensor, hidden: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Where the tracks are, from what was predicted and what is seen.

        Args:
            prediction, observation, previous: float ``[M, D]``; ``previous`` is the last refined location.
            confidence: float ``[M]`` in [0, 1], of the observation.
            hidden: float ``[M, 2, layers, hidden]``.

        Returns:
            refined locations ``[M, D]`` in the dtype of ``observation``, and the hidden state after.
        """
        raise NotImplementedError

    def predict(self, displacements: Tensor, location: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Where the tracks will be one step on.

        Args:
            displacements: float ``[M, T, D]``, of the last T steps, oldest first.
            location: float ``[M, D]``.
            hidden: float ``[M, 2, layers, hidden]``.

        Returns:
            locations ``[M, D]`` in the dtype of ``location``, and the hidden state after.
        """
        raise NotImplementedError

    def _plain(self, values: Tensor) -> Tensor:
        return values.to(self.pred2vel.weight.dtype)


class LSTM(MotionNetwork):
    """Sees locations as they are and adds a displacement to the observation. 497,536 parameters."""

    def refine(
        self, prediction: Tensor, observation: Tensor, previous: Tensor, confidence: Tensor, hidden: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See :meth:`MotionNetwork.refine`."""
        features = self._features(prediction, observation, confidence)
        output, hidden = run(self.refine_lstm, torch.cat(features, -1)[:, None], hidden)
        return observation + self.pred2vel(output[:, -1]), hidden

    def _features(self, prediction: Tensor, observation: Tensor, confidence: Tensor) -> tuple[Tensor, ...]:
        return self.loc2feat(self._plain(prediction)), self.loc2feat(self._plain(observation))

    def predict(self, displacements: Tensor, location: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`MotionNetwork.predict`."""
        features = self.vel2feat(self._plain(displacements))
        return self._step(features, displacements, location, hidden)

    def _step(self, features: Tensor, displacements: Tensor, location: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        output, hidden = run(self.pred_lstm, features, hidden)
        if not self.attends:
            return location + self.pred2vel(output[:, -1]), hidden
        weights = self.pred2atten(output).softmax(1)
        return location + (weights.to(displacements.dtype) * displacements).sum(1), hidden


def run(lstm: nn.LSTM, sequence: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """``sequence [M, T, F]`` through ``lstm`` from ``hidden [M, 2, layers, H]``: ``[M, T, H]`` and the state after."""
    if not len(sequence):  # torch refuses an empty batch
        return sequence.new_zeros(0, sequence.shape[1], lstm.hidden_size), hidden
    h, c = hidden.permute(1, 2, 0, 3).contiguous().unbind(0)
    output, state = lstm(sequence.transpose(0, 1), (h, c))
    return output.transpose(0, 1), torch.stack(state).permute(2, 0, 1, 3)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_normal_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.LSTM):
        for name, parameter in module.named_parameters():
            if name.startswith("weight_ih"):
                nn.init.xavier_uniform_(parameter)
            elif name.startswith("weight_hh"):
                nn.init.orthogonal_(parameter)
            else:
                nn.init.zeros_(parameter)
