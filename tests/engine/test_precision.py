"""Mixed precision in the loop: autocast, loss scaling, skipped steps, what a checkpoint keeps of it."""

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.engine import HookBase
from torch import nn

from centernet.config import add_centernet_config
from centernet.engine import Trainer
from centernet.engine.precision import Precision
from centernet.errors import UserError

FLOAT16, BFLOAT16 = torch.float16, torch.bfloat16


class Convolution(nn.Module):
    """The loss of item ``n`` is multiplied with its ``factor``: large ones overflow gradients in float16."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Conv2d(4, 4, 3)
        self.seen = []

    def forward(self, batch):
        out = self.layer(torch.stack([item["x"] for item in batch]))
        self.seen.append(out.dtype)
        return {"loss": out.float().pow(2).mean() * batch[0]["factor"]}


def images(factors):
    for number, factor in enumerate(factors):
        random = torch.Generator().manual_seed(number)
        yield [{"x": torch.randn(4, 8, 8, generator=random), "factor": factor}]


def make(dtype=None, **options):
    model = Convolution()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    return Trainer(model, optimizer, scheduler, seed=0, precision=Precision("cpu", dtype), **options)


def run(trainer, factors, start=0):
    trainer.open_data(images(factors))
    trainer.train(start, start + len(factors))
    return [value for value, _ in trainer.storage.history("loss").values()]


def config(*options):
    cfg = get_cfg()
    add_centernet_config(cfg)
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", *options])
    return cfg


@pytest.mark.parametrize("dtype", [BFLOAT16, FLOAT16])
def test_close_to_float32(dtype):
    plain, mixed = make(), make(dtype)
    expected, found = run(plain, [1.0] * 6), run(mixed, [1.0] * 6)
    assert found != expected
    assert found == pytest.approx(expected, rel=0.02)
    assert set(plain.model.seen) == {torch.float32}
    assert set(mixed.model.seen) == {dtype}
    for parameter in mixed.model.parameters():
        assert parameter.dtype == parameter.grad.dtype == torch.float32


def test_an_overflow_skips_the_step_and_nothing_else():
    trainer = make(FLOAT16)
    before = trainer.model.layer.weight.detach().clone()
    scale = trainer.precision.scale
    run(trainer, [1e5])
    assert trainer.step_skipped
    assert torch.equal(trainer.model.layer.weight, before)
    assert not trainer.optimizer.state  # no momentum of a step that was none
    assert (trainer.precision.skipped, trainer.precision.scale) == (1, scale / 2)
    latest = {name: value for name, (value, _) in trainer.storage.latest().items()}
    assert (latest["gradient_scale"], latest["skipped_steps"]) == (scale / 2, 1)
    # the schedule goes on with the iteration
    assert trainer.iter == 1
    assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(0.09)


def test_the_first_step_may_be_skipped_without_a_warning(recwarn):
    trainer = make(FLOAT16)
    run(trainer, [1e5, 1.0])
    assert not trainer.step_skipped
    assert [str(w.message) for w in recwarn if "lr_scheduler" in str(w.message)] == []


def test_overflows_without_end_stop_the_run():
    with pytest.raises(UserError, match="the gradients of 30 steps in a row are not finite in float16") as error:
        run(make(FLOAT16), [1e35] * 40)
    assert "\n" not in str(error.value)
    trainer = make(FLOAT16)
    run(trainer, ([1e35] * 20 + [1e-3]) * 2)  # not in a row
    assert trainer.precision.skipped >= 20


def test_a_resumed_run_has_the_same_scale_and_losses():
    factors = [1.0, 1e5, 1.0, 1e5, 1.0, 1.0]
    whole = make(FLOAT16)
    expected = run(whole, factors)
    first = make(FLOAT16)
    run(first, factors[:3])
    states = [part.state_dict() for part in (first.model, first.optimizer, first.scheduler)]
    state = first.state_dict()
    second = make(FLOAT16)
    for part, saved in zip((second.model, second.optimizer, second.scheduler), states, strict=True):
        part.load_state_dict(saved)
    second.load_state_dict(state)
    assert second.precision.skipped == 1
    assert second.precision.scale == first.precision.scale != make(FLOAT16).precision.scale
    data = images(factors)
    for _ in range(3):
        next(data)
    second.open_data(data)
    second.train(3, 6)
    assert [value for value, at in second.storage.history("loss").values() if at >= 3] == expected[3:]
    assert (second.precision.skipped, second.precision.scale) == (whole.precision.skipped, whole.precision.scale)


def test_resuming_in_another_precision_and_from_older_checkpoints():
    trainer = make()
    run(trainer, [1.0])
    state = trainer.state_dict()
    other = make(FLOAT16)
    other.load_state_dict(state)
    assert other.precision.scale == make(FLOAT16).precision.scale
    del state["precision"]
    other.load_state_dict(state)
    run(other, [1e5])
    make(BFLOAT16).load_state_dict(other.state_dict())


def test_the_norm_that_is_clipped_is_that_of_unscaled_gradients():
    norms = []
    for dtype in (None, FLOAT16):
        trainer = make(dtype, largest_norm=(1e-2, 2.0))
        before = trainer.model.layer.weight.detach().clone()
        run(trainer, [1.0])
        norms.append(trainer.storage.history("gradient_norm").latest())
        moved = (trainer.model.layer.weight - before).norm()
        assert moved <= 0.1 * 1e-2 * 1.001  # learning rate times the limit
    assert norms[0] == pytest.approx(norms[1], rel=0.01)
    assert norms[0] > 0.1


def test_an_overflow_with_clipping_is_skipped_too():
    trainer = make(FLOAT16, largest_norm=(1.0, 2.0))
    run(trainer, [1e5, 1.0])
    assert trainer.precision.skipped == 1
    assert len(trainer.storage.history("gradient_norm").values()) == 1


@pytest.mark.parametrize(
    "options, dtype",
    [
        ((), None),
        (("SOLVER.AMP.PRECISION", "float16"), None),
        (("SOLVER.AMP.ENABLED", True), BFLOAT16),
        (("SOLVER.AMP.ENABLED", True, "SOLVER.AMP.PRECISION", "bfloat16"), BFLOAT16),
        (("SOLVER.AMP.ENABLED", True, "SOLVER.AMP.PRECISION", "float16"), FLOAT16),
    ],
)
def test_config(options, dtype):
    precision = Precision.from_config(config(*options))
    assert precision.dtype == dtype
    assert (precision.scale is None) == (dtype != FLOAT16)


def test_refuses_what_is_unknown_and_what_the_device_cannot(monkeypatch):
    with pytest.raises(UserError, match="SOLVER.AMP.PRECISION is 'fp16': use 'auto', 'bfloat16' or 'float16'"):
        Precision.from_config(config("SOLVER.AMP.PRECISION", "fp16"))

    def missing(*_args):
        raise RuntimeError("mkldnn_convolution: no kernel for Half\non this machine")

    monkeypatch.setattr("centernet.engine.precision.nn.Conv2d.forward", missing)
    with pytest.raises(UserError, match="PyTorch has no float16 convolutions for this device") as error:
        Precision.from_config(config("SOLVER.AMP.ENABLED", True, "SOLVER.AMP.PRECISION", "float16"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kernel", [3, 7])
@pytest.mark.parametrize("height", [1, 4])
def test_gradients_of_maps_one_cell_wide(kernel, height):
    torch.manual_seed(0)
    layer = nn.Conv2d(8, 8, kernel, stride=2, padding=kernel // 2)
    images = torch.randn(2, 8, height, 1)
    expected = layer(images)
    expected.pow(2).sum().backward()
    exact, layer.weight.grad = layer.weight.grad, None
    precision = Precision("cpu", BFLOAT16)
    precision.prepare(layer)
    junk = [torch.full((8, 8, kernel, kernel), 1e6).to(BFLOAT16) for _ in range(8)]
    del junk  # what a gradient that is not initialised would show
    with precision.autocast():
        out = layer(images)
    assert torch.allclose(out.float(), expected, atol=0.05)
    out.float().pow(2).sum().backward()
    assert torch.allclose(layer.weight.grad, exact, atol=0.2)


def test_float32_is_left_alone():
    model = Convolution()
    for dtype in (None, FLOAT16):
        Precision("cpu", dtype).prepare(model)
    assert not model.layer._forward_pre_hooks
    unpadded = nn.Conv2d(4, 4, 3, stride=2)
    Precision("cpu", BFLOAT16).prepare(unpadded)
    assert not unpadded._forward_pre_hooks


def test_evaluation_inside_training_is_float32():
    trainer = make(BFLOAT16)
    seen = []

    class Evaluate(HookBase):
        def after_step(self):
            with torch.no_grad():
                seen.append(self.trainer.model.layer(torch.ones(1, 4, 4, 4)).dtype)

    trainer.register_hooks([Evaluate()])
    run(trainer, [1.0, 1.0])
    assert seen == [torch.float32] * 2
