"""Whatever stops a run, --resume gives the losses, weights and curve of the run that nothing stopped."""

import random
import signal
from pathlib import Path

import pytest
import torch
from children import run_child
from small_run import metric_rows, write_config

from centernet.config_file import load_config, resolve_output_dir
from centernet.engine import train
from centernet.errors import UserError

EVALUATION = ["TEST.EVAL_PERIOD", "4"]


def losses_by_iteration(file: Path) -> dict[int, str]:
    """Losses as exact hexadecimal numbers; an iteration that was done twice must have given the same ones."""
    seen: dict[int, str] = {}
    for line in file.read_text().splitlines():
        iteration, _, values = line.partition(" ")
        assert seen.setdefault(int(iteration), values) == values, f"iteration {iteration} differs"
    return seen


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """(losses, metric rows, final checkpoint) of a run with seed 7."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    config = write_config(folder)
    assert run_child([str(config), *EVALUATION, "SEED", "7"], losses=folder / "losses") == 0
    return outcome(folder)


def outcome(folder: Path):
    """What a finished run in ``folder`` is compared by."""
    output = folder / "output" / "small"
    final = torch.load(output / "model_final.pth", weights_only=True)
    return losses_by_iteration(folder / "losses"), metric_rows(output), final


def assert_same(one, other):
    assert one[0] == other[0]
    assert one[1] == other[1]
    assert one[2]["model"].keys() == other[2]["model"].keys()
    for name, value in one[2]["model"].items():
        assert torch.equal(value, other[2]["model"][name]), name
    momenta = [
        [state["momentum_buffer"] for state in final["optimizer"]["state"].values()] for _, _, final in (one, other)
    ]
    assert all(torch.equal(a, b) for a, b in zip(*momenta, strict=True))


def test_uninterrupted_run(uninterrupted):
    losses, rows, final = uninterrupted
    assert list(losses) == list(range(12))
    assert len(set(losses.values())) == 12
    assert [row["iteration"] for row in rows] == [3, 7, 11, 12]
    assert "bbox/AP" in rows[0]
    assert "bbox/AP" not in rows[2]
    assert final["iteration"] == 11


KILLS = [
    ("before the first checkpoint", [(2, "step")]),
    ("while the first checkpoint is written", [(4, "write"), (7, "step")]),
    ("while the second is written, then before its name is noted", [(9, "write"), (9, "tag")]),
    ("while the last is written", [(11, "write"), (11, "tag")]),
    ("at random", [(random.Random(3).randrange(12), "step"), (random.Random(4).randrange(12), "step")]),
]


@pytest.mark.parametrize("kills", [kills for _, kills in KILLS], ids=[name for name, _ in KILLS])
def test_sigkill(small, uninterrupted, kills):
    argv = [str(small), *EVALUATION, "SEED", "7"]
    for at, where in kills:
        status = run_child([*argv, "--resume"], losses=small.parent / "losses", at=at, where=where)
        assert status == -signal.SIGKILL
        tag = small.parent / "output" / "small" / "last_checkpoint"
        if tag.exists():  # whatever it names can be read
            torch.load(tag.with_name(tag.read_text()), weights_only=True)
    assert run_child([*argv, "--resume"], losses=small.parent / "losses") == 0
    assert_same(outcome(small.parent), uninterrupted)
    assert not list((small.parent / "output" / "small").glob("*.tmp"))


@pytest.mark.parametrize("number, status", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signal_saves_and_stops(small, uninterrupted, number, status):
    argv = [str(small), *EVALUATION, "SEED", "7"]
    losses = small.parent / "losses"
    assert run_child(argv, losses=losses, at=6, send=number) == status
    output = small.parent / "output" / "small"
    assert (output / "last_checkpoint").read_text() == "model_0000006.pth"
    assert f"Stopped by {signal.Signals(number).name} after iteration 6" in (output / "log.txt").read_text()
    assert max(losses_by_iteration(losses)) == 6
    assert run_child([*argv, "--resume"], losses=losses) == 0
    assert losses.read_text().count("\n") == 12  # nothing was done twice
    assert_same(outcome(small.parent), uninterrupted)


def test_drawn_seed_survives(small):
    argv, losses = [str(small)], small.parent / "losses"
    assert run_child(argv, losses=losses, at=3) == -signal.SIGKILL
    assert run_child([*argv, "--resume"], losses=losses) == 0
    assert list(losses_by_iteration(losses)) == list(range(12))  # and twice the same for 0 to 3
    seed = (small.parent / "output" / "small" / "seed").read_text()
    assert run_child(argv, losses=small.parent / "again") == 0
    assert (small.parent / "output" / "small" / "seed").read_text() != seed


def test_fresh_run_in_a_used_folder(small):
    output = small.parent / "output" / "small"
    assert run_child([str(small), "SEED", "1"]) == 0
    earlier = metric_rows(output)
    assert run_child([str(small), "SEED", "2"], at=2) == -signal.SIGKILL
    assert run_child([str(small), "SEED", "2", "--resume"], losses=small.parent / "losses") == 0
    assert min(losses_by_iteration(small.parent / "losses")) == 0  # not from the earlier run's checkpoint
    assert [row["iteration"] for row in metric_rows(output)] == [11, 12]
    assert metric_rows(output) != earlier
    (output / "metrics.1.json").replace(output / "metrics.json")
    assert metric_rows(output) == earlier


def test_resume_of_a_finished_run_only_evaluates(small):
    output = small.parent / "output" / "small"
    assert run_child([str(small)]) == 0
    rows = metric_rows(output)
    assert run_child([str(small), "--resume"], losses=small.parent / "losses") == 0
    assert not (small.parent / "losses").exists()
    assert metric_rows(output) == rows


@pytest.mark.slow
def test_many_kills_at_random_times(tmp_path):
    opts = ["SEED", "7", "SOLVER.MAX_ITER", "200", "SOLVER.CHECKPOINT_PERIOD", "3", "TEST.EVAL_PERIOD", "50"]
    whole, killed = write_config(tmp_path / "whole"), write_config(tmp_path / "killed")
    assert run_child([str(whole), *opts], losses=whole.parent / "losses") == 0
    draw, kills = random.Random(0), 0
    argv, losses = [str(killed), *opts, "--resume"], killed.parent / "losses"
    while (status := run_child(argv, losses=losses, kill_after=draw.uniform(0.2, 2.5))) != 0:
        assert status == -signal.SIGKILL
        kills += 1
        assert kills < 200
    print(f"{kills} kills")
    assert kills >= 5
    assert_same(outcome(killed.parent), outcome(whole.parent))


def test_settings_of_the_config_hold_from_there_on(small):
    assert run_child([str(small), "SEED", "7", "SOLVER.TRAIN_ITER", "5"]) == 0
    changed = ["SOLVER.BASE_LR", "0.004", "SOLVER.MOMENTUM", "0.5", "SOLVER.TRAIN_ITER", "6"]
    assert run_child([str(small), "SEED", "7", *changed, "--resume"]) == 0
    state = torch.load(small.parent / "output" / "small" / "model_final.pth", weights_only=True)
    groups = state["optimizer"]["param_groups"]
    assert {(group["lr"], group["momentum"]) for group in groups} == {(0.004, 0.5)}  # after the warm-up
    assert set(state["scheduler"]["base_lrs"]) == {0.004}


@pytest.mark.parametrize("change", [["SOLVER.OPTIMIZER", "ADAMW"], ["MODEL.FREEZE", "['backbone.bottom_up.stem']"]])
def test_an_optimiser_of_another_config_is_refused(small, change):
    assert run_child([str(small), "SEED", "7", "SOLVER.TRAIN_ITER", "2", "DATASETS.TEST", "()"]) == 0
    saved = (small.parent / "output" / "small" / "model_final.pth").read_bytes()
    cfg = load_config(small, change)
    resolve_output_dir(cfg, small)
    with pytest.raises(UserError, match=r"optimiser is not that of this config: set SOLVER\.OPTIMIZER"):
        train(cfg, resume=True)
    assert (small.parent / "output" / "small" / "model_final.pth").read_bytes() == saved
