"""Clipping by value, by each parameter's norm and by the norm of the whole model."""

import pytest
import torch
from detectron2.config import get_cfg
from torch import nn

from centernet.config import add_centernet_config
from centernet.engine import NonFiniteLossError, Trainer
from centernet.engine.clipping import check_clipping, largest_norm, with_clipping
from centernet.errors import UserError


def config(*options):
    cfg = get_cfg()
    add_centernet_config(cfg)
    cfg.merge_from_list([f"SOLVER.CLIP_GRADIENTS.{x}" if isinstance(x, str) and x.isupper() else x for x in options])
    return cfg


class Linear(nn.Module):
    """Gradients of the two parameters are (3, 4) and (12,): together 13 long."""

    def __init__(self, factor=1.0):
        super().__init__()
        self.a, self.b, self.factor = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1)), factor

    def forward(self, batch):
        return {"loss": ((self.a * torch.tensor([3.0, 4.0])).sum() + 12 * self.b.sum()) * self.factor}


def step(cfg, factor=1.0):
    """The trainer after one step with learning rate 1: parameters are minus the clipped gradients."""
    model = Linear(factor)
    optimizer = with_clipping(cfg, torch.optim.SGD)(model.parameters(), lr=1.0)
    scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)
    trainer = Trainer(model, optimizer, scheduler, seed=0, largest_norm=largest_norm(cfg))
    trainer.open_data([[{}]])
    trainer.train(0, 1)
    return trainer


@pytest.mark.parametrize(
    "options, a, b",
    [
        (("ENABLED", False), (3, 4), 12),
        (("ENABLED", True, "CLIP_TYPE", "value", "CLIP_VALUE", 3.5), (3, 3.5), 3.5),
        (("ENABLED", True, "CLIP_TYPE", "norm", "CLIP_VALUE", 2.5), (1.5, 2), 2.5),
        (("ENABLED", True, "CLIP_TYPE", "full_model", "CLIP_VALUE", 6.5), (1.5, 2), 6),
        (("ENABLED", True, "CLIP_TYPE", "full_model", "CLIP_VALUE", 9.5, "NORM_TYPE", 1.0), (1.5, 2), 6),
        (("ENABLED", True, "CLIP_TYPE", "full_model", "CLIP_VALUE", 14.0), (3, 4), 12),
    ],
)
def test_one_step(options, a, b):
    model = step(config(*options)).model
    assert (-model.a).tolist() == pytest.approx(a, rel=1e-5)
    assert (-model.b).tolist() == pytest.approx([b], rel=1e-5)


def test_the_norm_is_logged_with_full_model_only():
    trainer = step(config("ENABLED", True, "CLIP_TYPE", "full_model", "CLIP_VALUE", 1.0))
    assert trainer.storage.history("gradient_norm").latest() == pytest.approx(13)
    assert "gradient_norm" not in step(config("ENABLED", True, "CLIP_TYPE", "norm")).storage.histories()


def test_a_norm_that_is_not_finite_stops_before_the_weights_change():
    cfg = config("ENABLED", True, "CLIP_TYPE", "full_model")
    with pytest.raises(NonFiniteLossError, match="gradient_norm is inf at iteration 0") as error:
        step(cfg, factor=1e25)  # finite losses and gradients, but not the squares of these
    assert (error.value.name, error.value.value) == ("gradient_norm", float("inf"))


@pytest.mark.parametrize(
    "options, sentence",
    [
        (("CLIP_TYPE", "global"), "CLIP_TYPE is 'global': use one of value, norm, full_model"),
        (("CLIP_VALUE", 0.0), "CLIP_VALUE is 0.0: it must be above 0"),
        (("CLIP_VALUE", float("nan")), "CLIP_VALUE is nan: it must be above 0"),
        (("CLIP_TYPE", "full_model", "NORM_TYPE", -1.0), "NORM_TYPE is -1.0: it must be above 0"),
    ],
)
def test_values_that_make_no_sense(options, sentence):
    with pytest.raises(UserError) as error:
        check_clipping(config("ENABLED", True, *options))
    assert str(error.value).startswith("SOLVER.CLIP_GRADIENTS." + sentence)
    assert "\n" not in str(error.value)
    check_clipping(config("ENABLED", False, *options))  # not in use
