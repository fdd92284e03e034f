"""What the engine needs of torch.distributed, also right when there is only one process."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from detectron2.utils import comm
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ..modeling.layers.sync_batch_norm import with_working_sync_batch_norm

__all__ = ["buffers_of_main_process", "from_main_process", "gather_from_all", "new_seed", "parallel", "unwrapped"]

T = TypeVar("T")


def from_main_process(value: T) -> T:
    """The main process's ``value``, on every process. Collective; the value is pickled."""
    if comm.get_world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def gather_from_all(value: T) -> list[T]:
    """The ``value`` of every process, by rank, on every process. Collective; the values are pickled."""
    if comm.get_world_size() == 1:
        return [value]
    values: list[Any] = [None] * comm.get_world_size()
    dist.all_gather_object(values, value)
    return values


def new_seed() -> int:
    """A seed in [0, 2**31) that no generator of this process had a part in; the same on every process."""
    return from_main_process(secrets.randbelow(2**31))


def parallel(model: nn.Module) -> nn.Module:
    """``model`` wrapped for gradient averaging over processes; itself when there is one process.

    Buffers are not broadcast each step (batch-norm statistics stay local, as in the published recipe), and
    every trainable parameter must take part in every step: looking for unused ones costs a pass over the
    graph. Batch normalisation of the kind "SyncBN" is made to work where the model is.
    """
    device = next(model.parameters()).device
    model = with_working_sync_batch_norm(model, device)
    if comm.get_world_size() == 1:
        return model
    ids = [comm.get_local_rank()] if device.type == "cuda" else None
    wrapped = DistributedDataParallel(model, device_ids=ids, broadcast_buffers=False)
    if device.type == "cpu" and comm.get_world_size() > 2:  # a sum of two is the same in any order
        wrapped.register_comm_hook(None, _mean_in_order_of_ranks)
    return wrapped


def _mean_in_order_of_ranks(_: object, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
    """Mean gradients that do not depend on where in a message they lie, as gloo's own sums do.

    The wrapper lays out its messages anew after its first step: a run that goes on from a checkpoint would differ in
    the last bits from one that was not interrupted.
    """
    own = bucket.buffer()
    parts = [torch.empty_like(own) for _ in range(dist.get_world_size())]

    def mean(_: object) -> torch.Tensor:
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return total / len(parts)

    return dist.all_gather(parts, own, async_op=True).get_future().then(mean)


@contextmanager
def buffers_of_main_process(model: nn.Module) -> Iterator[None]:
    """Inside, every process has the main one's statistics of batch norms, as checkpoints have them. Collective.

    In training, each has those of its own images: what several processes measure with these is of no model that there
    is. Afterwards they are as before, the same bits.
    """
    if comm.get_world_size() == 1:
        yield
        return
    own = [(buffer, buffer.clone()) for buffer in model.buffers()]
    for buffer, _ in own:
        dist.broadcast(buffer, src=0)
    try:
        yield
    finally:
        for buffer, value in own:
            buffer.copy_(value)


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside a wrapper made by :func:`parallel`."""
    return model.module if isinstance(model, DistributedDataParallel) else model
