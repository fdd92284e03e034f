"""The options of the model, from a config to a run."""

import pytest
import torch
from children import run_child
from small_run import write_config

from centernet.config_file import load_config, resolve_output_dir
from centernet.engine import check_run, train
from centernet.engine.preparation import check_preparation, prepare_for_training
from centernet.errors import UserError
from centernet.modeling.build import build_detector

BASE = ["DATASETS.TEST", "()", "SEED", "7", "SOLVER.TRAIN_ITER", "3"]


def trained(folder, *opts):
    """Losses by iteration, weights and log of a run."""
    config = write_config(folder)
    assert run_child([str(config), *BASE, *opts], losses=folder / "losses") == 0
    rows = [line.partition(" ")[2] for line in (folder / "losses").read_text().splitlines()]
    output = folder / "output" / "small"
    state = torch.load(output / "model_final.pth", weights_only=True)["model"]
    return [[float.fromhex(x.strip("'[] ")) for x in row.split(",")] for row in rows], state, output / "log.txt"


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("plain"))


def test_frozen_and_recomputed_run(tmp_path):
    options = ["MODEL.FREEZE", "['backbone.bottom_up.stem', 'backbone.bottom_up.res2']"]
    config = write_config(tmp_path)
    cfg = load_config(config, [*BASE, *options, "MODEL.ACTIVATION_CHECKPOINTING", "True"])
    resolve_output_dir(cfg, config)
    train(cfg)
    output = tmp_path / "output" / "small"
    state = torch.load(output / "model_final.pth", weights_only=True)["model"]
    log = output / "log.txt"
    body = "backbone.bottom_up"
    assert torch.equal(state[f"{body}.stem.conv1.norm.running_mean"], torch.zeros(64))
    assert not torch.equal(state[f"{body}.res3.0.conv1.norm.running_mean"], torch.zeros(128))
    assert state[f"{body}.res3.0.conv1.norm.num_batches_tracked"] == 3
    assert "for less memory: backbone.bottom_up.res3\n" in log.read_text()
    assert "MODEL.FREEZE: 15 of " in log.read_text()


@pytest.mark.slow
def test_recomputed_run_is_exact(plain, tmp_path):
    rows, state, _ = trained(tmp_path, "MODEL.ACTIVATION_CHECKPOINTING", "True")
    assert rows == plain[0]
    assert all(torch.equal(value, plain[1][name]) for name, value in state.items())


@pytest.mark.slow
def test_channels_last_run_is_close(plain, tmp_path):
    rows, state, _ = trained(tmp_path, "MODEL.CHANNELS_LAST", "True")
    assert state.keys() == plain[1].keys()
    for one, other in zip(rows, plain[0], strict=True):
        assert one == pytest.approx(other, rel=1e-3)


def test_channels_last_reaches_weights_and_images(tmp_path):
    cfg = load_config(write_config(tmp_path), ["MODEL.CHANNELS_LAST", "True"])
    model = build_detector(cfg)
    assert prepare_for_training(cfg, model) is None
    weight = model.backbone.bottom_up.stem.conv1.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert not weight.is_contiguous()
    seen = []
    model.backbone.bottom_up.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model.backbone(torch.zeros(1, 3, 32, 64))
    assert seen[0].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    "opts, sentence",
    [
        (("MODEL.COMPILE.ENABLED", True, "MODEL.ACTIVATION_CHECKPOINTING", True), "do not go together"),
        (("MODEL.COMPILE.ENABLED", True, "MODEL.COMPILE.CANVASES", "[[0, 1]]"), "MODEL.COMPILE.CANVASES is"),
        (("MODEL.FREEZE", "['(']"), "is not a regular expression"),
        (("SOLVER.OPTIMIZER", "LAMB"), "SOLVER.OPTIMIZER is 'LAMB'"),
        (("SOLVER.EMA.ENABLED", True, "SOLVER.EMA.DECAY", 2.0), "SOLVER.EMA.DECAY is 2.0"),
        (("SOLVER.REFERENCE_WORLD_SIZE", 3), "SOLVER.REFERENCE_WORLD_SIZE is 3"),
    ],
)
def test_refused_before_a_model_is_built(small, opts, sentence):
    cfg = load_config(small, [str(word) for word in opts])
    with pytest.raises(UserError) as error:
        check_run(cfg)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_defaults_change_nothing(small):
    cfg = load_config(small)
    check_preparation(cfg)
    model = build_detector(cfg)
    before = [(name, type(module), module.forward.__func__) for name, module in model.named_modules()]
    assert prepare_for_training(cfg, model) is None
    assert [(name, type(module), module.forward.__func__) for name, module in model.named_modules()] == before
    assert not model.backbone._forward_pre_hooks


@pytest.mark.slow
def test_compiled_run(plain, tmp_path, monkeypatch):
    """Canvases that hold some batches and not others; the checkpoint has the plain names."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    opts = ["MODEL.COMPILE.ENABLED", "True", "MODEL.COMPILE.CANVASES", "[[40, 56]]"]
    rows, state, log = trained(tmp_path, *opts)
    assert state.keys() == plain[1].keys()
    assert len(rows) == 3
    assert "batches ran compiled" in log.read_text()
