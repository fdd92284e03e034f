"""The two BiFPNs of the published DLA models, told apart by the keys of the checkpoint."""

import logging
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_backbone
from published_files import Detector, write_safetensors, write_torch

import centernet  # noqa: F401  registers the backbones
from centernet.config_file import load_config
from centernet.engine import TrainingCheckpointer, evaluate, train
from centernet.errors import UserError
from centernet.inference import Predictor
from centernet.inference.weights import load_weights
from centernet.modeling.build import build_detector
from centernet.weights import follow_weights

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "CenterNet2_DLA-BiFPN-P5_640_24x_ST.yaml"
FCOS, PLAIN = "build_p37_fcos_dla_bifpn_backbone", "build_p37_dla_bifpn_backbone"
KEYS = {FCOS: "backbone.repeated_bifpn.", PLAIN: "backbone.cell."}


def config(builder: str, *, follow: bool) -> CfgNode:
    words = ("MODEL.BIFPN.NUM_BIFPN", "1", "MODEL.BIFPN.OUT_CHANNELS", "32", "MODEL.DEVICE", "cpu")
    return load_config(CONFIG, [*words, "MODEL.BACKBONE.NAME", builder, "MODEL.BIFPN.FROM_WEIGHTS", str(follow)])


@pytest.mark.parametrize("of_file", [FCOS, PLAIN])
@pytest.mark.parametrize("of_config", [FCOS, PLAIN])
def test_the_keys_decide(tmp_path: Path, of_file: str, of_config: str, caplog: pytest.LogCaptureFixture) -> None:
    there = Detector(build_backbone(config(of_file, follow=False)))
    assert any(name.startswith(KEYS[of_file]) for name in there.state_dict())
    file = str(write_torch(tmp_path / "a.pth", {"model": there.state_dict()}))
    cfg = config(of_config, follow=True)
    cfg.freeze()
    with caplog.at_level(logging.INFO):
        followed = follow_weights(cfg, file)
    assert f"{KEYS[of_file]}*" in caplog.text
    assert f"MODEL.BACKBONE.NAME is {of_file}" in caplog.text
    assert (of_file, of_config) == (followed.MODEL.BACKBONE.NAME, cfg.MODEL.BACKBONE.NAME)
    assert followed.is_frozen()
    model = Detector(build_backbone(followed))
    load_weights(model, file)
    assert torch.equal(model.head.weight, there.head.weight)


@pytest.mark.parametrize("of_file, of_config", [(FCOS, PLAIN), (PLAIN, FCOS)])
def test_without_the_switch_the_other_one_is_said(tmp_path: Path, of_file: str, of_config: str) -> None:
    there = Detector(build_backbone(config(of_file, follow=False)))
    file = str(write_torch(tmp_path / "a.pth", there.state_dict()))
    cfg = config(of_config, follow=False)
    assert follow_weights(cfg, file) is cfg
    model = Detector(build_backbone(cfg))
    name = {FCOS: "FCOS-style BiFPN", PLAIN: "BiFPN"}[of_file]
    for load in (lambda: load_weights(model, file, strict=False), lambda: TrainingCheckpointer(model).load(file)):
        with pytest.raises(UserError, match=rf"these weights are of the {name} \({KEYS[of_file]}\*\).*configs/\S+ST"):
            load()


@pytest.fixture(scope="module")
def detector_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A whole checkpoint of a small FCOS-style BiFPN model, of iteration 41."""
    model = build_detector(small(FCOS, follow=False))
    content = {"model": model.state_dict(), "iteration": 41}
    return str(write_torch(tmp_path_factory.mktemp("detector") / "a.pth", content))


def small(builder: str, *, follow: bool, weights: str = "") -> CfgNode:
    cfg = config(builder, follow=follow)
    cfg.MODEL.WEIGHTS, cfg.MODEL.ROI_BOX_HEAD.FC_DIM, cfg.SOLVER.MAX_ITER = weights, 8, 42
    return cfg


def test_predictor_and_demo(detector_file: str) -> None:
    predictor = Predictor(small(PLAIN, follow=True, weights=detector_file))
    assert predictor.cfg.MODEL.BACKBONE.NAME == FCOS
    with pytest.raises(UserError, match="these weights are of the FCOS-style BiFPN"):
        Predictor(small(PLAIN, follow=False, weights=detector_file))


def test_training(detector_file: str, tmp_path: Path) -> None:
    """The weights fit, so that what is refused is their iteration."""
    cfg = small(PLAIN, follow=True, weights=detector_file)
    cfg.OUTPUT_DIR = str(tmp_path)
    with pytest.raises(UserError, match="MODEL.WEIGHTS is of iteration 41 and training ends at 42"):
        train(cfg)
    cfg.MODEL.BIFPN.FROM_WEIGHTS = False
    with pytest.raises(UserError, match="these weights are of the FCOS-style BiFPN"):
        train(cfg)


@pytest.mark.parametrize("resume", [False, True])
def test_evaluation(detector_file: str, tmp_path: Path, resume: bool) -> None:
    """Of MODEL.WEIGHTS or of the run's last checkpoint: one entry is taken out, so that this is what is refused."""
    content = torch.load(detector_file)
    del content["model"]["roi_heads.box_head.0.fc1.weight"]
    file = write_torch(tmp_path / "b.pth", content)
    cfg = small(PLAIN, follow=True, weights="" if resume else str(file))
    cfg.OUTPUT_DIR = str(tmp_path)
    if resume:
        (tmp_path / "last_checkpoint").write_text("b.pth")
    with pytest.raises(UserError, match=r"1 of the model's \d+ entries missing \(such as \S+\.0\.fc1\.weight"):
        evaluate(cfg, resume=resume)


def test_resnets_have_both_necks_too(tmp_path: Path) -> None:
    file = str(write_safetensors(tmp_path / "a.safetensors", {"backbone.cell.0.x": torch.zeros(1)}))
    below = str(write_safetensors(tmp_path / "b.safetensors", {"model.backbone.cell.0.x": torch.zeros(1)}))
    assert follow_weights(config(FCOS, follow=True), below).MODEL.BACKBONE.NAME == PLAIN
    for name, expected in (
        ("build_fcos_resnet_bifpn_backbone", "build_resnet_bifpn_backbone"),
        ("build_resnet_bifpn_backbone", "build_resnet_bifpn_backbone"),
        ("build_p67_resnet_fpn_backbone", "build_p67_resnet_fpn_backbone"),
    ):
        assert expected == follow_weights(config(name, follow=True), file).MODEL.BACKBONE.NAME


def test_weights_that_do_not_tell(tmp_path: Path) -> None:
    cfg = config(FCOS, follow=True)
    file = write_safetensors(tmp_path / "a.safetensors", {"base_layer.0.weight": torch.zeros(1)})
    assert follow_weights(cfg, str(file)) is cfg
    assert follow_weights(cfg, "") is cfg


def test_the_configs_that_are_named_exist() -> None:
    from centernet.weights.architecture import _NECKS

    for neck in _NECKS:
        cfg = load_config(CONFIG.parents[1] / neck.config)
        assert neck.builders[0] == cfg.MODEL.BACKBONE.NAME
        assert not cfg.MODEL.BIFPN.FROM_WEIGHTS
    assert load_config(CONFIG).MODEL.BIFPN.FROM_WEIGHTS
