"""A batch in parts: same losses as the whole batch, on real models and on a small network."""

import pytest
import torch
import torch.distributed as dist
from detectron2.modeling import build_model
from detectron2.solver import build_lr_scheduler, build_optimizer
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from small_run import write_config
from torch import nn

from centernet.config_file import load_config
from centernet.engine import Trainer
from centernet.engine.accumulation import in_parts, of_one_batch
from centernet.engine.precision import Precision
from centernet.engine.processes import parallel
from centernet.errors import UserError
from centernet.modeling.normaliser import record_counts

CASCADE, ONE_STAGE = "CenterNet2_R50_1x", "CenterNet-FPN_R50_1x"
MORE_POS, WEIGHTED = ("MODEL.CENTERNET.MORE_POS", "True"), ("MODEL.CENTERNET.NOT_NORM_REG", "False")
PLAIN = ("MODEL.CENTERNET.MORE_POS", "False")


def example(number, count):
    """An image of one of two shapes with ``count`` objects."""
    random = torch.Generator().manual_seed(number)
    height, width = ((48, 64), (64, 40))[number % 2]
    corners = torch.rand(count, 2, generator=random) * torch.tensor([width - 16.0, height - 16.0])
    boxes = Boxes(torch.cat((corners, corners + 6 + torch.rand(count, 2, generator=random) * 24), dim=1))
    boxes.clip((height, width))
    labels = torch.randint(0, 2, (count,), generator=random)
    instances = Instances((height, width), gt_boxes=boxes, gt_classes=labels)
    pixels = torch.randint(0, 256, (3, height, width), generator=random, dtype=torch.uint8)
    return {"image": pixels, "instances": instances}


def batch(number):
    """Two images, every second time the second one without objects."""
    return [example(2 * number, 3), example(2 * number + 1, 2 * (number % 2))]


def build(folder, base, *options, norm="GN"):
    path = write_config(folder / base, base=base)
    schedule = ("SOLVER.BASE_LR", "0.005", "SOLVER.MAX_ITER", "24")
    cfg = load_config(str(path), ["MODEL.RESNETS.NORM", norm, *schedule, *options])
    torch.manual_seed(0)
    # in float64 noise does not change the order of near-equal proposals, hence which are sampled
    model = build_model(cfg).double()
    optimizer = build_optimizer(cfg, model)
    return model, optimizer, build_lr_scheduler(cfg, optimizer)


def losses(folder, parts, count, base, *options):
    """Losses of ``count`` iterations by name."""
    trainer = Trainer(*build(folder, base, *options), seed=1, parts=parts)
    trainer.open_data(batch(number) for number in range(count))
    trainer.train(0, count)
    names = [name for name in trainer.storage.histories() if "loss" in name]
    return {name: [value for value, _ in trainer.storage.history(name).values()] for name in names}


@pytest.mark.parametrize("count", [3, pytest.param(20, marks=pytest.mark.slow)])
@pytest.mark.parametrize("base, options", [(CASCADE, ()), (ONE_STAGE, MORE_POS), (ONE_STAGE, (*PLAIN, *WEIGHTED))])
def test_two_parts_give_the_losses_of_the_whole_batch(tmp_path, base, options, count):
    whole = losses(tmp_path / "whole", 1, count, base, *options)
    parts = losses(tmp_path / "parts", 2, count, base, *options)
    assert whole.keys() == parts.keys()
    for name, values in whole.items():
        assert len(values) == count, name
        assert parts[name] == pytest.approx(values, abs=1e-5), name
    assert len(set(whole["total_loss"])) == count


def test_parts_by_themselves_would_not(tmp_path, monkeypatch):
    """The equality above is the work of what parts know of each other."""
    monkeypatch.setattr("centernet.engine.accumulation.batch_counts", lambda *_: EventStorage())
    apart = losses(tmp_path / "apart", 2, 1, ONE_STAGE, *PLAIN)["total_loss"]
    monkeypatch.undo()
    assert apart != pytest.approx(losses(tmp_path / "whole", 1, 1, ONE_STAGE, *PLAIN)["total_loss"], abs=1e-3)


def test_counts_from_ground_truth_are_those_of_a_forward_pass(tmp_path):
    model, *_ = build(tmp_path, CASCADE, *WEIGHTED)
    images = batch(1) + batch(2)
    with EventStorage(0), record_counts() as counts:
        model(images)
    canvas = 64, 64
    known = model.proposal_generator.count_targets(
        [x["instances"] for x in images], [x["image"].shape[-2:] for x in images], canvas
    )
    assert known.keys() < counts.keys()
    for name, count in known.items():
        assert float(count) == pytest.approx(float(counts[name]), rel=1e-6), name
        assert float(count) > 1


def test_every_part_has_the_canvas_of_the_batch(tmp_path):
    model, *_ = build(tmp_path, ONE_STAGE)
    parts, seen = in_parts(batch(0), 2), []
    model.backbone.register_forward_hook(lambda _module, inputs, _output: seen.append(tuple(inputs[0].shape)))
    with EventStorage(0):
        with of_one_batch(model, parts, Precision()):
            for part in parts:
                model(part)
        model(parts[0])
    assert seen[-3:] == [(1, 3, 64, 64), (1, 3, 64, 64), (1, 3, 48, 64)]  # the last one on its own


def test_counting_leaves_nothing_behind(tmp_path):
    """Neither random draws nor batch norms' statistics nor scalars."""
    model, *_ = build(tmp_path, ONE_STAGE, *MORE_POS, norm="BN")
    parts = in_parts(batch(0), 2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    with EventStorage(7) as storage:
        with of_one_batch(model, parts, Precision()):
            assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
            assert torch.equal(torch.get_rng_state(), state)
            assert not storage.histories()
            model(parts[0])
        name = next(name for name in before if name.endswith("num_batches_tracked"))
        assert int(model.state_dict()[name]) == 1


class Quadratic(nn.Module):
    """Knows nothing of parts; its loss is a mean over images."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(4, 2)

    def forward(self, images):
        x = torch.stack([item["x"] for item in images])
        return {"loss_square": self.layer(x).pow(2).mean(), "loss_abs": self.layer(x).abs().mean()}


def vectors():
    random = torch.Generator().manual_seed(1)
    while True:
        yield [{"x": torch.randn(4, generator=random)} for _ in range(6)]


def train_quadratic(parts, model=None, largest_norm=None):
    model = model or Quadratic()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    trainer = Trainer(model, optimizer, scheduler, seed=0, parts=parts, largest_norm=largest_norm)
    trainer.open_data(vectors())
    trainer.train(0, 5)
    return trainer


def test_other_models_get_the_mean_of_their_parts():
    whole = train_quadratic(1)
    for parts in (2, 3, 6):
        trainer = train_quadratic(parts)
        assert torch.allclose(trainer.model.layer.weight, whole.model.layer.weight, atol=1e-6)
        for name in ("loss_square", "loss_abs", "total_loss"):
            ours, theirs = (t.storage.history(name).values() for t in (trainer, whole))
            assert [v for v, _ in ours] == pytest.approx([v for v, _ in theirs], abs=1e-6)


def test_clipping_sees_the_gradient_of_the_whole_batch():
    whole, parts = train_quadratic(1, largest_norm=(0.5, 2.0)), train_quadratic(3, largest_norm=(0.5, 2.0))
    norms = [[v for v, _ in t.storage.history("gradient_norm").values()] for t in (whole, parts)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-5)
    assert torch.allclose(whole.model.layer.weight, parts.model.layer.weight, atol=1e-6)


def test_a_bad_part_stops_before_the_weights_change():
    model = Quadratic()
    weight = model.layer.weight.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    trainer = Trainer(model, optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer), seed=0, parts=2)
    images = next(vectors())
    images[1]["x"] = images[1]["x"] * float("nan")  # in the first part
    trainer.open_data([images])
    with pytest.raises(UserError, match="loss_square is nan at iteration 0"):
        trainer.train(0, 1)
    assert torch.equal(model.layer.weight, weight)


def test_parts_keep_the_order_and_are_equal():
    assert in_parts([1, 2, 3, 4, 5, 6], 3) == [[1, 2], [3, 4], [5, 6]]
    assert in_parts([1], 1) == [[1]]
    for images, parts in (([1, 2, 3], 2), ([1], 2), ([], 1)):
        with pytest.raises(UserError, match=f"a batch of {len(images)} images cannot be taken in {parts} equal parts"):
            in_parts(images, parts)


def test_processes_exchange_gradients_once_a_step(tmp_path, monkeypatch):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        with monkeypatch.context() as patch:
            patch.setattr("centernet.engine.processes.comm.get_world_size", lambda: 2)
            patch.setattr("centernet.engine.processes.comm.get_local_rank", lambda: 0)
            model = parallel(Quadratic())
        exchanged = []

        def count(_state, bucket):
            exchanged.append(bucket.buffer().numel())
            future = torch.futures.Future()
            future.set_result(bucket.buffer())
            return future

        model.register_comm_hook(None, count)
        trainer = train_quadratic(3, model)
        assert exchanged == [10] * 5  # one bucket of all ten parameters in each of five steps
    finally:
        dist.destroy_process_group()
    assert torch.allclose(trainer.model.module.layer.weight, train_quadratic(1).model.layer.weight, atol=1e-6)
