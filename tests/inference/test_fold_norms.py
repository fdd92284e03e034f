"""Constant norms become part of the convolution before them; whatever else is done with either keeps them apart."""

import pytest
import torch
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from small_models import small_cfg
from torch import nn

from centernet.inference.fold_norms import fold_norms
from centernet.modeling.backbone.resnet_dcn import DeformConvNorm
from centernet.modeling.build import build_detector
from centernet.modeling.layers.sync_batch_norm import ProcessBatchNorm


def with_statistics(model):
    """Statistics and factors as after training; FrozenBN of new models does nothing."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if hasattr(module, "running_mean"):
            for name, low, high in (("running_mean", -1, 1), ("running_var", 0.5, 2), ("weight", 0.5, 1.5)):
                values = torch.rand(module.running_mean.shape, generator=generator) * (high - low) + low
                getattr(module, name).data.copy_(values)
            module.bias.data.copy_(torch.rand(module.running_mean.shape, generator=generator))
    return model.eval().requires_grad_(False)


def fold(model, *inputs):
    """``(number of folded norms, result before, result after)``."""
    with torch.no_grad():
        before = model(*inputs)
        count = fold_norms(model, lambda: model(*inputs))
        return count, before, model(*inputs)


def norms(model):
    return sum(hasattr(module, "running_mean") for module in model.modules())


def picture(channels=3, side=16):
    return torch.rand(2, channels, side, side, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    "layers",
    [
        lambda: [nn.Conv2d(3, 8, 3, bias=True), nn.BatchNorm2d(8), nn.ReLU(inplace=True)],
        lambda: [nn.Conv2d(3, 9, 3, groups=3, bias=False), FrozenBatchNorm2d(9), nn.ReLU()],
        lambda: [nn.Conv2d(3, 8, 1), ProcessBatchNorm(8), nn.Sigmoid()],
        lambda: [Conv2d(3, 8, 3, norm=FrozenBatchNorm2d(8), activation=torch.relu)],
    ],
)
def test_norm_after_a_convolution(layers):
    model = with_statistics(nn.Sequential(*layers()))
    count, before, after = fold(model, picture())
    assert (count, norms(model)) == (1, 0)
    torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-5)


def test_norm_after_a_deformable_convolution():
    model = with_statistics(DeformConvNorm(nn.Conv2d(3, 8, 3, padding=1, bias=False), FrozenBatchNorm2d(8)))
    offset = torch.randn(2, 18, 16, 16, generator=torch.Generator().manual_seed(2))
    count, before, after = fold(model, picture(), offset, torch.rand(2, 9, 16, 16))
    assert (count, norms(model)) == (1, 0)
    torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-5)


def test_norms_of_timm_keep_their_activation():
    layers = pytest.importorskip("timm.layers")
    model = with_statistics(nn.Sequential(nn.Conv2d(3, 8, 3), layers.BatchNormAct2d(8), nn.Conv2d(8, 4, 1)))
    count, before, after = fold(model, picture())
    assert (count, norms(model)) == (1, 0)
    assert any(isinstance(module, nn.ReLU) for module in model.modules())
    torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-5)


class Twice(nn.Module):
    """One convolution and two norms, or two convolutions and one norm, or a convolution used without its norm."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 1)
        self.first, self.second = nn.BatchNorm2d(8), nn.BatchNorm2d(8)

    def forward(self, x):
        if self.kind == "two norms of one output":
            y = self.a(x)
            return self.first(y) + self.second(y)
        if self.kind == "two norms of two outputs":
            return self.first(self.a(x)) + self.second(self.a(x + 1))
        if self.kind == "two convolutions":
            return self.first(self.a(x)) + self.first(self.b(x))
        if self.kind == "weight of two":
            return self.first(self.a(x)) + self.b(x)
        if self.kind == "view":
            y = self.a(x)
            return self.first(y) + y[:, :, :1]
        y = self.a(x)
        return self.first(y), y


@pytest.mark.parametrize(
    "kind",
    [
        "two norms of one output",
        "two norms of two outputs",
        "two convolutions",
        "weight of two",
        "view",
        "output of the model",
    ],
)
def test_what_is_used_twice_stays(kind):
    model = Twice(kind)
    if kind == "weight of two":
        model.b.weight = model.a.weight
    model = with_statistics(model)
    count, before, after = fold(model, picture())
    assert (count, norms(model)) == (0, 2)
    torch.testing.assert_close(after, before, atol=0, rtol=0)


def test_a_convolution_called_for_several_levels_is_folded_once():
    conv, norm = nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8)

    class Levels(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(conv, norm)

        def forward(self, x):
            return [self.layers(x), self.layers(x[:, :, ::2])]

    count, before, after = fold(with_statistics(Levels()), picture())
    assert count == 1
    torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "layers",
    [
        lambda: [nn.Conv2d(3, 8, 1), nn.GroupNorm(2, 8)],
        lambda: [nn.ConvTranspose2d(3, 8, 2), nn.BatchNorm2d(8)],
        lambda: [nn.Conv2d(3, 8, 1), nn.ReLU(), nn.BatchNorm2d(8)],
        lambda: [nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8, track_running_stats=False)],
        lambda: [nn.BatchNorm2d(3), nn.Conv2d(3, 8, 1)],
    ],
)
def test_other_layers_stay(layers):
    model = nn.Sequential(*layers()).eval()
    types = [type(module) for module in model.modules()]
    count, before, after = fold(model, picture())
    assert count == 0
    assert [type(module) for module in model.modules()] == types
    assert torch.equal(before, after)


def test_batch_statistics_are_no_constants():
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8)).train()
    assert fold_norms(model, lambda: model(picture())) == 0


def test_where_results_would_change_everything_is_as_before(caplog):
    class ReadsItsWeight(nn.Sequential):
        def forward(self, x):
            return super().forward(x) + self[0].weight.sum()

    model = with_statistics(ReadsItsWeight(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8)))
    count, before, after = fold(model, picture())
    assert (count, norms(model)) == (0, 1)
    assert torch.equal(before, after)
    assert caplog.messages == ["Folding the 1 norms of this model changes its results: it keeps them"]


@pytest.mark.parametrize(
    ("config", "left"),
    [
        ("CenterNet2_R50_1x", 0),
        ("CenterNet-S4_DLA_8x", 2),  # of projections that nothing uses
    ],
)
def test_detectors(config, left):
    model = with_statistics(build_detector(small_cfg(config)))
    total = norms(model)
    count, before, after = fold(model.backbone, picture(side=64))
    assert (total - count, norms(model)) == (left, left)
    for name in before:
        scale = before[name].abs().max()
        torch.testing.assert_close(after[name] / scale, before[name] / scale, atol=1e-5, rtol=0)
