"""Losses and gradients that are nan or infinite: named, kept for a replay, and nothing of them reaches the weights."""

import logging
import math

import pytest
import torch
from process_runs import in_processes
from test_trainer import TwoLosses, batches, run
from torch import nn

from centernet.engine import NonFiniteLossError, Trainer
from centernet.engine.batch_dump import read_batch_dump
from centernet.engine.non_finite import NonFinitePolicy, _Pending
from centernet.modeling.finite_check import FiniteCheck, NonFiniteError


class Breaking(TwoLosses):
    """``bad`` says what goes wrong, by the number of the call."""

    def __init__(self, bad):
        super().__init__()
        self.bad, self.calls = bad, 0
        self.norm = nn.BatchNorm1d(4, affine=False)
        self.check_finite = FiniteCheck()

    def forward(self, batch):
        kind = self.bad.get(self.calls)
        self.calls += 1
        x = torch.stack([item["x"] for item in batch]).repeat(2, 1)
        x = x * math.nan if kind == "input" else x
        out = self.layer(self.norm(x) + x)
        self.check_finite({"the input": x}, {"the output": out})
        assert torch.isfinite(out).all()  # what comes later may rely on it
        losses = {"loss_a": out.pow(2).mean(), "loss_b": out.abs().mean() + torch.rand(())}
        if kind == "loss":
            losses["loss_b"] = losses["loss_b"] * math.inf
        if kind == "gradient":
            losses["loss_a"] = losses["loss_a"] + (self.layer.weight[0, 0] * 0).sqrt()
        return losses


def make(bad, **options):
    model = Breaking(bad)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    return Trainer(model, optimizer, scheduler, seed=3, non_finite=NonFinitePolicy(**options))


def state(trainer):
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


KINDS = {"input": "the input holds NaN", "loss": "loss_b is inf", "gradient": "the gradient of layer.weight is nan"}


@pytest.mark.parametrize("kind", KINDS)
def test_stop_names_it_and_keeps_the_batch(tmp_path, kind):
    trainer = make({2: kind}, folder=tmp_path)
    run(trainer, 0, 2)
    weights = {name: value for name, value in state(trainer).items() if name.startswith("layer")}
    trainer._hooks.clear()
    with pytest.raises((NonFiniteLossError, NonFiniteError)) as error:
        run(trainer, 2, 5)
    assert KINDS[kind] in str(error.value)
    assert "tools/replay_batch.py" in str(error.value)
    assert all(torch.equal(state(trainer)[name], value) for name, value in weights.items())
    dump = read_batch_dump(tmp_path / "bad_batches" / "iteration_0000002_rank0.pth")
    assert torch.equal(dump["batch"][0]["x"], next(batches(2))[0]["x"])
    assert (dump["iteration"], dump["rank"], dump["world_size"]) == (2, 0, 1)
    assert KINDS[kind] in dump["reason"]
    kept = torch.load(tmp_path / "bad_batches" / dump["weights"], weights_only=True)
    assert all(torch.equal(kept["model"][name], value) for name, value in weights.items())


@pytest.mark.parametrize("kind", KINDS)
def test_skip_touches_nothing_and_counts(tmp_path, caplog, kind):
    trainer = make({2: kind}, action="skip", limit=3, folder=tmp_path)
    seen = []
    step = trainer.run_step

    def stepping():
        step()
        seen.append((state(trainer), trainer.optimizer.param_groups[0]["lr"], trainer.step_skipped))

    trainer.run_step = stepping
    with caplog.at_level(logging.WARNING):
        rows = run(trainer, 0, 5)
    assert [skipped for *_, skipped in seen] == [False, False, True, False, False]
    before, after = seen[1][0], seen[2][0]
    assert all(torch.equal(before[name], after[name]) for name in before)  # the batch norm's statistics, too
    assert not torch.equal(after["layer.weight"], seen[3][0]["layer.weight"])
    assert [rate for _, rate, _ in seen] == pytest.approx([0.1 * 0.9**k for k in range(1, 6)])
    assert trainer.non_finite.skipped == 1
    assert "total_loss" not in rows[2] or math.isfinite(rows[2]["total_loss"])
    assert rows[2]["skipped_not_finite"] == 1
    assert "The step of iteration 2 is skipped, no weight changes: " in caplog.text


def test_too_many_in_a_row_stop(tmp_path):
    trainer = make({1: "loss", 3: "loss", 4: "loss", 5: "loss"}, action="skip", limit=2, folder=tmp_path)
    with pytest.raises(NonFiniteLossError, match=r"3 steps in a row would have to be .*LIMIT is 2.*loss_b is inf"):
        run(trainer, 0, 9)
    assert trainer.iter == 5
    assert trainer.non_finite.skipped == 4


def test_counts_survive_a_resume():
    trainer = make({0: "loss", 1: "loss"}, action="skip", limit=2)
    run(trainer, 0, 2)
    other = make({0: "loss"}, action="skip", limit=2)
    other.load_state_dict(trainer.state_dict())
    with pytest.raises(NonFiniteLossError, match="3 steps in a row"):
        run(other, 2, 4)


def test_dumps_are_bounded(tmp_path):
    trainer = make(dict.fromkeys(range(20), "loss"), action="skip", limit=50, folder=tmp_path)
    run(trainer, 0, 9)
    names = sorted(file.name for file in (tmp_path / "bad_batches").iterdir())
    kept = range(4, 9)
    assert names == [f"iteration_{k:07d}_rank0.pth" for k in kept] + [f"weights_{k:07d}.pth" for k in kept]


def test_full_disk_does_not_hide_the_reason(tmp_path, caplog):
    (tmp_path / "bad_batches").mkdir()
    (tmp_path / "bad_batches" / "iteration_0000000_rank0.pth.tmp").symlink_to("/dev/full")
    with pytest.raises(NonFiniteLossError, match="loss_b is inf"):
        run(make({0: "loss"}, folder=tmp_path), 0, 1)
    assert "The batch is not kept: " in caplog.text


def test_verdict_that_comes_late_stops_before_anything_is_saved(tmp_path):
    """As from a GPU: read in the next iteration, or before a checkpoint."""

    class Event:
        def synchronize(self):
            self.waited = True

    trainer = make({}, folder=tmp_path)
    run(trainer, 0, 2)
    policy, event = trainer.non_finite, Event()
    bad = torch.tensor([1.0, math.inf])
    policy._pending = _Pending(bad, event, 1, next(batches(1)), policy._random_state)
    with pytest.raises(NonFiniteLossError, match=r"the gradient of layer.bias is inf at iteration 1"):
        trainer.state_dict()
    assert event.waited
    assert read_batch_dump(tmp_path / "bad_batches" / "iteration_0000001_rank0.pth")["weights"] == ""
    trainer.state_dict()  # told once
    policy._pending = _Pending(bad, event, 1, next(batches(1)), policy._random_state)
    trainer._hooks.clear()
    with pytest.raises(NonFiniteLossError, match="at iteration 1"):
        run(trainer, 2, 4)
    assert trainer.iter == 2


def test_wide_gradients_are_finite():
    """Their squares are not."""
    trainer = make({})
    trainer.model.layer.weight.grad = torch.full((2, 4), 1e30)
    trainer.non_finite.check_gradients(trainer.model, [], 0)
    trainer.model.layer.weight.grad[1, 1] = -math.inf
    with pytest.raises(NonFiniteLossError, match="layer.weight is -inf"):
        trainer.non_finite.check_gradients(trainer.model, [], 0)


def skip_in_processes(kind):
    """Runs in each of two processes; only the second one meets something bad."""
    from detectron2.utils import comm

    from centernet.engine.processes import parallel

    trainer = make({2: kind} if comm.get_rank() == 1 else {}, action="skip", limit=3)
    plain = trainer.model
    trainer.model = parallel(plain)
    skipped = []
    step = trainer.run_step

    def stepping():
        step()
        skipped.append(trainer.step_skipped)

    trainer.run_step = stepping
    run(trainer, 0, 5)
    weights = {name: value for name, value in plain.state_dict().items() if name.startswith("layer")}
    return skipped, weights, trainer.non_finite.skipped


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_all_processes_skip_what_one_of_them_meets(tmp_path, kind):
    (one, weights, count), (other, others, same_count) = in_processes(2, skip_in_processes, tmp_path, kind)
    assert one == other == [False, False, True, False, False]
    assert count == same_count == 1
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    assert all(torch.isfinite(value).all() for value in weights.values())


@pytest.mark.parametrize(
    ("values", "strictly", "clipped"),
    [
        ([math.inf, 1.0, 2.0], "inf", None),
        ([math.inf, -math.inf, 1.0], "nan", None),
        ([math.nan, math.inf, -math.inf], "nan", "nan"),
        ([1.0, 2.0, 3.0], None, None),
    ],
)
def test_an_infinite_gradient_that_will_be_clipped_by_value_is_let_be(values, strictly, clipped):
    model = nn.Linear(3, 1, bias=False)
    model.weight.grad = torch.tensor([values])
    for policy, said in ((NonFinitePolicy(), strictly), (NonFinitePolicy(infinity_is_clipped=True), clipped)):
        if said is None:
            policy.check_gradients(model, [], 7)
            continue
        with pytest.raises(NonFiniteLossError, match=f"gradient of weight is {said} at iteration 7"):
            policy.check_gradients(model, [], 7)
