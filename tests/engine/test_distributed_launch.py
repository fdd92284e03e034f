"""The command line with several processes: torchrun that restarts, processes of our own, what is said and returned."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from centernet.engine.launch import _LOST_PEER, _first_failed, _run_in_processes
from centernet.engine.process_group import is_lost_peer, placement_from_environment
from centernet.errors import UserError

VICTIM = str(Path(__file__).with_name("victim.py"))
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--monitor-interval", "0.2", "--nproc-per-node", "3"]
ENVIRONMENT = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
ENVIRONMENT |= {"MASTER_ADDR": "a", "MASTER_PORT": "29500"}


def start(words, folder, kill=""):
    images = folder / f"images {kill.replace(':', '-')}"
    images.mkdir()
    env = os.environ | {"KILL": kill, "IMAGES": str(images), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *words], env=env, capture_output=True, text=True, timeout=500)
    return done, {file.name: file.read_text().splitlines() for file in images.iterdir()}


@pytest.mark.slow
def test_torchrun_goes_on_by_itself_after_kills(small):
    opts = ["SEED", "7", "SOLVER.IMS_PER_BATCH", "3", "SOLVER.CHECKPOINT_PERIOD", "4", "DATASETS.TEST", "()"]
    words = [VICTIM, str(small), *opts, "MODEL.DEVICE", "cpu"]
    output = small.parent / "output" / "small"
    done, whole = start([*TORCHRUN, *words], small.parent)
    assert done.returncode == 0, done.stderr
    assert {name: len(lines) for name, lines in whole.items()} == {"0-0": 12, "0-1": 12, "0-2": 12}
    assert done.stdout.count("Saved checkpoint") == 4  # by the main process alone
    final = torch.load(output / "model_final.pth")["model"]

    # In the same folder, without --resume. The first start fails before it has set the earlier run aside.
    kill = "0:1:-1 1:2:6"
    done, images = start([*TORCHRUN, "--max-restarts", "3", *words], small.parent, kill)
    assert done.returncode == 0, done.stderr
    assert "Restart 2 of this job: going on from its last checkpoint" in done.stderr
    assert "Restart 1 of this job" not in done.stderr
    assert "Training from iteration 0 to 12" in done.stdout
    assert "Training from iteration 4 to 12" in done.stdout
    for rank in range(3):
        assert images[f"1-{rank}"][:6] == whole[f"0-{rank}"][:6]
        assert images[f"2-{rank}"] == whole[f"0-{rank}"][4:]
    again = torch.load(output / "model_final.pth")["model"]
    assert all(torch.equal(value, again[name]) for name, value in final.items())


@pytest.mark.slow
def test_processes_of_our_own(small):
    words = [VICTIM, str(small), "--num-processes", "2", "SEED", "7", "DATASETS.TEST", "()", "SOLVER.TRAIN_ITER", "6"]
    done, _ = start([*words, "SOLVER.CHECKPOINT_PERIOD", "2"], small.parent, "0:1:5")
    assert done.returncode == 128 + 9
    assert [line for line in done.stderr.splitlines() if "rror" in line] == [
        "error: process 1 of this machine was killed by SIGKILL"
    ]
    done, images = start([*words, "--resume"], small.parent)
    assert done.returncode == 0, done.stderr
    assert "Training from iteration 4 to 6" in done.stdout
    assert {name: len(lines) for name, lines in images.items()} == {"0-0": 2, "0-1": 2}
    done, _ = start([*words, "SOLVER.BASE_LR", "1e18", "SOLVER.WARMUP_ITERS", "0"], small.parent, " ")
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if "rror" in line]
    assert "lower SOLVER.BASE_LR" in line


def leave(status, seconds):
    time.sleep(seconds)
    if status < 0:
        os.kill(os.getpid(), -status)
    raise SystemExit(status)


def leave_a_worker(file):
    """Killed, while a process that it has started holds its files open, as the workers of a loader do."""
    worker = os.fork()
    if worker == 0:
        time.sleep(100)
        os._exit(0)
    file.write_text(str(worker))
    os.kill(os.getpid(), signal.SIGKILL)


def test_the_cause_is_told_whoever_ends_first(capfd):
    assert _run_in_processes(leave, [(_LOST_PEER, 0), (-signal.SIGKILL, 1)], lambda: True) == 137
    assert capfd.readouterr().err == "error: process 1 of this machine was killed by SIGKILL\n"


@pytest.mark.parametrize(
    "codes, status",
    [
        ([0, None], 0),
        ([_LOST_PEER, 2], 2),
        ([_LOST_PEER, 0, 1, 2], 1),
        ([_LOST_PEER, None], _LOST_PEER),  # the cause may be on another machine
    ],
)
def test_status_of_the_first_that_failed_by_itself(codes, status):
    assert _first_failed([SimpleNamespace(exitcode=code) for code in codes], lambda: True) == status


def test_a_killed_process_is_noticed_while_its_workers_live(tmp_path):
    assert _run_in_processes(leave_a_worker, [(tmp_path / "worker",)], lambda: False) == 137
    os.kill(int((tmp_path / "worker").read_text()), signal.SIGKILL)  # ProcessLookupError if it had ended


def test_environment_of_torchrun():
    assert placement_from_environment({}) is None
    assert placement_from_environment({"RANK": "0"}) is None
    place = placement_from_environment(ENVIRONMENT)
    assert (place.rank, place.world_size, place.local_rank, place.local_world_size) == (3, 4, 1, 2)
    assert (place.address, place.port, place.serves, place.restarts) == ("a", 29500, False, 0)
    first = ENVIRONMENT | {"RANK": "0", "LOCAL_RANK": "0"}
    assert placement_from_environment(first).serves
    first |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "2"}
    place = placement_from_environment(first)
    assert (place.serves, place.restarts) == (False, 2)


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"LOCAL_RANK": None}, "LOCAL_RANK is missing: start the processes with torchrun"),
        ({"MASTER_ADDR": None}, "MASTER_ADDR is missing"),
        ({"MASTER_PORT": "x"}, "MASTER_PORT is 'x'"),
        ({"WORLD_SIZE": "5"}, "start the same number on each machine"),
    ],
)
def test_environment_that_is_not_whole(change, sentence):
    changed = {name: value for name, value in (ENVIRONMENT | change).items() if value is not None}
    with pytest.raises(UserError, match=sentence):
        placement_from_environment(changed)


def test_tasks_of_srun_that_would_not_know_of_each_other(small, monkeypatch, capsys):
    import train_net

    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    assert train_net.main([str(small)]) == 2
    assert "srun has started 4 tasks that would not know of each other" in capsys.readouterr().err


def test_what_says_that_another_process_has_gone():
    assert is_lost_peer(RuntimeError("[x/third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer"))
    assert is_lost_peer(torch.distributed.DistBackendError("NCCL error"))
    assert not is_lost_peer(RuntimeError("shape mismatch"))
    assert not is_lost_peer(KeyError("gloo"))
