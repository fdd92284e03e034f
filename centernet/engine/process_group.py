"""Joining the processes of a run: who this one is, where the others are, and who speaks when something is wrong."""

import contextlib
import hashlib
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from detectron2.utils import comm

from ..errors import EXIT_USER_ERROR, UserError

__all__ = [
    "Placement",
    "ProcessGroup",
    "is_lost_peer",
    "joined",
    "one_voice",
    "placement_from_environment",
    "taking_turns",
]

_MEETING = timedelta(minutes=10)
# Between two messages of a process that lives. An evaluation of many images is scored by the main process alone.
_SILENCE = timedelta(minutes=30)


@dataclass(frozen=True)
class Placement:
    """Where this process stands among those of a run.

    Attributes:
        rank, world_size: of all processes.
        local_rank, local_world_size: of those of this machine; every machine has as many.
        address, port: where the processes meet.
        serves: this process answers at that address; otherwise something that outlives it does.
        restarts: how often the job has been started anew.
    """

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    address: str
    port: int
    serves: bool = False
    restarts: int = 0


def placement_from_environment(environment: Mapping[str, str] = os.environ) -> Placement | None:
    """What torchrun says in the environment of each process that it starts; None without it.

    Raises:
        UserError: a part of the variables is missing or not a number.
    """
    if "RANK" not in environment or "WORLD_SIZE" not in environment:
        return None

    def number(name: str) -> int:
        try:
            return int(environment[name])
        except (KeyError, ValueError):
            value = environment.get(name)
            raise UserError(
                f"RANK and WORLD_SIZE are set, but {name} is {'missing' if value is None else repr(value)}: start the "
                "processes with torchrun, which sets all of them, or unset RANK and WORLD_SIZE"
            ) from None

    if "MASTER_ADDR" not in environment:
        number("MASTER_ADDR")
    place = Placement(
        number("RANK"),
        number("WORLD_SIZE"),
        number("LOCAL_RANK"),
        number("LOCAL_WORLD_SIZE"),
        environment["MASTER_ADDR"],
        number("MASTER_PORT"),
        serves=number("RANK") == 0 and environment.get("TORCHELASTIC_USE_AGENT_STORE") != "True",
        restarts=int(environment.get("TORCHELASTIC_RESTART_COUNT", "0")),
    )
    if place.world_size % place.local_world_size:
        raise UserError(
            f"{place.world_size} processes, {place.local_world_size} of them on this machine: start the same number on "
            "each machine (torchrun --nproc-per-node)"
        )
    return place


@contextmanager
def one_voice() -> Iterator[None]:
    """Before processes that torchrun started have met: the main one prints, the first of each machine says errors.

    All processes of a machine read the same files and find the same faults; another machine may lack one.
    """
    place = placement_from_environment()
    with contextlib.ExitStack() as stack:
        if place and place.rank:
            nowhere = stack.enter_context(open(os.devnull, "w"))
            stack.enter_context(contextlib.redirect_stdout(nowhere))
            logging.getLogger().addHandler(logging.NullHandler())  # else warnings would go to the terminal
            if place.local_rank:
                stack.enter_context(contextlib.redirect_stderr(nowhere))
        try:
            yield
        except UserError as error:
            if place and place.local_rank:
                raise SystemExit(EXIT_USER_ERROR) from error
            raise


@contextmanager
def taking_turns(folder: str | Path) -> Iterator[None]:
    """The processes of this machine that prepare something in ``folder`` do so one after another."""
    import portalocker

    name = hashlib.sha256(str(Path(folder).absolute()).encode()).hexdigest()[:16]
    with portalocker.Lock(os.path.join(tempfile.gettempdir(), f"centernet_{os.getuid()}_{name}.lock"), timeout=3600):
        yield


class ProcessGroup:
    """The processes of a run, and a few words that they leave for each other where they meet."""

    def __init__(self, placement: Placement, store: dist.Store) -> None:
        self.placement = placement
        self._store = store

    def speaks_first(self) -> bool:
        """True in one process only, the first to ask after a start: what is wrong is said once."""
        try:
            return int(self._store.add(f"centernet/said/{self.placement.restarts}", 1)) == 1
        except Exception:  # of several types; the main process is gone, and with it the place to ask at
            return False

    def goes_on(self, folder: Path) -> bool:
        """After a restart of the job: whether it has left a checkpoint in ``folder``. To be asked at every start.

        A ``last_checkpoint`` that was there when the job began is that of an earlier run, which a job without
        ``--resume`` does not continue, however early its first start may have failed.
        """
        tag = folder / "last_checkpoint"
        now = f"{tag.read_text()} {tag.stat().st_mtime_ns}" if tag.exists() else "none"
        if self.placement.serves:  # what was left at the first start is gone with that process
            return self.placement.restarts > 0
        if not self._store.check(["centernet/before"]):
            self._store.set("centernet/before", now)
        return self._store.get("centernet/before").decode() != now


@contextmanager
def joined(placement: Placement, *, on_gpu: bool) -> Iterator[ProcessGroup]:
    """Inside, torch.distributed and detectron2's ``comm`` know all processes: NCCL on GPUs, gloo on CPUs.

    With ``on_gpu`` this process works on the GPU of its local number.

    Raises:
        UserError: this machine has fewer GPUs than processes, or the other processes cannot be reached.
    """
    if on_gpu and placement.local_world_size > torch.cuda.device_count():
        raise UserError(
            f"{placement.local_world_size} processes on this machine, which has {torch.cuda.device_count()} GPUs that "
            "PyTorch can use: start one process a GPU, or set MODEL.DEVICE cpu"
        )
    if on_gpu:
        torch.cuda.set_device(placement.local_rank)
    if placement.rank:
        warnings.simplefilter("ignore")  # the main process gives the same
        logging.getLogger("torch").setLevel(logging.ERROR)
    try:
        store = dist.TCPStore(placement.address, placement.port, None, placement.serves, _MEETING)
        dist.init_process_group(
            "nccl" if on_gpu else "gloo",
            # of this start: what processes of an earlier one left at the same place is out of date
            store=dist.PrefixStore(f"start {placement.restarts}", store),
            rank=placement.rank,
            world_size=placement.world_size,
            timeout=_SILENCE,
        )
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"process {placement.rank} cannot meet the other {placement.world_size - 1} at "
            f"{placement.address}:{placement.port} ({reason})"
        ) from error
    _make_local_group(placement)
    comm.synchronize()
    yield ProcessGroup(placement, store)
    comm._LOCAL_PROCESS_GROUP = None
    dist.destroy_process_group()


def _make_local_group(placement: Placement) -> None:
    """As detectron2's ``launch`` does; its ``comm`` asks it for the number of the GPU."""
    size = placement.local_world_size
    for first in range(0, placement.world_size, size):
        group = dist.new_group(list(range(first, first + size)))
        if first <= placement.rank < first + size:
            comm._LOCAL_PROCESS_GROUP = group


def is_lost_peer(error: BaseException) -> bool:
    """Whether ``error`` says that another process has gone, or has not answered in time."""
    if isinstance(error, getattr(dist, "DistError", ())):
        return True
    text = str(error)
    words = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer", "Broken pipe")
    return isinstance(error, RuntimeError) and any(word in text for word in words)
