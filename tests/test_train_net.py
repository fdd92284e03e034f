"""The command line: what it accepts, what it says, with which status it ends."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "engine")]

from small_run import write_config  # noqa: E402

import train_net  # noqa: E402

R50 = str(ROOT / "configs" / "CenterNet2_R50_1x.yaml")


@pytest.mark.parametrize(
    "argv, expected",
    [
        (["a.yaml"], {"config_file": "a.yaml", "opts": [], "resume": False, "eval_only": False, "num_gpus": None}),
        (["--config-file", "a.yaml", "K", "1"], {"config_file": "a.yaml", "opts": ["K", "1"]}),
        (["a.yaml", "K", "1", "--resume"], {"config_file": "a.yaml", "opts": ["K", "1"], "resume": True}),
        (["--resume", "a.yaml", "--num-gpus", "2", "K", "1"], {"opts": ["K", "1"], "num_gpus": 2, "resume": True}),
        (["--num-gpus", "0", "--eval-only", "a.yml"], {"config_file": "a.yml", "num_gpus": 0, "eval_only": True}),
        (["a.yaml", "K", "-1", "L", "-1e-3", "M", "-.5"], {"opts": ["K", "-1", "L", "-1e-3", "M", "-.5"]}),
        (["a.yaml", "K", "('x',)"], {"opts": ["K", "('x',)"]}),
        (["a.yaml"], {"dist_url": "auto", "machine_rank": 0, "num_machines": 1, "manual_device": ""}),
        (["--config-file", "a.yaml", "--dist-url", "tcp://h:1"], {"dist_url": "tcp://h:1"}),
        (["--config-file", "a.yaml", "b.yaml", "1"], {"config_file": "a.yaml", "opts": ["b.yaml", "1"]}),
    ],
)
def test_parse(argv, expected):
    assert expected.items() <= vars(train_net.parse_args(argv)).items()


def test_setup_makes_a_frozen_config_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = train_net.setup(train_net.parse_args([R50, "--num-gpus", "0", "SOLVER.GAMMA", "-1e-1"]))
    assert cfg.is_frozen()
    assert (cfg.SOLVER.GAMMA, cfg.MODEL.DEVICE) == (-0.1, "cpu")
    assert cfg.OUTPUT_DIR == "./output/CenterNet2/CenterNet2_R50_1x"
    assert not list(tmp_path.iterdir())


def test_setup_with_the_arguments_of_detectron2():
    from detectron2.engine import default_argument_parser

    args = default_argument_parser().parse_args(["--config-file", R50, "SOLVER.MAX_ITER", "3"])
    assert train_net.setup(args).SOLVER.MAX_ITER == 3


@pytest.mark.parametrize(
    "argv, sentence",
    [
        ([], "error: name a config"),
        ([R50.replace("_1x", "_2x")], "CenterNet2_R50_1x.yaml?"),
        ([R50, "SOLVER.BASE_LRR", "1"], "did you mean SOLVER.BASE_LR?"),
        ([R50, "SOLVER.BASE_LR"], "error: overrides are KEY VALUE pairs"),
        ([R50, "MODEL.WEIGHTS", "no.pth"], "error: MODEL.WEIGHTS: there is no file no.pth"),
        ([R50, "--eval-only", "MODEL.WEIGHTS", ""], "error: --eval-only needs trained weights"),
        ([R50, "MODEL.WEIGHTS", "", "DATASETS.TRAIN", "('nonesuch',)"], "nonesuch"),
    ],
)
def test_one_sentence_and_status_2(tmp_path, monkeypatch, capsys, argv, sentence):
    monkeypatch.chdir(tmp_path)
    assert train_net.main(argv) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1
    assert sentence in errors[0]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("words", [[], ["--num-gpus", "0"], ["--num-gpus", "1"]])
def test_says_that_it_runs_on_the_cpu(monkeypatch, capsys, words):
    monkeypatch.setattr(train_net.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(train_net, "run", lambda cfg, **options: 0)
    assert train_net.main([R50, *words]) == 0
    assert capsys.readouterr().out == "Running on the CPU.\n"


def test_help_covers_every_flag(capsys):
    with pytest.raises(SystemExit) as stop:
        train_net.parse_args(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for action in train_net.argument_parser()._actions:
        assert action.help
        for flag in action.option_strings:
            assert flag in text
    assert "examples:" in text


def test_manual_device(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    train_net.main(["nonesuch.yaml", "--manual_device", "0,2"])
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0,2"


def test_ctrl_c_from_another_folder_with_loader_workers(tmp_path):
    """Ctrl-C on a terminal goes to the loader's processes too; --resume then finishes the run."""
    config = write_config(tmp_path / "data", workers=1)
    command = [sys.executable, str(ROOT / "train_net.py"), str(config), "SOLVER.MAX_ITER", "3000", "SOLVER.STEPS", "()"]
    environment = {**os.environ, "PYTHONPATH": "", "OMP_NUM_THREADS": "1"}
    log = tmp_path / "data" / "output" / "small" / "metrics.json"
    options = {"cwd": tmp_path, "env": environment, "text": True}
    process = subprocess.Popen(
        command, **options, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    deadline = time.monotonic() + 120
    while not (log.exists() and log.read_text()) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, output + errors
    assert "Traceback" not in errors
    (stopped,) = re.findall(r"Stopped by SIGINT after iteration (\d+); go on with --resume", output)
    last = ["--resume", "SOLVER.TRAIN_ITER", str(int(stopped) + 3)]
    done = subprocess.run([*command, *last], **options, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"Training from iteration {int(stopped) + 1} to {int(stopped) + 3}" in done.stdout
