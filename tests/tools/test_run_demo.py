"""The demo runner: the commands it runs, the table it ends with, and what it says when something fails."""

import json
import subprocess
from pathlib import Path

import pytest

SCORES = {"bbox/AP": 61.26, "bbox/AP50": 88.0, "bbox/AP75": 70.5}
ROWS = [
    {"iteration": 19, "time": 0.5},
    {"iteration": 39, "time": 0.3},
    {"iteration": 59, "time": 0.4, **SCORES},
]


@pytest.fixture
def tool(load_tool, tmp_path, monkeypatch):
    """The module, with a folder of its own for a root, and commands recorded instead of run."""
    module = load_tool("run_demo")
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)
    (tmp_path / "datasets/digits/val").mkdir(parents=True)
    for number in range(20):
        (tmp_path / f"datasets/digits/val/{number:02}.jpg").touch()
    monkeypatch.setattr(module, "generate_digits", lambda root: Path(root) / "digits")
    module.commands, module.status = [], 0

    def record(command, cwd, check):
        module.commands.append(command[1:])
        (tmp_path / "output/demo").mkdir(parents=True, exist_ok=True)
        (tmp_path / "output/demo/metrics.json").write_text("\n".join(map(json.dumps, ROWS)))
        return subprocess.CompletedProcess(command, module.status)

    monkeypatch.setattr(module.subprocess, "run", record)
    return module


def test_trains_shows_and_ends_with_a_table(tool, capsys):
    assert tool.main(["SOLVER.MAX_ITER", "60"]) == 0
    train, show = tool.commands
    assert train == [
        *("train_net.py", "--config-file", "configs/demo/CenterNet2_R18_digits.yaml"),
        *("SOLVER.MAX_ITER", "60", "OUTPUT_DIR", "output/demo"),
    ]
    assert show[0] == "demo.py"
    assert sum(word.endswith(".jpg") for word in show) == tool.PICTURES
    assert show[-2:] == ["MODEL.WEIGHTS", "output/demo/model_final.pth"]
    lines = capsys.readouterr().out.strip().splitlines()
    assert lines[-1] == f"pictures with the boxes: {tool.ROOT / 'output/demo/pictures'}"
    header, _, row = (line.split("|")[1:-1] for line in lines[-5:-2])
    table = dict(zip(map(str.strip, header), map(str.strip, row), strict=True))
    assert table == {"AP": "61.3", "AP50": "88.0", "AP75": "70.5", "s/iteration": "0.400", "minutes": "0.0"}


def test_resume_is_passed_on(tool):
    tool.main(["--resume"])
    assert "--resume" in tool.commands[0]
    assert "--resume" not in tool.commands[1]


def test_a_command_that_fails_stops_the_demo(tool, capsys):
    tool.status = 3
    assert tool.main([]) == 2
    assert len(tool.commands) == 1
    assert "error: the demo stopped: train_net.py ended with status 3" in capsys.readouterr().err


def test_no_scores(tool, tmp_path):
    (tmp_path / "metrics.json").write_text(json.dumps(ROWS[0]))
    with pytest.raises(tool.UserError, match="has no scores"):
        tool.read_scores(tmp_path / "metrics.json")
