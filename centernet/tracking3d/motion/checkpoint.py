"""Files of motion networks: the published ``*_linear.pth`` and ours, which say besides what they were trained for."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from ...errors import UserError
from ...weights import WeightsFile, read_weights
from ..ops.mode import Mode, checked_mode
from .base import MotionModel
from .constant import ConstantPosition
from .kalman import PUBLISHED_NOISE, KalmanMotion, modern_noise
from .lstm import LSTM, MotionNetwork
from .variants import ConfLSTM, LocConfLSTM, LocLSTM, LocTrajLSTM
from .velo_lstm import VeloLSTM, VeloLSTMMotion

__all__ = ["MOTION_MODELS", "NETWORKS", "TrainedNetwork", "build_motion", "load_network", "network_for"]

NETWORKS: dict[str, type[MotionNetwork]] = {
    network.__name__: network for network in (VeloLSTM, LSTM, ConfLSTM, LocLSTM, LocConfLSTM, LocTrajLSTM)
}
TRACKABLE = ("VeloLSTM", "LSTM")
MOTION_MODELS = (*TRACKABLE, "Kalman", "Constant")
"""Names for the tracker's config."""


class TrainedNetwork(NamedTuple):
    """What a file holds.

    Attributes:
        network: in ``eval()``, on the CPU.
        mode: that it was trained in; ``"parity"`` for published files.
        step_seconds: length of a step; ``None`` for published files, where it is a frame.
        file: everything else.
    """

    network: MotionNetwork
    mode: Mode
    step_seconds: float | None
    file: WeightsFile


def load_network(path: str | Path) -> TrainedNetwork:
    """Read a motion network; which one it is, and its sizes, are told from the names and shapes in the file.

    Raises:
        UserError: the file cannot be read, or holds something else.
    """
    file = read_weights(path)
    network = network_for(file.tensors, str(path))
    mode = checked_mode(str(file.training.get("mode", "parity")), f"the mode in {path}")
    step = file.training.get("step_seconds")
    return TrainedNetwork(network.eval(), mode, None if step is None else float(step), file)


def network_for(tensors: Mapping[str, Tensor], path: str) -> MotionNetwork:
    """The network with exactly these tensors.

    Raises:
        UserError: there is none.
    """
    try:
        feature, size = tensors["vel2feat.weight"].shape
        hidden = tensors["pred2vel.weight"].shape[1]
        layers = sum(name.startswith("pred_lstm.weight_ih_l") for name in tensors)
        shapes = {name: value.shape for name, value in tensors.items()}
        for network in NETWORKS.values():
            made = network(size, feature, hidden, layers)
            if {name: value.shape for name, value in made.state_dict().items()} == shapes:
                made.load_state_dict(tensors)
                return made
    except (KeyError, ValueError, IndexError, RuntimeError):
        pass
    known = set(VeloLSTM().state_dict())
    lacks, has = sorted(known - set(tensors)), sorted(set(tensors) - known)
    what = f"it lacks {lacks[0]}" if lacks else f"it has {has[0]}" if has else "its shapes do not belong together"
    raise UserError(
        f"{path} holds no motion network ({what}, beside a VeloLSTM): give a *_linear.pth file of QD-3DT or one that "
        "tools/train_motion.py wrote"
    )


def build_motion(name: str, weights: str | Path = "", mode: Mode = "modern", step_seconds: float = 0.1) -> MotionModel:
    """A tracker's motion model.

    Args:
        name: one of :data:`MOTION_MODELS`.
        weights: a file for :func:`load_network`, for the networks.
        mode: of the tracker.
        step_seconds: of a step of the Kalman filter, modern mode (the tracker's ``frame_seconds``).

    Raises:
        UserError: no such model, or not with these weights.
    """
    if name == "Kalman":
        return KalmanMotion(PUBLISHED_NOISE if mode == "parity" else modern_noise(step_seconds))
    if name == "Constant":
        return ConstantPosition(mode)
    if name not in TRACKABLE:
        raise UserError(f"there is no motion model '{name}': choose one of {', '.join(MOTION_MODELS)}")
    if not str(weights):
        raise UserError(
            f"the motion model {name} has no weights: give a file that tools/train_motion.py wrote, or choose Kalman, "
            "which needs none"
        )
    network = load_network(weights).network
    if type(network).__name__ != name:
        raise UserError(
            f"{weights} holds a {type(network).__name__}, and the motion model is {name}: name the one that the file "
            "holds"
        )
    return VeloLSTMMotion(network, mode)
