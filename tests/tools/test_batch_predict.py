"""The command: exit codes, one-sentence errors, runs that are killed, and Ray."""

import json
import os
import random
import subprocess
import sys
import time

import pytest

parquet = pytest.importorskip("pyarrow.parquet")

GOOD, BROKEN = 10, 2


@pytest.fixture(scope="module")
def tool(load_tool):
    return load_tool("batch_predict")


@pytest.fixture(scope="module")
def benchmark(load_tool):
    return load_tool("benchmarks/batch_predict")


@pytest.fixture(scope="module")
def words(benchmark, tmp_path_factory):
    """Arguments of the command for a small random model and twelve pictures, two of them broken."""
    folder = tmp_path_factory.mktemp("command")
    benchmark.write_pictures(folder / "photos", GOOD, BROKEN)
    config = benchmark.write_model(folder)
    return lambda output, *more: benchmark.command(config, folder / "photos", output, *more)[2:]


def test_the_command(tool, words, tmp_path, capsys):
    assert tool.main(words(tmp_path / "found.parquet")) == 1
    out = capsys.readouterr().out
    assert f"detections on {GOOD} pictures in {tmp_path}/found.parquet" in out
    assert f"{BROKEN} pictures are broken, listed in {tmp_path}/found.parquet.broken.jsonl" in out
    table = parquet.read_table(tmp_path / "found.parquet")
    listed = tmp_path / "list.txt"
    good = table.column("key").to_pylist()[:2]
    listed.write_text("\n".join(good))
    arguments = words(tmp_path / "found.json", "--image-root")
    arguments[arguments.index("--input") + 1], photos = str(listed), arguments[arguments.index("--input") + 1]
    assert tool.main([*arguments, photos]) == 0
    assert [i["file_name"] for i in json.loads((tmp_path / "found.json").read_text())["images"]] == good


def test_mistakes(tool, words, tmp_path, capsys):
    photos = words(tmp_path)[3]
    for arguments, expected in [
        (("--threshold", "2"), "--threshold is 2"),
        (("--batch-size", "0"), "--batch-size is 0"),
        (("--shard-size", "0"), "--shard-size is 0"),
        (("--workers", "0"), "--workers is 0"),
        (("--cpus-per-worker", "2"), "are for runs with --ray"),
        (("--ray", "--gpus-per-worker", "-1"), "--gpus-per-worker is -1"),
        (("--input", "not/here"), "not/here does not exist"),
        (("--output", f"{photos}/found"), "is inside the input folder"),
        (("--opts", "MODEL.WEIGHTS", "not/here.pth"), "there is no file not/here.pth"),
    ]:
        assert tool.main(words(tmp_path / "found", *arguments)) == 2
        error = capsys.readouterr().err
        assert expected in error
        assert error.count("\n") == 1
    with pytest.raises(SystemExit):
        tool.main(words(tmp_path / "found", "--format", "csv"))
    annotations = tmp_path / "info.json"
    annotations.write_text('{"images": [{"id": 1, "file_name": "a.png"}]}')
    assert tool.main(words(annotations, "--input", str(annotations))) == 2
    assert "would overwrite an input" in capsys.readouterr().err


def test_without_pyarrow(tool, words, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert tool.main(words(tmp_path / "found")) == 2
    assert "need pyarrow: pip install -e '.[ray]'" in capsys.readouterr().err


def test_without_ray(tool, words, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert tool.main(words(tmp_path / "found", "--ray")) == 2
    assert "--ray needs Ray Data: pip install -e '.[ray]'" in capsys.readouterr().err


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.0.0.1:x"])
def test_a_cluster_that_is_not_there(tool, words, tmp_path, capsys, address):
    pytest.importorskip("ray")
    assert tool.main(words(tmp_path / "found", "--ray", address)) == 2
    assert f"Ray cannot be joined at {address}: nobody answers" in capsys.readouterr().err


@pytest.mark.slow
def test_killed_again_and_again(benchmark, tmp_path):
    """300 pictures; each process group is killed after one to four more parts, or while it starts."""
    bad = benchmark.write_pictures(tmp_path / "photos", 280, 20)
    config = benchmark.write_model(tmp_path)
    whole, killed = (
        benchmark.command(config, tmp_path / "photos", tmp_path / f"{name}.parquet", "--shard-size", "16")
        for name in ("whole", "killed")
    )
    draw, log, parts = random.Random(os.getpid()), tmp_path / "log", tmp_path / "killed.parquet.parts"
    assert benchmark.run_whole(whole, log) == 1
    kills = [benchmark.run_and_kill(killed, parts, log, more, draw.uniform(0, 1)) for more in (1, 0, 2, 4)]
    assert sum(kills) >= 3, "they came too late"
    assert benchmark.run_whole(killed, log) == 1
    assert benchmark.differences(tmp_path / "whole.parquet", tmp_path / "killed.parquet", bad, 300) == []


@pytest.mark.slow
def test_a_second_process_is_refused(benchmark, words, tmp_path):
    command = [sys.executable, str(benchmark.TOOL), *words(tmp_path / "found", "--shard-size", "1")]
    first = subprocess.Popen(command, env=benchmark.environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while first.poll() is None and not list((tmp_path / "found").glob("part-*")):
        time.sleep(0.01)
    os.kill(first.pid, 19)  # SIGSTOP
    second = subprocess.run(command, env=benchmark.environment(), capture_output=True, text=True)
    os.kill(first.pid, 18)  # SIGCONT
    assert first.wait() == 1
    assert second.returncode == 2
    assert f"is being written by process {first.pid} on " in second.stderr


@pytest.mark.slow
def test_begun_here_and_finished_on_ray_with_two_workers(tool, words, tmp_path):
    ray = pytest.importorskip("ray")
    arguments = words(tmp_path / "found.parquet", "--shard-size", "2")
    assert tool.main(arguments) == 1
    there = {part.name: part.read_bytes() for part in (tmp_path / "found.parquet.parts").glob("part-*")}
    for number in (1, 2, 3, 5):
        (tmp_path / "found.parquet.parts" / f"part-{number:05d}.parquet").unlink()
    result = (tmp_path / "found.parquet").read_bytes()
    assert tool.main([*arguments, "--ray", "--workers", "2"]) == 1
    assert not ray.is_initialized()
    parts = (tmp_path / "found.parquet.parts").glob("part-*")
    rows = {part.name: parquet.read_table(part).drop_columns(["boxes", "scores"]).to_pydict() for part in parts}
    assert set(rows) == set(there)
    assert parquet.read_table(tmp_path / "found.parquet").num_rows == GOOD
    if os.environ.get("OMP_NUM_THREADS") == "1":  # sums of several threads differ in the last bit
        assert (tmp_path / "found.parquet").read_bytes() == result
