"""Starting a run: in this process, as one of those that torchrun started, or in processes started here."""

import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
import torch.distributed as dist
from detectron2.config import CfgNode
from detectron2.utils import comm

from ..errors import EXIT_USER_ERROR, UserError
from .process_group import Placement, ProcessGroup, is_lost_peer, joined, one_voice, placement_from_environment
from .processes import from_main_process
from .train import check_run, evaluate, train

__all__ = ["run"]

_LAST_WORD = 2.0  # seconds in which the process that failed, or who started it, says why
_LOST_PEER = 3  # exit status of a process that another has left alone: the cause is elsewhere
_GRACE = 20.0  # seconds that processes have to end by themselves when one of them has failed


def run(
    cfg: CfgNode,
    *,
    resume: bool = False,
    eval_only: bool = False,
    num_gpus: int = 1,
    num_processes: int = 1,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str = "auto",
) -> int:
    """Train or evaluate what ``cfg`` says, after checking all that can be checked beforehand.

    Called in a process that torchrun started, it becomes one of the run; after a restart by torchrun a training goes
    on from the last checkpoint that the job has written.

    Args:
        cfg: not modified.
        resume: go on from the last checkpoint of OUTPUT_DIR.
        eval_only: evaluate instead of train.
        num_gpus: GPUs, and processes, on this machine; 0 or 1 run in this process.
        num_processes: processes on this machine if they share the CPU.
        num_machines: machines that take part; this function is called on each.
        machine_rank: number of this machine, from 0.
        dist_url: where the processes meet, 'tcp://HOST:PORT' of the first machine; 'auto' takes a free port here.

    Returns:
        Exit status: 0, 2 for what the user can mend, 130 and 143 after a signal; with several processes that of the
        first one to fail, 128 + the signal if it was killed.

    Raises:
        UserError: found in this process.
    """
    here = max(num_gpus, num_processes, 1)
    with one_voice():
        place = placement_from_environment()
        world = place.world_size if place else here * num_machines
        if place is not None:
            _check_alone(num_gpus, num_processes, num_machines)
        elif world > 1:
            _check_processes(cfg, num_gpus, num_processes, num_machines, machine_rank, dist_url)
        _check_slurm(place, num_machines)
        if world > 1 and ":" in cfg.MODEL.DEVICE:
            raise UserError(f"MODEL.DEVICE is {cfg.MODEL.DEVICE} for {world} processes: set it to cuda, one GPU each")
        check_run(cfg, eval_only=eval_only, resume=resume or bool(place and place.restarts), processes=world)
    if place is not None:
        return _work(place, cfg, resume, eval_only, on_lost_peer=_say_lost_peer)
    if world == 1:
        (evaluate if eval_only else train)(cfg, resume=resume)
        return 0
    with _meeting_place(dist_url, machine_rank) as (address, port, store):
        ranks = range(machine_rank * here, (machine_rank + 1) * here)
        places = [Placement(rank, world, rank - ranks[0], here, address, port) for rank in ranks]
        speaks = ProcessGroup(places[0], store).speaks_first if store else lambda: True
        status = _run_in_processes(_child, [(place, cfg, resume, eval_only) for place in places], speaks)
    return _say_lost_peer(speaks, cfg) if status == _LOST_PEER else status


# ------------------------------------------------------------------------------------------------ what is refused


def _check_alone(num_gpus: int, num_processes: int, num_machines: int) -> None:
    for name, number in (("gpus", num_gpus), ("processes", num_processes), ("machines", num_machines)):
        if number > 1:
            raise UserError(f"--num-{name} {number} under torchrun, which has started the processes: leave it out")


def _check_processes(
    cfg: CfgNode, num_gpus: int, num_processes: int, num_machines: int, machine_rank: int, dist_url: str
) -> None:
    there, on_cpu = torch.cuda.device_count(), cfg.MODEL.DEVICE == "cpu"
    if num_processes > 1 and (num_gpus > 1 or not on_cpu):
        raise UserError("--num-processes is for processes that share the CPU: give --num-gpus for one process a GPU")
    if num_gpus > there and (num_gpus > 1 or not on_cpu):
        raise UserError(f"--num-gpus {num_gpus}: this machine has {there} GPUs that PyTorch can use")
    if num_gpus > 1 and on_cpu:
        raise UserError(f"--num-gpus {num_gpus} with MODEL.DEVICE cpu: give --num-processes {num_gpus} for the CPU")
    if num_gpus < 1 and not on_cpu:
        raise UserError("--num-machines above 1 needs at least one GPU on each machine, or MODEL.DEVICE cpu")
    if not 0 <= machine_rank < num_machines:
        raise UserError(f"--machine-rank {machine_rank} must be from 0 to {num_machines - 1}")
    if num_machines > 1 and dist_url == "auto":
        raise UserError("several machines need --dist-url tcp://FIRST_MACHINE:PORT, the same on each")


def _check_slurm(place: Placement | None, num_machines: int) -> None:
    """``srun`` with several tasks starts this program as often, and none of them would know of the others."""
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS", "1")
    if place is None and tasks.isdigit() and int(tasks) > num_machines:
        raise UserError(
            f"srun has started {tasks} tasks that would not know of each other: start one torchrun a machine "
            "(srun --ntasks-per-node=1 torchrun ..., see docs/TRAINING.md)"
        )


# ------------------------------------------------------------------------------------------- what each process does


def _work(
    place: Placement,
    cfg: CfgNode,
    resume: bool,
    eval_only: bool,
    on_lost_peer: Callable[[Callable[[], bool], CfgNode], int] = lambda speaks, cfg: _LOST_PEER,
) -> int:
    """The run, as one of its processes; returns the exit status. An error is said once, by one of them.

    Left alone by another process, it leaves with what ``on_lost_peer(speaks, cfg)`` returns.
    """
    with joined(place, on_gpu=torch.device(cfg.MODEL.DEVICE).type == "cuda") as group:
        try:
            if eval_only:
                evaluate(cfg, resume=resume)
            else:
                train(cfg, resume=resume or _goes_on(group, cfg))
        except UserError as error:
            if group.speaks_first():
                sys.stderr.write(f"error: {error}\n")
            return _leave(EXIT_USER_ERROR)
        except SystemExit as stop:
            return _leave(int(stop.code or 0))
        except Exception as error:
            if is_lost_peer(error):
                return _leave(on_lost_peer(group.speaks_first, cfg))
            group.speaks_first()
            traceback.print_exc()
            return _leave(1)
    return 0


def _say_lost_peer(speaks: Callable[[], bool], cfg: CfgNode) -> int:
    """Waits for who knows the cause to say it; else says what can be said. Returns the exit status."""
    time.sleep(_LAST_WORD)
    if speaks():
        sys.stderr.write(
            "error: another process has ended without a word, killed for want of memory perhaps, or has not answered "
            f"for long; {cfg.OUTPUT_DIR} has the log of each\n"
        )
    return 1


def _goes_on(group: ProcessGroup, cfg: CfgNode) -> bool:
    goes_on = from_main_process(comm.is_main_process() and group.goes_on(Path(cfg.OUTPUT_DIR)))
    if goes_on and comm.is_main_process():
        sys.stderr.write(f"Restart {group.placement.restarts} of this job: going on from its last checkpoint\n")
    return goes_on


def _leave(status: int) -> int:
    """``status``, or the end of the process at once where taking NCCL down would wait for those that are gone."""
    if dist.get_backend() == "nccl":
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


def _child(place: Placement, cfg: CfgNode, resume: bool, eval_only: bool) -> None:
    os.setpgrp()  # Ctrl-C reaches the starter alone, which passes it on, once
    threading.Thread(target=_end_with_starter, daemon=True).start()
    if cfg.MODEL.DEVICE == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // place.local_world_size))
    try:
        status = _work(place, cfg, resume, eval_only)
    except UserError as error:  # while they met
        sys.stderr.write(f"error: {error}\n")
        status = EXIT_USER_ERROR
    raise SystemExit(status)


def _end_with_starter() -> None:
    starter = multiprocessing.parent_process()
    assert starter is not None
    starter.join()
    os.kill(os.getpid(), signal.SIGTERM)  # saves


# ------------------------------------------------------------------------------------------------ starting processes


@contextmanager
def _meeting_place(dist_url: str, machine_rank: int) -> Iterator[tuple[str, int, dist.Store | None]]:
    """Address and port at which processes meet. The first machine's starter answers there, and outlives them."""
    address, port = "127.0.0.1", 0
    if dist_url != "auto":
        parts = urlsplit(dist_url)
        if parts.scheme != "tcp" or not parts.hostname or not parts.port:
            raise UserError(f"--dist-url is '{dist_url}': it must be tcp://HOST:PORT")
        address, port = parts.hostname, parts.port
    if machine_rank:
        yield address, port, None
        return
    try:
        store = dist.TCPStore(address, port, None, True, wait_for_workers=False)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"--dist-url {dist_url}: this machine cannot answer there ({reason})") from error
    yield address, store.port, store


def _run_in_processes(
    target: Callable[..., None], arguments: Sequence[tuple[Any, ...]], speaks: Callable[[], bool]
) -> int:
    """One new process for each tuple of arguments; the exit status of the first one that fails.

    When one fails, the others have a short while to end by themselves before they are ended. Signals to stop go to
    all of them. A process that was killed is named if ``speaks()``.
    """
    context = multiprocessing.get_context("spawn")
    processes: list[BaseProcess] = [context.Process(target=target, args=each) for each in arguments]
    with _passing_on_signals(processes):
        for process in processes:
            process.start()
        status, deadline, running = 0, None, processes
        while running:
            wait([process.sentinel for process in running], 0.2)  # a killed one's is silent while its workers live
            running = [process for process in processes if process.exitcode is None]
            overdue = time.monotonic() - deadline if deadline else 0.0
            if overdue > 0:
                for process in running:
                    process.terminate() if overdue < _GRACE else process.kill()
            elif status in (0, _LOST_PEER):
                status = _first_failed(processes, speaks)
                deadline = deadline or (time.monotonic() + _GRACE if status else None)
    return status


def _first_failed(processes: Sequence[BaseProcess], speaks: Callable[[], bool]) -> int:
    """Exit status of the first process that has failed, 0 if none has; says which one was killed.

    One that was left alone by another counts only where no other has failed.
    """
    codes = [process.exitcode or 0 for process in processes]
    for number, code in enumerate(codes):
        if code < 0 and speaks():
            name = signal.Signals(-code).name
            sys.stderr.write(f"error: process {number} of this machine was killed by {name}\n")
        if code not in (0, _LOST_PEER):
            return code if code > 0 else 128 - code
    return _LOST_PEER if _LOST_PEER in codes else 0


@contextmanager
def _passing_on_signals(processes: Sequence[BaseProcess]) -> Iterator[None]:
    def pass_on(number: int, _frame: object) -> None:
        for process in processes:
            if process.pid and process.exitcode is None:
                os.kill(process.pid, number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
