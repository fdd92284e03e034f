"""Constant velocity of the centre, constant everything else: a Kalman filter for all tracks at once.

Transition, measurement and noise couple nothing but a coordinate and its own velocity, so the ten-state filter is three
filters of two states and four of one. Their covariances are the nine numbers that are not zero, and a step is a handful
of elementwise operations on ``[M, 7]``, with no matrix to invert.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..ops.geometry import wrap_angle
from .base import MotionState
from .yaw import align_yaw


@dataclass(frozen=True)
class KalmanState(MotionState):
    """Means and covariances.

    Attributes:
        vector: float ``[M, 10]``, see :mod:`.base`.
        variance: float ``[M, 7]``, of X, Y, Z, yaw, h, w, l.
        velocity_variance: float ``[M, 3]``.
        covariance: float ``[M, 3]``, of each coordinate with its velocity.
    """

    vector: Tensor
    variance: Tensor
    velocity_variance: Tensor
    covariance: Tensor


@dataclass(frozen=True)
class KalmanNoise:
    """Variances, in metres (radians for yaw) and steps.

    Attributes:
        initial, initial_velocity: of a track seen once.
        process, velocity_process: added by one step.
        measurement: of an observation.
    """

    initial: float = 10.0
    initial_velocity: float = 1e4
    process: float = 1.0
    velocity_process: float = 0.01
    measurement: float = 1.0


PUBLISHED_NOISE = KalmanNoise()
"""Takes any velocity for possible and observations for hardly better than predictions, whatever a step is."""


def modern_noise(step_seconds: float) -> KalmanNoise:
    """Objects of some 7 m/s that change their velocity by 2 m/s in a second, seen half a metre off.

    Chosen on the even sequences of KITTI's labels with 0.5 m of noise; the tables are of the odd ones.

    Args:
        step_seconds: length of a step of the tracker.
    """
    return KalmanNoise(
        initial=0.3,
        initial_velocity=50.0 * step_seconds**2,
        process=0.2 * step_seconds,
        velocity_process=5.0 * step_seconds**3,
        measurement=0.3,
    )


class KalmanMotion:
    """Source: QD-3DT's ``KalmanBox3DTracker`` (after AB3DMOT, Weng et al., IROS 2020), with its constants.

    The confidence of an observation is not used, as published.

    Args:
        noise: the published one, or :func:`modern_noise`.
    """

    def __init__(self, noise: KalmanNoise = PUBLISHED_NOISE) -> None:
        self.noise = noise

    def create(self, box7: Tensor) -> KalmanState:
        """See :class:`.base.MotionModel`."""
        three = box7[:, :3]
        return KalmanState(
            age=torch.zeros(len(box7), dtype=torch.int64, device=box7.device),
            vector=torch.cat((box7, torch.zeros_like(three)), 1),
            variance=torch.full_like(box7, self.noise.initial),
            velocity_variance=torch.full_like(three, self.noise.initial_velocity),
            covariance=torch.zeros_like(three),
        )

    def predict(self, state: KalmanState, advance: Tensor, elapsed: float | Tensor = 1.0) -> tuple[KalmanState, Tensor]:
        """See :class:`.base.MotionModel`; every track advances, whatever ``advance`` says, as published."""
        position, box, velocity = state.vector.split((3, 4, 3), 1)
        vector = torch.cat((position + elapsed * velocity, wrap_angle(box[:, :1]), box[:, 1:], velocity), 1)
        variance = state.variance + elapsed * self.noise.process
        variance[:, :3] += elapsed * (2 * state.covariance + elapsed * state.velocity_variance)
        return (
            KalmanState(
                age=state.age + 1,
                vector=vector,
                variance=variance,
                velocity_variance=state.velocity_variance + elapsed * self.noise.velocity_process,
                covariance=state.covariance + elapsed * state.velocity_variance,
            ),
            vector,
        )

    def update(self, state: KalmanState, index: Tensor, box7: Tensor, confidence: Tensor) -> KalmanState:
        """See :class:`.base.MotionModel`."""
        old = state.select(index)
        vector = old.vector.clone()
        vector[:, 3] = align_yaw(vector[:, 3], box7[:, 3])
        total = old.variance + self.noise.measurement
        residual = box7 - vector[:, :7]
        vector[:, :7] += old.variance / total * residual
        velocity_gain = old.covariance / total[:, :3]
        vector[:, 7:] += velocity_gain * residual[:, :3]
        vector[:, 3] = wrap_angle(vector[:, 3])
        seen = replace(
            old,
            vector=vector,
            variance=old.variance * self.noise.measurement / total,
            velocity_variance=old.velocity_variance - velocity_gain * old.covariance,
            covariance=old.covariance * self.noise.measurement / total[:, :3],
        )
        return state.put(index, seen)

    def current(self, state: KalmanState) -> Tensor:
        """See :class:`.base.MotionModel`."""
        return state.vector

    def covariance(self, state: KalmanState) -> Tensor:
        """The covariance matrices, float ``[M, 10, 10]``."""
        diagonal = torch.cat((state.variance, state.velocity_variance), 1)
        coupled = torch.zeros_like(diagonal)[:, :7]
        coupled[:, :3] = state.covariance
        coupled = torch.diag_embed(coupled, offset=7)[:, :10, :10]
        return torch.diag_embed(diagonal) + coupled + coupled.transpose(1, 2)
