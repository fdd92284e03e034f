"""What losses are divided by: counts of the whole step, however its images are spread over processes and parts.

``DistributedDataParallel`` takes the mean of the processes' gradients, gradient accumulation that of the parts of a
batch. A loss ``sum / (mean count of all processes and parts)`` makes that mean the loss of all images together; a loss
divided by the count at hand would give an object more weight where there are few. Counts stay tensors on the device:
nothing here waits for it.

Source: "Probabilistic two-stage detection" (arXiv 2103.07461) divides the first stage's losses so; the second stage's,
which detectron2 divides by the process's own number of regions, follow the same rule here.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.distributed as dist
from detectron2.utils import comm
from torch import Tensor

__all__ = ["batch_counts", "mean_count", "own_counts", "record_counts", "share_of_mean"]


class _Rule(NamedTuple):
    """How counts are taken now.

    Attributes:
        own, means: what :func:`mean_count` returns for names that are known beforehand, of this process and of all.
        record: where counts are summed up, or None.
        communicate: whether other processes are asked.
    """

    own: Mapping[str, Tensor]
    means: Mapping[str, Tensor]
    record: dict[str, Tensor] | None = None
    communicate: bool = True


_PLAIN = _Rule({}, {})
_rule = _PLAIN


def mean_count(local: Tensor, name: str, *, reduce: bool = True) -> Tensor:
    """What a loss of this process is divided by: the mean over processes of ``local``, at least 1.

    Args:
        local: float scalar, the count in the images at hand; not modified.
        name: of the count, unique in a forward pass.
        reduce: False takes the process's own count. Otherwise all processes must call this in the same order.

    Returns:
        Scalar of the same type and device, without gradient.
    """
    local = local.detach()
    if _rule.record is not None:
        _rule.record[name] = _rule.record.get(name, torch.zeros_like(local)) + local
    known = _rule.means if reduce else _rule.own
    if name in known:
        return known[name].to(local)
    return (_mean_over_processes(local) if reduce else local).clamp(min=1.0)


def share_of_mean(local: int | Tensor, name: str, like: Tensor) -> Tensor | None:
    """Factor that makes a mean over ``local`` elements what it were with :func:`mean_count` as its denominator.

    Args:
        local: number of elements at hand; a scalar tensor if only the device knows it.
        name: as in :func:`mean_count`.
        like: a tensor of the device.

    Returns:
        float32 scalar ``local / mean count``; None, for 1, where there is nothing but these images.
    """
    if _rule is _PLAIN and comm.get_world_size() == 1:
        return None
    if isinstance(local, int):
        count = torch.full((), float(local), device=like.device)
    else:
        count = local.detach().float()
    return count / mean_count(count, name)


@contextmanager
def record_counts() -> Iterator[dict[str, Tensor]]:
    """Sum up the counts of the forward passes inside, by name, of this process alone and without communication."""
    counts: dict[str, Tensor] = {}
    with _in_force(_Rule({}, {}, record=counts, communicate=False)):
        yield counts


@contextmanager
def batch_counts(totals: Mapping[str, Tensor], parts: int) -> Iterator[None]:
    """Inside, each forward pass is one of ``parts`` of a batch; the mean of their losses is the loss of the batch.

    Args:
        totals: float scalars on the device, by name: counts of the whole batch on this process, as
            :func:`record_counts` collects them. All processes must name the same. What is not named is counted in
            each part alone.
        parts: >= 1, all of the same number of images.
    """
    if not totals:
        yield
        return
    stacked = torch.stack([total.detach().float() for total in totals.values()])
    own, means = (
        dict(zip(totals, (counts.clamp(min=1.0) / parts).unbind(), strict=True))
        for counts in (stacked, _mean_over_processes(stacked))
    )
    with _in_force(_Rule(own, means)):
        yield


@contextmanager
def own_counts() -> Iterator[None]:
    """Inside, losses are those of this process's images alone: processes need not take the same number of passes."""
    with _in_force(_Rule({}, {}, communicate=False)):
        yield


@contextmanager
def _in_force(rule: _Rule) -> Iterator[None]:
    global _rule  # not one of each thread: autograd recomputes checkpointed modules in threads of its own
    before, _rule = _rule, rule
    try:
        yield
    finally:
        _rule = before


def _mean_over_processes(local: Tensor) -> Tensor:
    world_size = comm.get_world_size()
    if world_size == 1 or not _rule.communicate:
        return local
    total = local.clone()
    dist.all_reduce(total)
    return total / world_size
