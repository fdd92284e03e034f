"""ROIAlign on all cores of a CPU.

torchvision's CPU kernels run on one thread, and ROIAlign is a third of a training step there. The work is divided so
that the result does not depend on the number of threads, not even in the last bit: the forward pass by boxes, the
backward pass by channels. Source: Mask R-CNN (arXiv 1703.06870) section 3.
"""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import torch
import torchvision
from torch import Tensor

_WORTH_IT = 1 << 20  # output values below which handing work to threads costs more than it saves


@lru_cache(maxsize=1)
def _threads(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, thread_name_prefix="roi_align")


# a forked child has none of its parent's threads
os.register_at_fork(after_in_child=_threads.cache_clear)


def _map(function: Callable[..., Tensor], *arguments: Iterable[Tensor]) -> list[Tensor]:
    def call(*part: Tensor) -> Tensor:
        with torch.no_grad():  # a thread starts with gradients on, whatever its caller does
            return function(*part)

    # torch's operators let go of the interpreter lock, so Python threads are enough
    return list(_threads(torch.get_num_threads()).map(call, *arguments))


class _ParallelRoIAlign(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, maps: Tensor, rois: Tensor, size: tuple[int, int], scale: float, samples: int, aligned: bool
    ) -> Tensor:
        ctx.save_for_backward(rois)
        ctx.shape, ctx.rest = maps.shape, (size, scale, samples, aligned)

        def pool(part: Tensor) -> Tensor:
            return torch.ops.torchvision.roi_align(maps, part, scale, *size, samples, aligned)

        return torch.cat(_map(pool, rois.chunk(torch.get_num_threads())))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        (rois,) = ctx.saved_tensors
        (size, scale, samples, aligned), (batch, _, height, width) = ctx.rest, ctx.shape

        def spread(part: Tensor) -> Tensor:
            shape = (batch, part.shape[1], height, width)
            return torch.ops.torchvision._roi_align_backward(
                part.contiguous(), rois, scale, *size, *shape, samples, aligned
            )

        parts = _map(spread, gradient.chunk(torch.get_num_threads(), dim=1))
        return torch.cat(parts, dim=1), None, None, None, None, None


def roi_align(
    maps: Tensor, rois: Tensor, size: tuple[int, int], scale: float, samples: int = 0, aligned: bool = True
) -> Tensor:
    """Average features of every box on a grid.

    Args:
        maps: float ``[B, C, H, W]``.
        rois: float ``[R, 5]``: image index and xyxy box in pixels of the network input.
        size: rows and columns of the grid.
        scale: cells a pixel, 1 / stride.
        samples: sampling points a grid cell and axis; 0: as many as the box spans map cells.
        aligned: cell centres lie half a cell in (ROIAlignV2).

    Returns:
        float ``[R, C, *size]``, equal to :func:`torchvision.ops.roi_align`, which does the work.
    """
    small = rois.shape[0] * maps.shape[1] * size[0] * size[1] < _WORTH_IT
    # torchvision's CPU kernels know no half precision; under autocast it casts
    elsewhere = maps.device.type != "cpu" or maps.dtype not in (torch.float32, torch.float64)
    captured = torch.compiler.is_compiling() or torch.jit.is_tracing()
    if small or elsewhere or captured or torch.get_num_threads() == 1:
        return torchvision.ops.roi_align(maps, rois, size, scale, samples, aligned)
    return _ParallelRoIAlign.apply(maps, rois, size, scale, samples, aligned)
