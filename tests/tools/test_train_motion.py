"""tools/train_motion.py: files in, weights out, going on after a kill."""

import json
import sys
from pathlib import Path

import pytest

from centernet.tracking3d.motion.checkpoint import build_motion, load_network

sys.path.append(str(Path(__file__).resolve().parents[1] / "tracking3d" / "motion"))
from video_files import drive, write


@pytest.fixture(scope="module")
def tool(load_tool):
    return load_tool("train_motion")


@pytest.fixture
def files(tmp_path):
    truth, detections = drive(14)
    return [
        "--detections",
        str(write(tmp_path / "det.json", detections)),
        "--truth",
        str(write(tmp_path / "gt.json", truth)),
    ]


@pytest.mark.parametrize("mode", ["modern", "parity"])
def test_trains_goes_on_and_is_loaded(tool, files, mode, tmp_path, capsys):
    output = tmp_path / "out"
    common = [
        *files,
        "--validation",
        files[1],
        files[3],
        "--output",
        str(output),
        "--mode",
        mode,
        "--frame-seconds",
        "0.1",
    ]
    assert tool.main([*common, "--passes", "1"]) == 0
    assert tool.main([*common, "--passes", "3"]) == 0
    assert "going on after pass 1 of 3" in capsys.readouterr().out
    rows = [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]
    assert [row["pass"] for row in rows] == [1, 2, 3]
    assert set(rows[0]) == {"pass", "total_loss", "refine_loss", "predict_loss", "linear_loss", "validation_total_loss"}
    trained = load_network(output / "motion.pth")
    assert (trained.mode, trained.step_seconds) == (mode, 0.1)
    assert trained.file.training["epoch"] == 2
    build_motion("VeloLSTM", output / "motion.pth", mode)


def test_without_data(tool, tmp_path, capsys):
    assert tool.main(["--synthetic", "16", "--passes", "1", "--output", str(tmp_path)]) == 0
    assert "Kalman" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        ([], "there are 0 files of --detections and 0 of --truth"),
        (["--synthetic", "0"], "--synthetic is 0"),
        (["--synthetic", "4", "--truth", "a"], "--synthetic needs no files"),
        (["--detections", "gone.json", "--truth", "gone.json"], "gone.json cannot be read"),
        (["--synthetic", "4", "--frame-seconds", "0"], "give the time between frames"),
        (["--synthetic", "4", "--passes", "0"], "passes is 0"),
        (["--synthetic", "4", "--device", "nothing"], "--device is nothing"),
    ],
)
def test_one_sentence_for_mistakes(tool, arguments, sentence, tmp_path, capsys):
    assert tool.main([*arguments, "--output", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1


def test_other_options_do_not_go_on(tool, files, tmp_path, capsys):
    common = [*files, "--output", str(tmp_path / "out"), "--passes", "1"]
    assert tool.main(common) == 0
    assert tool.main([*common, "--batch", "5"]) == 2
    assert "give the same options, or another --output" in capsys.readouterr().err
