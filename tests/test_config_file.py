"""Every wrong config is one sentence; every right one means what detectron2 would make of it."""

import logging

import pytest
import torch
from detectron2.config import get_cfg

from centernet.config import add_centernet_config
from centernet.config_file import check_weights, load_config, resolve_device, resolve_output_dir
from centernet.errors import UserError


@pytest.fixture
def config(tmp_path):
    def write(text, name="a.yaml"):
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


BASE = "MODEL:\n  MASK_ON: True\nSOLVER:\n  BASE_LR: 0.5\n  STEPS: (1, 2)\n"
CHILD = (
    "_BASE_: base.yaml\nSOLVER:\n  BASE_LR: 1e-3\nDATASETS:\n  TRAIN: \"('a', 'b',)\"\n"
    "INPUT:\n  MIN_SIZE_TRAIN: [640, 672]\n  SCALE_RANGE: (0.5, 1.5)\n"
    "MODEL:\n  CENTERNET:\n    SOI: [[0, 64], [48, 1000]]\n"
)


def test_same_as_detectron2(config):
    config(BASE, "base.yaml")
    path = config(CHILD)
    expected = get_cfg()
    add_centernet_config(expected)
    expected.merge_from_file(str(path))
    overrides = ["SOLVER.MAX_ITER", "7", "SOLVER.GAMMA", "-1e-1"]
    overrides += ["DATASETS.TEST", "('x',)", "MODEL.WEIGHTS", "a b.pth"]
    expected.merge_from_list(overrides)
    cfg = load_config(path, overrides)
    assert cfg == expected
    assert not cfg.is_frozen()
    assert (cfg.DATASETS.TRAIN, cfg.SOLVER.STEPS, cfg.SOLVER.BASE_LR) == (("a", "b"), (1, 2), 0.001)
    assert load_config("").SOLVER.BASE_LR == get_cfg().SOLVER.BASE_LR


def test_several_bases_the_later_wins(config):
    config(BASE, "base.yaml")
    config("SOLVER:\n  BASE_LR: 0.25\n", "other.yaml")
    cfg = load_config(config("_BASE_: [base.yaml, other.yaml]\nSOLVER:\n"))
    assert (cfg.SOLVER.BASE_LR, cfg.MODEL.MASK_ON) == (0.25, True)


def test_whole_number_for_a_number(config):
    value = load_config(config("SOLVER:\n  BASE_LR: 1\n"), ["SOLVER.GAMMA", "0"]).SOLVER
    assert (value.BASE_LR, type(value.BASE_LR), type(value.GAMMA)) == (1.0, float, float)


def test_python_tuple_tag(config):
    assert load_config(config("SOLVER:\n  STEPS: !!python/tuple [3, 4]\n")).SOLVER.STEPS == (3, 4)


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("INPUT:\n  FORMAT: RGB\nINPUT:\n  CROP:\n", "the key INPUT is given twice, in lines 1 and 3"),
        (
            "MODEL:\n  FPN:\n    NORM: BN\n    NORM: GN\n",
            "key MODEL.FPN.NORM is given twice, in lines 3 and 4",
        ),
        (
            "SOLVER:\n  BASE_LRR: 1.0\n",
            "a.yaml, line 2: there is no config key SOLVER.BASE_LRR; did you mean SOLVER.BASE_LR",
        ),
        ("MODL:\n  MASK_ON: True\n", "a.yaml, line 1: there is no config key MODL; did you mean MODEL?"),
        (
            "MODEL:\n  CENTERNET:\n    PRE_NMS_TOPK_TRAN: 4\n",
            "key MODEL.CENTERNET.PRE_NMS_TOPK_TRAN; did you mean MODEL.CENTERNET.PRE_NMS_TOPK_TRAIN?",
        ),
        ("SOLVER:\n  BASE_LR: fast\n", "line 2: SOLVER.BASE_LR must be a number (as in 0.001), not 'fast'"),
        ("SOLVER:\n  MAX_ITER: 0.5\n", "SOLVER.MAX_ITER must be a whole number"),
        ("MODEL:\n  MASK_ON: 3\n", "MODEL.MASK_ON must be True or False (as in False), not 3"),
        ("SOLVER: 3\n", "a.yaml, line 1: SOLVER is a section of keys, not a value"),
        ("SOLVER:\n  STEPS:\n    A: 1\n", "SOLVER.STEPS is a value, not a section"),
        ("SOLVER:\n  STEPS: [1, 2\nMODEL:\n", "a.yaml, line 3: this is not valid YAML: "),
        ("SOLVER:\n\tBASE_LR: 1\n", "a.yaml, line 2: this is not valid YAML: "),
        ("just words\n", "a.yaml: a config holds 'KEY: value' lines"),
        ("VERSION: 1\n", "config VERSION 1 is not supported, only 2"),
        ("A: &a {B: 1}\nC:\n  <<: *a\n", "YAML merge keys (<<) are not supported; use _BASE_"),
        ("SOLVER:\n  BASE_LR: !!python/object/apply:os.abort []\n", "tags that run code are not accepted"),
        ("_BASE_: bse.yaml\n", "a.yaml: its _BASE_ "),
        ("_BASE_: a.yaml\n", "the config a.yaml is its own _BASE_: a.yaml -> a.yaml"),
        ("_BASE_: loop.yaml\n", "the config a.yaml is its own _BASE_: a.yaml -> loop.yaml -> a.yaml"),
    ],
)
def test_wrong_files(config, text, sentence):
    config(BASE, "base.yaml")
    config("_BASE_: a.yaml\n", "loop.yaml")
    with pytest.raises(UserError) as error:
        load_config(config(text))
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_base_names_the_nearest(config):
    config(BASE, "base.yaml")
    with pytest.raises(UserError, match=r"bse\.yaml does not exist; did you mean .*/base\.yaml\?"):
        load_config(config("_BASE_: bse.yaml\n"))


@pytest.mark.parametrize(
    "opts, sentence",
    [
        (["SOLVER.BASE_LR"], "KEY VALUE pairs, but 1 words are given; the last one, SOLVER.BASE_LR"),
        (["SOLVER.BASE_LR=1"], "write SOLVER.BASE_LR 1 with a space"),
        (
            ["SOLVER.BASELR", "1"],
            "the override: there is no config key SOLVER.BASELR; did you mean SOLVER.BASE",
        ),
        (["MAX_ITER", "1"], "there is no config key MAX_ITER; did you mean SOLVER.MAX_ITER?"),
        (["model.device", "cpu"], "there is no config key model.device; did you mean MODEL.DEVICE?"),
        (["SOLVER.BASE_LR.X", "1"], "there is no config key SOLVER.BASE_LR.X"),
        (["SOLVER", "1"], "the override: SOLVER is a section of keys, not a value"),
        (["SOLVER.MAX_ITER", "many"], "SOLVER.MAX_ITER must be a whole number (as in 40000), not 'many'"),
    ],
)
def test_wrong_overrides(opts, sentence):
    with pytest.raises(UserError) as error:
        load_config("", opts)
    assert sentence in str(error.value)


def test_missing_file_names_the_nearest(config, tmp_path):
    config(BASE, "CenterNet2_R50_1x.yaml")
    with pytest.raises(UserError, match=r"_R50.yaml does not exist; did you mean .*/CenterNet2_R50_1x.yaml\?"):
        load_config(tmp_path / "CenterNet2_R50.yaml")
    with pytest.raises(UserError, match="is a folder, not a file"):
        load_config(tmp_path)
    with pytest.raises(UserError, match="nor does its folder"):
        load_config(tmp_path / "no" / "x.yaml")


def test_binary_file(tmp_path):
    (tmp_path / "a.yaml").write_bytes(bytes(range(128, 256)))
    with pytest.raises(UserError, match="a.yaml: this is not a YAML text file"):
        load_config(tmp_path / "a.yaml")


def test_check_weights(tmp_path):
    cfg = load_config("")
    (tmp_path / "model_final.pth").touch()
    for good in ("", "detectron2://a/b.pkl", "https://x/y.pth", str(tmp_path / "model_final.pth")):
        cfg.MODEL.WEIGHTS = good
        check_weights(cfg)
    cfg.MODEL.WEIGHTS = str(tmp_path / "model_fnal.pth")
    with pytest.raises(UserError, match=r"MODEL.WEIGHTS: there is no file .*fnal.pth; did you mean .*final.pth\?"):
        check_weights(cfg)


@pytest.mark.parametrize(
    "given, expected",
    [
        ("./output/CenterNet2/auto", "./output/CenterNet2/R50"),
        ("out/auto/run1", "out/R50/run1"),
        ("out/autonomous", "out/autonomous"),
        ("/auto", "/R50"),
        ("auto", "auto"),
    ],
)
def test_resolve_output_dir(given, expected):
    cfg = load_config("", ["OUTPUT_DIR", given])
    assert resolve_output_dir(cfg, "configs/R50.yaml") == expected == cfg.OUTPUT_DIR


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_resolve_device_says_so_once(caplog):
    cfg = load_config("", ["MODEL.DEVICE", "cuda"])
    with caplog.at_level(logging.INFO, logger="centernet"):
        assert resolve_device(cfg) == cfg.MODEL.DEVICE == "cpu"
        resolve_device(cfg)
    assert caplog.text.count("No GPU that PyTorch can use: running on the CPU, not on cuda") == 1
