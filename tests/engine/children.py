"""Training runs in processes forked from one that has imported everything: cheap to start and to kill."""

import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["centernet.engine", "centernet.evaluation", "train_net", "tensorboard"])


def run_child(argv: list[str], *, kill_after: float | None = None, **plan: Any) -> int:
    """Run ``train_net.py`` with ``argv``, SIGKILL it after ``kill_after`` seconds if it still runs then.

    Returns its exit status, negative for a signal that killed it.
    """
    process = CONTEXT.Process(target=_train_net, args=(argv,), kwargs=plan)
    process.start()
    if kill_after is not None:
        process.join(kill_after)
        process.kill()
    process.join(120)
    assert process.exitcode is not None, "the run hangs"
    return process.exitcode


def _train_net(
    argv: list[str],
    losses: Path | None = None,
    at: int | None = None,
    send: int = signal.SIGKILL,
    where: str = "step",
) -> None:
    """Runs in the child. Appends ``iteration losses`` to ``losses``; sends ``send`` to itself at iteration
    ``at``: in its 'step', in the middle of a checkpoint's 'write', or between the file and its 'tag'."""
    import torch

    import train_net
    from centernet.engine import TrainingCheckpointer, checkpoint
    from centernet.engine.trainer import Trainer

    torch.set_num_threads(1)
    record, save, tag = Trainer._record, torch.save, TrainingCheckpointer.tag_last_checkpoint
    now = {"iteration": -1}

    def recording(trainer: Trainer, values: dict[str, torch.Tensor]) -> None:
        now["iteration"] = trainer.iter
        if losses is not None:
            with open(losses, "a") as file:
                file.write(f"{trainer.iter} {[value.item().hex() for value in values.values()]}\n")
        if trainer.iter == at and where == "step":
            os.kill(os.getpid(), send)
        record(trainer, values)

    def half_written(data: Any, stream: Any) -> None:
        if where == "write" and now["iteration"] == at:
            stream.write(b"half of a checkpoint")
            stream.flush()
            os.kill(os.getpid(), send)
        save(data, stream)

    def untagged(checkpointer: TrainingCheckpointer, name: str) -> None:
        if where == "tag" and now["iteration"] == at:
            os.kill(os.getpid(), send)
        tag(checkpointer, name)

    Trainer._record = recording
    checkpoint.torch.save = half_written
    TrainingCheckpointer.tag_last_checkpoint = untagged
    raise SystemExit(train_net.main(argv))
