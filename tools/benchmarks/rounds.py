"""Turns of several calls that alternate, so that a noisy minute hits all alike."""

import gc
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any, NamedTuple

import torch

from centernet.progress import progress

__all__ = ["Turn", "busy_share", "covered", "paired_ratio", "timed", "take_turns"]

_REST = 0.02  # seconds between calls, for the threads of the last one to stop spinning


class Turn(NamedTuple):
    """Seconds of one call: by the clock, and of all threads of this process."""

    wall: float
    cpu: float


def timed(call: Callable[[], Any], device: str) -> Turn:
    """One call; on a GPU from an idle device to an idle device."""
    _wait(device)
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    _wait(device)
    return Turn(time.perf_counter() - wall, time.process_time() - cpu)


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def take_turns(
    calls: Sequence[Callable[[], Any]], turns: int, warm_up: int, device: str, name: str
) -> tuple[list[list[Turn]], bool]:
    """Every call once, then every call again.

    Args:
        name: of the progress bar.

    Returns:
        The turns of each call after the first ``warm_up`` ones, and whether a signal ended it before all were done.
        The turns of all calls are then equally many.
    """
    found: list[list[Turn]] = [[] for _ in calls]
    try:
        with progress(name, (warm_up + turns) * len(calls), unit="call") as bar, torch.inference_mode():
            for turn in range(warm_up + turns):
                for call, taken in zip(calls, found, strict=True):
                    time.sleep(_REST)
                    result = timed(call, device)
                    if turn >= warm_up:
                        taken.append(result)
                    bar.advance()
                gc.collect()
    except KeyboardInterrupt:
        whole = len(found[-1]) if found else 0
        return [taken[:whole] for taken in found], True
    return found, False


def paired_ratio(turns: Sequence[float], baseline: Sequence[float]) -> float:
    """Median of the ratios turn by turn."""
    return median(one / other for one, other in zip(turns, baseline, strict=True))


def covered(intervals: Sequence[tuple[float, float]]) -> float:
    """Length of the union of ``(begin, end)`` intervals."""
    total, reached = 0.0, float("-inf")
    for begin, end in sorted(intervals):
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return total


def busy_share(call: Callable[[], Any], seconds: float, calls: int = 5) -> float:
    """Share of the time of a call in which the GPU works: time covered by kernels and copies, from the profiler, over
    the time of a call that nobody profiles.

    Args:
        seconds: of a call without profiler.
    """
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as record, torch.inference_mode():
        for _ in range(calls):
            call()
        torch.cuda.synchronize()
    events = record.profiler.kineto_results.events()
    work = [
        (event.start_ns(), event.start_ns() + event.duration_ns())
        for event in events
        if event.device_type() == torch.autograd.DeviceType.CUDA and not event.is_user_annotation()
    ]
    return min(1.0, covered(work) / 1e9 / calls / seconds)
