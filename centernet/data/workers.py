"""Worker processes of a loader: they outlive a signal that is meant for the run, and one that dies is one sentence.

A terminal sends Ctrl-C to every process of the group, a job scheduler often SIGTERM as well. The run answers by ending
after the iteration at hand, which needs its data, so workers ignore both unless they come from their parent.
"""

import errno
import os
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.utils.data import DataLoader

from ..errors import UserError

__all__ = ["DeadWorkerError", "batches_of", "prepare_worker"]

_HELD = {signal.SIGINT, signal.SIGTERM}
# torch and multiprocessing, in the worker or where its batch is received
_NO_SHARED_MEMORY = re.compile(
    r"unable to (write to file|allocate shared memory|open shared memory|mmap)|shared memory \(shm\)|Bus error|"
    r"No space left on device.*torch_|torch_.*No space left on device"
)
_TOO_MANY_FILES = re.compile(r"Too many open files|received \d+ items of ancdata")
_DIED = re.compile(r"DataLoader worker \(pid(\(s\))? [\d, ]+\)")
_ADVICE_MEMORY = "lower DATALOADER.NUM_WORKERS (now {}; 0 loads in the main process) or free memory"
_ADVICE_SHM = (
    "give /dev/shm more room (docker run --shm-size=8g, or --ipc=host) or lower DATALOADER.NUM_WORKERS (now {})"
)


class DeadWorkerError(UserError):
    """A worker process of a loader died, or what it sent could not be received."""


def prepare_worker(_number: int) -> None:
    """``worker_init_fn`` of a loader: SIGTERM ends this process only if its parent sent it.

    It has been started with SIGINT and SIGTERM blocked.
    """
    if hasattr(signal, "sigwaitinfo"):
        threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    else:  # macOS does not tell who sent a signal
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def _end_with_parent(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)


def batches_of(loader: DataLoader) -> Iterator[list[Any]]:
    """The batches of ``loader``.

    Raises:
        DeadWorkerError: with what to do.
    """
    iterator = _start(loader)
    while True:
        try:
            batch = next(iterator)
        except StopIteration:
            return
        except (RuntimeError, OSError, EOFError) as error:
            if sentence := _explain(error, iterator, loader.num_workers):
                raise DeadWorkerError(sentence) from error
            raise
        yield batch


def _start(loader: DataLoader) -> Iterator[list[Any]]:
    try:
        with _held_signals():
            return iter(loader)
    except OSError as error:
        if error.errno not in (errno.ENOMEM, errno.EAGAIN, errno.EMFILE, errno.ENFILE):
            raise
        advice = _ADVICE_MEMORY.format(loader.num_workers)
        raise DeadWorkerError(f"the loader's workers cannot be started ({error.strerror}); {advice}") from error


@contextmanager
def _held_signals() -> Iterator[None]:
    """Signals wait, and processes started inside have them blocked.

    PyTorch's handler of SIGCHLD is taken away again: it raises wherever the main thread is when a worker dies, such as
    in the middle of an optimiser step. Without it that is seen, within 5 s, when the worker's next batch is due.
    """
    on_main_thread = threading.current_thread() is threading.main_thread()
    on_death = signal.getsignal(signal.SIGCHLD)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _HELD)
    try:
        yield
    finally:
        if on_main_thread and on_death is not None:
            signal.signal(signal.SIGCHLD, on_death)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _explain(error: Exception, iterator: Iterator[Any], number: int) -> str:
    """The sentence for a fault of the workers; '' for anything else."""
    text = str(error)
    if _NO_SHARED_MEMORY.search(text):
        return f"a worker of the loader ran out of shared memory; {_ADVICE_SHM.format(number)}"
    if _TOO_MANY_FILES.search(text):
        return (
            "the loader has too many files open; raise the limit (ulimit -n 65535) or lower DATALOADER.NUM_WORKERS "
            f"(now {number})"
        )
    # a worker that died with its last batch on the way: the connection it was sent through is gone
    dead = {w.exitcode for w in getattr(iterator, "_workers", ()) if w.exitcode}
    if not dead and not _DIED.search(text):
        return ""
    if -signal.SIGBUS in dead:
        return f"a worker of the loader ran out of shared memory (SIGBUS); {_ADVICE_SHM.format(number)}"
    advice = _ADVICE_MEMORY.format(number)
    if -signal.SIGKILL in dead:
        return f"a worker of the loader was killed (SIGKILL), as the system does when memory runs out; {advice}"
    how = ", ".join(f"signal {signal.Signals(-code).name}" if code < 0 else f"status {code}" for code in sorted(dead))
    return f"a worker of the loader ended unexpectedly ({how or 'unknown how'}); {advice}"
