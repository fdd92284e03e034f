"""Curves of runs: what is drawn, and one sentence for what cannot be."""

import json
from pathlib import Path

import numpy as np
import pytest

from centernet.evaluation.report.curves import draw_runs, metric_rows, read_runs


@pytest.fixture(scope="module")
def tool(load_tool):
    return load_tool("plot_metrics")


def write_run(folder: Path, count: int = 200, factor: float = 1.0) -> Path:
    rows = []
    for iteration in range(19, 20 * count, 20):
        row = {"iteration": iteration, "lr": 0.01, "time": 0.5, "data_time": 0.01, "memory_gb": 1.5, "eta_seconds": 3}
        row |= {"loss_cls": factor * (1 + iteration % 40), "loss_loc": factor}
        row["total_loss"] = row["loss_cls"] + row["loss_loc"]
        if (iteration + 1) % 400 == 0:
            row |= {"bbox/AP": 40 * factor, "bbox/AP50": 60 * factor, "bbox/AP-ant": 7, "bbox/ARs@100": 1}
            row |= {"validation/total_loss": 9 * factor, "validation/loss_cls": 7 * factor}
        rows.append(json.dumps(row) + "\n")
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text("".join(rows))
    return folder


def titles(figure):
    return [axes.get_title(loc="left") for axes in figure.axes if axes.get_title(loc="left")]


def test_panels_and_lines(tmp_path):
    runs = read_runs([write_run(tmp_path / "a"), write_run(tmp_path / "b", factor=0.5) / "metrics.json"])
    assert list(runs) == ["a", "b"]
    figure = draw_runs(runs)
    assert titles(figure) == [
        "total loss", "cls", "loc", "bbox/AP", "bbox/AP50",
        "learning rate", "seconds an iteration", "of these, waiting for data (s)", "memory, peak (GB)",
    ]  # fmt: skip
    lines = {line.get_label(): line for line in figure.axes[0].lines if not line.get_label().startswith("_")}
    assert list(lines) == ["a", "a, validation", "b", "b, validation"]
    assert list(lines["a, validation"].get_ydata()) == [9.0] * 10
    smooth = lines["a"].get_ydata()
    raw = np.array([row["total_loss"] for row in runs["a"]])
    assert smooth[50] == pytest.approx(raw[48:52].mean())  # a fiftieth of 200 rows
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == list(lines)


def test_choice_and_smoothing(tmp_path):
    runs = read_runs([write_run(tmp_path / "a")])
    figure = draw_runs(runs, smooth=1, only=["bbox/AP-*", "loss_loc"])
    assert titles(figure) == ["loc", "bbox/AP-ant"]
    assert len(figure.axes[0].lines) == 1


def test_runs_of_the_same_name(tmp_path):
    places = [write_run(tmp_path / one / "run", 3) for one in ("x", "y")]
    assert list(read_runs(places)) == ["x/run", "y/run"]
    assert len(read_runs([places[0], places[0]])) == 2


def test_a_row_that_a_kill_cut_off_is_left_out(tmp_path):
    file = write_run(tmp_path / "a", 5) / "metrics.json"
    file.write_text(file.read_text() + '{"iteration": 119, "lo')
    assert [row["iteration"] for row in metric_rows(file)] == [19, 39, 59, 79, 99]
    assert metric_rows(tmp_path / "nothing") == []


@pytest.mark.parametrize("count", [1, 2, 60])
def test_figures_that_are_missing_or_odd(tmp_path, count):
    file = write_run(tmp_path / "a", count) / "metrics.json"
    odd = {"iteration": 5, "loss_new": 0.0, "loss_nan": float("nan"), "text": "x", "flag": True}
    file.write_text(file.read_text() + json.dumps(odd))
    assert "new" in titles(draw_runs(read_runs([file])))


@pytest.mark.parametrize("kind", ["png", "svg", "html"])
def test_files(tool, tmp_path, capsys, kind):
    folder = write_run(tmp_path / "a<b", 30)
    output = tmp_path / "out" / f"curves.{kind}"
    assert tool.main([str(folder), "--output", str(output)]) == 0
    assert capsys.readouterr().out == f"written: {output}\n"
    starts = {"png": b"\x89PNG", "svg": b"<?xml", "html": b"<!doctype html>"}
    assert output.read_bytes().startswith(starts[kind])
    if kind == "html":
        text = output.read_text("utf-8")
        assert "<td>a&lt;b</td><td>600</td>" in text
        assert "http" not in text


def test_the_default_file(tool, tmp_path):
    assert tool.main([str(write_run(tmp_path / "a", 3))]) == 0
    assert (tmp_path / "a" / "curves.png").is_file()


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["{}/none"], "none has no metrics.json: give OUTPUT_DIR"),
        (["{}"], "has no metrics.json"),
        (["{}/broken"], "has no row with figures: it is damaged, or"),
        (["{}/a", "--output", "{}/x.gif"], "must end with one of .png, .svg, .pdf, .html"),
        (["{}/a", "--output", "{}/a/metrics.json/x.png"], "cannot be written"),
        (["{}/a", "--smooth", "-1"], "--smooth is -1"),
        (["{}/a", "--only", "nix*"], "no figure fits nix*; there are bbox/AP"),
    ],
)
def test_one_sentence(tool, tmp_path, capsys, arguments, sentence):
    write_run(tmp_path / "a", 30)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "metrics.json").write_bytes(b"\x00\xff[]\n3\n")
    assert tool.main([word.format(tmp_path) for word in arguments]) == 2
    errors = capsys.readouterr().err
    assert sentence in errors
    assert errors.count("\n") == 1
