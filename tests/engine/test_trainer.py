"""The loop, on a small network of its own: same numbers as written out by hand."""

import io
import math
import sys

import pytest
import torch
from detectron2.engine import HookBase
from torch import nn

from centernet.engine import NonFiniteLossError, ProgressBar, Trainer
from centernet.engine.non_finite import NonFinitePolicy


class TwoLosses(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(4, 2)

    def forward(self, batch):
        x = torch.stack([item["x"] for item in batch])
        noise = torch.rand(())  # the model draws too
        return {"loss_a": self.layer(x).pow(2).mean() + noise, "loss_b": self.layer(x).abs().mean()}


def batches(start=0):
    iteration = start
    while True:
        yield [{"x": torch.randn(4, generator=torch.Generator().manual_seed(iteration))}]
        iteration += 1


def make(seed=3):
    model = TwoLosses()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    return Trainer(model, optimizer, scheduler, seed=seed)


class Recorder(HookBase):
    def __init__(self):
        self.rows = []

    def after_step(self):
        latest = {name: value for name, (value, at) in self.trainer.storage.latest().items() if at == self.trainer.iter}
        self.rows.append(latest)


def run(trainer, start, end):
    recorder = Recorder()
    trainer.register_hooks([recorder])
    trainer.open_data(batches(start))
    trainer.train(start, end)
    return recorder.rows


def test_same_as_by_hand():
    trainer = make()
    rows = run(trainer, 0, 6)
    other = make()
    torch.manual_seed(3)
    data = batches()
    for row in rows:
        losses = other.model(next(data))
        assert (row["loss_a"], row["loss_b"]) == (losses["loss_a"].item(), losses["loss_b"].item())
        assert row["total_loss"] == row["loss_a"] + row["loss_b"]
        assert row["lr"] == other.optimizer.param_groups[0]["lr"]
        assert row["data_time"] >= 0
        other.optimizer.zero_grad()
        (losses["loss_a"] + losses["loss_b"]).backward()
        other.optimizer.step()
        other.scheduler.step()
    assert torch.equal(trainer.model.layer.weight, other.model.layer.weight)
    assert rows[-1]["lr"] == pytest.approx(0.1 * 0.9**5)


def test_random_numbers_do_not_depend_on_what_was_drawn_before():
    rows = run(make(), 0, 3)
    trainer = make()
    torch.rand(100)
    assert [row["loss_a"] for row in run(trainer, 0, 3)] == [row["loss_a"] for row in rows]
    assert [row["loss_a"] for row in run(make(seed=4), 0, 3)] != [row["loss_a"] for row in rows]


@pytest.mark.parametrize("value, name", [(float("nan"), "nan"), (float("inf"), "inf"), (float("-inf"), "-inf")])
def test_loss_that_is_not_finite(value, name):
    trainer = make()
    weights = trainer.model.layer.weight.detach().clone()

    class Bad(TwoLosses):
        def forward(self, batch):
            losses = super().forward(batch)
            return {"loss_a": losses["loss_a"], "loss_box_reg_stage0": losses["loss_b"] * value}

    trainer.model.__class__ = Bad
    with pytest.raises(NonFiniteLossError) as error:
        run(trainer, 5, 8)
    sentence = str(error.value)
    assert sentence.startswith(
        f"loss_box_reg_stage0 is {name} at iteration 5 (learning rate 0.1): lower SOLVER.BASE_LR"
    )
    assert "\n" not in sentence
    assert torch.equal(trainer.model.layer.weight, weights)  # the gradients did not reach the weights


def test_hooks_see_the_end_only_after_success():
    ends = []

    class End(HookBase):
        def after_train(self):
            ends.append(self.trainer.iter)

    class Stop(HookBase):
        def after_step(self):
            raise RuntimeError("stop")

    trainer = make()
    trainer.register_hooks([End()])
    run(trainer, 0, 2)
    trainer = make()
    trainer.register_hooks([End(), Stop()])
    with pytest.raises(RuntimeError, match="stop"):
        run(trainer, 0, 1)
    assert ends == [2, 0]


@pytest.mark.filterwarnings("error")
def test_bar_of_a_run_whose_first_step_is_skipped(monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    trainer = make()
    trainer.non_finite = NonFinitePolicy("skip", 2)
    trainer.model.layer.weight.data.fill_(math.nan)
    trainer.register_hooks([ProgressBar()])
    run(trainer, 0, 1)
    assert "1/1" in terminal.getvalue()
    assert "loss" not in terminal.getvalue()
