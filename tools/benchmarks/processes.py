"""Measurements in processes of their own, and what the kernel says about their memory."""

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["forget_peak", "from_proc", "in_process"]


def in_process(function: Callable[..., None], *args: Any) -> dict[str, Any]:
    """What ``function`` puts into its last argument, run in a fresh process.

    Raises:
        RuntimeError: the process ended without putting anything there.
    """
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    process = context.Process(target=function, args=(*args, results))
    process.start()
    try:
        while True:
            try:
                value = results.get(timeout=1)
                break
            except Exception:  # queue.Empty
                if not process.is_alive():
                    raise RuntimeError(f"the measuring process ended with {process.exitcode}") from None
    except BaseException:
        process.kill()
        raise
    process.join()
    return value


def from_proc(file: str, field: str, pid: int | str = "self") -> float:
    """A field of a file of /proc/PID, MB."""
    lines = Path(f"/proc/{pid}/{file}").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{field}:"))


def forget_peak() -> None:
    """From here on, ``VmHWM`` of this process counts anew."""
    Path("/proc/self/clear_refs").write_text("5", "utf-8")
