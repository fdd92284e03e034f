"""Cells of a feature pyramid: how many there are, where they sit, and how they are numbered."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Pyramid(NamedTuple):
    """Geometry of the feature levels of one batch.

    Attributes:
        sizes: ``(height, width)`` in cells, one a level, finest first.
        strides: pixels a cell, one a level.
        batch_size: images in the batch.
    """

    sizes: tuple[tuple[int, int], ...]
    strides: tuple[int, ...]
    batch_size: int

    @property
    def num_cells(self) -> int:
        """Cells of the whole batch, all levels: the length of the flat-cell axis."""
        return self.batch_size * sum(h * w for h, w in self.sizes)

    def level_starts(self) -> list[int]:
        """Flat index of the first cell of each level."""
        starts, total = [], 0
        for height, width in self.sizes:
            starts.append(total)
            total += self.batch_size * height * width
        return starts

    def image_starts(self, image_index: Tensor) -> Tensor:
        """Flat index of cell (0, 0) of every level of the given images.

        Args:
            image_index: int64 ``[N]``, which image of the batch.

        Returns:
            int64 ``[N, L]``.
        """
        starts = image_index.new_tensor(self.level_starts())
        areas = image_index.new_tensor([h * w for h, w in self.sizes])
        return starts[None] + image_index[:, None] * areas[None]


def cell_centers(size: tuple[int, int], stride: int, device: torch.device | None = None) -> Tensor:
    """Pixel position of every cell of one level.

    Args:
        size: ``(height, width)`` in cells.
        stride: pixels a cell.

    Returns:
        float32 ``[H*W, 2]``, ``(x, y)`` in network-input pixels, row-major (x fastest):
        cell ``(i, j)`` sits at ``(j * stride + stride // 2, i * stride + stride // 2)``.
    """
    height, width = size
    x = torch.arange(width, dtype=torch.float32, device=device) * stride + stride // 2
    y = torch.arange(height, dtype=torch.float32, device=device) * stride + stride // 2
    return torch.stack((x.repeat(height), y.repeat_interleave(width)), dim=1)


def flatten_levels(maps: Sequence[Tensor]) -> Tensor:
    """Per-level maps in flat-cell order.

    Args:
        maps: one ``[B, C, H_l, W_l]`` a level.

    Returns:
        ``[num_cells, C]``.
    """
    return torch.cat([m.permute(0, 2, 3, 1).reshape(-1, m.shape[1]) for m in maps])


def cells_in_regions(pyramid: Pyramid, regions: Sequence[Tensor | None], device: torch.device | None = None) -> Tensor:
    """Cells whose position lies in a region of their image.

    Args:
        regions: float ``[M, 4]`` of each image of the batch, xyxy in network-input pixels, or None.

    Returns:
        bool ``[num_cells]``, in flat-cell order.
    """
    inside = []
    for size, stride in zip(pyramid.sizes, pyramid.strides, strict=True):
        centers = cell_centers(size, stride, device)[:, None]
        for boxes in regions:
            boxes = centers.new_zeros((0, 4)) if boxes is None else boxes.to(centers)
            inside.append(((centers >= boxes[:, :2]) & (centers < boxes[:, 2:])).all(-1).any(-1))
    return torch.cat(inside)
