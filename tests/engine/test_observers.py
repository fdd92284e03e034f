"""What watches a training neither changes it nor forgets anything over a resume."""

import json
import re
import signal
from pathlib import Path

import pytest
import torch
from children import run_child
from small_run import metric_rows, write_config

from centernet.config_file import load_config, resolve_output_dir
from centernet.engine import run
from centernet.errors import UserError

# an AP that the first weights have already, and that stays: nothing gets better
STOPPING = ["TEST.EVAL_PERIOD", "2", "TEST.BEST_METRIC", "bbox/AP", "TEST.EARLY_STOPPING", "2", "SEED", "7"]
STOPPING += ["SOLVER.BASE_LR", "1e-12"]
LOSS = ["TEST.EVAL_PERIOD", "4", "TEST.VALIDATION_LOSS", "True", "TEST.BEST_METRIC", "validation/total_loss"]
LOSS += ["SEED", "7"]


def output_of(folder: Path) -> Path:
    return folder / "output" / "small"


def weights(file: Path):
    return torch.load(file, weights_only=True)["model"]


def assert_same_weights(one: Path, other: Path):
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    assert all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    config = write_config(tmp_path_factory.mktemp("plain"))
    assert run_child([str(config), "TEST.EVAL_PERIOD", "4", "SEED", "7"], losses=config.parent / "losses") == 0
    return config.parent


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    config = write_config(tmp_path_factory.mktemp("watched"))
    assert run_child([str(config), *LOSS, "VIS_PERIOD", "4"], losses=config.parent / "losses") == 0
    return config.parent


def test_training_is_the_same_with_pictures_and_validation_losses(plain, watched):
    assert (plain / "losses").read_text() == (watched / "losses").read_text()
    assert_same_weights(output_of(plain) / "model_final.pth", output_of(watched) / "model_final.pth")
    states = [torch.load(output_of(f) / "model_final.pth")["trainer"]["random_states"][0] for f in (plain, watched)]
    assert states[0]["python"] == states[1]["python"]
    assert torch.equal(states[0]["numpy"][1], states[1]["numpy"][1])
    assert torch.equal(states[0]["torch"], states[1]["torch"])
    added = {"validation"}
    for row, other in zip(metric_rows(output_of(plain)), metric_rows(output_of(watched)), strict=True):
        assert row == {key: value for key, value in other.items() if key.split("/")[0] not in added}


def test_pictures_are_in_the_events(watched):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(output_of(watched)))
    events.Reload()
    tags = events.Tags()["images"]
    assert tags == ["pictures/0", "pictures/1"]  # the two test images
    assert [image.step for image in events.Images(tags[0])] == [3, 7, 11]
    assert (events.Images(tags[0])[0].width, events.Images(tags[0])[0].height) == (3 * 43, 32)


def test_validation_losses_and_the_best_of_them(watched):
    rows = [row for row in metric_rows(output_of(watched)) if "validation/total_loss" in row]
    assert [row["iteration"] for row in rows] == [3, 7, 12]
    for row in rows:
        parts = [value for key, value in row.items() if key.startswith("validation/loss")]
        assert row["validation/total_loss"] == pytest.approx(sum(parts))
        assert len(parts) == 3 + 3 * 2  # the first stage's three, two a cascade stage
    best = torch.load(output_of(watched) / "model_best.pth", weights_only=True)
    lowest = min(rows, key=lambda row: row["validation/total_loss"])
    assert best["best"] == {"metric": "validation/total_loss", "value": lowest["validation/total_loss"]}
    assert best["iteration"] == min(lowest["iteration"], 11)
    if lowest["iteration"] == 12:
        assert_same_weights(output_of(watched) / "model_best.pth", output_of(watched) / "model_final.pth")
    assert f"best {lowest['validation/total_loss']:.4g}" in (output_of(watched) / "summary.md").read_text()


def test_the_log_has_the_validation_loss_of_the_last_evaluation(watched):
    found = re.findall(r"iter: 7 .* validation/total_loss: ([\d.]+)", (output_of(watched) / "log.txt").read_text())
    (row,) = [row for row in metric_rows(output_of(watched)) if row["iteration"] == 7]
    assert found == [f"{row['validation/total_loss']:.4g}"]


@pytest.mark.parametrize("at", [6, pytest.param(8, marks=pytest.mark.slow)])
def test_a_kill_changes_nothing_of_it(small, watched, at):
    argv = [str(small), *LOSS, "VIS_PERIOD", "4", "--resume"]
    assert run_child(argv, at=at) == -signal.SIGKILL
    assert run_child(argv) == 0
    output = output_of(small.parent)
    assert metric_rows(output) == metric_rows(output_of(watched))
    assert_same_weights(output / "model_best.pth", output_of(watched) / "model_best.pth")
    states = [torch.load(folder / "model_final.pth")["best"] for folder in (output, output_of(watched))]
    assert states[0] == states[1]
    first, second = json.loads((output / "run.json").read_text())["starts"]
    assert "outcome" not in first
    assert (first["iterations"], second["iterations"], second["outcome"]) == ([0, 12], [5, 12], "finished")


def test_early_stop(small, tmp_path):
    assert run_child([str(small), *STOPPING], losses=tmp_path / "losses") == 0
    output = output_of(small.parent)
    # 2: first and best; 4 and 6: no better
    assert len((tmp_path / "losses").read_text().splitlines()) == 6
    assert [row["iteration"] for row in metric_rows(output)] == [1, 3, 5, 6]
    assert torch.load(output / "model_final.pth")["iteration"] == 5
    assert torch.load(output / "model_best.pth")["iteration"] == 1
    log = (output / "log.txt").read_text()
    assert "Stopping early: bbox/AP got no better in 2 evaluations (TEST.EARLY_STOPPING 2); best " in log
    (start,) = json.loads((output / "run.json").read_text())["starts"]
    assert start["outcome"].startswith("stopped early: bbox/AP got no better in 2 evaluations")
    assert start["outcome"] in (output / "summary.md").read_text()
    assert log.count("in csv format") == 3  # the last one is not done twice


@pytest.mark.slow
def test_early_stop_is_over_after_a_resume_until_one_is_more_patient(small, tmp_path):
    assert run_child([str(small), *STOPPING]) == 0
    argv = [str(small), *STOPPING, "--resume"]
    assert run_child(argv, losses=tmp_path / "losses") == 0
    assert not (tmp_path / "losses").exists()
    assert run_child([*argv, "TEST.EARLY_STOPPING", "3"], losses=tmp_path / "losses") == 0
    assert [line.split()[0] for line in (tmp_path / "losses").read_text().splitlines()] == ["6", "7"]


@pytest.mark.slow
def test_early_stop_after_a_kill_comes_at_the_same_iteration(small, tmp_path):
    argv = [str(small), *STOPPING, "SOLVER.CHECKPOINT_PERIOD", "3", "--resume"]
    assert run_child(argv, at=4) == -signal.SIGKILL
    assert run_child(argv, losses=tmp_path / "losses") == 0
    assert torch.load(output_of(small.parent) / "model_final.pth")["iteration"] == 5


@pytest.mark.parametrize(
    "opts, sentence",
    [
        (["TEST.BEST_METRIC", "bbox/ap"], "TEST.BEST_METRIC is 'bbox/ap', but the evaluation gives bbox/AP, bbox/AP50"),
        (["TEST.BEST_METRIC", "segm/AP"], "TEST.BEST_METRIC is 'segm/AP'"),
        (["TEST.BEST_METRIC", "validation/total_loss"], "TEST.BEST_METRIC is 'validation/total_loss'"),
        (["TEST.BEST_METRIC", "bbox/AP", "DATASETS.TEST", "()"], "TEST.BEST_METRIC is set and DATASETS.TEST is empty"),
        (["TEST.VALIDATION_LOSS", True, "DATASETS.TEST", "()"], "TEST.VALIDATION_LOSS is set and DATASETS.TEST"),
        (["TEST.EARLY_STOPPING", 2], "TEST.EARLY_STOPPING needs TEST.BEST_METRIC"),
        (["TEST.EARLY_STOPPING", 2, "TEST.BEST_METRIC", "bbox/AP", "TEST.EVAL_PERIOD", 0], "evaluations on the way"),
        (["TEST.EARLY_STOPPING", -1], "TEST.EARLY_STOPPING is -1"),
        (["WRITERS", "['tensorbored']"], "WRITERS names 'tensorbored': use tensorboard, wandb, mlflow"),
    ],
)
def test_refuses_before_anything_is_written(small, opts, sentence):
    cfg = load_config(small, [str(word) for word in opts])
    resolve_output_dir(cfg, small)
    with pytest.raises(UserError) as error:
        run(cfg)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)
    assert not output_of(small.parent).exists()


def test_a_validation_loss_that_the_model_does_not_have_stops_the_run(small):
    opts = ["TEST.BEST_METRIC", "validation/loss_clas", "TEST.VALIDATION_LOSS", "True", "TEST.EVAL_PERIOD", "1"]
    cfg = load_config(small, opts)
    resolve_output_dir(cfg, small)
    with pytest.raises(UserError, match="'validation/loss_clas', but the losses are validation/loss_"):
        run(cfg)


@pytest.mark.slow
def test_a_run_that_ends_by_itself_was_not_stopped_early(small):
    argv = [str(small), *STOPPING, "SOLVER.TRAIN_ITER", "6"]  # its last evaluation is the second without a better AP
    assert run_child(argv) == 0
    (start,) = json.loads((output_of(small.parent) / "run.json").read_text())["starts"]
    assert start["outcome"] == "finished"


@pytest.mark.slow
def test_a_longer_run_keeps_the_best_of_the_last_evaluation(small):
    """It came after the last checkpoint was written."""
    argv = [str(small), *LOSS, "--resume"]
    assert run_child([*argv, "SOLVER.TRAIN_ITER", "2"]) == 0
    file = output_of(small.parent) / "model_best.pth"
    best = torch.load(file, weights_only=True)
    assert best["iteration"] == 1
    torch.save(best | {"best": best["best"] | {"value": 0.0}}, file)  # nothing will be better
    assert run_child([*argv, "SOLVER.TRAIN_ITER", "5"]) == 0
    assert torch.load(file, weights_only=True)["best"]["value"] == 0.0
    state = torch.load(output_of(small.parent) / "model_final.pth", weights_only=True)["best"]
    assert (state["value"], state["iteration"], state["without_better"]) == (0.0, 1, 1)


def test_a_lost_process_is_said_without_the_words_of_its_library():
    from centernet.engine.run_record import _outcome

    assert _outcome(RuntimeError("gloo: Connection closed by peer [10.0.0.7]:4711")) == (
        "error: another process has gone"
    )
    assert _outcome(KeyError("box")) == "error: KeyError: 'box'"
