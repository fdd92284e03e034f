"""Stages that are computed twice train like those that are not."""

import pytest
import torch
from small_detector import small_config, small_detector, train_steps

from centernet.config_file import load_config
from centernet.modeling.activation_checkpointing import checkpoint_stages
from centernet.modeling.build import build_detector


def calls_of(module):
    """A list that grows with every call of ``module.forward``."""
    calls, forward = [], module.forward

    def counted(*args):
        calls.append(torch.is_grad_enabled())
        return forward(*args)

    module.forward = counted
    return calls


def test_same_losses_gradients_and_statistics_to_the_last_bit(tmp_path):
    cfg = small_config(tmp_path)
    plain, twice = small_detector(cfg), small_detector(cfg)
    calls = calls_of(twice.backbone.bottom_up.res3[0])
    stages = checkpoint_stages(twice)
    assert stages == [f"backbone.bottom_up.{name}" for name in ("stem", "res2", "res3")]
    assert all(module.training for module in twice.modules())
    assert train_steps(plain, 3) == train_steps(twice, 3)
    assert len(calls) == 1 + 3 * 2  # the trial, then forward and backward of each step
    one, other = plain.state_dict(), twice.state_dict()
    assert list(one) == list(other)
    assert [name for name in one if not torch.equal(one[name], other[name])] == []
    assert one["backbone.bottom_up.stem.conv1.norm.num_batches_tracked"] == 3


def test_fewer_activations_are_kept(tmp_path):
    def kept(model):
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: (sizes.append(x.numel()), x)[1], lambda x: x):
            model.backbone(torch.zeros(1, 3, 64, 64))
        return sum(sizes)

    plain, twice = (small_detector(small_config(tmp_path / name)) for name in ("plain", "twice"))
    checkpoint_stages(twice)
    assert kept(twice) < 0.5 * kept(plain)


def test_nothing_changes_without_gradients(tmp_path):
    model = small_detector(small_config(tmp_path))
    checkpoint_stages(model)
    calls = calls_of(model.backbone.bottom_up.res3)
    with torch.no_grad():
        model.backbone(torch.zeros(1, 3, 64, 64))
    assert calls == [False]


def test_frozen_stages_are_left_alone(tmp_path):
    model = small_detector(small_config(tmp_path, "MODEL.BACKBONE.FREEZE_AT", 2))
    assert checkpoint_stages(model) == ["backbone.bottom_up.res3"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "config, first, last",
    [
        ("timm/CenterNet2_ConvNeXt-T_FPN_1x", "bottom_up.body.stem_0", "bottom_up.body.stages_3"),
        ("timm/CenterNet2_Swin-T_FPN_1x", "bottom_up.body.patch_embed", "bottom_up.body.layers_3"),
        ("timm/CenterNet2_MobileNetV2_FPN_1x", "bottom_up.body.blocks.2", "bottom_up.body.blocks.6"),
        ("CenterNet2_DLA-BiFPN-P5_640_16x", "bottom_up.base_layer", "bottom_up.level5"),
        ("CenterNet-S4_DLA_8x", "base.base_layer", "base.level5"),
    ],
)
def test_stages_of_other_bodies(config, first, last):
    pytest.importorskip("timm")
    cfg = load_config(f"configs/{config}.yaml", ["MODEL.DEVICE", "cpu"])
    torch.manual_seed(0)
    model = build_detector(cfg).train()
    image = torch.randn(1, 3, 128, 128)

    def gradients():
        model.zero_grad()
        torch.manual_seed(1)
        sum(feature.square().mean() for feature in model.backbone(image).values()).backward()
        return {name: p.grad.clone() for name, p in model.backbone.named_parameters() if p.grad is not None}

    buffers = {name: value.clone() for name, value in model.named_buffers()}
    expected = gradients()
    after = {name: value.clone() for name, value in model.named_buffers()}
    for name, value in model.named_buffers():
        value.copy_(buffers[name])
    stages = checkpoint_stages(model)
    assert (stages[0], stages[-1]) == (f"backbone.{first}", f"backbone.{last}")
    found = gradients()
    assert found.keys() == expected.keys()
    assert [name for name in found if not torch.equal(found[name], expected[name])] == []
    assert [name for name, value in model.named_buffers() if not torch.equal(value, after[name])] == []
