"""Which rate and decay each parameter gets."""

from pathlib import Path

import detectron2.solver
import pytest
import torch
from small_run import ROOT, write_config
from torch import nn

from centernet.config_file import load_config
from centernet.engine.optimizer import build_optimizer, check_optimizer
from centernet.errors import UserError
from centernet.modeling.backbone.depth import body_layers, find_body
from centernet.modeling.build import build_detector


@pytest.fixture(scope="module")
def resnet(tmp_path_factory):
    """(config file, model) of a small R18."""
    file = write_config(tmp_path_factory.mktemp("resnet"))
    return file, build_detector(load_config(file))


def settings(model, optimizer):
    """name: (rate, weight decay)."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        names[id(parameter)]: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }


def gradients(model):
    torch.manual_seed(1)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)


@pytest.mark.parametrize(
    "opts",
    [
        (),
        ("SOLVER.CLIP_GRADIENTS.ENABLED", False, "SOLVER.NESTEROV", True),
        ("SOLVER.BIAS_LR_FACTOR", 2.0, "SOLVER.WEIGHT_DECAY_BIAS", 0.0, "SOLVER.WEIGHT_DECAY_NORM", 0.1),
        ("SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "norm"),
    ],
)
def test_sgd_is_detectron2s(resnet, opts):
    file, model = resnet
    cfg = load_config(file, [str(word) for word in opts])
    start = [parameter.detach().clone() for parameter in model.parameters()]
    results, groups = [], []
    for build in (build_optimizer, detectron2.solver.build_optimizer):
        with torch.no_grad():
            for parameter, value in zip(model.parameters(), start, strict=True):
                parameter.copy_(value)
        optimizer = build(cfg, model)
        for _ in range(2):
            gradients(model)
            optimizer.step()
        results.append([parameter.detach().clone() for parameter in model.parameters()])
        kept = ("lr", "weight_decay", "momentum", "nesterov")
        groups.append([({key: g[key] for key in kept}, list(map(id, g["params"]))) for g in optimizer.param_groups])
        assert isinstance(optimizer, torch.optim.SGD)
    assert groups[0] == groups[1]
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_layer_decay_of_a_resnet(resnet):
    file, model = resnet
    cfg = load_config(file, ["SOLVER.LAYER_DECAY", "0.5", "SOLVER.BASE_LR", "1.0"])
    optimizer = build_optimizer(cfg, model)
    found = settings(model, optimizer)
    assert set(found) == {name for name, p in model.named_parameters() if p.requires_grad}
    rate = {name: value[0] for name, value in found.items()}
    body = "backbone.bottom_up."
    # stem, two blocks of res2, two of res3
    assert rate[f"{body}stem.conv1.weight"] == 0.5**5
    assert rate[f"{body}res2.0.conv2.norm.weight"] == 0.5**4
    assert rate[f"{body}res2.1.conv1.weight"] == 0.5**3
    assert rate[f"{body}res3.0.shortcut.weight"] == 0.5**2
    assert rate[f"{body}res3.1.conv2.weight"] == 0.5
    assert {value for name, value in rate.items() if not name.startswith(body)} == {1.0}
    assert optimizer.param_groups[0]["lr"] == 1.0
    decays = {name: value[1] for name, value in found.items()}
    plain = settings(model, build_optimizer(load_config(file), model))
    assert decays == {name: value[1] for name, value in plain.items()}


def test_schedule_scales_all_layers_alike(resnet):
    file, model = resnet
    cfg = load_config(file, ["SOLVER.LAYER_DECAY", "0.5", "SOLVER.WARMUP_ITERS", "0"])
    optimizer = build_optimizer(cfg, model)
    scheduler = detectron2.solver.build_lr_scheduler(cfg, optimizer)
    before = [group["lr"] for group in optimizer.param_groups]
    for _ in range(8):
        optimizer.step()
        scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.1 * rate for rate in before])


@pytest.mark.parametrize("clip", ["value", "norm", "full_model"])
def test_adamw(resnet, clip):
    file, model = resnet
    opts = ["SOLVER.OPTIMIZER", "ADAMW", "SOLVER.WEIGHT_DECAY", "0.05", "SOLVER.WEIGHT_DECAY_BIAS", "0.0"]
    cfg = load_config(file, [*opts, "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", clip])
    optimizer = build_optimizer(cfg, model)
    assert isinstance(optimizer, torch.optim.AdamW)
    assert type(optimizer).__name__ == ("AdamW" if clip == "full_model" else "AdamWWithGradientClip")
    norms = {f"{name}.weight" for name, m in model.named_modules() if isinstance(m, nn.BatchNorm2d | nn.GroupNorm)}
    for name, (rate, decay) in settings(model, optimizer).items():
        assert rate == cfg.SOLVER.BASE_LR
        assert decay == (0.0 if name in norms or name.endswith(".bias") else 0.05), name


def test_parameters_of_the_body_that_do_not_decay():
    """Swin's position biases and ConvNeXt's layer scales, on the smallest such networks."""
    pytest.importorskip("timm")
    swin, convnext = (timm_model(name) for name in ("swin_tiny_patch4_window7_224", "convnext_atto"))
    for model in (swin, convnext):
        cfg = load_config("", ["SOLVER.OPTIMIZER", "ADAMW", "SOLVER.WEIGHT_DECAY", "0.05", "SOLVER.LAYER_DECAY", "0.9"])
        found = settings(model, build_optimizer(cfg, model))
        assert len(found) == len(list(model.parameters()))
        kinds = nn.Linear | nn.Conv2d
        weights = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, kinds)}
        biases = {name for name in found if name.endswith(".bias")}
        assert {name for name, (_, decay) in found.items() if decay == 0.05} >= weights
        assert {decay for name, (_, decay) in found.items() if name not in weights | biases} == {0.0}
    layers = body_layers(convnext)
    assert layers.number == 13  # stem and 2 + 2 + 6 + 2 blocks
    assert layers.of["backbone.body.stem_0.weight"] == layers.of["backbone.body.stem_1.bias"] == 0
    assert layers.of["backbone.body.stages_0.blocks.1.conv_dw.weight"] == 2
    assert layers.of["backbone.body.stages_3.blocks.1.mlp.fc1.weight"] == 12
    layers = body_layers(swin)
    assert layers.number == 13
    assert layers.of["backbone.body.patch_embed.proj.weight"] == 0
    assert layers.of["backbone.body.layers_3.blocks.1.mlp.fc1.weight"] == 12


def timm_model(name):
    from centernet.modeling.backbone.timm_body import TimmBody

    state = torch.random.get_rng_state()
    model = nn.Module()
    model.backbone = TimmBody(name, (8, 16, 32))
    torch.random.set_rng_state(state)
    return model


@pytest.mark.parametrize("name, number", [("resnet10t", 5), ("mobilenetv2_035", 18), ("pvt_v2_b0", 5)])
def test_layers_as_timm_counts_them(name, number):
    pytest.importorskip("timm")
    model = timm_model(name)
    before = torch.random.get_rng_state()
    layers = body_layers(model)
    assert torch.equal(torch.random.get_rng_state(), before)  # nothing is drawn
    assert layers.number == number
    assert set(layers.of) == {key for key, _ in model.named_parameters()}
    assert sorted(set(layers.of.values())) == list(range(number))
    order = [layers.of[key] for key, _ in model.backbone.body.named_parameters(prefix="backbone.body")]
    assert order == sorted(order)


def test_bodies_without_known_layers():
    file = Path(ROOT) / "configs" / "CenterNet-S4_DLA_8x.yaml"
    cfg = load_config(file, ["MODEL.DEVICE", "cpu"])
    model = build_detector(cfg)
    assert find_body(model)[0] == "backbone.base"
    cfg.SOLVER.OPTIMIZER = "ADAMW"
    build_optimizer(cfg, model)
    cfg.SOLVER.LAYER_DECAY = 0.9
    with pytest.raises(UserError, match="the layers of build_dla_backbone are not known: .* set it to 1"):
        build_optimizer(cfg, model)


def test_frozen_parameters_are_not_optimised(resnet):
    file, _ = resnet
    cfg = load_config(file, ["MODEL.BACKBONE.FREEZE_AT", "2", "SOLVER.LAYER_DECAY", "0.5", "SOLVER.OPTIMIZER", "ADAMW"])
    model = build_detector(cfg)
    found = settings(model, build_optimizer(cfg, model))
    assert set(found) == {name for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize(
    "opts, sentence",
    [
        (("SOLVER.OPTIMIZER", "Adam"), "SOLVER.OPTIMIZER is 'Adam': use one of SGD, ADAMW"),
        (("SOLVER.LAYER_DECAY", "0.0"), "SOLVER.LAYER_DECAY is 0.0"),
        (("SOLVER.LAYER_DECAY", "1.1"), "SOLVER.LAYER_DECAY is 1.1"),
    ],
)
def test_refuses(opts, sentence):
    check_optimizer(load_config(""))
    with pytest.raises(UserError, match=sentence):
        check_optimizer(load_config("", list(opts)))


@pytest.mark.parametrize("name", ["ConvNeXt-T", "Swin-T"])
def test_published_rates(name):
    cfg = load_config(Path(ROOT) / "configs" / "timm" / f"CenterNet2_{name}_FPN_1x.yaml")
    check_optimizer(cfg)
    node = cfg.SOLVER
    assert (node.OPTIMIZER, node.BASE_LR, node.WEIGHT_DECAY, node.IMS_PER_BATCH) == ("ADAMW", 1e-4, 0.05, 16)
    assert node.WEIGHT_DECAY_NORM == 0
