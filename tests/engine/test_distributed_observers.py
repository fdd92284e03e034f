"""Two processes over gloo: validation loss, the averaged weights, the best checkpoint and early stopping together."""

from pathlib import Path
from typing import Any

import pytest
import torch
from process_runs import in_processes
from small_run import metric_rows

WATCHING = ["TEST.EVAL_PERIOD", "2", "TEST.VALIDATION_LOSS", "True", "SEED", "7"]
WATCHING += ["SOLVER.EMA.ENABLED", "True", "SOLVER.EMA.DECAY", "0.5", "VIS_PERIOD", "2"]


def config(path: str, opts: list[str]) -> Any:
    from centernet.config_file import load_config, resolve_output_dir

    cfg = load_config(path, opts)
    resolve_output_dir(cfg, path)
    return cfg


def watched_run(path: str, opts: list[str], resume: bool = False) -> dict[str, Any]:
    """Runs in each process: what it knows of the training at its end."""
    from detectron2.modeling import GeneralizedRCNN

    from centernet.engine import train
    from centernet.engine.trainer import Trainer

    losses: dict[int, float] = {}
    record = Trainer._record

    def recording(trainer: Trainer, values: dict[str, torch.Tensor]) -> None:
        record(trainer, values)
        losses[trainer.iter] = trainer.storage.history("total_loss").latest()

    drawn: list[int] = []
    GeneralizedRCNN.visualize_training = lambda *_: drawn.append(1)  # of a process that ends with this
    Trainer._record = recording
    results = train(config(path, opts), resume=resume)
    return {"losses": losses, "results": str(results), "drawn": drawn}


def measured(path: str, opts: list[str], weights: Path) -> dict[str, float]:
    """Validation losses and scores of a file of weights, in this process alone."""
    from centernet import evaluation
    from centernet.engine.observers import _scalars
    from centernet.engine.validation_loss import ValidationLoss
    from centernet.modeling.build import build_detector

    cfg = config(path, opts)
    model = build_detector(cfg)
    model.load_state_dict(torch.load(weights, weights_only=True)["model"])
    scores = _scalars(evaluation.evaluate(cfg, model.eval()))
    return scores | ValidationLoss(cfg, model.train()).measure()


@pytest.mark.slow
def test_two_processes_watch_one_training_and_stop_early(small, tmp_path):
    # an AP that stays 0: the first evaluation is the best one, the third the last
    opts = [*WATCHING, "TEST.BEST_METRIC", "ema/bbox/AP", "TEST.EARLY_STOPPING", "2"]
    one, other = in_processes(2, watched_run, tmp_path / "first", str(small), opts)
    assert one["losses"] == other["losses"]
    assert one["results"] == other["results"]
    assert list(one["losses"]) == list(range(6))
    output = small.parent / "output" / "small"
    rows = [row for row in metric_rows(output) if "validation/total_loss" in row]
    assert [row["iteration"] for row in rows] == [1, 3, 5, 6]
    best = torch.load(output / "model_best.pth", weights_only=True)
    assert (best["best"], best["iteration"]) == ({"metric": "ema/bbox/AP", "value": 0.0}, 1)
    # what two processes measured is what the file gives in one
    last = metric_rows(output)[-1]
    found = measured(str(small), opts, output / "model_final.pth")
    assert {name: last[name] for name in found} == pytest.approx(found, rel=1e-5)
    whole, averaged = (torch.load(output / f"model_final{end}.pth", weights_only=True) for end in ("", "_ema"))
    assert all(torch.equal(averaged["model"][name], value) for name, value in whole["ema"]["tensors"].items())

    # it is over, until one is more patient; what the earlier start knew goes on
    again = in_processes(2, watched_run, tmp_path / "again", str(small), opts, True)
    assert [each["losses"] for each in again] == [{}, {}]
    assert metric_rows(output)[-1] == last
    patient = [*opts, "TEST.EARLY_STOPPING", "3"]
    longer = in_processes(2, watched_run, tmp_path / "longer", str(small), patient, True)
    assert [list(each["losses"]) for each in longer] == [[6, 7], [6, 7]]
    assert longer[0]["losses"] == longer[1]["losses"]
    assert "Cannot find the hook" not in (output / "log.txt").read_text()  # what detectron2 would say of its own copy
    assert one["drawn"] == other["drawn"] == []


@pytest.mark.slow
def test_the_smallest_validation_loss_of_two_processes_is_that_of_the_file(small, tmp_path):
    opts = [*WATCHING, "TEST.BEST_METRIC", "validation/total_loss", "SOLVER.TRAIN_ITER", "4"]
    in_processes(2, watched_run, tmp_path / "run", str(small), opts)
    output = small.parent / "output" / "small"
    figures = {row["iteration"]: row.get("validation/total_loss") for row in metric_rows(output)}
    best = torch.load(output / "model_best.pth", weights_only=True)
    assert best["best"]["value"] == min(figures[1], figures[4])
    found = measured(str(small), opts, output / "model_best.pth")
    assert found["validation/total_loss"] == pytest.approx(best["best"]["value"], rel=1e-5)
