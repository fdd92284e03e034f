"""What MODEL.FREEZE names stays as it is, and nothing else does."""

import pytest
import torch
from detectron2.layers import FrozenBatchNorm2d
from small_detector import small_config, small_detector, train_steps
from torch import nn

from centernet.errors import UserError
from centernet.modeling.freeze import check_patterns, freeze


def test_frozen_parameters_and_statistics_stay_and_others_learn(tmp_path, caplog):
    model = small_detector(small_config(tmp_path, "MODEL.BACKBONE.FREEZE_AT", 1))
    names = set(model.state_dict())
    patterns = [r"backbone\.bottom_up\.res2\.", "roi_heads.box_head.0"]
    with caplog.at_level("INFO"):
        count = freeze(model, patterns)
    chosen = [name for name, _ in model.named_parameters() if name.startswith("roi_heads.box_head.0")]
    assert count == 4 * 3 + len(chosen) > 12  # res2: four convolutions, each with the two of its norm
    assert "statistics of 4 batch norms" in caplog.text
    assert names - set(model.state_dict()) == {f"backbone.bottom_up.res2.{k}.conv{i}.norm.num_batches_tracked"
                                               for k in range(2) for i in (1, 2)}  # fmt: skip
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    train_steps(model, 2)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    constant = ("backbone.bottom_up.stem.", "backbone.bottom_up.res2.", "roi_heads.box_head.0.", "pixel_")
    assert not [name for name in changed if name.startswith(constant)]
    for name in ("backbone.bottom_up.res3.0.conv1.weight", "backbone.bottom_up.res3.0.conv1.norm.running_mean",
                 "roi_heads.box_head.1.fc1.weight"):  # fmt: skip
        assert name in changed


def test_only_norms_of_which_everything_is_constant_are_converted():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
    assert freeze(model, [r"1\.", r"3\.bias"]) == 3
    assert isinstance(model[1], FrozenBatchNorm2d)
    assert isinstance(model[3], nn.BatchNorm2d)
    assert model[3].weight.requires_grad


def test_norms_of_timm_keep_their_activation():
    layers = pytest.importorskip("timm.layers")
    model = nn.Sequential(nn.Conv2d(3, 4, 1), layers.BatchNormAct2d(4))
    model[1].running_mean += 1
    x = torch.randn(2, 3, 5, 5)
    expected = model.eval()(x)
    freeze(model, ["1"])
    model.train()
    assert torch.allclose(model(x), expected, atol=1e-6)
    assert (model(x) == 0).any()


@pytest.mark.parametrize(
    "patterns, sentence",
    [
        (["backbone.bottom_up.res9"], "starts like 'backbone.bottom_up.res9'; the nearest is backbone.bottom_up.res"),
        ([r"roi_head\."], "the nearest is roi_heads"),
        (["bottom_up"], "the nearest is backbone.bottom_up"),
        ([""], "leaves nothing to train: name less"),
        (["backbone", "[a-z]"], "leaves nothing to train"),
        (["(backbone"], "'(backbone' is not a regular expression"),
        ([7], "7 is not a regular expression"),
    ],
)
def test_refuses(tmp_path, patterns, sentence):
    model = small_detector(small_config(tmp_path))
    with pytest.raises(UserError) as error:
        freeze(model, patterns)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_nothing_to_freeze(tmp_path, caplog):
    check_patterns([])
    model = small_detector(small_config(tmp_path))
    with caplog.at_level("INFO"):
        assert freeze(model, []) == 0
    assert all(p.requires_grad for p in model.parameters())
    assert not caplog.messages
