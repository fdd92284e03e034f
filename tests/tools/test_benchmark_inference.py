"""`benchmark.py inference`: every row has its figures or its reason; no time is asserted."""

import json
import sys
from pathlib import Path

import pytest
import torch
from benchmarks import contenders, inference
from benchmarks.contenders import Case
from benchmarks.detectors import BASELINE, detector
from benchmarks.stages import STAGES, StageClock, model_seconds

sys.path.append(str(Path(__file__).resolve().parents[1] / "engine"))
from small_run import write_config

SMALL = ["--size", "64", "96", "--turns", "2", "--warm-up", "0", "--no-memory"]


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return str(write_config(tmp_path_factory.mktemp("small")))


@pytest.fixture
def run(load_tool, capsys):
    tool = load_tool("benchmark")

    def call(*words):
        status = tool.main(["inference", *map(str, words)])
        said = capsys.readouterr()
        return status, said.out, said.err

    return call


def rows_of(text, first):
    """``[cells of a row, ...]`` of the table whose first cell begins with ``first``, its head included."""
    block = next(part for part in text.split("\n\n") if part.startswith(f"| {first}"))
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in block.strip().splitlines()]


def test_tables_files_and_page_of_one_run(run, config, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"above\n<!-- {inference.MARKER}: begin -->\n<!-- {inference.MARKER}: end -->\nbelow\n")
    files = ["--json", tmp_path / "a.json", "--markdown", tmp_path / "a.md", "--write", page]
    models = ["--models", config, "--against", BASELINE, "--variants", "eager", "eager, published bits"]
    status, out, _ = run(*models, *SMALL, "--fit-norms", *files)
    assert status == 0
    head, _, base, eager, published = rows_of(out, "batch 1")
    assert head[1:] == list(inference.COLUMNS)
    assert base[0].startswith("Faster R-CNN")
    assert base[5:7] == ["1.00", "1.00"]
    assert (eager[1], published[1]) == ("eager", "eager, published bits")
    for row in (base, eager, published):
        assert all(float(row[column]) > 0 for column in (3, 4, 5, 6))
    stages = rows_of(out, "stage, ms")
    assert [row[0] for row in stages[2:]] == [*STAGES, "all"]
    assert all("CPU" in cell for row in stages[2:] for cell in row[1:])

    report = json.loads((tmp_path / "a.json").read_text())
    assert [len(row["wall"]) for row in report["rows"]] == [2, 2, 2]
    assert all(value > 0 for row in report["rows"] for value in row["wall"] + row["cpu"])
    assert report["interrupted"] is False
    assert all(len(turns) == 2 for turns in report["stages"].values())
    assert set(report["settings"]) >= {"hardware", "versions", "command", "date"}

    text = page.read_text()
    assert text.startswith("above\n<!--")
    assert text.endswith("-->\nbelow\n")
    assert "| Faster R-CNN R50-FPN (detectron2) | eager |" in text
    assert (tmp_path / "a.md").read_text().strip() in text


def test_what_is_not_to_be_had_is_a_line_with_its_reason(run, config, monkeypatch):
    def missing(case):
        raise ImportError("No module named 'onnxruntime'")

    monkeypatch.setitem(contenders.VARIANTS, "onnxruntime", missing)
    variants = ["--variants", "onnxruntime", "eager"]
    status, out, _ = run("--models", config, "--against", *variants, *SMALL, "--no-stages")
    assert status == 0
    absent, eager = rows_of(out, "batch 1")[2:]
    assert absent[2] == "not here: ImportError: No module named 'onnxruntime'"
    assert float(eager[3]) > 0
    assert eager[5] == ""  # no Faster R-CNN to compare with


def test_an_interrupt_keeps_what_there_is(run, config, tmp_path, monkeypatch):
    calls = []

    def build(case):
        def call():
            calls.append(1)
            if len(calls) == 4:  # the first one counts the boxes
                raise KeyboardInterrupt
            return []

        return call

    monkeypatch.setitem(contenders.VARIANTS, "eager", build)
    page = tmp_path / "page.md"
    page.write_text("untouched")
    files = ["--json", tmp_path / "a.json", "--write", page]
    options = ["--models", config, "--against", "--variants", "eager", "--batch", 1, 2, *SMALL, *files]
    status, out, _ = run(*options, "--turns", 5)
    assert status == 130
    assert "Interrupted: these are the results so far" in out
    report = json.loads((tmp_path / "a.json").read_text())
    assert report["interrupted"] is True
    assert [len(row["wall"]) for row in report["rows"]] == [2]
    assert page.read_text() == "untouched"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--models", "CenterNet2_R50_2x"], "did you mean the zoo's CenterNet2_R50_1x"),
        (["--models", "nothing.yaml"], "nothing.yaml does not exist"),
        (["--models", "a_net"], "there is no model a_net"),
        (["--weights", "w.pth"], "--weights is for one model"),
        (["--turns", "0"], "must be positive"),
        (["--write", "none/page.md"], "there is no file none/page.md"),
        (["--json", "/dev/null/turns.json"], "/dev/null/turns.json cannot be written"),
        (["--device", "cuda"], "PyTorch sees no GPU"),
    ],
)
def test_mistakes_are_one_sentence(run, words, sentence, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    status, _, err = run(*words)
    assert status == 2
    assert err.startswith("error: ")
    assert sentence in err
    assert err.count("\n") == 1


def test_stages_add_up_and_leave_the_model_as_it_was(config):
    call, model = contenders.watched_call(Case(config, "eager", "cpu", (64, 96), 1))
    found = model_seconds(call, model, StageClock("cpu"))
    assert set(found) == set(STAGES) - {"load (JPEG)", "resize"}
    assert all(wall > 0 for wall, _ in found.values())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())
    assert "detect_with_owner" not in vars(model.roi_heads)


@pytest.mark.slow
def test_stages_of_the_optimised_model(config):
    call, model = contenders.watched_call(Case(config, "optimised", "cpu", (64, 96), 1))
    found = model_seconds(call, model, StageClock("cpu"))
    assert set(found) == set(STAGES) - {"load (JPEG)", "resize"}


def test_fitted_norms_give_faster_rcnn_its_regions():
    size = (64, 96)
    counts = []
    for fitted in (False, True):
        model = detector(BASELINE, "cpu", size, fitted=fitted)
        hook = model.roi_heads.box_head.register_forward_hook(lambda _, inputs, __: counts.append(len(inputs[0])))
        with torch.no_grad():
            model([{"image": torch.randint(0, 256, (3, *size), dtype=torch.uint8)}])
        hook.remove()
    assert counts[1] > 5 * max(1, counts[0])


@pytest.mark.slow
def test_memory_of_a_process_of_its_own(config):
    case = Case(config, "eager, published bits", "cpu", (64, 96), 1)
    memory = inference.in_process(inference.measure_memory, case)["memory"]
    assert memory > 20  # MB: the weights alone are more


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["optimised", *contenders.FORMATS])
def test_every_way_to_run_finds_boxes(config, variant, tmp_path):
    case = Case(config, variant, "cpu", (64, 96), 2, fitted=True, folder=str(tmp_path))
    calls = contenders.build_call(case), contenders.build_call(case._replace(variant="eager, published bits"))
    with torch.inference_mode():
        found, expected = (contenders.count_detections(call()) for call in calls)
    assert abs(found - expected) <= 2  # of 40; bfloat16 may cross the threshold


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_is_busy(config):
    from benchmarks.rounds import busy_share, timed

    case = Case(config, "eager", "cuda", (512, 640), 1)
    call = contenders.build_call(case)
    with torch.inference_mode():
        call()
        assert 0 < busy_share(call, timed(call, "cuda").wall) <= 1
