"""Training of motion networks, one pass over all tracks at a time.

Every pass seeds its random numbers from its own number, so a training that is resumed at a pass is the training that
was never stopped.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from ...errors import UserError
from ..ops.geometry import wrap_angle
from ..ops.mode import Mode
from .base import MotionModel
from .checkpoint import NETWORKS, TRACKABLE
from .losses import MotionLosses, Unrolled, Windows, motion_losses, unroll, unroll_parity
from .lstm import MotionNetwork
from .tracks import Track, all_windows, long_enough, random_windows
from .velo_lstm import VeloLSTMMotion

__all__ = ["MotionTrainer", "TrainingRules", "prediction_errors"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingRules:
    """Defaults are the published ones.

    Attributes:
        network: VeloLSTM or LSTM.
        mode: ``"parity"``: steps between moments all count as one, yaw is subtracted as a number, what is not seen is
            seen as it is; ``"modern"``: steps as a tracker takes them, with time, wrapped yaw and missed sightings.
        passes: over all tracks, each with one random window.
        batch: windows; fewer if there are not so many tracks. What is left over in a pass is left out.
        window: moments.
        least_moments: a track has more than these.
        learning_rate: of Adam (amsgrad).
        halve_every: passes after which the learning rate is halved.
        weight_decay: L2.
        clip: largest norm of the gradient.
        dropout: between the layers of the LSTMs.
        loss_weight: of refinement and prediction; the rest is that of steady motion.
        step_seconds: length of a step of the model, modern mode.
        seed: of weights, order, windows and dropout.
    """

    network: str = "VeloLSTM"
    mode: Mode = "modern"
    passes: int = 101
    batch: int = 128
    window: int = 10
    least_moments: int = 10
    learning_rate: float = 5e-3
    halve_every: int = 20
    weight_decay: float = 1e-4
    clip: float = 3.0
    dropout: float = 0.1
    loss_weight: float = 0.9
    step_seconds: float = 0.5
    seed: int = 100

    def __post_init__(self) -> None:
        """
        Raises:
            UserError: a value that cannot be.
        """
        if self.network not in TRACKABLE:
            raise UserError(f"the network '{self.network}' cannot be trained: choose one of {', '.join(TRACKABLE)}")
        if self.window < 3 or self.least_moments < 2:
            raise UserError(
                f"the window is {self.window} and tracks have more than {self.least_moments} moments: a prediction is "
                "scored from the third moment on, so give at least 3 and 2"
            )
        for name in ("passes", "batch", "learning_rate", "halve_every", "clip", "step_seconds"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name} is {getattr(self, name)}: give a number above 0")


class MotionTrainer:
    """A network, its optimiser and the tracks.

    Args:
        rules: see :class:`TrainingRules`.
        tracks: those that are too short are left out.
        device: of the network.

    Attributes:
        finished: passes that are done.

    Raises:
        UserError: no track is long enough.
    """

    def __init__(self, rules: TrainingRules, tracks: Sequence[Track], device: str | torch.device = "cpu") -> None:
        self.rules = rules
        self.tracks = long_enough(tracks, rules.least_moments)
        if not self.tracks:
            raise UserError(
                f"none of the {len(tracks)} tracks has more than {rules.least_moments} moments: give longer videos, or "
                "a smaller --least-moments"
            )
        self.device = torch.device(device)
        torch.manual_seed(rules.seed)
        self.network: MotionNetwork = NETWORKS[rules.network](dropout=rules.dropout).to(self.device)
        self.optimizer = torch.optim.Adam(
            self.network.parameters(), lr=rules.learning_rate, weight_decay=rules.weight_decay, amsgrad=True
        )
        self.finished = 0

    def train_pass(self) -> MotionLosses:
        """One pass over all tracks; the mean losses.

        Raises:
            UserError: the loss is not finite.
        """
        rules = self.rules
        torch.manual_seed(rules.seed + 1 + self.finished)
        generator = torch.Generator().manual_seed(rules.seed + 1 + self.finished)
        for group in self.optimizer.param_groups:
            group["lr"] = rules.learning_rate * 0.5 ** (self.finished // rules.halve_every)
        self.network.train()
        sums = torch.zeros(4)
        batches = list(self._batches(generator))
        for windows in batches:
            losses = self.losses(windows)
            if not torch.isfinite(losses.total):
                raise UserError(
                    f"the loss of pass {self.finished + 1} is not finite: look for absurd boxes in the files, or "
                    "give a smaller --learning-rate"
                )
            self.optimizer.zero_grad()
            losses.total.backward()
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), rules.clip)
            self.optimizer.step()
            sums += torch.stack(losses).detach().cpu()
        self.finished += 1
        self.network.eval()
        return MotionLosses(*(sums / len(batches)).unbind())

    def _batches(self, generator: torch.Generator) -> Iterator[Windows]:
        rules = self.rules
        order = torch.randperm(len(self.tracks), generator=generator).tolist()
        size = min(rules.batch, len(order))
        for start in range(0, len(order) - size + 1, size):
            tracks = [self.tracks[k] for k in order[start : start + size]]
            windows = random_windows(tracks, rules.window, rules.step_seconds, rules.mode, generator)
            yield windows.to(self.device)

    def losses(self, windows: Windows) -> MotionLosses:
        """Of the network on a batch; on the device of the network."""
        if self.rules.mode == "parity":
            unrolled = unroll_parity(self.network, windows)
        else:
            unrolled = unroll(VeloLSTMMotion(self.network, "modern"), windows)
        return motion_losses(unrolled, windows, self.rules.mode, self.rules.loss_weight)

    @torch.no_grad()
    def validate(self, tracks: Sequence[Track]) -> MotionLosses | None:
        """Losses on the first window of each track that is long enough; ``None`` if none is."""
        tracks = long_enough(tracks, self.rules.least_moments)
        if not tracks:
            return None
        self.network.eval()
        return self.losses(all_windows(tracks, self.rules.window, self.rules.step_seconds).to(self.device))

    def state(self) -> dict[str, Any]:
        """What a file shall hold: the published entries, and what else a tracker and a resumed training want."""
        return {
            "epoch": self.finished - 1,
            "state_dict": self.network.state_dict(),
            "session": self.rules.network,
            "optimizer": self.optimizer.state_dict(),
            "mode": self.rules.mode,
            "step_seconds": self.rules.step_seconds,
            "rules": asdict(self.rules),
        }

    def resume(self, tensors: Mapping[str, Tensor], training: Mapping[str, Any], path: str) -> None:
        """Go on from a file of :meth:`state`.

        Args:
            tensors: weights by name.
            training: the other entries.
            path: for the message.

        Raises:
            UserError: the file is of a training with other rules.
        """
        rules = asdict(self.rules)
        saved = training.get("rules")
        if not isinstance(saved, Mapping) or "optimizer" not in training:
            raise UserError(f"{path} cannot be resumed: it was not written by this training; give another --output")
        other = [name for name in rules if name != "passes" and saved.get(name) != rules[name]]
        if other:
            raise UserError(
                f"{path} is of a training with {other[0]} = {saved.get(other[0])}, and this one has {rules[other[0]]}: "
                "give the same options, or another --output"
            )
        self.network.load_state_dict(tensors)
        self.optimizer.load_state_dict(dict(training["optimizer"]))
        self.finished = int(training["epoch"]) + 1


@torch.no_grad()
def prediction_errors(
    motion: MotionModel, tracks: Sequence[Track], step_seconds: float, skip: int = 3
) -> dict[str, float]:
    """How far predictions and refined boxes are from the truth, stepping as a tracker does.

    Args:
        motion: any model.
        tracks: of any lengths.
        step_seconds: length of a step of the model.
        skip: moments at the beginning of each track that do not count.

    Returns:
        means over all moments: ``predicted`` and ``refined`` distance of centres in metres, and ``predicted_yaw`` and
        ``refined_yaw`` in radians.
    """
    windows = all_windows(tracks, max(len(track.seconds) for track in tracks), step_seconds)
    unrolled: Unrolled = unroll(motion, windows)
    counts = windows.valid[:, skip:] > 0
    errors = {}
    after = {"predicted": unrolled.predicted[:, skip - 2 : -1], "refined": unrolled.refined[:, skip - 1 :]}
    for name, boxes in after.items():
        apart = (boxes - windows.truth[:, skip:])[counts]
        errors[name] = float(apart[:, :3].norm(dim=1).mean())
        errors[f"{name}_yaw"] = float(wrap_angle(apart[:, 3]).abs().mean())
    return errors
