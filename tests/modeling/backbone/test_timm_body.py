"""Networks of timm as bodies: maps, strides, layouts, freezing, and what cannot be one."""

import sys

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone
from torch import nn

from centernet.config_file import load_config
from centernet.errors import UserError
from centernet.modeling.backbone.timm_body import TimmBody

timm = pytest.importorskip("timm")

# name, channels at strides 8, 16 and 32: convolutions, flattened containers, channels last, hooks of another class
NETWORKS = [
    ("mobilenetv2_100", (32, 96, 320)),
    ("tf_efficientnet_lite0", (40, 112, 320)),
    ("mobilenetv4_conv_small", (64, 96, 960)),
    ("resnet18", (128, 256, 512)),
    ("convnext_atto", (80, 160, 320)),
    ("mambaout_femto", (96, 192, 288)),  # channels last
    ("pvt_v2_b0", (64, 160, 256)),
    pytest.param("vgg11", (512, 512, 512), marks=pytest.mark.slow),  # has features of stride 1
    pytest.param("mvitv2_tiny", (192, 384, 768), marks=pytest.mark.slow),  # FeatureGetterNet
    ("hrnet_w18_small", (256, 512, 1024)),
]


@pytest.mark.parametrize("name, channels", NETWORKS)
def test_maps_have_the_promised_shapes(name, channels):
    check_shapes(TimmBody(name).eval(), channels)


def check_shapes(body, channels, sizes=((64, 96), (160, 64))):
    shapes = body.output_shape()
    assert {k: (s.channels, s.stride) for k, s in shapes.items()} == {
        f"stage{i}": (c, 2**i) for i, c in enumerate(channels, start=3)
    }
    assert body.size_divisibility == 32
    for height, width in sizes:
        with torch.no_grad():
            maps = body(torch.randn(2, 3, height, width))
        assert {k: tuple(x.shape) for k, x in maps.items()} == {
            k: (2, s.channels, height // s.stride, width // s.stride) for k, s in shapes.items()
        }


def test_swin_takes_any_size_and_shifts_windows_in_the_last_stage_too():
    body = TimmBody("swin_tiny_patch4_window7_224", out_norm="LN").eval()
    check_shapes(body, (192, 384, 768))
    blocks = [m for m in body.modules() if type(m).__name__ == "SwinTransformerBlock"]
    assert [tuple(b.shift_size) for b in blocks] == [(0, 0), (3, 3)] * 6
    assert all(tuple(b.window_size) == (7, 7) for b in blocks)
    # at the size of classification, where timm's own network runs too, all but the last shift are the same
    plain = timm.create_model("swin_tiny_patch4_window7_224", features_only=True).eval()
    plain.load_state_dict(body.body.state_dict())
    image = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        expected = plain(image)[2].permute(0, 3, 1, 2)
        found = TimmBody.forward(body, image)["stage4"]
        normed = nn.functional.layer_norm(expected.permute(0, 2, 3, 1), (384,)).permute(0, 3, 1, 2)
    torch.testing.assert_close(found, normed, atol=1e-4, rtol=1e-4)


def test_values_are_those_of_timm():
    body = TimmBody("convnext_atto").eval()
    plain = timm.create_model("convnext_atto", features_only=True).eval()
    plain.load_state_dict(body.body.state_dict())
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        for found, expected in zip(body(image).values(), plain(image)[1:], strict=True):
            assert torch.equal(found, expected)


# ------------------------------------------------------------------------------------------------------ freezing


def trained(body):
    return {name.removeprefix("body.") for name, p in body.named_parameters() if p.requires_grad}


@pytest.mark.parametrize(
    "name, freeze_at, last_constant, first_trained",
    [
        ("mobilenetv2_100", 1, "blocks.0.0.conv_pw.weight", "blocks.1.0.conv_pw.weight"),
        ("mobilenetv2_100", 2, "blocks.1.1.conv_pwl.weight", "blocks.2.0.conv_pw.weight"),
        ("mobilenetv2_100", 4, "blocks.4.2.conv_pwl.weight", "blocks.5.0.conv_pw.weight"),
        ("resnet18", 1, "conv1.weight", "layer1.0.conv1.weight"),
        ("convnext_atto", 1, "stem_1.weight", "stages_0.blocks.0.gamma"),
        ("convnext_atto", 2, "stages_0.blocks.1.mlp.fc2.bias", "stages_1.downsample.0.weight"),
    ],
)
def test_freeze_at(name, freeze_at, last_constant, first_trained):
    order = [key for key, _ in TimmBody(name).body.named_parameters()]
    body = TimmBody(name, freeze_at=freeze_at)
    assert last_constant not in trained(body)
    assert {key for key in order if order.index(key) >= order.index(first_trained)} == trained(body)
    frozen = sum(isinstance(m, nn.BatchNorm2d) for m in TimmBody(name).modules()) - sum(
        isinstance(m, nn.BatchNorm2d) for m in body.modules()
    )
    constant = [key for key in order if key not in trained(body)]
    norms = TimmBody(name).body.state_dict()
    assert frozen == sum(key.replace("running_mean", "weight") in constant for key in norms if "running_mean" in key)


def test_frozen_at_0_trains_everything():
    body = TimmBody("mobilenetv2_100")
    assert len(trained(body)) == len(list(body.parameters()))


@pytest.mark.parametrize("options", [{"norm": "FrozenBN"}, {"freeze_at": 5}], ids=str)
def test_constant_batch_norms_compute_the_same_and_keep_the_activation(options):
    torch.manual_seed(0)
    plain, constant = TimmBody("mobilenetv2_100"), TimmBody("mobilenetv2_100", **options)
    state = {
        key: torch.rand_like(value) + 0.5 if key.endswith(("running_var", "running_mean")) else value
        for key, value in plain.state_dict().items()
    }
    plain.load_state_dict(state)
    result = constant.load_state_dict(state)
    assert not result.missing_keys
    assert not result.unexpected_keys
    image = torch.randn(2, 3, 64, 64)
    plain.eval()
    constant.train()
    with torch.no_grad():
        expected, found = plain(image), constant(image)
    for key in expected:
        torch.testing.assert_close(found[key], expected[key], atol=1e-4, rtol=1e-4)
    after = constant.state_dict()
    assert all(torch.equal(after[key], state[key]) for key in after)  # training mode changed no statistics
    assert not [m for m in constant.modules() if isinstance(m, nn.BatchNorm2d)]


def test_drop_path_reaches_the_network():
    rates = [m.drop_prob for m in TimmBody("convnext_atto", drop_path=0.3).modules() if type(m).__name__ == "DropPath"]
    assert max(rates) == pytest.approx(0.3)
    swin = TimmBody("swin_tiny_patch4_window7_224")  # timm's own default for Swin is 0.1
    assert not [m for m in swin.modules() if type(m).__name__ == "DropPath"]


def test_batch_norms_untouched_by_construction():
    fresh = timm.create_model("mobilenetv2_100", features_only=True)
    body = TimmBody("mobilenetv2_100")
    assert body.training
    for key, value in fresh.state_dict().items():
        if "running" in key or "num_batches" in key:
            assert torch.equal(body.body.state_dict()[key], value)


# ------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"name": "convnet_tiny"}, ("convnext_tiny", "did you mean")),
        ({"name": ""}, ("no model ''",)),
        ({"name": "hf-hub:timm/resnet18.a1_in1k"}, ("no model",)),
        ({"name": "resnet18.nope"}, ("nope",)),
        ({"name": "vit_tiny_patch16_224"}, ("stride 16", "none of 8, 32")),
        ({"name": "levit_128s"}, ("16, 32, 64", "none of 8")),
        ({"name": "maxvit_rmlp_pico_rw_256"}, ("cannot take images of any size",)),
        ({"name": "inception_v3"}, ("stride 8", "(288, 12, 20)")),
        ({"name": "vgg11", "drop_path": 0.1}, ("DROP_PATH", "set 0")),
        ({"name": "resnet18", "norm": "GN"}, ("NORM", "FrozenBN")),
        ({"name": "resnet18", "out_norm": "GN"}, ("OUT_NORM", "LN")),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_what_cannot_be_a_body_is_one_sentence(arguments, words):
    with pytest.raises(UserError) as caught:
        TimmBody(**arguments)
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert "\n" not in message


def test_without_timm_the_sentence_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match=r"pip install centernet2-detectron2\[timm\]"):
        TimmBody("resnet18")


# ----------------------------------------------------------------------------------------------------- builders


def config(builder, *overrides):
    return load_config(
        "", ["MODEL.BACKBONE.NAME", builder, "MODEL.TIMM.NAME", "mobilenetv2_100", "MODEL.DEVICE", "cpu", *overrides]
    )


@pytest.mark.parametrize(
    "builder, overrides",
    [
        ("build_timm_fpn_backbone", ["MODEL.FPN.OUT_CHANNELS", "32"]),
        ("build_timm_bifpn_backbone", ["MODEL.BIFPN.OUT_CHANNELS", "32", "MODEL.BIFPN.NUM_BIFPN", "2"]),
    ],
)
def test_pyramids(builder, overrides):
    backbone = build_backbone(config(builder, *overrides), ShapeSpec(channels=3)).eval()
    with torch.no_grad():
        maps = backbone(torch.randn(1, 3, 128, 256))
    assert {k: tuple(x.shape[1:]) for k, x in maps.items()} == {
        f"p{i}": (32, 128 // 2**i, 256 // 2**i) for i in range(3, 8)
    }
    assert {k: s.stride for k, s in backbone.output_shape().items()} == {f"p{i}": 2**i for i in range(3, 8)}
    assert any(key.startswith("bottom_up.body.conv_stem.") for key in backbone.state_dict())


def test_a_pyramid_can_start_at_stride_4():
    cfg = config("build_timm_fpn_backbone", "MODEL.TIMM.OUT_STRIDES", "[4, 8, 16, 32]", "MODEL.FPN.OUT_CHANNELS", "16")
    assert list(build_backbone(cfg, ShapeSpec(channels=3)).output_shape()) == ["p2", "p3", "p4", "p5", "p6", "p7"]


@pytest.mark.parametrize("strides", ["[]", "[8, 16]", "[8, 32]", "[32, 16, 8]", "[16, 32, 64]"])
def test_strides_that_make_no_pyramid(strides):
    with pytest.raises(UserError, match="OUT_STRIDES"):
        build_backbone(config("build_timm_fpn_backbone", "MODEL.TIMM.OUT_STRIDES", strides), ShapeSpec(channels=3))


def test_images_of_another_number_of_channels():
    backbone = build_backbone(config("build_timm_fpn_backbone"), ShapeSpec(channels=1))
    assert backbone.bottom_up.body.conv_stem.weight.shape[1] == 1
