"""Training: a stopped one is the one that was never stopped, files load, and bends are learnt."""

import dataclasses
from pathlib import Path

import pytest
import torch
from motion_recipe import filled

from centernet.errors import UserError
from centernet.tracking3d.motion.checkpoint import NETWORKS, build_motion, load_network
from centernet.tracking3d.motion.constant import ConstantPosition
from centernet.tracking3d.motion.kalman import KalmanMotion
from centernet.tracking3d.motion.synthetic import curved_tracks
from centernet.tracking3d.motion.training import MotionTrainer, TrainingRules, prediction_errors
from centernet.tracking3d.motion.velo_lstm import VeloLSTM, VeloLSTMMotion
from centernet.weights import read_weights

RULES = TrainingRules(passes=3, batch=4, window=5, halve_every=1)


@pytest.mark.parametrize("mode", ["modern", "parity"])
def test_resumed_is_never_stopped(mode, tmp_path):
    rules = dataclasses.replace(RULES, mode=mode)
    tracks = curved_tracks(5, 12)
    whole = MotionTrainer(rules, tracks)
    losses = [whole.train_pass().total.item() for _ in range(3)]
    first = MotionTrainer(rules, tracks)
    first.train_pass()
    torch.save(first.state(), tmp_path / "motion.pth")
    second = MotionTrainer(rules, tracks)
    saved = read_weights(tmp_path / "motion.pth")
    second.resume(saved.tensors, saved.training, "motion.pth")
    assert [second.train_pass().total.item() for _ in range(2)] == losses[1:]
    assert second.optimizer.param_groups[0]["lr"] == 5e-3 / 4
    for name, value in whole.network.state_dict().items():
        assert torch.equal(value, second.network.state_dict()[name]), name
    with pytest.raises(UserError, match="with batch = 4, and this one has 2"):
        MotionTrainer(dataclasses.replace(rules, batch=2), tracks).resume(saved.tensors, saved.training, "motion.pth")
    with pytest.raises(UserError, match="was not written by this training"):
        second.resume(saved.tensors, {}, "motion.pth")


def test_the_optimiser_is_the_published_one():
    trainer = MotionTrainer(TrainingRules(), curved_tracks(2, 12))
    group = trainer.optimizer.param_groups[0]
    assert isinstance(trainer.optimizer, torch.optim.Adam)
    assert (group["amsgrad"], group["lr"], group["weight_decay"]) == (True, 5e-3, 1e-4)
    assert trainer.network.refine_lstm.dropout == 0.1
    rules = TrainingRules()
    assert (rules.passes, rules.batch, rules.window, rules.halve_every, rules.clip) == (101, 128, 10, 20, 3.0)
    assert rules.loss_weight == 0.9


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"network": "LocLSTM"}, "cannot be trained"),
        ({"window": 2}, "give at least 3"),
        ({"batch": 0}, "batch is 0"),
        ({"learning_rate": -1.0}, "learning_rate is -1"),
    ],
)
def test_rules_that_cannot_be(change, sentence):
    with pytest.raises(UserError, match=sentence):
        TrainingRules(**change)


def test_short_tracks_and_absurd_ones():
    with pytest.raises(UserError, match="none of the 3 tracks has more than 10 moments"):
        MotionTrainer(RULES, curved_tracks(3, 10))
    tracks = [track._replace(observed=track.observed * 1e300) for track in curved_tracks(8, 12)]
    with pytest.raises(UserError, match="not finite"):
        MotionTrainer(RULES, tracks).train_pass()
    assert MotionTrainer(RULES, curved_tracks(3, 12)).validate(curved_tracks(3, 8)) is None


@pytest.mark.parametrize("name", NETWORKS)
def test_published_layouts_load(name, tmp_path):
    network = filled(NETWORKS[name]())
    state = {f"module.{key}": value for key, value in network.state_dict().items()}
    path = tmp_path / "batch8_min10_seq10_dim7_VeloLSTM_kitti_100_linear.pth"
    optimizer = torch.optim.Adam(network.parameters(), amsgrad=True).state_dict()
    torch.save({"epoch": 100, "state_dict": state, "session": "x", "optimizer": optimizer}, path)
    loaded = load_network(path)
    assert type(loaded.network) is NETWORKS[name]
    assert not loaded.network.training
    assert (loaded.mode, loaded.step_seconds) == ("parity", None)
    for key, value in network.state_dict().items():
        assert torch.equal(value, loaded.network.state_dict()[key])


def test_sizes_are_told_from_the_file(tmp_path):
    torch.save({"state_dict": VeloLSTM(feature=16, hidden=24, layers=1).state_dict()}, tmp_path / "small.pth")
    network = load_network(tmp_path / "small.pth").network
    assert network.first_hidden(3).shape == (3, 2, 1, 24)


@pytest.mark.parametrize(
    "change, sentence",
    [
        (lambda state: state.pop("conf2feat.weight"), "lacks conf2feat.weight"),
        (lambda state: state.update(extra=torch.zeros(1)), "has extra"),
        (lambda state: state.update({"loc2feat.bias": torch.zeros(3)}), "its shapes do not belong together"),
        (lambda state: state.update({"vel2feat.weight": torch.zeros(3)}), "its shapes do not belong together"),
    ],
)
def test_other_files_are_refused(change, sentence, tmp_path):
    state = VeloLSTM().state_dict()
    change(state)
    torch.save({"state_dict": state}, tmp_path / "a.pth")
    with pytest.raises(UserError, match=sentence):
        load_network(tmp_path / "a.pth")


def test_motion_models_by_name(tmp_path):
    path: Path = tmp_path / "a.pth"
    torch.save({"state_dict": VeloLSTM().state_dict()}, path)
    assert isinstance(build_motion("VeloLSTM", path, "parity"), VeloLSTMMotion)
    assert isinstance(build_motion("Kalman"), KalmanMotion)
    assert isinstance(build_motion("Constant"), ConstantPosition)
    with pytest.raises(UserError, match="has no weights"):
        build_motion("VeloLSTM")
    with pytest.raises(UserError, match="holds a VeloLSTM, and the motion model is LSTM"):
        build_motion("LSTM", path)
    with pytest.raises(UserError, match="no motion model 'Karman'"):
        build_motion("Karman")


def test_bends_are_what_they_say():
    tracks = curved_tracks(200, 20, seed=3, flipped=0.0)
    truth = torch.stack([track.truth for track in tracks])
    speed = truth[:, :, :2].diff(dim=1).norm(dim=2) / 0.5
    assert 2 < speed.min() < speed.max() < 25
    seen = torch.stack([track.seen for track in tracks])
    assert seen[:, :2].all()
    assert 0.05 < 1 - seen[:, 2:].double().mean() < 0.15
    apart = torch.stack([track.observed for track in tracks]) - truth
    confident = torch.stack([track.confidence for track in tracks]) > 0.8
    assert apart[seen & confident][:, 0].std() < 0.5 * apart[seen & ~confident][:, 0].std()
    again = curved_tracks(200, 20, seed=3, flipped=0.0)
    assert all(torch.equal(a.observed, b.observed) for a, b in zip(tracks, again, strict=True))


def last_two_sightings(tracks, skip=3):
    """Error of the centre that the last two sightings lead to, at constant velocity."""
    apart = []
    for track in tracks:
        seen = track.seen.nonzero().squeeze(1).tolist()
        for t in range(skip, len(track.seconds)):
            a, b = [k for k in seen if k < t][-2:]
            velocity = (track.observed[b] - track.observed[a])[:3] / (b - a)
            apart.append((track.observed[b, :3] + velocity * (t - b) - track.truth[t, :3]).norm())
    return torch.stack(apart).mean().item()


@pytest.mark.slow
def test_velo_lstm_beats_constant_velocity_on_bends():
    """512 tracks, a minute; held-out tracks."""
    held_out = curved_tracks(300, 20, seed=2)
    trainer = MotionTrainer(TrainingRules(passes=25, halve_every=8), curved_tracks(512, 20, seed=1))
    for _ in range(25):
        trainer.train_pass()
    learnt = prediction_errors(VeloLSTMMotion(trainer.network), held_out, 0.5)
    kalman = prediction_errors(KalmanMotion(), held_out, 0.5)
    still = prediction_errors(ConstantPosition(), held_out, 0.5)
    assert learnt["predicted"] < 0.7 * kalman["predicted"]
    assert learnt["refined"] < 0.8 * kalman["refined"]
    assert learnt["predicted"] < 0.95 * last_two_sightings(held_out)
    assert kalman["predicted"] < still["predicted"]
    assert learnt["predicted_yaw"] < 0.5 * kalman["predicted_yaw"]
