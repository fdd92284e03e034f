"""What the engine needs of torch.distributed, also right when there is only one process."""

import secrets
from typing import Any, TypeVar

import torch.distributed as dist
from detectron2.utils import comm
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ..modeling.layers.sync_batch_norm import with_working_sync_batch_norm

__all__ = ["from_main_process", "gather_from_all", "new_seed", "parallel", "unwrapped"]

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
    return DistributedDataParallel(model, device_ids=ids, broadcast_buffers=False)


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside a wrapper made by :func:`parallel`."""
    return model.module if isinstance(model, DistributedDataParallel) else model
