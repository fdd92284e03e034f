"""Gaussian heatmap targets, drawn in each object's own window.

A box of area ``A`` draws ``exp(-D^2 / rho^2)`` around its centre, ``rho^2 = max(2 * delta^2 * A, min_radius^2)``,
``delta = (1 - o) / (1 + o)``: one radius is the shift at which a box still overlaps itself with IoU ``o`` (CenterNet,
arXiv 1904.07850 section 3, after CornerNet). Values below 1e-4 are zero, so a Gaussian ends at ``sqrt(-ln 1e-4) =
3.035`` radii and the cost is the sum of the windows, not cells x objects.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from .assign import Objects
from .grid import Pyramid

FLOOR = 1e-4  # heatmap values below this are zero
_REACH = -math.log(FLOOR)  # u = D^2 / rho^2 at the floor
_CHUNK = 1 << 16  # cells drawn at once: bounds the memory of the temporaries to a few MB


class _Rows(NamedTuple):
    """One entry a row of a window: the run of cells ``[first, first + length)`` of the flat axis.

    ``u`` at the ``t``-th cell of the run is ``dy2 + (x0 + t * step)^2``, all in radii.
    """

    first: Tensor
    length: Tensor
    dy2: Tensor
    x0: Tensor
    step: Tensor
    label: Tensor


def squared_radii(areas: Tensor, min_overlap: float, min_radius: float) -> Tensor:
    """``rho^2`` of each object in square pixels, float32 ``[N]``, from its area in square pixels."""
    delta = (1 - min_overlap) / (1 + min_overlap)
    return (2 * delta**2 * areas).clamp(min=min_radius**2)


def weighted_distance(dx: Tensor, dy: Tensor, rho2: Tensor) -> Tensor:
    """``u = D^2 / rho^2`` from offsets to the true centre in pixels."""
    return (dx * dx + dy * dy) / rho2


def _expand(counts: Tensor) -> tuple[Tensor, Tensor]:
    """Ragged arange: for counts ``[3, 1]`` the owners ``[0, 0, 0, 1]`` and the positions ``[0, 1, 2, 0]``."""
    owner = torch.repeat_interleave(counts)
    starts = counts.cumsum(0) - counts
    return owner, torch.arange(len(owner), device=counts.device) - starts[owner]


def _window_rows(objects: Objects, rho2: Tensor, pyramid: Pyramid, level: int) -> _Rows:
    """Rows of the discs (radius 3.035 rho) of all objects on one level, cut to the map."""
    height, width = pyramid.sizes[level]
    stride, half = pyramid.strides[level], pyramid.strides[level] // 2
    center, rho = objects.centers, rho2.sqrt()
    # one part in 10^4 wider than the disc: rounding must not lose a cell whose value is just above the floor
    reach = rho * (math.sqrt(_REACH) * 1.0001)
    top = ((center[:, 1] - reach - half) / stride).ceil().clamp(min=0).long()
    bottom = ((center[:, 1] + reach - half) / stride).floor().clamp(max=height - 1).long()
    owner, step = _expand((bottom - top + 1).clamp(min=0))
    row = top[owner] + step
    dy = row * stride + half - center[owner, 1]
    half_width = (reach[owner] ** 2 - dy * dy).clamp(min=0).sqrt()
    cx = center[owner, 0] - half
    left = ((cx - half_width) / stride).ceil().clamp(min=0)
    right = ((cx + half_width) / stride).floor().clamp(max=width - 1)
    image_start = pyramid.level_starts()[level] + objects.image_index * (height * width)
    rho_of_row = rho[owner]
    return _Rows(
        first=image_start[owner] + row * width + left.long(),
        length=(right - left + 1).clamp(min=0).long(),
        dy2=dy * dy / rho2[owner],
        x0=(left * stride - cx) / rho_of_row,
        step=stride / rho_of_row,
        label=objects.classes[owner],
    )


def _chunks(counts: Tensor) -> Iterator[slice]:
    """Consecutive slices of rows that hold about ``_CHUNK`` cells each."""
    ends = counts.cumsum(0)
    total = int(ends[-1]) if len(ends) else 0
    marks = torch.arange(_CHUNK, total + _CHUNK, _CHUNK, device=counts.device)
    previous = 0
    for stop in torch.searchsorted(ends, marks).add_(1).clamp_(max=len(ends)).tolist():
        if stop > previous:
            yield slice(previous, stop)
        previous = stop


def draw_heatmap(
    objects: Objects, rho2: Tensor, pyramid: Pyramid, num_classes: int | None, assigned: Tensor | None = None
) -> Tensor:
    """Heatmap targets of a batch.

    Args:
        rho2: float32 ``[N]`` from :func:`squared_radii`.
        num_classes: channels of the class heatmap, or None for one class-agnostic channel.
        assigned: bool ``[N, L]``: draw an object on these levels only. None draws it on every level, as published: a
            centre then carries no negative weight on levels that are not responsible for it.

    Returns:
        float32 ``[num_cells, num_classes or 1]`` in [0, 1]; the cell of an object's centre is exactly 1.
    """
    channels = 1 if num_classes is None else num_classes
    distance = objects.boxes.new_full((pyramid.num_cells * channels,), math.inf)
    for level in range(len(pyramid.sizes)):
        chosen, rho2_here = objects, rho2
        if assigned is not None:
            mask = assigned[:, level]
            chosen, rho2_here = Objects(*(field[mask] for field in objects)), rho2[mask]
        rows = _window_rows(chosen, rho2_here, pyramid, level)
        for part in _chunks(rows.length):
            _draw_rows(distance, _Rows(*(field[part] for field in rows)), channels)
        _mark_peaks(distance, chosen, pyramid, level, channels)
    heatmap = distance.neg_().exp_().view(-1, channels)
    return heatmap.masked_fill_(heatmap < FLOOR, 0)


def _draw_rows(distance: Tensor, rows: _Rows, channels: int) -> None:
    owner, offset = _expand(rows.length)
    dx = rows.x0[owner].addcmul_(rows.step[owner], offset.to(rows.x0.dtype))
    u = dx.mul_(dx).add_(rows.dy2[owner])
    cell = offset.add_(rows.first[owner])
    if channels > 1:
        cell.mul_(channels).add_(rows.label[owner])
    distance.scatter_reduce_(0, cell, u, "amin")


def _mark_peaks(distance: Tensor, objects: Objects, pyramid: Pyramid, level: int, channels: int) -> None:
    """Distance 0 at the cell that holds each object's centre, so that its value is exactly 1."""
    height, width = pyramid.sizes[level]
    column, row = (objects.centers / pyramid.strides[level]).long().unbind(dim=1)
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    start = pyramid.level_starts()[level] + objects.image_index * (height * width)
    cell = (start + row * width + column)[inside]
    if channels > 1:
        cell = cell * channels + objects.classes[inside]
    distance[cell] = 0
