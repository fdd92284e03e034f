"""Losses of motion networks: the published values and gradients, and what the modern mode mends."""

import math

import numpy as np
import pytest
import torch
from motion_recipe import filled

from centernet.tracking3d.motion.checkpoint import NETWORKS
from centernet.tracking3d.motion.kalman import KalmanMotion
from centernet.tracking3d.motion.losses import Unrolled, Windows, motion_losses, unroll, unroll_parity
from centernet.tracking3d.motion.velo_lstm import VeloLSTM, VeloLSTMMotion

DATA = "motion_networks.npz"


def windows_of(arrays):
    origin = np.concatenate((arrays["train_cam_loc"][:, :1], np.zeros_like(arrays["train_gt"][:, :1, 3:])), 2)
    mask = torch.from_numpy(arrays["train_mask"])
    truth, observed = (torch.from_numpy(arrays[f"train_{name}"] - origin) for name in ("gt", "obs"))
    return Windows(truth, observed, torch.from_numpy(arrays["train_conf"]), mask, mask >= 0, torch.ones_like(mask))


def check_losses(losses, arrays, name):
    names = (("total", "total"), ("refine", "refine"), ("predict", "pred"), ("linear", "linear"))
    for ours, theirs in names:
        value = getattr(losses, ours).item()
        assert value == pytest.approx(arrays[f"train_{name}_{theirs}_losses"].item(), rel=1e-4), ours


@pytest.mark.parametrize("name", ["VeloLSTM", "LSTM"])
def test_losses_and_gradients_are_the_published_ones(name, tracking3d_data):
    arrays = tracking3d_data(DATA)
    network, windows = filled(NETWORKS[name]()), windows_of(arrays)
    losses = motion_losses(unroll_parity(network, windows), windows, "parity")
    check_losses(losses, arrays, name)
    losses.total.backward()
    parameters = dict(network.named_parameters())
    assert set(parameters) == set(arrays[f"train_{name}_grad_names"].tolist())
    norms = [
        0.0 if parameters[key].grad is None else parameters[key].grad.norm().item()
        for key in arrays[f"train_{name}_grad_names"]
    ]
    np.testing.assert_allclose(norms, arrays[f"train_{name}_grad_norms"], rtol=1e-3, atol=1e-7)
    total = arrays[f"train_{name}_grad_total_norm"].item()
    assert torch.nn.utils.clip_grad_norm_(network.parameters(), 3.0).item() == pytest.approx(total, rel=1e-3)


@pytest.mark.parametrize("name", ["VeloLSTM", "LSTM"])
def test_unrolled_boxes_are_the_published_ones(name, golden3d):
    arrays = golden3d("motion.npz")
    unrolled = unroll_parity(filled(NETWORKS[name]()), windows_of(arrays))
    np.testing.assert_allclose(unrolled.refined.detach(), arrays[f"train_{name}_refine"], atol=1e-4)
    np.testing.assert_allclose(unrolled.predicted.detach(), arrays[f"train_{name}_predict"], atol=1e-4)


def test_the_filter_scores_as_published(golden3d):
    arrays = golden3d("motion.npz")
    windows = windows_of(arrays)
    unrolled = unroll(KalmanMotion(), windows)
    np.testing.assert_allclose(unrolled.refined, arrays["train_kf_refine"], atol=1e-4)
    np.testing.assert_allclose(unrolled.predicted, arrays["train_kf_predict"], atol=1e-4)
    check_losses(motion_losses(unrolled, windows, "parity"), arrays, "kf")


def test_modern_yaw_losses_go_the_short_way():
    truth = torch.zeros(1, 6, 7)
    truth[..., 3] = 3.1
    windows = Windows(truth, truth, torch.ones(1, 6), torch.ones(1, 6), torch.ones(1, 6) > 0, torch.ones(1, 6))
    beyond = torch.zeros(1, 5, 7)
    beyond[..., 3] = -3.1
    unrolled = Unrolled(beyond, beyond)
    near = 0.5 * (2 * math.pi - 6.2) ** 2
    modern, parity = (motion_losses(unrolled, windows, mode) for mode in ("modern", "parity"))
    assert modern.refine.item() == pytest.approx(5 * near / 5, rel=1e-3)
    assert parity.refine.item() == pytest.approx(6.2 - 0.5, rel=1e-3)
    half_turn = torch.zeros(1, 5, 7)
    assert motion_losses(Unrolled(half_turn, half_turn), windows, "modern").refine.item() == pytest.approx(3.1 - 0.5)


def test_what_was_not_there_does_not_count():
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(3, 10, 7, generator=generator)
    valid = torch.ones(3, 10)
    valid[1, 6:] = 0
    full = Windows(truth, truth, torch.ones(3, 10), valid, valid > 0, torch.ones(3, 10))
    motion = VeloLSTMMotion(filled(VeloLSTM()))
    other = full._replace(truth=torch.where(valid[..., None] > 0, truth, 1e3))
    for mode in ("modern", "parity"):
        a, b = (motion_losses(unroll(motion, full), windows, mode) for windows in (full, other))
        torch.testing.assert_close(a, b)


def test_modern_training_steps_as_a_tracker_does():
    generator = torch.Generator().manual_seed(1)
    boxes = torch.randn(4, 7, 7, generator=generator)
    seen = torch.rand(4, 7, generator=generator) > 0.3
    seen[:, :2] = True
    steps = 0.5 + torch.rand(4, 7, generator=generator)
    windows = Windows(boxes, boxes, torch.rand(4, 7, generator=generator), torch.ones(4, 7), seen, steps)
    network = filled(VeloLSTM())
    motion = VeloLSTMMotion(network)
    unrolled = unroll(motion, windows)
    state = motion.create(boxes[2:3, 0])
    for t in range(1, 7):
        state, predicted = motion.predict(state, state.age != 0, steps[2, t].item())
        if t > 1:
            torch.testing.assert_close(predicted[0, :7], unrolled.predicted[2, t - 2])
        if seen[2, t]:
            state = motion.update(state, torch.tensor([0]), boxes[2:3, t], windows.confidence[2:3, t])
        torch.testing.assert_close(motion.current(state)[0, :7], unrolled.refined[2, t - 1])
    network.train()
    losses = motion_losses(unroll(motion, windows), windows, "modern")
    losses.total.backward()
    unused = {name for name, parameter in network.named_parameters() if parameter.grad is None}
    assert unused == {"loc2feat.weight", "loc2feat.bias", "pred2vel.weight"}
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters() if parameter.grad is not None)
