"""VeloLSTM and its kin: the published numbers, all tracks at once, and what the modern mode mends."""

import math
import time

import numpy as np
import pytest
import torch
from motion_recipe import filled

from centernet.tracking3d.motion.base import concat
from centernet.tracking3d.motion.checkpoint import NETWORKS
from centernet.tracking3d.motion.lstm import LSTM
from centernet.tracking3d.motion.velo_lstm import VeloLSTM, VeloLSTMMotion

PARAMETERS = {
    "VeloLSTM": 532_160, "LSTM": 497_536, "ConfLSTM": 530_304, "LocLSTM": 498_432, "LocConfLSTM": 531_264,
    "LocTrajLSTM": 596_736,
}  # fmt: skip
DATA = "motion_networks.npz"


def tensor(values, dtype=torch.float64):
    return torch.from_numpy(np.asarray(values)).to(dtype)


@pytest.mark.parametrize("name", NETWORKS)
def test_parameters_are_as_many_as_published(name):
    assert sum(parameter.numel() for parameter in NETWORKS[name]().parameters()) == PARAMETERS[name]


def test_names_and_shapes_are_the_published_ones():
    shapes = {name: tuple(value.shape) for name, value in VeloLSTM().state_dict().items()}
    expected = {
        "loc2feat.weight": (64, 7), "loc2feat.bias": (64,), "pred2vel.weight": (7, 128),
        "vel2feat.weight": (64, 7), "vel2feat.bias": (64,),
        "pred2atten.weight": (7, 128), "conf2atten.weight": (7, 128), "conf2feat.weight": (64, 1),
    }  # fmt: skip
    for lstm, width in (("pred_lstm", 64), ("refine_lstm", 192)):
        for layer in (0, 1):
            expected[f"{lstm}.weight_ih_l{layer}"] = (512, width if layer == 0 else 128)
            expected[f"{lstm}.weight_hh_l{layer}"] = (512, 128)
            expected |= {f"{lstm}.bias_{part}_l{layer}": (512,) for part in ("ih", "hh")}
    assert shapes == expected


def test_first_weights_are_drawn_as_published():
    torch.manual_seed(0)
    network = VeloLSTM()
    for lstm in (network.pred_lstm, network.refine_lstm):
        assert not lstm.bias_ih_l0.any()
        assert not lstm.bias_hh_l1.any()
        torch.testing.assert_close(lstm.weight_hh_l0.T @ lstm.weight_hh_l0, torch.eye(128), atol=1e-4, rtol=0)
        bound = math.sqrt(6 / sum(lstm.weight_ih_l0.shape))
        assert 0.95 * bound < lstm.weight_ih_l0.abs().max() <= bound
    assert not network.vel2feat.bias.any()
    assert network.pred2atten.weight.std().item() == pytest.approx(math.sqrt(2 / 135), rel=0.1)
    assert network.conf2atten.weight.abs().max() <= 1 / math.sqrt(128)  # PyTorch's own


def steps_of(name, arrays):
    """The module-level run of the reference: nothing is done to yaw."""
    network = filled(NETWORKS[name]())
    seen, confidence = tensor(arrays["track_obs"], torch.float32), tensor(arrays["track_conf"], torch.float32)
    refine_hidden = predict_hidden = network.first_hidden(len(seen))
    previous, predicted = seen[:, 0], seen[:, 1]
    displacements = torch.zeros(len(seen), 5, 7)
    trajectories = [seen[:, :1].expand(-1, 5, -1)] * 2
    refined, predictions = [], []
    for t in range(1, seen.shape[1]):
        box, refine_hidden = network.refine(predicted, seen[:, t], previous, confidence[:, t], refine_hidden)
        displacements = torch.cat((displacements[:, 1:], (box - previous)[:, None]), 1)
        new = (predicted, box)
        trajectories = [torch.cat((old[:, 1:], add[:, None]), 1) for old, add in zip(trajectories, new, strict=True)]
        if name == "LocTrajLSTM":
            predicted, predict_hidden = network.predict_along(displacements, box, predict_hidden, *trajectories)
        else:
            predicted, predict_hidden = network.predict(displacements, box, predict_hidden)
        previous = box
        refined.append(box)
        predictions.append(predicted)
    return torch.stack(refined, 1), torch.stack(predictions, 1), refine_hidden, predict_hidden


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_module_steps_are_the_published_ones(name, golden3d):
    arrays = golden3d("motion.npz")
    refined, predicted, refine_hidden, predict_hidden = steps_of(name, arrays)
    assert sum(p.numel() for p in NETWORKS[name]().parameters()) == arrays[f"raw_{name}_params"]
    np.testing.assert_allclose(refined, arrays[f"raw_{name}_refine"], atol=1e-4)
    np.testing.assert_allclose(predicted, arrays[f"raw_{name}_predict"], atol=1e-4)
    for hidden, kind in ((refine_hidden, "refine"), (predict_hidden, "predict")):
        np.testing.assert_allclose(hidden.permute(1, 2, 0, 3), arrays[f"raw_{name}_hidden_{kind}"], atol=1e-4)


def replay(motion, boxes, confidence, seen):
    state = motion.create(boxes[:, 0])
    out = {"predict": [torch.full((len(boxes), 10), math.nan)], "state": [motion.current(state)]}
    states = [state]
    for t in range(1, boxes.shape[1]):
        state, predicted = motion.predict(state, state.age != 0)
        index = seen[:, t].nonzero().squeeze(1)
        state = motion.update(state, index, boxes[index, t], confidence[index, t])
        out["predict"].append(predicted)
        out["state"].append(motion.current(state))
        states.append(state)
    return {name: torch.stack(values, 1) for name, values in out.items()}, states


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_wrapper_steps_are_the_published_ones(dtype, tracking3d_data):
    arrays = tracking3d_data(DATA)
    motion = VeloLSTMMotion(filled(VeloLSTM()), "parity")
    seen = torch.from_numpy(arrays["track_seen"])
    out, states = replay(motion, tensor(arrays["track_obs"], dtype), tensor(arrays["track_conf"], dtype), seen)
    np.testing.assert_allclose(out["predict"][:, 1:], arrays["velo_predict"][:, 1:], atol=1e-4)
    np.testing.assert_allclose(out["state"], arrays["velo_state"], atol=1e-4)
    for name, key in (("displacements", "velo_history"), ("mean_yaw", "velo_avg_yaw")):
        found = torch.stack([getattr(state, name) for state in states[1:]], 1)
        np.testing.assert_allclose(found, arrays[key][:, 1:], atol=1e-4)
    assert out["state"].dtype == dtype
    assert not out["state"].requires_grad


@pytest.mark.parametrize("mode", ["parity", "modern"])
@pytest.mark.parametrize("network", [VeloLSTM, LSTM])
def test_all_tracks_at_once_are_one_after_the_other(network, mode, tracking3d_data):
    arrays = tracking3d_data(DATA)
    motion = VeloLSTMMotion(filled(network()), mode)
    boxes, confidence = tensor(arrays["track_obs"]), tensor(arrays["track_conf"])
    seen = torch.from_numpy(arrays["track_seen"])
    together, states = replay(motion, boxes, confidence, seen)
    for k in range(len(boxes)):
        alone, own = replay(motion, boxes[k : k + 1], confidence[k : k + 1], seen[k : k + 1])
        torch.testing.assert_close(alone["state"][0], together["state"][k], atol=1e-5, rtol=0)
        torch.testing.assert_close(alone["predict"][0, 1:], together["predict"][k, 1:], atol=1e-5, rtol=0)
        row = states[-1].select(torch.tensor([k])).as_dict()
        for name, value in own[-1].as_dict().items():
            torch.testing.assert_close(value, row[name], atol=1e-4, rtol=1e-4)


def test_tracks_come_and_go(tracking3d_data):
    motion = VeloLSTMMotion(filled(VeloLSTM()), "modern")
    boxes = tensor(tracking3d_data(DATA)["track_obs"])
    state = motion.create(boxes[:2, 0])
    state, _ = motion.predict(state, state.age != 0)
    state = motion.update(state, torch.tensor([1]), boxes[1:2, 1], torch.ones(1))
    both = concat([state, motion.create(boxes[2:3, 1])])
    both, predicted = motion.predict(both, both.age != 0)
    assert predicted.shape == (3, 10)
    assert both.age.tolist() == [2, 2, 1]
    assert both.since.tolist() == [2, 1, 1]
    assert torch.equal(motion.current(motion.create(boxes[:1, 0]).restored(both.select(torch.tensor([1])).as_dict())),
                       motion.current(both)[1:2])  # fmt: skip
    empty = motion.create(boxes[:0, 0])
    empty, predicted = motion.predict(empty, empty.age != 0)
    empty = motion.update(empty, torch.zeros(0, dtype=torch.int64), boxes[:0, 0], torch.ones(0))
    assert predicted.shape == (0, 10)
    assert len(empty) == 0


def straight(motion, elapsed, steps, yaw=0.3, far=0.0):
    """State after ``steps`` moments of an object of constant speed, seen without noise."""
    box = torch.tensor([[far, 0, 1, yaw, 1.5, 1.7, 4]], dtype=torch.float64)
    state = motion.create(box)
    for t in range(1, steps):
        state, _ = motion.predict(state, state.age != 0, elapsed)
        seen = box + t * elapsed * torch.tensor([[2.0, -1, 0, 0, 0, 0, 0]], dtype=torch.float64)
        state = motion.update(state, torch.tensor([0]), seen, torch.full((1,), 0.9, dtype=torch.float64))
    return state, seen


@pytest.mark.parametrize("elapsed", [1.0, 0.25, 3.0])
def test_modern_displacements_are_per_step(elapsed):
    """At any frame rate, an object of constant speed is refined and predicted as the same."""
    motion = VeloLSTMMotion(filled(VeloLSTM()), "modern")
    state, seen = straight(motion, elapsed, 8)
    torch.testing.assert_close(motion.current(state)[:, :7], seen, atol=1e-6, rtol=0)
    speed = torch.tensor([[2.0, -1, 0]], dtype=torch.float64)
    torch.testing.assert_close(motion.current(state)[:, 7:], speed, atol=1e-5, rtol=0)
    _, ahead = motion.predict(state, torch.tensor([True]), 2.0)
    torch.testing.assert_close(ahead[:, :3], seen[:, :3] + 2 * speed, atol=1e-5, rtol=0)
    parity = VeloLSTMMotion(motion.network, "parity")
    _, published = parity.predict(straight(parity, elapsed, 8)[0], torch.tensor([True]), 2.0)
    torch.testing.assert_close(published[:, :3], seen[:, :3] + elapsed * speed, atol=1e-5, rtol=0)


def test_after_a_gap_modern_displacements_are_still_per_step():
    speeds = {}
    for mode in ("parity", "modern"):
        motion = VeloLSTMMotion(filled(VeloLSTM()), mode)
        state, seen = straight(motion, 1.0, 6)
        for _ in range(4):
            state, _ = motion.predict(state, torch.tensor([True]))
        late = seen + 4 * torch.tensor([[2.0, -1, 0, 0, 0, 0, 0]], dtype=torch.float64)
        state = motion.update(state, torch.tensor([0]), late, torch.ones(1, dtype=torch.float64))
        speeds[mode] = state.displacements[0, -1, 0].item()
    assert speeds["modern"] == pytest.approx(2, abs=1e-5)
    assert speeds["parity"] == pytest.approx(8, abs=1e-5)


def test_the_origin_of_the_world_does_not_matter():
    motion = VeloLSTMMotion(filled(VeloLSTM()), "modern")
    here, there = (motion.current(straight(motion, 1.0, 6, far=far)[0]) for far in (0.0, 5e5))
    torch.testing.assert_close(here[:, 0], there[:, 0] - 5e5, atol=1e-6, rtol=0)


@pytest.mark.parametrize("yaw", [0.0, 3.1, -3.1])
def test_modern_yaw_turns_through_pi_and_outvotes_a_half_turn(yaw):
    motion = VeloLSTMMotion(filled(VeloLSTM()), "modern")
    turn = 0.05
    state = motion.create(torch.tensor([[0.0, 0, 1, yaw, 1.5, 1.7, 4]]))
    for t in range(1, 16):
        state, _ = motion.predict(state, state.age != 0)
        seen = torch.tensor([[0.0, 0, 1, yaw + turn * t, 1.5, 1.7, 4]])
        if t == 7:
            seen[:, 3] += math.pi
        seen[:, 3] = torch.remainder(seen[:, 3] + math.pi, 2 * math.pi) - math.pi
        state = motion.update(state, torch.tensor([0]), seen, torch.ones(1))
        apart = motion.current(state)[0, 3].item() - yaw - turn * t
        assert abs(math.remainder(apart, 2 * math.pi)) < 0.05
        assert state.displacements[0, :, 3].abs().max() < 0.1


def test_a_heading_that_was_wrong_at_first_is_given_up():
    motion = VeloLSTMMotion(filled(VeloLSTM()), "modern")
    state = motion.create(torch.tensor([[0.0, 0, 1, 0.2 - math.pi, 1.5, 1.7, 4]]))
    for _ in range(2):
        state, _ = motion.predict(state, state.age != 0)
        state = motion.update(state, torch.tensor([0]), torch.tensor([[0.0, 0, 1, 0.2, 1.5, 1.7, 4]]), torch.ones(1))
    assert motion.current(state)[0, 3].item() == pytest.approx(0.2, abs=1e-4)
    assert state.displacements[0, :, 3].abs().max() < 1e-4


@pytest.mark.slow
def test_two_hundred_tracks_step_fast():
    """In CPU time of all threads, which other programs do not change much."""
    motion = VeloLSTMMotion(VeloLSTM().eval(), "modern")
    state = motion.create(torch.randn(200, 7, dtype=torch.float64))
    best = math.inf
    for _ in range(30):
        start = time.process_time()
        state, _ = motion.predict(state, state.age != 0)
        state = motion.update(state, torch.arange(200), torch.randn(200, 7, dtype=torch.float64), torch.rand(200))
        best = min(best, time.process_time() - start)
    assert best < 0.025
