"""Sixty kills over one training: it always goes on, no checkpoint is ever damaged, the weights are those of no kill.

Slow: sixty processes start, load and train on. ``kills`` says when each one dies.
"""

import os
import random
import signal
import threading
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from children import CONTEXT
from small_run import write_config
from test_resume import assert_same, losses_by_iteration, outcome

OPTS = ["SEED", "7", "SOLVER.MAX_ITER", "240", "SOLVER.CHECKPOINT_PERIOD", "2", "TEST.EVAL_PERIOD", "50"]
OPTS += ["SOLVER.CHECKPOINTS_KEPT", "3"]
PHASES = ["middle"] * 14 + ["written"] * 4 + ["renamed"] * 4 + ["untagged"] * 4  # of a checkpoint write


class Kill(NamedTuple):
    """When a process dies."""

    number: int  # of the signal
    phase: str = ""  # of a checkpoint write, or '' for a time
    write: int = 1  # which of the process's checkpoints
    fraction: float = 0.0  # of that file
    iterations: int = 0  # or after so many
    seconds: float = 0.0  # and so long


def kills(seed: int) -> list[Kill]:
    """26 inside a checkpoint write, 20 SIGKILLs at random times, 7 SIGTERMs, 7 SIGINTs, in random order."""
    draw = random.Random(seed)
    drawn = [Kill(signal.SIGKILL, phase, draw.choice((1, 1, 2)), draw.random()) for phase in PHASES]
    for number in [signal.SIGKILL] * 20 + [signal.SIGTERM] * 7 + [signal.SIGINT] * 7:
        # soon enough that the run does not end before the last kill on a fast machine
        drawn.append(Kill(number, iterations=draw.randrange(3), seconds=draw.uniform(0, 0.03)))
    draw.shuffle(drawn)
    return drawn


class _DyingStream:
    def __init__(self, stream: Any, after: float) -> None:
        self._stream, self._left = stream, after

    def write(self, data: Any) -> int:
        count = memoryview(data).nbytes
        if count > self._left:
            self._stream.write(bytes(data)[: int(self._left)])
            self._stream.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        self._left -= count
        return self._stream.write(data)

    def flush(self) -> None:
        self._stream.flush()


def _train(argv: list[str], losses: Path, kill: Kill | None) -> None:
    """Runs in the child."""
    import train_net
    from centernet.engine import atomic_file, checkpoint
    from centernet.engine.trainer import Trainer

    torch.set_num_threads(1)
    record, save, replace = Trainer._record, torch.save, os.replace
    now = {"steps": 0, "writes": 0}

    def recording(trainer: Trainer, values: dict[str, torch.Tensor]) -> None:
        with open(losses, "a") as file:
            file.write(f"{trainer.iter} {[value.item().hex() for value in values.values()]}\n")
        if kill and not kill.phase and now["steps"] == kill.iterations:
            threading.Timer(kill.seconds, os.kill, (os.getpid(), kill.number)).start()
        now["steps"] += 1
        record(trainer, values)

    def saving(data: Any, stream: Any) -> None:
        now["writes"] += 1
        if kill and kill.phase == "middle" and now["writes"] == kill.write:
            import io

            save(data, buffer := io.BytesIO())
            stream = _DyingStream(stream, kill.fraction * len(buffer.getvalue()))
        save(data, stream)

    def replacing(source: Path, target: Path) -> None:
        phases = {".pth": "written", ".json": "renamed", "": "untagged"}
        of_checkpoint = target.name.startswith("model_") or target.name == "last_checkpoint"
        due = kill is not None and of_checkpoint and now["writes"] == kill.write
        if due and kill.phase == phases[target.suffix]:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)

    Trainer._record = recording
    checkpoint.torch.save = saving
    atomic_file.os.replace = replacing
    raise SystemExit(train_net.main(argv))


def run(argv: list[str], losses: Path, kill: Kill | None = None) -> int:
    process = CONTEXT.Process(target=_train, args=(argv, losses, kill))
    process.start()
    process.join(600)
    assert process.exitcode is not None, "the run hangs"
    return process.exitcode


def check_folder(folder: Path) -> None:
    """Every checkpoint can be read, and last_checkpoint names one of them."""
    from centernet.engine.manifest import damage

    files = sorted(folder.glob("model_*.pth"))
    assert [damage(file) for file in files] == [""] * len(files)
    tag = folder / "last_checkpoint"
    if tag.exists():
        newest = torch.load(folder / tag.read_text(), weights_only=True)
        assert newest["iteration"] >= max(int(file.stem[6:]) for file in files) - 2
        assert len(files) <= 3 + 2  # SOLVER.CHECKPOINTS_KEPT, what was resumed from, and one not yet counted


@pytest.mark.slow
def test_sixty_kills(tmp_path):
    whole, killed = write_config(tmp_path / "whole"), write_config(tmp_path / "killed")
    assert run([str(whole), *OPTS], whole.parent / "losses") == 0
    argv, losses, output = [str(killed), *OPTS, "--resume"], killed.parent / "losses", killed.parent / "output/small"
    counts: Counter[str] = Counter()
    for kill in kills(0):
        status = run(argv, losses, kill)
        expected = {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}[kill.number]
        assert status == expected, kill
        counts[f"{signal.Signals(kill.number).name} {'in a write' if kill.phase else ''}".strip()] += 1
        check_folder(output)
    assert run(argv, losses) == 0
    done, wanted = losses.read_text().count("\n"), len(losses_by_iteration(losses))
    print(f"{dict(counts)}: {sum(counts.values())} kills, {done} iterations computed for {wanted}")
    assert counts == {"SIGKILL in a write": 26, "SIGKILL": 20, "SIGTERM": 7, "SIGINT": 7}
    assert_same(outcome(killed.parent), outcome(whole.parent))
    assert not list(output.glob("*.tmp"))
