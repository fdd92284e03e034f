"""SIGTERM and SIGINT where they are least welcome: each run ends cleanly, and --resume gives the rest, bit for bit."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from children import CONTEXT
from small_run import ROOT, write_config
from test_resume import assert_same, outcome, uninterrupted  # noqa: F401  a fixture

from centernet.engine.manifest import damage

OPTS = ["TEST.EVAL_PERIOD", "4", "SEED", "7"]


def _train(argv, losses, where, number):
    """Runs in the child; the signal comes once, ``where``."""
    import train_net
    from centernet import evaluation
    from centernet.engine import checkpoint
    from centernet.engine.trainer import Trainer

    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job starts with it ignored
    places = {"evaluation": (evaluation, "evaluate"), "write": (checkpoint.torch, "save")}
    places["start"] = (Trainer, "open_data")
    record = Trainer._record
    owner, name = places[where]
    original, sent = getattr(owner, name), []

    def interrupted(*args, **kwargs):
        # detectron2's evaluators save with torch.save as well
        if not sent and (where != "write" or type(args[1]).__name__ == "_HashingStream"):
            sent.append(True)
            os.kill(os.getpid(), number)
        return original(*args, **kwargs)

    def recording(trainer, values):
        with open(losses, "a") as file:
            file.write(f"{trainer.iter} {[value.item().hex() for value in values.values()]}\n")
        record(trainer, values)

    if number:
        setattr(owner, name, interrupted)
    Trainer._record = recording
    raise SystemExit(train_net.main(argv))


def run(config, *opts, where="start", number=0):
    argv, losses = [str(config), *OPTS, *opts], config.parent / "losses"
    process = CONTEXT.Process(target=_train, args=(argv, losses, where, number))
    process.start()
    process.join(300)
    return process.exitcode


@pytest.mark.slow
@pytest.mark.parametrize(
    "where, number, status, newest",
    [
        ("evaluation", signal.SIGTERM, 143, "model_0000003.pth"),
        ("write", signal.SIGINT, 130, "model_0000004.pth"),
        ("start", signal.SIGINT, 130, None),
        ("start", signal.SIGTERM, -signal.SIGTERM, None),  # nothing is there to save yet
    ],
)
def test_signal(tmp_path, uninterrupted, where, number, status, newest):  # noqa: F811
    config = write_config(tmp_path)
    output = tmp_path / "output" / "small"
    assert run(config, where=where, number=number) == status
    if newest is None:
        assert not output.exists()
    else:
        assert (output / "last_checkpoint").read_text() == newest
        assert damage(output / newest) == ""
    assert run(config, "--resume") == 0
    assert (tmp_path / "losses").read_text().count("\n") == 12  # nothing was done twice
    assert_same(outcome(tmp_path), uninterrupted)


@pytest.mark.slow
def test_signal_to_a_run_of_two_processes(tmp_path):
    """Given to the starter once; both stop after the same iteration, and the rest is what it would have been."""
    opts = ["--num-processes", "2", "SEED", "7", "DATASETS.TEST", "()", "SOLVER.MAX_ITER", "30"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    whole, stopped = (write_config(tmp_path / name) for name in ("whole", "stopped"))
    commands = [[sys.executable, str(ROOT / "train_net.py"), str(config), *opts] for config in (whole, stopped)]
    done = subprocess.run(commands[0], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    process = subprocess.Popen(commands[1], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    output = stopped.parent / "output" / "small"
    deadline = time.monotonic() + 200
    while not (output / "last_checkpoint").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=200)
    assert process.returncode == 143, said
    assert "Traceback" not in said
    newest = output / (output / "last_checkpoint").read_text()
    assert damage(newest) == ""
    assert len(torch.load(newest, weights_only=True)["trainer"]["random_states"]) == 2
    done = subprocess.run([*commands[1], "--resume"], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    files = [config.parent / "output/small/model_final.pth" for config in (whole, stopped)]
    final = [torch.load(file, weights_only=True)["model"] for file in files]
    assert all(torch.equal(value, final[1][name]) for name, value in final[0].items())
