import pytest
import torch
import torch.nn.functional as F
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from hypothesis import given, settings
from hypothesis import strategies as st

from centernet.config import add_centernet_config
from centernet.errors import UserError
from centernet.modeling.backbone.res2net import (
    DeformableRes2NetBottleneck,
    Res2NetBottleneck,
    build_p67_res2net_fpn_backbone,
    build_res2net_backbone,
    build_res2net_bifpn_backbone,
)

STAGES = ["res2", "res3", "res4", "res5"]
SMALL = {"DEPTH": 50, "STEM_OUT_CHANNELS": 8, "RES2_OUT_CHANNELS": 16, "WIDTH_PER_GROUP": 4}
IMAGE = ShapeSpec(channels=3)


def make_cfg(freeze_at=2, **resnet):
    cfg = get_cfg()
    add_centernet_config(cfg)
    cfg.MODEL.BACKBONE.FREEZE_AT = freeze_at
    cfg.MODEL.FPN.IN_FEATURES = STAGES[1:]
    cfg.MODEL.FPN.OUT_CHANNELS = 16
    cfg.MODEL.BIFPN.OUT_CHANNELS = 32
    cfg.MODEL.BIFPN.NUM_BIFPN = 1
    for key, value in {"DEPTH": 50, "OUT_FEATURES": STAGES, "WIDTH_PER_GROUP": 26, **resnet}.items():
        cfg.MODEL.RESNETS[key] = value
    return cfg


def small_cfg(**resnet):
    return make_cfg(**{**SMALL, **resnet})


def test_published_size():
    body = build_res2net_backbone(make_cfg(), IMAGE)
    assert sum(p.numel() for p in body.parameters()) == 23_609_732
    assert len(body.state_dict()) == 435
    assert {k: (v.channels, v.stride) for k, v in body.output_shape().items()} == {
        "res2": (256, 4),
        "res3": (512, 8),
        "res4": (1024, 16),
        "res5": (2048, 32),
    }
    frozen = {n.split(".")[0] for n, p in body.named_parameters() if not p.requires_grad}
    assert frozen == {"stem", "res2"}


def names_in_timm(key):
    """Our state-dict key to timm's."""
    if key.startswith("stem.bn1"):
        return key.replace("stem.", "")
    if key.startswith("stem."):
        return key.removeprefix("stem.")
    stage, block, rest = key.split(".", 2)
    for ours, theirs in {"shortcut.1.norm": "downsample.2", "shortcut.1": "downsample.1"}.items():
        rest = rest.replace(ours, theirs)
    for i in "13":
        rest = rest.replace(f"conv{i}.norm", f"bn{i}")
    return f"layer{int(stage[3]) - 1}.{block}.{rest}"


def test_stride_in_the_3x3_is_the_network_of_imagenet():
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    body = build_res2net_backbone(make_cfg(NORM="BN", STRIDE_IN_1X1=False), IMAGE).eval()
    theirs = timm.create_model("res2net50d", features_only=True, out_indices=(1, 2, 3, 4)).eval()
    with torch.no_grad():
        for module in theirs.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(std=0.1)
                module.running_var.uniform_(0.5, 1.5)
                module.weight.uniform_(0.5, 1.0)
    state = theirs.state_dict()
    body.load_state_dict({key: state[names_in_timm(key)] for key in body.state_dict()})
    image = torch.randn(1, 3, 75, 90)
    with torch.no_grad():
        found, expected = body(image), theirs(image)
    for name, feature in zip(STAGES, expected, strict=True):
        assert float((found[name] - feature).norm() / feature.norm()) < 1e-5, name


def by_hand(block, x):
    """A block that changes channels, stride in the first 1x1, written out."""
    inner = F.relu(block.conv1.norm(F.conv2d(x, block.conv1.weight, stride=2)))
    a, b, c, last = inner.split(inner.shape[1] // 4, dim=1)
    splits = [
        F.relu(bn(F.conv2d(s, conv.weight, padding=1)))
        for s, conv, bn in zip((a, b, c), block.convs, block.bns, strict=True)
    ]
    out = block.conv3.norm(F.conv2d(torch.cat((*splits, last), 1), block.conv3.weight))
    pooled = F.avg_pool2d(x, 2, 2, ceil_mode=True, count_include_pad=False)
    projection = block.shortcut[1]
    return F.relu(out + projection.norm(F.conv2d(pooled, projection.weight)))


def test_stride_in_the_1x1_leaves_the_last_split_alone():
    torch.manual_seed(0)
    block = Res2NetBottleneck(8, 16, bottleneck_channels=12, stride=2, stride_in_1x1=True, norm="BN").eval()
    x = torch.randn(2, 8, 9, 12)
    with torch.no_grad():
        assert torch.allclose(block(x), by_hand(block, x), atol=1e-6)


def test_blocks_that_keep_channels_are_chained():
    """The chain lets a pixel see 3, 5 and 7 neighbours; without it every split sees 3."""
    torch.manual_seed(0)

    def seen(in_channels):
        block = Res2NetBottleneck(in_channels, 8, bottleneck_channels=16, norm="BN").eval()
        x = torch.randn(1, in_channels, 15, 15, requires_grad=True)
        block(x)[0, :, 7, 7].sum().backward()
        return int((x.grad.abs().sum((0, 1)) > 0).any(0).sum())

    assert (seen(8), seen(4)) == (7, 3)


@pytest.mark.parametrize("stride_in_1x1", [True, False])
def test_zero_offsets_are_plain_convolutions(stride_in_1x1):
    torch.manual_seed(0)
    arguments = {"bottleneck_channels": 16, "stride": 2, "norm": "BN", "stride_in_1x1": stride_in_1x1}
    plain = Res2NetBottleneck(8, 12, **arguments).eval()
    deformable = DeformableRes2NetBottleneck(8, 12, modulated=False, **arguments).eval()
    extra = deformable.load_state_dict(plain.state_dict(), strict=False)
    assert extra.missing_keys == [f"conv2_offsets.{i}.weight" for i in range(3)]
    assert extra.unexpected_keys == []
    x = torch.randn(1, 8, 11, 9)
    with torch.no_grad():
        assert torch.allclose(deformable(x), plain(x), atol=1e-5)
        deformable.conv2_offsets[0].weight.fill_(0.1)
        assert not torch.allclose(deformable(x), plain(x), atol=1e-3)


@pytest.mark.parametrize(("modulated", "groups", "channels"), [(True, 1, 27), (False, 1, 18), (True, 2, 54)])
def test_offsets_of_each_split(modulated, groups, channels):
    cfg = small_cfg(
        DEFORM_ON_PER_STAGE=[False, False, True, True], DEFORM_MODULATED=modulated, DEFORM_NUM_GROUPS=groups
    )
    body = build_res2net_backbone(cfg, IMAGE)
    state = body.state_dict()
    offsets = {k: v for k, v in state.items() if "conv2_offsets" in k}
    assert len(offsets) == 3 * (6 + 3)
    assert not any(v.any() for v in offsets.values())
    assert state["res4.0.conv2_offsets.0.weight"].shape == (channels, 16, 3, 3)
    assert "res4.0.conv2_offsets.0.bias" not in state
    assert "res3.0.conv2_offsets.0.weight" not in state
    body(torch.randn(1, 3, 64, 64))["res5"].sum().backward()
    assert all(p.grad is not None for p in body.parameters() if p.requires_grad)
    assert float(body.res5[0].conv2_offsets[1].weight.grad.abs().sum()) > 0


@settings(max_examples=8, deadline=None)
@given(st.integers(33, 100), st.integers(33, 100), st.booleans(), st.sampled_from([1, 2]), st.sampled_from([1, 2]))
def test_sizes_are_rounded_up(height, width, stride_in_1x1, dilation, groups):
    cfg = small_cfg(STRIDE_IN_1X1=stride_in_1x1, RES5_DILATION=dilation, NUM_GROUPS=groups)
    body = build_res2net_backbone(cfg, IMAGE)
    with torch.no_grad():
        features = body(torch.randn(1, 3, height, width))
    for name, shape in body.output_shape().items():
        expected = (-(-height // shape.stride), -(-width // shape.stride))
        assert features[name].shape == (1, shape.channels, *expected), name
    assert body.output_shape()["res5"].stride == 32 // dilation


@pytest.mark.parametrize("depth", [18, 34])
def test_shallow_networks(depth):
    body = build_res2net_backbone(small_cfg(DEPTH=depth), IMAGE)
    assert set(body.res3[0].state_dict()) >= {"conv1.weight", "conv2.weight", "shortcut.weight"}
    assert [len(s) for s in body.stages] == {18: [2, 2, 2, 2], 34: [3, 4, 6, 3]}[depth]
    assert body(torch.randn(1, 3, 64, 64))["res5"].shape == (1, 128, 2, 2)


def test_impossible_networks_are_named():
    with pytest.raises(UserError, match=r"DEPTH is 77.*18, 34, 50, 101, 152"):
        build_res2net_backbone(small_cfg(DEPTH=77), IMAGE)
    with pytest.raises(UserError, match=r"DEFORM_ON_PER_STAGE.*DEPTH 34"):
        build_res2net_backbone(small_cfg(DEPTH=34, DEFORM_ON_PER_STAGE=[False, False, False, True]), IMAGE)


def test_without_norm():
    body = build_res2net_backbone(small_cfg(NORM=""), IMAGE)
    assert body(torch.randn(1, 3, 64, 64))["res5"].shape == (1, 128, 2, 2)


@pytest.mark.parametrize(
    ("build", "channels", "divisibility"),
    [(build_p67_res2net_fpn_backbone, 16, 32), (build_res2net_bifpn_backbone, 32, 128)],
)
def test_necks(build, channels, divisibility):
    assert build.__name__ in BACKBONE_REGISTRY
    backbone = build(small_cfg(OUT_FEATURES=STAGES[1:], DEFORM_ON_PER_STAGE=[False, False, True, True]), IMAGE)
    assert backbone.size_divisibility == divisibility
    features = backbone(torch.randn(1, 3, 128, 256))
    assert {k: tuple(v.shape) for k, v in features.items()} == {
        f"p{i}": (1, channels, 128 // 2**i, 256 // 2**i) for i in range(3, 8)
    }
    sum(f.sum() for f in features.values()).backward()
    assert [n for n, p in backbone.named_parameters() if p.requires_grad and p.grad is None] == []
