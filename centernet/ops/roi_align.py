"""ROIAlign on all cores of a CPU, and of boxes on several levels with an output of fixed shape.

torchvision's CPU kernels run on one thread, and ROIAlign is a third of a training step there. The work is divided so
that the result does not depend on the number of threads, not even in the last bit: the forward pass by boxes, the
backward pass by channels. Source: Mask R-CNN (arXiv 1703.06870) section 3.
"""

import math
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import torch
import torchvision
from torch import Tensor

from .capture import capture_target, define_once
from .roi_gather import gather_roi_align
from .scripted import pool_levels, scripted

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


def box_levels(boxes: Tensor, scales: Sequence[float], canonical_level: int, canonical_size: float) -> Tensor:
    """Which map each box is pooled from: FPN (arXiv 1612.03144) equation 1, as detectron2 computes it.

    Args:
        boxes: float ``[..., 4]`` xyxy, finite, pixels.
        scales: cells a pixel of each map, finest first; each is half of the one before, and a power of 2.
        canonical_level: level (log2 of the stride) of a box whose area is ``canonical_size ** 2`` pixels.

    Returns:
        int64 ``[...]``, 0 to ``len(scales) - 1``.
    """
    area = (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
    # a box with a negative side has no root; it goes to the finest level, as one without area
    level = torch.floor(canonical_level + torch.log2(area.clamp(min=0).sqrt() / canonical_size + 1e-8))
    finest = -int(math.log2(scales[0]))
    return level.clamp(min=finest, max=finest + len(scales) - 1).to(torch.int64) - finest


def _regions(boxes: Tensor) -> Tensor:
    """``[B, K, 4]`` to float32 ``[B * K, 5]`` with the image's index first; boxes that are not finite become empty."""
    boxes = torch.where(boxes.isfinite().all(dim=-1, keepdim=True), boxes, torch.zeros_like(boxes)).float()
    image = torch.arange(boxes.shape[0], dtype=boxes.dtype, device=boxes.device)
    return torch.cat((image[:, None, None].expand(-1, boxes.shape[1], -1), boxes), dim=2).flatten(0, 1)


def _every_box_on_every_level(
    maps: Sequence[Tensor],
    regions: Tensor,
    level: Tensor,
    height: int,
    width: int,
    scales: Sequence[float],
    samples: int,
    aligned: bool,
) -> Tensor:
    """No shape that depends on data: on the levels of other boxes a box is empty, hence without samples."""
    level = level[:, None]
    empty = regions * regions.new_tensor([1.0, 0, 0, 0, 0])
    pooled: Tensor | None = None
    for number, (values, scale) in enumerate(zip(maps, scales, strict=True)):
        here = level == number
        dtype = torch.promote_types(values.dtype, torch.float32)
        part = torch.ops.torchvision.roi_align(
            values.to(dtype), torch.where(here, regions, empty).to(dtype), scale, height, width, samples, aligned
        ).to(values.dtype)
        pooled = part if pooled is None else torch.where(here[:, :, None, None], part, pooled)
    assert pooled is not None
    return pooled


def _every_box_on_its_level(
    maps: Sequence[Tensor],
    regions: Tensor,
    level: Tensor,
    height: int,
    width: int,
    scales: Sequence[float],
    samples: int,
    aligned: bool,
) -> Tensor:
    """On all cores of a CPU; the order of boxes inside depends on data, the shape of the result does not."""
    order = level.argsort(stable=True)
    rows = regions[order].split(torch.bincount(level, minlength=len(maps)).tolist())
    small = len(regions) * maps[0].shape[1] * height * width < _WORTH_IT
    threads = 1 if small else torch.get_num_threads()
    parts = [(number, part) for number, some in enumerate(rows) for part in some.chunk(threads) if len(part)]

    def pool(number: int, part: Tensor) -> Tensor:
        values, scale = maps[number], scales[number]
        return torch.ops.torchvision.roi_align(values, part, scale, height, width, samples, aligned)

    pooled = _map(pool, *zip(*parts, strict=True)) if threads > 1 else [pool(*part) for part in parts]
    out = maps[0].new_empty((len(regions), maps[0].shape[1], height, width))
    for index, values in zip(order.split([len(p) for p in pooled]), pooled, strict=True):
        out[index] = values
    return out


def _roi_align_levels(
    maps: Sequence[Tensor],
    boxes: Tensor,
    height: int,
    width: int,
    scales: Sequence[float],
    samples: int,
    aligned: bool,
    canonical_level: int,
    canonical_size: float,
) -> Tensor:
    """ROIAlign of the boxes of a batch, each from the level of its size. An operator of its own, like
    :func:`.nms.nms_best`.

    Args:
        maps: float ``[B, C, H_l, W_l]``, finest first.
        boxes: float ``[B, K, 4]`` xyxy, pixels of the network input; pooled values of one that is not finite are 0.
        height, width: rows and columns of the grid.
        scales: cells a pixel of each map; ``canonical_level`` and ``canonical_size``: see :func:`box_levels`.
        samples, aligned: see :func:`roi_align`.

    Returns:
        ``[B * K, C, height, width]`` of the type of the maps; boxes and arithmetic are float32 at least.
    """
    regions = _regions(boxes)
    level = box_levels(regions[:, 1:], scales, canonical_level, canonical_size)
    if boxes.device.type != "cpu":
        return _every_box_on_every_level(maps, regions, level, height, width, scales, samples, aligned)
    dtype = torch.promote_types(maps[0].dtype, torch.float32)
    whole = [m.to(dtype).contiguous() for m in maps]
    pooled = _every_box_on_its_level(whole, regions.to(dtype), level, height, width, scales, samples, aligned)
    return pooled.to(maps[0].dtype)


def _shape_only(
    maps: Sequence[Tensor],
    boxes: Tensor,
    height: int,
    width: int,
    scales: Sequence[float],
    samples: int,
    aligned: bool,
    canonical_level: int,
    canonical_size: float,
) -> Tensor:
    return maps[0].new_empty((boxes.shape[0] * boxes.shape[1], maps[0].shape[1], height, width))


_operator = define_once("roi_align_levels", _roi_align_levels, _shape_only)


def roi_align_levels(
    maps: Sequence[Tensor],
    boxes: Tensor,
    size: tuple[int, int],
    scales: Sequence[float],
    samples: int = 0,
    aligned: bool = True,
    canonical_level: int = 4,
    canonical_size: float = 224.0,
    *,
    fast: bool = False,
) -> Tensor:
    """See :func:`_roi_align_levels`; ``size`` is rows and columns of the grid. Differentiable in the maps.

    ``fast``: on a CPU, sums of rows (:mod:`.roi_gather`), several times as fast; the last bits differ, and so may the
    order of equal scores.
    """
    target = capture_target()
    learns = target is None and torch.is_grad_enabled() and any(m.requires_grad for m in maps)
    if fast and not learns and boxes.device.type == "cpu" and not (target or torch.compiler.is_compiling()):
        regions = _regions(boxes)
        level = box_levels(regions[:, 1:], scales, canonical_level, canonical_size)
        whole = [m.float() for m in maps]
        return gather_roi_align(whole, regions, level, *size, scales, samples, aligned).to(maps[0].dtype)
    if not learns and target in (None, "onnx"):
        levels = canonical_level, canonical_size
        return _operator(list(maps), boxes, *size, list(scales), samples, aligned, *levels)
    regions = _regions(boxes)
    level = box_levels(regions[:, 1:], scales, canonical_level, canonical_size)
    pool = scripted(pool_levels) if target == "torchscript" else _every_box_on_every_level
    return pool(list(maps), regions, level, *size, list(scales), samples, aligned)
