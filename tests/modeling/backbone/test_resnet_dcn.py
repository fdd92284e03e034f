import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.layers import deform_conv as compiled
from detectron2.modeling.backbone.resnet import BottleneckBlock, DeformBottleneckBlock, build_resnet_backbone
from torchvision.ops import deform_conv2d

from centernet.config import add_centernet_config
from centernet.errors import UserError
from centernet.modeling.backbone.fpn_p5 import build_p35_resnet_fpn_backbone, build_p67_resnet_fpn_backbone
from centernet.modeling.backbone.resnet_dcn import DeformableBottleneck, build_resnet_body

SMALL = {"DEPTH": 50, "STEM_OUT_CHANNELS": 8, "RES2_OUT_CHANNELS": 16, "WIDTH_PER_GROUP": 8}
STAGES = ["res2", "res3", "res4", "res5"]
LAST_TWO = [False, False, True, True]
IMAGE = ShapeSpec(channels=3)


def small_cfg(freeze_at=0, **resnet):
    cfg = get_cfg()
    add_centernet_config(cfg)
    cfg.MODEL.BACKBONE.FREEZE_AT = freeze_at
    cfg.MODEL.FPN.IN_FEATURES = STAGES[1:]
    cfg.MODEL.FPN.OUT_CHANNELS = 8
    for key, value in {**SMALL, "OUT_FEATURES": STAGES, "DEFORM_ON_PER_STAGE": LAST_TWO, **resnet}.items():
        cfg.MODEL.RESNETS[key] = value
    return cfg


def randomise(model):
    """Weights that keep the signal's size, offsets of about a cell."""
    for name, value in model.state_dict().items():
        if "conv2_offset" in name:
            value.normal_(std=0.3)
        elif name.endswith("running_var"):
            value.uniform_(0.5, 1.5)
    return model.eval()


@pytest.fixture
def torchvision_operator(monkeypatch):
    """detectron2's own block, with the operator that it would have compiled."""

    def modulated(x, offset, mask, weight, bias, stride, padding, dilation, groups, deformable_groups):
        return deform_conv2d(x, offset, weight, bias, stride, padding, dilation, mask)

    def plain(x, offset, weight, stride, padding, dilation, groups, deformable_groups):
        return deform_conv2d(x, offset, weight, None, stride, padding, dilation)

    monkeypatch.setattr(compiled, "modulated_deform_conv", modulated)
    monkeypatch.setattr(compiled, "deform_conv", plain)
    try:
        DeformBottleneckBlock(8, 8, bottleneck_channels=4)
    except (ImportError, NotImplementedError):
        pytest.skip("this detectron2 was not compiled")


@pytest.mark.parametrize(
    "changes",
    [
        {"DEFORM_MODULATED": True},
        {"DEFORM_MODULATED": False, "STRIDE_IN_1X1": False},
        {"DEFORM_MODULATED": True, "NUM_GROUPS": 4, "DEFORM_NUM_GROUPS": 2, "RES5_DILATION": 2, "NORM": "BN"},
    ],
    ids=["modulated", "unmodulated", "groups and dilation"],
)
def test_same_model_as_detectron2(changes, torchvision_operator):
    torch.manual_seed(0)
    cfg = small_cfg(**changes)
    theirs = randomise(build_resnet_backbone(cfg, IMAGE))
    ours = build_resnet_body(cfg, IMAGE).eval()
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}
    ours.load_state_dict(theirs.state_dict())
    image = torch.randn(2, 3, 67, 90)
    with torch.no_grad():
        found, expected = ours(image), theirs(image)
    assert list(found) == STAGES
    assert ours.output_shape() == theirs.output_shape()
    for name in STAGES:
        assert torch.allclose(found[name], expected[name], atol=1e-4, rtol=1e-4), name


def test_names_and_start():
    body = build_resnet_body(small_cfg(DEFORM_MODULATED=True), IMAGE)
    state = body.state_dict()
    assert state["res4.0.conv2_offset.weight"].shape == (27, 32, 3, 3)
    assert state["res4.0.conv2_offset.bias"].shape == (27,)
    assert state["res4.0.conv2.weight"].shape == (32, 32, 3, 3)
    assert "res4.0.conv2.norm.running_var" in state
    assert "res4.0.conv2.bias" not in state
    assert "res3.0.conv2_offset.weight" not in state
    assert not any(v.any() for k, v in state.items() if "conv2_offset" in k)
    # msra initialisation of the 3x3 weight, as in detectron2
    assert float(state["res5.0.conv2.weight"].std()) == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.05)


def test_zero_offsets_are_the_plain_block():
    torch.manual_seed(0)
    plain = BottleneckBlock(8, 12, bottleneck_channels=4, stride=2, norm="BN").eval()
    x = torch.randn(1, 8, 9, 11)
    with torch.no_grad():
        expected = plain(x)
        found = DeformableBottleneck(plain, modulated=False).eval()(x)
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(("freeze_at", "trainable"), [(0, 5), (3, 2), (4, 1), (5, 0)])
def test_freezing_reaches_deformable_stages(freeze_at, trainable):
    body = build_resnet_body(small_cfg(freeze_at, NORM="BN", DEFORM_MODULATED=True), IMAGE)
    parts = [getattr(body, name) for name in ("stem", *STAGES)]
    learns = [all(p.requires_grad for p in part.parameters()) for part in parts]
    assert learns == [False] * (5 - trainable) + [True] * trainable
    frozen = [part for part in parts if not any(p.requires_grad for p in part.parameters())]
    assert len(frozen) == 5 - trainable
    assert all(isinstance(m, FrozenBatchNorm2d) for part in frozen for n, m in part.named_modules() if "norm" in n)


def test_stages_beyond_the_outputs_are_not_built():
    body = build_resnet_body(small_cfg(OUT_FEATURES=["res3", "res4"]), IMAGE)
    assert list(body(torch.randn(1, 3, 64, 64))) == ["res3", "res4"]
    assert not hasattr(body, "res5")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype):
    torch.manual_seed(0)
    body = randomise(build_resnet_body(small_cfg(DEFORM_MODULATED=True), IMAGE))
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = body(image)["res5"]
        with torch.autocast("cpu", dtype):
            found = body(image)["res5"]
    assert found.dtype == dtype
    assert float((found.float() - expected).norm() / expected.norm()) < 0.1


def test_basic_blocks_cannot_deform():
    with pytest.raises(UserError, match=r"DEFORM_ON_PER_STAGE.*DEPTH 18"):
        build_resnet_body(small_cfg(DEPTH=18), IMAGE)
    plain = small_cfg(DEPTH=18, RES2_OUT_CHANNELS=64, DEFORM_ON_PER_STAGE=[False] * 4)
    assert list(build_resnet_body(plain, IMAGE)(torch.randn(1, 3, 32, 32))) == STAGES


def test_the_config_is_left_alone():
    cfg = small_cfg(freeze_at=2)
    cfg.freeze()
    before = cfg.dump()
    build_resnet_body(cfg, IMAGE)
    assert cfg.dump() == before


@pytest.mark.parametrize(
    ("build", "levels"),
    [(build_p67_resnet_fpn_backbone, "p3 p4 p5 p6 p7"), (build_p35_resnet_fpn_backbone, "p3 p4 p5")],
)
def test_pyramid_on_deformable_stages_trains(build, levels):
    backbone = build(small_cfg(freeze_at=2, OUT_FEATURES=STAGES[1:], DEFORM_MODULATED=True), IMAGE)
    features = backbone(torch.randn(1, 3, 64, 96))
    assert " ".join(features) == levels
    assert features["p3"].shape == (1, 8, 8, 12)
    sum(f.sum() for f in features.values()).backward()
    dead = [n for n, p in backbone.named_parameters() if p.requires_grad and p.grad is None]
    assert dead == []
    assert float(backbone.bottom_up.res4[0].conv2_offset.weight.grad.abs().sum()) > 0
