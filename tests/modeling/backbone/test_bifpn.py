"""Both BiFPN necks: sizes as published, arithmetic against a plain re-computation, and one sentence for bad input."""

import pytest
import torch
import torch.nn.functional as F
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import BACKBONE_REGISTRY, Backbone

from centernet.config import add_centernet_config
from centernet.errors import UserError
from centernet.modeling.backbone import bifpn, bifpn_fcos, bifpn_fusion

# parameters and state-dict entries of the published models; those with DLA are compared whole in tests/golden
PUBLISHED = {
    "build_resnet_bifpn_backbone": (35_924_146, 475, 5),
    "build_fcos_resnet_bifpn_backbone": (35_432_466, 472, 5),
    "build_p35_fcos_resnet_bifpn_backbone": (29_895_286, 377, 3),
}
DLA = ("build_p37_dla_bifpn_backbone", "build_p35_fcos_dla_bifpn_backbone", "build_p37_fcos_dla_bifpn_backbone")
NECKS = (bifpn.BiFPN, bifpn_fcos.BiFPN)


def config(*overrides):
    cfg = get_cfg()
    add_centernet_config(cfg)
    cfg.MODEL.RESNETS.OUT_FEATURES = cfg.MODEL.FPN.IN_FEATURES = ["res3", "res4", "res5"]
    cfg.merge_from_list(list(overrides))
    return cfg


def build(name, *overrides):
    return BACKBONE_REGISTRY.get(name)(config(*overrides), ShapeSpec(channels=3))


class Pyramid(Backbone):
    """A body with hardly any cost: level i is the image averaged over its stride, in 8, 12, 16 ... channels."""

    def __init__(self, levels=3, names="res{}", strides=None):
        super().__init__()
        self._out_features = [names.format(i + 3) for i in range(levels)]
        strides = strides or [8 * 2**i for i in range(levels)]
        self._out_feature_strides = dict(zip(self._out_features, strides, strict=True))
        self._out_feature_channels = {name: 8 + 4 * i for i, name in enumerate(self._out_features)}

    def forward(self, x):
        grey = x.mean(1, keepdim=True)
        return {
            name: F.avg_pool2d(grey, self._out_feature_strides[name])
            * torch.linspace(-1, 1, channels)[:, None, None].to(x)
            for name, channels in self._out_feature_channels.items()
        }


def neck(kind=bifpn.BiFPN, body=None, **keywords):
    keywords = {"in_features": ("res3", "res4", "res5"), "out_channels": 32, "norm": "GN", "num_bifpn": 2} | keywords
    if kind is bifpn.BiFPN:
        keywords["cfg"] = None
    return kind(bottom_up=body or Pyramid(), **keywords)


@pytest.mark.parametrize("name", PUBLISHED)
def test_sizes_are_the_published_ones(name):
    model = build(name)
    params, entries, levels = PUBLISHED[name]
    assert sum(p.numel() for p in model.parameters()) == params
    assert len(model.state_dict()) == entries
    assert model.size_divisibility == 128
    assert model.output_shape() == {f"p{i}": ShapeSpec(channels=160, stride=2**i) for i in list(range(3, 8))[:levels]}


@pytest.mark.parametrize("name", DLA)
def test_dla_bodies_keep_the_published_names(name):
    model = build(name, "MODEL.BIFPN.NUM_BIFPN", 1)
    keys = model.state_dict()
    fcos = "fcos" in name
    assert ("bottom_up.backbone.base_layer.0.weight" if fcos else "bottom_up.base_layer.0.weight") in keys
    assert ("bottom_up.dla6.reduction.weight" in keys) == (name == "build_p37_fcos_dla_bifpn_backbone")
    assert ("resample.3.conv.conv.weight" in keys) == (not fcos)
    with torch.no_grad():
        features = model.eval()(torch.rand(1, 3, 128, 128))
    assert {k: tuple(v.shape[2:]) for k, v in features.items()} == {
        f"p{i}": (128 // 2**i,) * 2 for i in (3, 4, 5, 6, 7) if i < 6 or "p37" in name
    }


def test_fusion_node_by_node():
    a, b = torch.tensor([1.0, -2.0]), torch.tensor([4.0, 8.0])
    weights = torch.tensor([1.0, 3.0])
    expected = (a + 3 * b) / 4.0001
    for divide_weights in (True, False):
        assert torch.allclose(bifpn_fusion.fuse((a, b), weights, divide_weights), expected)
        negative = bifpn_fusion.fuse((a, b), torch.tensor([-1.0, 1.0]), divide_weights)
        assert torch.allclose(negative, b / 1.0001)
        assert torch.equal(bifpn_fusion.fuse((a, b), -weights, divide_weights), torch.zeros(2))
    assert torch.allclose(bifpn_fusion.swish(a), F.silu(a))


def test_three_levels_written_out():
    torch.manual_seed(0)
    model = neck(bifpn_fcos.BiFPN, num_levels=3, num_bifpn=1, norm="")
    repeat = model.repeated_bifpn[0]
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.rand_like(p) - 0.3)
        image = torch.rand(2, 3, 64, 96)
        out = model(image)
        p3, p4, p5 = model.bottom_up.backbone(image).values()

        def node(name, *inputs):
            w = getattr(repeat, f"weights_{name}").clamp(min=0)
            fused = sum(x * k for x, k in zip(inputs, w, strict=True)) / (w.sum() + 1e-4)
            return getattr(repeat, f"outputs_{name}")(F.silu(fused))

        def up(x):
            return x.repeat_interleave(2, 2).repeat_interleave(2, 3)

        def down(x):
            return F.max_pool2d(x, 3, 2, 1)

        n3 = node("f1_1_2", repeat.lateral_1_f1(p4), up(repeat.lateral_2_f1(p5)))
        n4 = node("f0_0_3", repeat.lateral_0_f0(p3), up(n3))
        n5 = node("f1_1_3_4", repeat.lateral_1_f1(p4), n3, down(n4))
        n6 = node("f2_2_5", repeat.lateral_2_f2(p5), down(n5))
    for name, expected in zip(("p3", "p4", "p5"), (n4, n5, n6), strict=True):
        assert torch.allclose(out[name], expected, rtol=1e-4, atol=1e-5), name


def test_extra_levels_are_pooled_before_the_first_repeat():
    model = neck(num_bifpn=0)
    image = torch.rand(1, 3, 128, 256)
    features, body = model(image), model.bottom_up(image)
    assert torch.equal(features["p5"], body["res5"])
    p6 = F.max_pool2d(model.resample["3"].conv(body["res5"]), 2)
    assert torch.equal(features["p6"], p6)
    assert torch.equal(features["p7"], F.max_pool2d(p6, 2))


@pytest.mark.parametrize("kind", NECKS)
@pytest.mark.parametrize("norm", ["GN", "BN", "SyncBN", ""])
def test_every_parameter_gets_a_gradient(kind, norm):
    torch.manual_seed(0)
    model = neck(kind, norm=norm).train()
    sum(x.square().sum() for x in model(torch.rand(2, 3, 256, 128)).values()).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
    biases = [n for n in model.state_dict() if n.endswith("conv.bias") or "outputs" in n and n.endswith(".bias")]
    assert bool([n for n in biases if "norm" not in n]) == (norm == "")


def test_separable_convolutions():
    keywords = {"num_bifpn": 1, "separable_conv": True}
    keys = neck(**keywords).state_dict()
    prefix = "cell.0.fnode.3.after_combine.conv"
    assert keys[f"{prefix}.conv_dw.weight"].shape == (32, 1, 3, 3)
    assert keys[f"{prefix}.conv_pw.weight"].shape == (32, 32, 1, 1)
    assert {f"{prefix}.bn.weight", f"{prefix}.bn.bias"} <= set(keys)
    assert {f"{prefix}.conv_dw.bias", f"{prefix}.conv_pw.bias"}.isdisjoint(keys)
    assert f"{prefix}.conv_pw.bias" in neck(**keywords, norm="").state_dict()
    features = neck(**keywords)(torch.rand(1, 3, 128, 256))
    assert features["p7"].shape == (1, 32, 1, 2)


def test_half_precision():
    model = neck().eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert all(x.isfinite().all() for x in model(torch.rand(1, 3, 128, 256)).values())


def test_padding_of_the_short_pyramid_can_be_reduced():
    assert build(DLA[1], "MODEL.BIFPN.SIZE_DIVISIBILITY", 32, "MODEL.BIFPN.NUM_BIFPN", 1).size_divisibility == 32
    with pytest.raises(UserError, match="multiple of 128"):
        build(DLA[2], "MODEL.BIFPN.SIZE_DIVISIBILITY", 32, "MODEL.BIFPN.NUM_BIFPN", 1)


@pytest.mark.parametrize("kind", NECKS)
def test_image_size_that_does_not_divide(kind):
    with pytest.raises(UserError, match=r"192x128 image.* multiples of 128 .*pad it to 256x128"):
        neck(kind)(torch.rand(1, 3, 192, 128))
    short = neck(bifpn_fcos.BiFPN, num_levels=3)
    assert short(torch.rand(1, 3, 192, 96))["p5"].shape[2:] == (6, 3)
    with pytest.raises(UserError, match="multiples of 32"):
        short(torch.rand(1, 3, 200, 96))


@pytest.mark.parametrize("kind", NECKS)
@pytest.mark.parametrize(
    ("keywords", "sentence"),
    [
        ({"num_levels": 4}, "joins .*5 levels, 3 of them from its body, and not 4"),
        ({"in_features": ("res3", "p9")}, r"asks for p9, but Pyramid gives res3, res4, res5"),
        ({"in_features": ()}, "names no feature"),
        ({"in_features": ("res5", "res4")}, r"strides \[32, 16\]"),
        ({"norm": "XN"}, "'XN' is no norm"),
        ({"out_channels": 40}, "multiple of 32 channels, not 40"),
        ({"body": torch.nn.Identity()}, "must be a detectron2 Backbone, not Identity"),
    ],
)
def test_what_does_not_fit_is_one_sentence(kind, keywords, sentence):
    with pytest.raises(UserError, match=sentence):
        neck(kind, **keywords)


def test_three_levels_and_numbered_names():
    with pytest.raises(UserError, match="joins 5 levels"):
        neck(bifpn.BiFPN, num_levels=3)
    with pytest.raises(UserError, match="no number to count on from"):
        neck(bifpn_fcos.BiFPN, body=Pyramid(levels=1, names="last"), in_features=("last",), num_levels=5)
    with pytest.raises(UserError, match="NUM_LEVELS is 3; set it to 5"):
        build("build_p37_fcos_dla_bifpn_backbone", "MODEL.BIFPN.NUM_LEVELS", 3)
    body = Pyramid(levels=5)
    whole = neck(bifpn.BiFPN, body=body, in_features=tuple(body.output_shape()))
    assert len(whole.resample) == 0
    assert whole(torch.rand(1, 3, 128, 256))["p7"].shape == (1, 32, 1, 2)


def test_another_multiple_is_for_the_other_neck():
    with pytest.raises(UserError, match="SIZE_DIVISIBILITY is 32: this BiFPN has levels up to stride 128"):
        build("build_resnet_bifpn_backbone", "MODEL.BIFPN.SIZE_DIVISIBILITY", "32")
