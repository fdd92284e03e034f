"""Whole runs with a fault injected: exit status, one sentence, nothing saved is lost, and --resume gives the rest."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from children import CONTEXT
from small_run import ROOT, write_config
from test_resume import assert_same, outcome, uninterrupted  # noqa: F401  a fixture

from centernet.engine.manifest import damage

OPTS = ["TEST.EVAL_PERIOD", "4", "SEED", "7"]


# ------------------------------------------------------------------------ faults, called in iteration 7 of the child


def full_disk(trainer, output):
    os.symlink("/dev/full", output / "model_0000009.pth.tmp")


def file_size_limit(trainer, output):
    with open(output / "metrics.json", "a") as file:  # larger than the log, so that the log can go on
        file.write("\n" * 1_000_000)
    size = (output / "metrics.json").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, size + 20))


def removed_folder(trainer, output):
    shutil.rmtree(output)


def folder_that_is_a_file(trainer, output):
    output.rename(output.with_name("moved"))
    output.write_text("")


def poisoned_weight(trainer, output):
    trainer.model.backbone.fpn_output3.weight.data[0, 0, 0, 0] = float("nan")


def out_of_memory(trainer, output):
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used, used))
    torch.empty(1 << 28)


def dead_worker(trainer, output):
    for worker in torch.multiprocessing.active_children():
        worker.kill()
        worker.join()


def terminate_group(trainer, output):
    """As a job scheduler does: every process gets the signal, from outside."""
    os.setpgrp()
    workers = [worker.pid for worker in torch.multiprocessing.active_children()]
    assert workers
    subprocess.run(["kill", "-TERM", str(os.getpid()), *map(str, workers)], check=True)


def _train(argv, folder, fault, losses):
    """Runs in the child; what it says on stderr goes to ``folder/stderr``."""
    with open(folder / "stderr", "w") as file:
        os.dup2(file.fileno(), 2)
    sys.stderr = os.fdopen(2, "w", buffering=1)
    import train_net
    from centernet.engine.trainer import Trainer

    torch.set_num_threads(1)
    record, fetch = Trainer._record, Trainer._fetch

    def recording(trainer, values):
        with open(losses, "a") as file:
            file.write(f"{trainer.iter} {[value.item().hex() for value in values.values()]}\n")
        record(trainer, values)

    def fetching(trainer):
        batch = fetch(trainer)
        if fault is not None and trainer.iter == 7:
            fault(trainer, folder / "output" / "small")
        return batch

    Trainer._record, Trainer._fetch = recording, fetching
    raise SystemExit(train_net.main(argv))


def run(config, *opts, fault=None):
    """Exit status and what was said on stderr."""
    folder = config.parent
    process = CONTEXT.Process(target=_train, args=([str(config), *OPTS, *opts], folder, fault, folder / "losses"))
    process.start()
    process.join(300)
    assert process.exitcode is not None, "the run hangs"
    said = (folder / "stderr").read_text()
    lines = [line for line in said.splitlines() if "CUDA" not in line and "it/s" not in line]
    return process.exitcode, "\n".join(lines)


def check_whole(output, newest):
    """Every checkpoint is whole, and the newest is that of an iteration."""
    files = sorted(output.glob("model_*.pth"))
    assert [damage(file) for file in files] == [""] * len(files)
    assert (output / "last_checkpoint").read_text() == newest


def one_sentence(said):
    lines = said.splitlines()
    assert "Traceback" not in said, said
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) == 1, said
    return errors[0]


FAULTS = {
    full_disk: ("model_0000009.pth cannot be written: No space left on device", "model_0000004.pth"),
    file_size_limit: ("What JSONWriter keeps of the metrics cannot be written: File too large", "model_0000004.pth"),
    removed_folder: ("was removed during the run: it is there again, with model_0000009.pth", "model_0000009.pth"),
    out_of_memory: ("out of memory on this machine (tried to allocate 1024 MiB more)", "model_0000004.pth"),
    dead_worker: ("a worker of the loader was killed (SIGKILL)", None),
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_fault_then_resume(tmp_path, uninterrupted, fault):  # noqa: F811
    config = write_config(tmp_path, workers=1 if fault is dead_worker else 0)
    output = tmp_path / "output" / "small"
    status, said = run(config, fault=fault)
    assert status == 2, said
    sentence, newest = FAULTS[fault]
    assert sentence in one_sentence(said)
    if newest is None:  # what the worker had sent is still used up; then the last finished iteration is saved
        newest = (output / "last_checkpoint").read_text()
        assert newest in ("model_0000007.pth", "model_0000008.pth", "model_0000009.pth")
    check_whole(output, newest)
    status, said = run(config, "--resume")
    assert status == 0, said
    losses, rows, final = outcome(tmp_path)
    if fault is removed_folder:  # its metrics were lost, by others
        rows = uninterrupted[1]
    assert_same((losses, rows, final), uninterrupted)


@pytest.mark.slow
def test_folder_that_became_a_file(tmp_path):
    status, said = run(write_config(tmp_path), fault=folder_that_is_a_file)
    assert status == 2
    assert "output/small" in (sentence := one_sentence(said))
    assert "cannot be written: " in sentence
    check_whole(tmp_path / "output" / "moved", "model_0000004.pth")


@pytest.mark.slow
def test_signal_to_every_process_of_the_group(tmp_path, uninterrupted):  # noqa: F811
    config = write_config(tmp_path, workers=2)
    status, said = run(config, fault=terminate_group)
    assert (status, said) == (143, "")
    check_whole(tmp_path / "output" / "small", "model_0000007.pth")
    assert run(config, "--resume")[0] == 0
    assert (tmp_path / "losses").read_text().count("\n") == 12
    assert_same(outcome(tmp_path), uninterrupted)


@pytest.mark.slow
def test_bad_images_survive_a_kill(tmp_path):
    whole, killed = (write_config(tmp_path / name) for name in ("whole", "killed"))
    for config in (whole, killed):
        images = config.parent / "train"
        (images / "3.png").write_bytes((images / "3.png").read_bytes()[:100])
        (images / "5.png").unlink()
    assert run(whole)[0] == 0

    status, _ = run(killed, fault=kill)
    assert status == -signal.SIGKILL
    assert run(killed, "--resume", "DATALOADER.NUM_WORKERS", "1")[0] == 0
    assert_same(outcome(killed.parent), outcome(whole.parent))
    for config in (whole, killed):
        output = config.parent / "output" / "small"
        rows = [json.loads(line) for line in (output / "bad_images.jsonl").read_text().splitlines()]
        assert sorted(Path(row["file"]).name for row in rows) == ["3.png", "5.png"]
        assert "3.png cannot be read and is replaced" in (output / "log.txt").read_text()
    status, said = run(whole, "DATALOADER.BAD_IMAGE_LIMIT", "1", "OUTPUT_DIR", str(tmp_path / "few"))
    assert status == 2
    assert "2 training images cannot be read" in one_sentence(said)


def kill(trainer, output):
    os.kill(os.getpid(), signal.SIGKILL)


def replay(*words):
    command = [sys.executable, str(ROOT / "tools" / "replay_batch.py"), *map(str, words)]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=one_thread)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout, done.stderr


@pytest.mark.slow
def test_poisoned_weight_is_kept_and_found_in_the_replay(tmp_path):
    config = write_config(tmp_path)
    output = tmp_path / "output" / "small"
    status, said = run(config, fault=poisoned_weight)
    assert status == 2
    assert "feature 'p3' holds NaN" in one_sentence(said)
    check_whole(output, "model_0000004.pth")
    dump = output / "bad_batches" / "iteration_0000007_rank0.pth"
    status, out, _ = replay(dump)
    assert status == 1
    assert "First output that is not finite: backbone.fpn_output3 (Conv2d; its weight not finite)" in out
    assert out.count("2 objects") == 2
    status, out, err = replay(dump, "--weights", output / "model_0000004.pth")
    assert (status, "Everything is finite" in out) == (0, True), err
    status, _, err = replay(output / "model_0000004.pth")
    assert (status, "is not a whole dump of a batch" in err) == (2, True)
    shutil.copy(dump, tmp_path / "alone.pth")
    status, _, err = replay(tmp_path / "alone.pth")
    assert (status, "give --weights" in err) == (2, True)


@pytest.mark.slow
def test_weight_that_stays_poisoned_stops_a_run_that_skips(tmp_path):
    opts = ["SOLVER.NON_FINITE", "skip", "SOLVER.NON_FINITE_LIMIT", "2", "SOLVER.CHECKPOINT_PERIOD", "100"]
    status, said = run(write_config(tmp_path), *opts, "TEST.EVAL_PERIOD", "0", fault=poisoned_weight)
    assert status == 2
    assert "3 steps in a row would have to be skipped (SOLVER.NON_FINITE_LIMIT is 2)" in one_sentence(said)
    log = (tmp_path / "output" / "small" / "log.txt").read_text()
    assert log.count("is skipped, no weight changes") == 2
