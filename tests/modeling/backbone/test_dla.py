"""The DLA body and its builders: sizes, dead parts, norms, refusals. (Numbers: tests/golden.)"""

import math
import os

import pytest
import torch
import torch.distributed as dist
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from torch.nn.parallel import DistributedDataParallel

import centernet.modeling  # noqa: F401  registers the builders
from centernet.config import add_centernet_config
from centernet.errors import UserError
from centernet.modeling.backbone.dla import DLA, build_dla_body

LEVELS = ["dla3", "dla4", "dla5"]
MULTI = ["MODEL.DLA.MS_OUTPUT", True, "MODEL.DLA.OUT_FEATURES", LEVELS]
DEAD = {f"level{i}.project.{rest}" for i in (3, 4) for rest in ("0.weight", "1.weight", "1.bias")}


def make_cfg(*options):
    cfg = get_cfg()
    add_centernet_config(cfg)
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.FPN.IN_FEATURES", LEVELS, *options])
    return cfg


def build(name, *options):
    torch.manual_seed(0)
    return BACKBONE_REGISTRY.get(name)(make_cfg(*options), ShapeSpec(channels=3))


def keys(module, condition):
    return {name for name, parameter in module.named_parameters() if condition(parameter)}


@pytest.mark.parametrize(
    ("name", "options", "parameters", "entries", "outputs"),
    [
        ("build_dla_backbone", [], 19_724_168, 388, {"dla2": (64, 4)}),
        ("build_dla_backbone", ["MODEL.DLA.NUM_LAYERS", 60], 36_776_136, 550, {"dla2": (128, 4)}),
        ("build_retinanet_dla_fpn_backbone", MULTI, 23_069_212, 366, {f"p{i}": (256, 2**i) for i in range(3, 8)}),
        ("build_dla_fpn3_backbone", [], 17_271_216, 246, {f"p{i}": (256, 2**i) for i in range(3, 6)}),
        ("build_dla_fpn5_backbone", [], 19_041_200, 250, {f"p{i}": (256, 2**i) for i in range(3, 8)}),
        ("build_dlaup_backbone", [], 15_575_984, 273, {f"dlaup{i}": (16 * 2**i, 2**i) for i in range(3, 6)}),
        (
            "build_dlaup_backbone",
            ["MODEL.DLA.DLAUP_NODE", "dcn"],
            18_309_714,
            291,
            {f"dlaup{i}": (16 * 2**i, 2**i) for i in range(3, 6)},
        ),
    ],
)
def test_builders_have_the_published_sizes(name, options, parameters, entries, outputs):
    backbone = build(name, *options)
    assert sum(p.numel() for p in backbone.parameters()) == parameters
    assert len(backbone.state_dict()) == entries
    assert backbone.size_divisibility == 32
    assert {k: (s.channels, s.stride) for k, s in backbone.output_shape().items()} == outputs
    with torch.no_grad():
        found = backbone.eval()(torch.randn(1, 3, 32, 64))
    assert {k: tuple(v.shape[1:]) for k, v in found.items()} == {
        k: (channels, math.ceil(32 / stride), math.ceil(64 / stride)) for k, (channels, stride) in outputs.items()
    }


def test_levels_of_the_body_without_the_up_sampling_path():
    backbone = build("build_dla_backbone", *MULTI, "MODEL.DLA.USE_DLA_UP", False)
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        found, body = backbone.eval()(x), backbone.base(x)
    assert list(found) == LEVELS
    assert all(torch.equal(found[name], body[name]) for name in LEVELS)


def test_outputs_of_the_up_sampling_path():
    both = ["MODEL.DLA.MS_OUTPUT", True, "MODEL.DLA.OUT_FEATURES"]
    all_levels, coarse = (build("build_dla_backbone", *both, x).eval() for x in (["dla2", *LEVELS], ["dla5", "dla4"]))
    coarse.load_state_dict(all_levels.state_dict())
    x = torch.randn(1, 3, 64, 32)
    with torch.no_grad():
        found, wanted = coarse(x), all_levels(x)
    assert list(found) == ["dla5", "dla4"]
    assert [(tuple(v.shape[1:])) for v in wanted.values()] == [(64, 16, 8), (128, 8, 4), (256, 4, 2), (512, 2, 1)]
    assert all(torch.equal(found[name], wanted[name]) for name in found)
    # the steps that only finer levels need have no gradient to wait for
    assert not keys(coarse.dla_up.ida_1, lambda p: p.requires_grad)
    assert keys(coarse.dla_up.ida_0, lambda p: p.requires_grad)


def test_body_strides_channels_and_roots():
    body = DLA(34, "BN", [f"dla{i}" for i in range(6)])
    with torch.no_grad():
        found = body.eval()(torch.randn(1, 3, 64, 32))
    assert [tuple(x.shape[1:]) for x in found.values()] == [(16 * 2**i, 64 // 2**i, 32 // 2**i) for i in range(6)]
    assert body.level3.tree2.root.conv.in_channels == 128 + 128 + 64 + 128
    # deepest tree of DLA-60: two blocks, the level's input, and the outputs of two trees before
    assert DLA(60).level4.tree2.tree2.root.conv.in_channels == 2 * 512 + 256 + 2 * 512


def test_initial_weights_follow_the_fan_out():
    body = DLA(34)
    for conv in (body.level5.tree2.conv1, body.level4.tree2.root.conv, body.level3.tree1.project[0]):
        fan_out = conv.out_channels * conv.kernel_size[0] ** 2
        assert float(conv.weight.detach().std()) == pytest.approx(math.sqrt(2 / fan_out), rel=0.05)
        assert float(conv.weight.detach().mean().abs()) < 0.01


def test_dead_projections_are_not_computed_and_get_a_zero_gradient():
    body = DLA(34).train()
    x = torch.randn(2, 3, 64, 64)
    outputs = body(x)
    with torch.no_grad():
        for name, parameter in body.named_parameters():
            if name in DEAD:
                parameter.fill_(math.inf)  # times zero this would be NaN
    again = body(x)
    assert all(torch.equal(outputs[name], again[name]) for name in LEVELS)
    sum(v.sum() for v in again.values()).backward()
    assert keys(body, lambda p: p.grad is None) == set()
    assert keys(body, lambda p: not p.grad.any()) == DEAD


def test_stride_4_backbone_does_not_train_what_is_dead():
    backbone = build("build_dla_backbone").train()
    backbone(torch.randn(2, 3, 64, 64))["dla2"].square().sum().backward()
    frozen = {f"base.{name}" for name in DEAD} | {"base.fc.weight", "base.fc.bias"}
    assert keys(backbone, lambda p: not p.requires_grad) == frozen
    assert keys(backbone, lambda p: p.grad is None) == frozen


def test_levels_above_the_last_one_asked_for():
    body = DLA(34, "BN", ["dla2", "dla3"])
    with torch.no_grad():
        body.level4.tree1.tree1.conv1.weight.fill_(math.nan)
    outputs = body(torch.randn(2, 3, 32, 32))
    assert list(outputs) == ["dla2", "dla3"]
    assert all(v.isfinite().all() for v in outputs.values())
    assert body.state_dict().keys() == DLA(34).state_dict().keys()
    assert {k.split(".")[0] for k in keys(body, lambda p: not p.requires_grad)} == {"level4", "level5"}


def test_synchronised_norm_on_a_cpu():
    plain = build_dla_body(make_cfg("MODEL.DLA.NORM", "BN"))
    synchronised = build_dla_body(make_cfg("MODEL.DLA.NORM", "SyncBN"))
    synchronised.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 64, 64)
    for mode in (True, False):
        found, wanted = synchronised.train(mode)(x), plain.train(mode)(x)
        assert all(torch.allclose(found[name], wanted[name], atol=1e-5) for name in LEVELS)
    assert torch.equal(synchronised.level5.root.bn.running_mean, plain.level5.root.bn.running_mean)


def _two_distributed_steps(name, rank):
    model = DistributedDataParallel(build(name, "MODEL.DLA.NORM", "SyncBN").train())
    for step in range(2):  # the second step fails if the first one left a gradient out
        torch.manual_seed(10 * step + rank)
        sum(v.mean() for v in model(torch.randn(2, 3, 64, 64)).values()).backward()
    return model.module.state_dict()


BUILDERS = ("build_dla_fpn3_backbone", "build_dla_backbone")


@pytest.mark.parametrize("name", BUILDERS)
def test_distributed_training_waits_for_no_dead_gradient(name, tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        _two_distributed_steps(name, 0)
    finally:
        dist.destroy_process_group()


def _worker(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    statistics = "level5.root.bn.running_var"
    states = {name: _two_distributed_steps(name, rank) for name in BUILDERS}
    results = {name: next(v for k, v in state.items() if k.endswith(statistics)) for name, state in states.items()}
    torch.save(results, os.path.join(folder, f"{rank}.pt"))
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_share_statistics(tmp_path):
    torch.multiprocessing.spawn(_worker, (str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for name in first:
        assert torch.allclose(first[name], second[name])  # of different images
        assert not torch.allclose(first[name], torch.ones_like(first[name]))


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("build_dla_backbone", ["MODEL.DLA.USE_DLA_UP", False], "MS_OUTPUT"),
        ("build_dla_backbone", ["MODEL.DLA.OUT_FEATURES", ["dla3"]], "MS_OUTPUT"),
        ("build_dla_backbone", ["MODEL.DLA.MS_OUTPUT", True, "MODEL.DLA.OUT_FEATURES", ["dla1"]], "OUT_FEATURES"),
        ("build_dla_backbone", ["MODEL.DLA.MS_OUTPUT", True, "MODEL.DLA.OUT_FEATURES", []], "OUT_FEATURES"),
        ("build_dla_backbone", [*MULTI[:3], ["dla9"], "MODEL.DLA.USE_DLA_UP", False], "dla9"),
        ("build_dla_fpn3_backbone", ["MODEL.DLA.NUM_LAYERS", 46], "NUM_LAYERS is 46"),
        ("build_dla_fpn3_backbone", ["MODEL.DLA.NORM", ""], "MODEL.DLA.NORM"),
        ("build_dla_fpn3_backbone", ["MODEL.DLA.NORM", "Bn"], "MODEL.DLA.NORM"),
        ("build_dla_fpn3_backbone", ["MODEL.DLA.NORM", "GN"], "MODEL.DLA.NORM"),
        ("build_dla_fpn3_backbone", ["MODEL.FPN.IN_FEATURES", []], "FPN.IN_FEATURES"),
        ("build_dla_fpn3_backbone", ["MODEL.FPN.IN_FEATURES", ["res3"]], "FPN.IN_FEATURES"),
        ("build_dla_fpn5_backbone", ["MODEL.FPN.IN_FEATURES", ["dla3", "dla4"]], "'dla5'"),
        ("build_retinanet_dla_fpn_backbone", [], "the body gives"),
        ("build_dlaup_backbone", ["MODEL.DLA.DLAUP_NODE", "dcnv2"], "DLAUP_NODE"),
        ("build_dlaup_backbone", ["MODEL.DLA.DLAUP_IN_FEATURES", ["dla3", "dla5"]], "DLAUP_IN_FEATURES"),
        ("build_dlaup_backbone", ["MODEL.DLA.DLAUP_IN_FEATURES", ["dla5"]], "DLAUP_IN_FEATURES"),
    ],
)
def test_what_cannot_be_built_is_one_sentence(name, options, words):
    with pytest.raises(UserError, match=words) as caught:
        build(name, *options)
    assert "\n" not in str(caught.value)
