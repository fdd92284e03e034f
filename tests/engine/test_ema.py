"""The average of the weights: by hand, through a checkpoint, in evaluation, in a file that inference takes."""

import pytest
import torch
from children import run_child
from detectron2.engine import HookBase
from hypothesis import given
from hypothesis import strategies as st
from small_run import metric_rows
from torch import nn

from centernet.config_file import load_config, resolve_output_dir
from centernet.engine import Trainer, check_run, evaluate, train
from centernet.engine.ema import AverageWeights, WeightAverage, check_average
from centernet.engine.non_finite import NonFinitePolicy
from centernet.errors import UserError

EMA = ["SOLVER.EMA.ENABLED", "True", "SOLVER.EMA.WARMUP", "4", "SOLVER.EMA.DECAY", "0.9"]


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.frozen = nn.Linear(2, 3).requires_grad_(False)
        self.norm = nn.BatchNorm1d(3)
        self.scale = nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
        self.register_buffer("not_saved", torch.ones(1), persistent=False)

    def forward(self, x):
        return (self.norm(self.frozen(x)) * self.scale.float()).sum()


def changed(net, step):
    with torch.no_grad():
        net.norm.weight.fill_(step)
        net.scale.fill_(step)
        net.norm.running_mean.fill_(10 * step)
        net.norm.num_batches_tracked.fill_(step)


def test_average_by_hand():
    net = Net()
    average = WeightAverage(net, 0.75, warmup=2)
    changed(net, 1)
    average.start()
    expected = 1.0
    for step, decay in enumerate((1 / 10, 2 / 11, 0.75, 0.75), start=2):
        changed(net, step)
        average.update()
        expected = decay * expected + (1 - decay) * step
    tensors = average.state_dict()["tensors"]
    assert average.state_dict()["updates"] == 4
    assert set(tensors) == {"norm.weight", "norm.bias", "scale", "norm.running_mean", "norm.running_var"}
    assert {value.dtype for value in tensors.values()} == {torch.float32}
    torch.testing.assert_close(tensors["norm.weight"], torch.full((3,), expected))
    torch.testing.assert_close(tensors["norm.running_mean"], torch.full((3,), 10 * expected))
    state = average.model_state_dict()
    assert state.keys() == net.state_dict().keys()
    assert state["scale"].dtype == torch.bfloat16
    assert state["norm.num_batches_tracked"] == 5
    assert torch.equal(state["frozen.weight"], net.frozen.weight)


def test_applied_and_taken_back_to_the_last_bit():
    net = Net()
    average = WeightAverage(net, 0.5)
    average.start()
    changed(net, 3)
    average.update()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    pointers = [parameter.data_ptr() for parameter in net.parameters()]
    with average.applied():
        assert net.norm.weight[0] == 2
        assert net.norm.running_mean[0] == 15
    with pytest.raises(ZeroDivisionError), average.applied():
        1 // 0  # noqa: B018
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert [parameter.data_ptr() for parameter in net.parameters()] == pointers


def test_average_of_what_does_not_change_is_exact():
    net = Net()
    average = WeightAverage(net, 0.9998, warmup=3)
    changed(net, 0.1)
    average.start()
    for _ in range(20):
        average.update()
    assert torch.equal(average.state_dict()["tensors"]["norm.weight"], net.norm.weight)


def test_going_on_from_a_file_is_exact(tmp_path):
    nets = [Net(), Net()]
    one, other = (WeightAverage(net, 0.9) for net in nets)
    changed(nets[0], 1)
    one.start()
    changed(nets[0], 2)
    one.update()
    torch.save(one.state_dict(), tmp_path / "ema")
    changed(nets[1], 2)
    other.load_state_dict(torch.load(tmp_path / "ema", weights_only=True))
    other.start()
    for step in (3, 4):
        for net, average in zip(nets, (one, other), strict=True):
            changed(net, step)
            average.update()
    for name, value in one.state_dict()["tensors"].items():
        if name not in ("norm.bias", "norm.running_var"):
            assert torch.equal(other.state_dict()["tensors"][name], value), name
    assert other.updates == 3


def test_averages_of_another_model_are_said(caplog):
    average = WeightAverage(Net(), 0.9)
    average.load_state_dict({"updates": 5, "tensors": {"norm.weight": torch.zeros(7), "gone": torch.zeros(1)}})
    average.start()
    assert "5 averages of the checkpoint do not fit" in caplog.text
    assert torch.equal(average.state_dict()["tensors"]["norm.weight"], torch.ones(3))


@given(st.floats(0, 0.999), st.integers(0, 20), st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=15))
def test_average_stays_between_the_smallest_and_the_largest(decay, warmup, values):
    net = nn.Linear(1, 1, bias=False)
    average = WeightAverage(net, decay, warmup)
    with torch.no_grad():
        net.weight.fill_(values[0])
        average.start()
        for value in values:
            net.weight.fill_(value)
            average.update()
    found = average.state_dict()["tensors"]["weight"].item()
    slack = 1e-4 * (1 + max(map(abs, values)))
    assert min(values) - slack <= found <= max(values) + slack


class Skip(HookBase):
    def before_step(self):
        self.trainer.model.fails = self.trainer.iter % 2 == 1


class Failing(nn.Linear):
    fails = False

    def forward(self, batch):
        return {"loss": super().forward(torch.ones(1, 1)).sum() * (float("nan") if self.fails else 1.0)}


def test_skipped_steps_do_not_count(tmp_path):
    model = Failing(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    schedule = torch.optim.lr_scheduler.ConstantLR(optimizer)
    trainer = Trainer(model, optimizer, schedule, seed=0, non_finite=NonFinitePolicy("skip", 9))
    average = WeightAverage(model, 0.5)
    trainer.register_hooks([Skip(), AverageWeights(average, tmp_path)])
    trainer.open_data([[{}]] * 6)
    trainer.train(0, 6)
    assert average.updates == 3
    saved = torch.load(tmp_path / "model_final_ema.pth", weights_only=True)["model"]
    assert torch.equal(saved["weight"], average.state_dict()["tensors"]["weight"])


@pytest.mark.parametrize(
    "opts, sentence",
    [
        (("SOLVER.EMA.DECAY", "1.0"), "SOLVER.EMA.DECAY is 1.0"),
        (("SOLVER.EMA.DECAY", "-0.1"), "SOLVER.EMA.DECAY is -0.1"),
        (("SOLVER.EMA.WARMUP", "-1"), "SOLVER.EMA.WARMUP is -1"),
    ],
)
def test_refuses(opts, sentence):
    check_average(load_config("", list(opts)))  # not enabled
    with pytest.raises(UserError, match=sentence):
        check_average(load_config("", [*EMA, *opts]))


def read(config, *opts):
    cfg = load_config(config, list(opts))
    resolve_output_dir(cfg, config)
    return cfg


def finals(config):
    output = config.parent / "output" / "small"
    return [torch.load(output / name, weights_only=True) for name in ("model_final.pth", "model_final_ema.pth")]


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def test_run_with_average(small):
    """Both are evaluated, and the file at the end is weights."""
    cfg = read(small, "SEED", "7", "SOLVER.TRAIN_ITER", "3", *EMA)
    check_run(cfg)
    train(cfg)
    output = small.parent / "output" / "small"
    row = metric_rows(output)[-1]
    assert {"bbox/AP", "ema/bbox/AP"} <= set(row)
    assert list((output / "ema").glob("inference_*"))
    whole, averaged = finals(small)
    assert whole["ema"]["updates"] == 3
    assert not same(averaged["model"], whole["model"])
    assert all(torch.equal(averaged["model"][name], value) for name, value in whole["ema"]["tensors"].items())
    again = read(small, "MODEL.WEIGHTS", str(output / "model_final_ema.pth"), "OUTPUT_DIR", str(output / "again"))
    check_run(again, eval_only=True)
    (results,) = evaluate(again).values()
    assert results["bbox"]["AP"] == pytest.approx(row["ema/bbox/AP"], nan_ok=True)


@pytest.mark.slow
def test_average_leaves_training_alone_and_survives_a_kill(small):
    plain = small.parent / "plain" / "small.yaml"
    plain.parent.mkdir()
    plain.write_text(small.read_text().replace(f'"{small.parent}/output', f'"{plain.parent}/output'))
    argv = ["TEST.EVAL_PERIOD", "6", "SEED", "7"]
    assert run_child([str(plain), *argv], losses=plain.parent / "losses") == 0
    assert not (plain.parent / "output" / "small" / "model_final_ema.pth").exists()

    assert run_child([str(small), *argv, *EMA], losses=small.parent / "losses") == 0
    assert (small.parent / "losses").read_text() == (plain.parent / "losses").read_text()
    output = small.parent / "output" / "small"
    rows = metric_rows(output)
    assert "ema/bbox/AP" in rows[0]
    whole, averaged = finals(small)
    assert same(whole["model"], torch.load(plain.parent / "output" / "small" / "model_final.pth")["model"])
    for stale in output.rglob("*.pth"):
        stale.unlink()
    assert run_child([str(small), *argv, *EMA], at=7) < 0
    assert run_child([str(small), *argv, *EMA, "--resume"]) == 0
    again, averaged_again = finals(small)
    assert same(again["ema"]["tensors"], whole["ema"]["tensors"])
    assert same(averaged_again["model"], averaged["model"])
    assert metric_rows(output) == rows


def test_checkpoint_without_average_is_taken(small):
    """SOLVER.EMA may be switched on and off when a run goes on: averaging begins there."""
    opts = ["DATASETS.TEST", "()", "SEED", "7", "SOLVER.CHECKPOINT_PERIOD", "2"]
    ends = (["SOLVER.TRAIN_ITER", str(end)] for end in (2, 4, 5))
    for end, more in zip(ends, ([], EMA, []), strict=True):
        train(read(small, *opts, *end, *more), resume=True)
    state = torch.load(small.parent / "output" / "small" / "model_0000003.pth", weights_only=True)
    assert state["ema"]["updates"] == 2


def test_a_tensor_with_two_names_is_averaged_under_both():
    net = Net()
    net.other = net.norm
    average = WeightAverage(net, 0.5)
    average.start()
    changed(net, 7)
    average.update()
    state = average.model_state_dict()
    assert torch.equal(state["norm.weight"], torch.full((3,), 4.0))
    assert torch.equal(state["other.weight"], state["norm.weight"])
    assert torch.equal(net.norm.weight, torch.full((3,), 7.0))
