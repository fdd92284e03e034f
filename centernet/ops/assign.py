"""Which level is responsible for a box, and which cells of it.

Source: "Probabilistic two-stage detection" (arXiv 2103.07461) section 4, first stage; level ranges as in FCOS
(arXiv 1904.01355, section 3.2) but on the half diagonal of the box.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .grid import Pyramid

NEIGHBOURHOOD = ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 0), (0, 1), (1, -1), (1, 0), (1, 1))  # (row, column) steps
CENTER = 4  # index of (0, 0) in NEIGHBOURHOOD


class Objects(NamedTuple):
    """The ground truth of a batch in one axis, image by image.

    Attributes:
        boxes: float32 ``[N, 4]``, ``(x1, y1, x2, y2)`` in network-input pixels.
        classes: int64 ``[N]``.
        image_index: int64 ``[N]``, which image of the batch each object lies in.
    """

    boxes: Tensor
    classes: Tensor
    image_index: Tensor

    @property
    def centers(self) -> Tensor:
        """float32 ``[N, 2]``, ``(x, y)`` in pixels."""
        return (self.boxes[:, :2] + self.boxes[:, 2:]) / 2

    @property
    def areas(self) -> Tensor:
        """float32 ``[N]``, square pixels."""
        return (self.boxes[:, 2] - self.boxes[:, 0]) * (self.boxes[:, 3] - self.boxes[:, 1])


class Positives(NamedTuple):
    """Heatmap positives, object-major, then level.

    Attributes:
        cells: int64 ``[P]``, flat-cell index.
        labels: int64 ``[P]``, class.
        objects: int64 ``[P]``, index of the object into :class:`Objects`.
    """

    cells: Tensor
    labels: Tensor
    objects: Tensor


class CenterCells(NamedTuple):
    """The 3x3 cells around each object's centre on each level (``K = 9``, ordered as :data:`NEIGHBOURHOOD`).

    Attributes:
        row, column: int64 ``[N, L, K]``, cell coordinates, possibly outside the map.
        inside: bool ``[N, L, K]``, the cell exists.
        flat: int64 ``[N, L, K]``, flat-cell index; 0 where the cell does not exist.
        ltrb: float32 ``[N, L, K, 4]``, distances from the cell's pixel position to the left, top, right, bottom side
            of the box, in strides of the level.
    """

    row: Tensor
    column: Tensor
    inside: Tensor
    flat: Tensor
    ltrb: Tensor


def assign_levels(boxes: Tensor, sizes_of_interest: Sequence[Sequence[float]]) -> Tensor:
    """Levels responsible for each box.

    Args:
        boxes: float ``[N, 4]`` xyxy, pixels.
        sizes_of_interest: ``(low, high)`` a level: half diagonals in pixels, both ends included. Ranges may overlap,
            so a box may belong to several levels.

    Returns:
        bool ``[N, L]``.
    """
    half_diagonal = (boxes[:, 2:] - boxes[:, :2]).pow(2).sum(dim=1).sqrt() / 2
    ranges = boxes.new_tensor(sizes_of_interest)
    return (half_diagonal[:, None] >= ranges[None, :, 0]) & (half_diagonal[:, None] <= ranges[None, :, 1])


def _center_row_column(centers: Tensor, pyramid: Pyramid) -> tuple[Tensor, Tensor]:
    """Cell that holds each centre, a level: int64 ``[N, L]`` rows and columns (truncated towards zero)."""
    strides = centers.new_tensor(pyramid.strides)
    cells = (centers[:, None, :] / strides[None, :, None]).long()
    return cells[..., 1], cells[..., 0]


def center_cells(objects: Objects, pyramid: Pyramid) -> CenterCells:
    """The 3x3 cells around every object's centre, on every level."""
    row, column = _center_row_column(objects.centers, pyramid)
    steps = row.new_tensor(NEIGHBOURHOOD)
    row, column = row[..., None] + steps[:, 0], column[..., None] + steps[:, 1]
    height = row.new_tensor([h for h, _ in pyramid.sizes])[None, :, None]
    width = row.new_tensor([w for _, w in pyramid.sizes])[None, :, None]
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    flat = pyramid.image_starts(objects.image_index)[..., None] + row * width + column
    strides = objects.boxes.new_tensor(pyramid.strides)[None, :, None]
    half = objects.boxes.new_tensor([s // 2 for s in pyramid.strides])[None, :, None]
    x, y = column * strides + half, row * strides + half
    x1, y1, x2, y2 = objects.boxes[:, None, None, :].unbind(dim=-1)
    ltrb = torch.stack((x - x1, y - y1, x2 - x, y2 - y), dim=-1) / strides[..., None]
    return CenterCells(row, column, inside, torch.where(inside, flat, 0), ltrb)


def center_positives(
    objects: Objects,
    assigned: Tensor,
    pyramid: Pyramid,
    *,
    image_sizes: Sequence[tuple[int, int]] | None = None,
    clamp: bool = True,
    unique: bool = False,
) -> Positives:
    """Heatmap positives: the cell of each object's centre on each of its levels.

    Args:
        assigned: bool ``[N, L]`` from :func:`assign_levels`.
        image_sizes: ``(height, width)`` in pixels, one an image; when given, centres are first clamped into the image
            (for boxes that reach outside it).
        clamp: move a centre outside the map to the nearest cell. Without it such a centre names a cell of another row,
            level or image, as in the original implementation; indices beyond the batch are dropped.
        unique: name a cell and class once, as the first object's, even if several objects share it (the original
            counts each object); then by cell and class.
    """
    centers = objects.centers
    if image_sizes is not None:
        limits = centers.new_tensor([(w - 1, h - 1) for h, w in image_sizes])[objects.image_index]
        centers = torch.minimum(centers.clamp(min=0), limits)
    row, column = _center_row_column(centers, pyramid)
    width = row.new_tensor([w for _, w in pyramid.sizes])
    if clamp:
        height = row.new_tensor([h for h, _ in pyramid.sizes])
        row = torch.minimum(row.clamp(min=0), height - 1)
        column = torch.minimum(column.clamp(min=0), width - 1)
    flat = pyramid.image_starts(objects.image_index) + row * width + column
    chosen = assigned & (flat >= 0) & (flat < pyramid.num_cells)
    owners = torch.arange(len(flat), device=flat.device)[:, None].expand_as(flat)[chosen]
    cells, labels = flat[chosen], objects.classes[owners]
    if unique and len(cells):
        (cells, labels), place = torch.unique(torch.stack((cells, labels)), dim=1, return_inverse=True)
        owners = torch.full_like(cells, len(flat)).scatter_reduce_(0, place, owners, "amin")
    return Positives(cells, labels, owners)
