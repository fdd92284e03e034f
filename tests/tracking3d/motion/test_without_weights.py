"""Kalman filter and constant position, beside the published numbers and the textbook's matrices."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from centernet.tracking3d.motion.base import concat
from centernet.tracking3d.motion.constant import ConstantPosition
from centernet.tracking3d.motion.kalman import KalmanMotion
from centernet.tracking3d.motion.yaw import align_yaw

DATA = "motion_tracks.npz"


def replay(model, tracks, dtype):
    """Predictions and states of all tracks, in the order of the published wrapper test, and the last state."""
    seen = torch.from_numpy(tracks["track_seen"])
    boxes = torch.from_numpy(tracks["track_obs"]).to(dtype)
    confidence = torch.from_numpy(tracks["track_conf"]).to(dtype)
    state = model.create(boxes[:, 0])
    predictions, states, all_states = [torch.full((len(boxes), 10), math.nan, dtype=dtype)], [model.current(state)], []
    for t in range(1, boxes.shape[1]):
        state, predicted = model.predict(state, state.age != 0)
        index = seen[:, t].nonzero().squeeze(1)
        state = model.update(state, index, boxes[index, t], confidence[index, t])
        predictions.append(predicted)
        states.append(model.current(state))
        all_states.append(state)
    return torch.stack(predictions, 1).numpy(), torch.stack(states, 1).numpy(), all_states


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", ["kf", "dummy"])
def test_steps_are_the_published_ones(name, dtype, tracking3d_data):
    tracks = tracking3d_data(DATA)
    model = KalmanMotion() if name == "kf" else ConstantPosition("parity")
    predictions, states, all_states = replay(model, tracks, dtype)
    close = {"rtol": 0, "atol": 1e-4}
    np.testing.assert_allclose(predictions[:, 1:], tracks[f"{name}_predict"][:, 1:], **close)
    np.testing.assert_allclose(states, tracks[f"{name}_state"], **close)
    assert np.isnan(tracks[f"{name}_predict"][:, 0]).all()
    if name == "kf" and dtype is torch.float64:
        diagonals = [model.covariance(state).diagonal(dim1=1, dim2=2) for state in all_states]
        np.testing.assert_allclose(torch.stack(diagonals, 1), tracks["kf_cov_diag"][:, 1:], rtol=1e-4)
        np.testing.assert_allclose(model.covariance(all_states[-1]), tracks["kf_cov_last"], rtol=1e-4, atol=1e-9)


def test_the_filter_is_the_one_with_matrices():
    generator = torch.Generator().manual_seed(0)
    boxes = torch.randn(6, 7, generator=generator, dtype=torch.float64)
    boxes[:, 3] *= 0.1
    model = KalmanMotion()
    state = model.create(boxes[:1])
    step, measure = torch.eye(10, dtype=torch.float64), torch.eye(7, 10, dtype=torch.float64)
    elapsed = 1.0
    noise = torch.diag(torch.tensor([1.0] * 7 + [0.01] * 3, dtype=torch.float64))
    mean, covariance = model.current(state)[0], model.covariance(state)[0]
    step[:3, 7:] = torch.eye(3, dtype=torch.float64)
    for box in boxes[1:]:
        mean, covariance = step @ mean, step @ covariance @ step.T + noise
        state, predicted = model.predict(state, torch.ones(1, dtype=torch.bool), elapsed)
        torch.testing.assert_close(predicted[0], mean)
        gain = covariance @ measure.T @ torch.linalg.inv(measure @ covariance @ measure.T + torch.eye(7))
        mean = mean + gain @ (box - measure @ mean)
        covariance = (torch.eye(10, dtype=torch.float64) - gain @ measure) @ covariance
        state = model.update(state, torch.tensor([0]), box[None], torch.ones(1))
        torch.testing.assert_close(model.current(state)[0], mean)
        torch.testing.assert_close(model.covariance(state)[0], covariance)


def test_longer_steps_move_further():
    model = KalmanMotion()
    state = model.create(torch.zeros(1, 7, dtype=torch.float64))
    for t in range(1, 5):
        state, _ = model.predict(state, torch.tensor([True]))
        state = model.update(state, torch.tensor([0]), torch.eye(7, dtype=torch.float64)[:1] * t, torch.ones(1))
    speed = model.current(state)[0, 7]
    assert speed == pytest.approx(1, abs=0.05)
    long, after = model.predict(state, torch.tensor([True]), elapsed=3.0)
    assert after[0, 0] - model.current(state)[0, 0] == pytest.approx(3 * speed.item())
    assert long.variance[0, 0] > model.predict(state, torch.tensor([True]))[0].variance[0, 0]


@settings(max_examples=50, deadline=None)
@given(st.floats(-3.14, 3.14), st.floats(-3.14, 3.14))
def test_aligned_yaw_is_the_same_line_and_near(yaw, observed):
    result = align_yaw(torch.tensor(yaw, dtype=torch.float64), torch.tensor(observed, dtype=torch.float64)).item()
    assert abs(observed - result) <= math.pi / 2 + 1e-9
    assert math.sin(result - yaw) == pytest.approx(0, abs=1e-9)


def test_modern_smoothing_takes_the_short_way_round():
    near, beyond = torch.zeros(1, 7), torch.zeros(1, 7)
    near[0, 3], beyond[0, 3] = 3.1, -3.1
    yaws = {}
    for mode in ("parity", "modern"):
        model = ConstantPosition(mode)
        state = model.update(model.create(near), torch.tensor([0]), beyond, torch.ones(1))
        yaws[mode] = model.current(state)[0, 3].item()
    assert yaws["parity"] == pytest.approx(-2.48, abs=1e-5)
    assert yaws["modern"] == pytest.approx(-3.1 - 0.1 * (2 * math.pi - 6.2), abs=1e-5)


@pytest.mark.parametrize("model", [KalmanMotion(), ConstantPosition()], ids=lambda model: type(model).__name__)
def test_states_are_values_and_rows_are_independent(model):
    boxes = torch.randn(4, 7)
    state = model.create(boxes)
    before = {name: value.clone() for name, value in state.as_dict().items()}
    moved, _ = model.predict(state, torch.ones(4, dtype=torch.bool))
    updated = model.update(moved, torch.tensor([2]), torch.zeros(1, 7), torch.ones(1))
    assert all(torch.equal(before[name], value) for name, value in state.as_dict().items())
    for name, value in updated.as_dict().items():
        torch.testing.assert_close(value[[0, 1, 3]], moved.as_dict()[name][[0, 1, 3]], msg=name)
    both = concat([state, updated.select(torch.tensor([3, 0]))])
    assert len(both) == 6
    assert torch.equal(model.current(both)[5], model.current(updated)[0])
    assert torch.equal(model.current(state.restored(updated.as_dict())), model.current(updated))
    assert len(model.create(torch.zeros(0, 7))) == 0
