"""Starting a run in one process, or one process a GPU, on one machine or on several."""

import sys

import torch
from detectron2.config import CfgNode
from detectron2.engine import launch
from detectron2.utils import comm
from torch.multiprocessing import ProcessExitedException

from ..errors import EXIT_USER_ERROR, UserError
from .train import check_run, evaluate, train
from .trainer import NonFiniteLossError

__all__ = ["run"]


def run(
    cfg: CfgNode,
    *,
    resume: bool = False,
    eval_only: bool = False,
    num_gpus: int = 1,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str = "auto",
) -> int:
    """Train or evaluate what ``cfg`` says, after checking all that can be checked beforehand.

    Args:
        cfg: not modified.
        resume: go on from the last checkpoint of OUTPUT_DIR.
        eval_only: evaluate instead of train.
        num_gpus: GPUs, and processes, on this machine; 0 or 1 run in this process.
        num_machines: machines that take part; this function is called on each.
        machine_rank: number of this machine, from 0.
        dist_url: where the processes meet; 'auto' takes a free port of this machine.

    Returns:
        Exit status: 0, 2 for what the user can mend, 130 and 143 after a signal.

    Raises:
        UserError: found in this process.
    """
    processes = max(num_gpus, 1) * num_machines
    if processes > 1:
        _check_processes(num_gpus, num_machines, machine_rank, dist_url)
    check_run(cfg, eval_only=eval_only, resume=resume, processes=processes)
    try:
        launch(_work, num_gpus, num_machines, machine_rank, dist_url, args=(cfg, resume, eval_only))
    except ProcessExitedException as error:
        return int(error.exit_code)
    return 0


def _check_processes(num_gpus: int, num_machines: int, machine_rank: int, dist_url: str) -> None:
    there = torch.cuda.device_count()
    if num_gpus > there:
        raise UserError(f"--num-gpus {num_gpus}: this machine has {there} GPUs that PyTorch can use")
    if num_gpus < 1:
        raise UserError("--num-machines above 1 needs at least one GPU on each machine")
    if not 0 <= machine_rank < num_machines:
        raise UserError(f"--machine-rank {machine_rank} must be from 0 to {num_machines - 1}")
    if num_machines > 1 and dist_url == "auto":
        raise UserError("several machines need --dist-url tcp://FIRST_MACHINE:PORT, the same on each")


def _work(cfg: CfgNode, resume: bool, eval_only: bool) -> None:
    """What each process does. In a process of its own, an error of the user is said here, once."""
    try:
        (evaluate if eval_only else train)(cfg, resume=resume)
    except UserError as error:
        if comm.get_world_size() == 1:
            raise
        if comm.is_main_process() or not isinstance(error, NonFiniteLossError):  # all processes see that one
            sys.stderr.write(f"error: {error}\n")
        raise SystemExit(EXIT_USER_ERROR) from error
