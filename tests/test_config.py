"""Every key that the package adds, its default as published, and every YAML file."""

import re
from pathlib import Path

import pytest
from detectron2.config import get_cfg

from centernet.config import add_centernet_config
from centernet.config_file import load_config

CONFIGS = Path(__file__).parents[1] / "configs"

PUBLISHED = {
    "MODEL.CENTERNET": {
        "NUM_CLASSES": 80, "IN_FEATURES": ["p3", "p4", "p5", "p6", "p7"], "FPN_STRIDES": [8, 16, 32, 64, 128],
        "PRIOR_PROB": 0.01, "INFERENCE_TH": 0.05, "CENTER_NMS": False, "NMS_TH_TRAIN": 0.6, "NMS_TH_TEST": 0.6,
        "PRE_NMS_TOPK_TRAIN": 1000, "POST_NMS_TOPK_TRAIN": 100, "PRE_NMS_TOPK_TEST": 1000, "POST_NMS_TOPK_TEST": 100,
        "NORM": "GN", "USE_DEFORMABLE": False, "NUM_CLS_CONVS": 4, "NUM_BOX_CONVS": 4, "NUM_SHARE_CONVS": 0,
        "LOC_LOSS_TYPE": "giou", "SIGMOID_CLAMP": 1e-4, "HM_MIN_OVERLAP": 0.8, "MIN_RADIUS": 4,
        "SOI": [[0, 80], [64, 160], [128, 320], [256, 640], [512, 10000000]], "POS_WEIGHT": 1.0, "NEG_WEIGHT": 1.0,
        "REG_WEIGHT": 2.0, "HM_FOCAL_BETA": 4, "HM_FOCAL_ALPHA": 0.25, "LOSS_GAMMA": 2.0, "WITH_AGN_HM": False,
        "ONLY_PROPOSAL": False, "AS_PROPOSAL": False, "IGNORE_HIGH_FP": -1.0, "MORE_POS": False,
        "MORE_POS_THRESH": 0.2, "MORE_POS_TOPK": 9, "NOT_NORM_REG": True, "NOT_NMS": False, "NO_REDUCE": False,
    },
    "MODEL.ROI_BOX_HEAD": {
        "USE_SIGMOID_CE": False, "PRIOR_PROB": 0.01, "USE_EQL_LOSS": False, "EQL_FREQ_CAT": 200,
        "CAT_FREQ_PATH": "datasets/lvis/lvis_v1_train_cat_info.json", "USE_FED_LOSS": False, "FED_LOSS_NUM_CAT": 50,
        "FED_LOSS_FREQ_WEIGHT": 0.5, "MULT_PROPOSAL_SCORE": False,
    },
    "MODEL.BIFPN": {"NUM_LEVELS": 5, "NUM_BIFPN": 6, "NORM": "GN", "OUT_CHANNELS": 160, "SEPARABLE_CONV": False},
    "MODEL.DLA": {
        "OUT_FEATURES": ["dla2"], "USE_DLA_UP": True, "NUM_LAYERS": 34, "MS_OUTPUT": False, "NORM": "BN",
        "DLAUP_IN_FEATURES": ["dla3", "dla4", "dla5"], "DLAUP_NODE": "conv",
    },
    "SOLVER": {"RESET_ITER": False, "TRAIN_ITER": -1},
    "INPUT": {
        "CUSTOM_AUG": "", "TRAIN_SIZE": 640, "TEST_SIZE": 640, "SCALE_RANGE": (0.1, 2.0), "TEST_INPUT_TYPE": "default",
        "NOT_CLAMP_BOX": False,
    },
    "DATALOADER": {"SOURCE_AWARE": False, "DATASET_RATIO": [1, 1]},
    "": {"DEBUG": False, "SAVE_DEBUG": False, "SAVE_PTH": False, "VIS_THRESH": 0.3, "DEBUG_SHOW_NAME": False},
}  # fmt: skip


@pytest.mark.parametrize("node", PUBLISHED)
def test_defaults_are_the_published_ones(node):
    cfg = get_cfg()
    assert add_centernet_config(cfg) is None
    for part in filter(None, node.split(".")):
        cfg = cfg[part]
    for key, value in PUBLISHED[node].items():
        assert cfg[key] == value, key
        assert type(cfg[key]) is type(value), key


def test_adding_twice_or_after_others_is_harmless():
    cfg = get_cfg()
    add_centernet_config(cfg)
    add_centernet_config(cfg)
    assert cfg.MODEL.CENTERNET.NUM_CLASSES == 80


def test_every_key_says_what_it_means():
    source = (Path(__file__).parents[1] / "centernet" / "config.py").read_text()
    keys = [line for line in source.splitlines() if re.match(r" +(node|cfg)\.[A-Z_]+ = ", line)]
    assert len(keys) > 80
    assert [line.strip() for line in keys if "#" not in line] == []


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda p: p.stem)
def test_every_yaml_loads(path):
    cfg = load_config(str(path))
    assert cfg.MODEL.META_ARCHITECTURE in ("GeneralizedRCNN", "CenterNetDetector", "QD3DT")


def test_published_recipes():
    two_stage, one_stage = (
        load_config(str(CONFIGS / "CenterNet2_R50_1x.yaml")),
        load_config(str(CONFIGS / "CenterNet-FPN_R50_1x.yaml")),
    )
    assert (two_stage.SOLVER.BASE_LR, one_stage.SOLVER.BASE_LR) == (0.02, 0.01)
    for cfg in (two_stage, one_stage):
        assert (cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS) == (16, 90000, (60000, 80000))
        assert (cfg.SOLVER.WARMUP_ITERS, cfg.SOLVER.WARMUP_FACTOR) == (4000, 0.00025)
        assert cfg.SOLVER.CLIP_GRADIENTS.ENABLED
        assert (cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE, cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE) == ("value", 1.0)
        assert (cfg.SOLVER.WEIGHT_DECAY, cfg.SOLVER.WEIGHT_DECAY_NORM, cfg.SOLVER.MOMENTUM) == (1e-4, 0.0, 0.9)
        assert cfg.INPUT.MIN_SIZE_TRAIN == (640, 672, 704, 736, 768, 800)
        assert (cfg.INPUT.FORMAT, cfg.MODEL.PIXEL_STD) == ("BGR", [1.0, 1.0, 1.0])
    node = two_stage.MODEL.CENTERNET
    assert (node.POS_WEIGHT, node.NEG_WEIGHT, node.REG_WEIGHT, node.IGNORE_HIGH_FP) == (0.5, 0.5, 1.0, 0.85)
    assert (node.PRE_NMS_TOPK_TRAIN, node.POST_NMS_TOPK_TRAIN) == (4000, 2000)
    assert (node.PRE_NMS_TOPK_TEST, node.POST_NMS_TOPK_TEST) == (1000, 256)
    assert (node.INFERENCE_TH, node.NMS_TH_TRAIN, node.NMS_TH_TEST) == (1e-4, 0.9, 0.9)
    assert (one_stage.MODEL.CENTERNET.MORE_POS, one_stage.MODEL.CENTERNET.REG_WEIGHT) == (True, 2.0)
    heads = two_stage.MODEL.ROI_HEADS
    assert (heads.NAME, heads.IOU_THRESHOLDS, heads.NMS_THRESH_TEST) == ("CustomCascadeROIHeads", [0.6], 0.7)
    assert (heads.BATCH_SIZE_PER_IMAGE, heads.POSITIVE_FRACTION, heads.SCORE_THRESH_TEST) == (512, 0.25, 0.05)
    assert load_config(str(CONFIGS / "CenterNet2-F_R50_1x.yaml")).MODEL.ROI_HEADS.NAME == "CustomROIHeads"
