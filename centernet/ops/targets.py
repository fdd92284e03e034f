"""First-stage training targets of a batch: heatmap, its positives, and the cells that regress a box.

Source: "Probabilistic two-stage detection" (arXiv 2103.07461) section 4, with the details of its released models.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .assign import CENTER, CenterCells, Objects, assign_levels, center_cells, center_positives
from .grid import Pyramid
from .heatmap import draw_heatmap, squared_radii, weighted_distance


class Targets(NamedTuple):
    """Targets of one batch, in flat-cell order.

    Attributes:
        positive_cells: int64 ``[P]``, heatmap positives; a cell may occur twice.
        positive_labels: int64 ``[P]``, their classes.
        positive_objects: int64 ``[P]``, the objects they belong to.
        regression_cells: int64 ``[R]``, cells that regress a box, ascending, each once.
        regression_ltrb: float32 ``[R, 4]``, their targets: distances to the left, top, right, bottom side, in strides,
            > 0.
        regression_objects: int64 ``[R]``, the objects whose boxes these are.
        heatmap: float32 ``[num_cells, C]``; ``C = 1`` when class-agnostic.
    """

    positive_cells: Tensor
    positive_labels: Tensor
    positive_objects: Tensor
    regression_cells: Tensor
    regression_ltrb: Tensor
    regression_objects: Tensor
    heatmap: Tensor


class TargetRules(NamedTuple):
    """How targets are made; the fields are the config keys of ``MODEL.CENTERNET`` in lower case.

    Attributes:
        sizes_of_interest: ``(low, high)`` half diagonals in pixels, one a level.
        hm_min_overlap: IoU kept at one Gaussian radius.
        min_radius: smallest Gaussian radius, pixels.
        num_classes: channels of the class heatmap; None for the class-agnostic one.
        clamp_centers, unique_positives: see :func:`~centernet.ops.assign.center_positives`.
        hm_only_assigned_levels: draw Gaussians on the responsible levels only.
    """

    sizes_of_interest: Sequence[Sequence[float]]
    hm_min_overlap: float = 0.8
    min_radius: float = 4
    num_classes: int | None = None
    clamp_centers: bool = True
    unique_positives: bool = False
    hm_only_assigned_levels: bool = False


def build_targets(
    objects: Objects,
    pyramid: Pyramid,
    rules: TargetRules,
    *,
    image_sizes: Sequence[tuple[int, int]] | None = None,
) -> Targets:
    """Targets of a batch. ``image_sizes`` clamps centres into the image before positives are chosen."""
    assigned = assign_levels(objects.boxes, rules.sizes_of_interest)
    rho2 = squared_radii(objects.areas, rules.hm_min_overlap, rules.min_radius)
    named = objects
    if rules.unique_positives and rules.num_classes is None:  # class-agnostic: objects of two classes are one positive
        named = objects._replace(classes=torch.zeros_like(objects.classes))
    positives = center_positives(
        named, assigned, pyramid, image_sizes=image_sizes, clamp=rules.clamp_centers, unique=rules.unique_positives
    )
    heatmap = draw_heatmap(
        objects, rho2, pyramid, rules.num_classes, assigned if rules.hm_only_assigned_levels else None
    )
    regression = regression_targets(center_cells(objects, pyramid), objects, assigned, rho2, pyramid)
    return Targets(*positives, *regression, heatmap)


def regression_targets(
    cells: CenterCells, objects: Objects, assigned: Tensor, rho2: Tensor, pyramid: Pyramid
) -> tuple[Tensor, Tensor, Tensor]:
    """Cells of the 3x3 neighbourhoods that lie strictly inside their box, on the assigned levels.

    Where neighbourhoods overlap, the object with the smallest weighted distance ``u`` wins, the first one on ties.

    Returns:
        ``(cells [R] int64 ascending, ltrb [R, 4] float32 in strides, objects [R] int64)``.
    """
    mask = cells.inside & (cells.ltrb.amin(dim=-1) > 0) & assigned[..., None]
    flat, ltrb = cells.flat[mask], cells.ltrb[mask]
    owners = torch.arange(len(mask), device=mask.device)[:, None, None].expand_as(mask)[mask]
    u = _distance_to_center(cells, objects, rho2, pyramid)
    u[..., CENTER] = 0  # the cell that holds the centre is the peak, wherever in the cell the centre lies
    u = u[mask]
    best = u.new_full((pyramid.num_cells,), math.inf).scatter_reduce_(0, flat, u, "amin")
    winner = u == best[flat]
    flat, ltrb, owners = flat[winner], ltrb[winner], owners[winner]
    # the mask is object-major and an object names a cell once, so a stable sort leaves the first object in front
    order = torch.argsort(flat, stable=True)
    flat, ltrb, owners = flat[order], ltrb[order], owners[order]
    first = torch.ones_like(flat, dtype=torch.bool)
    first[1:] = flat[1:] != flat[:-1]
    return flat[first], ltrb[first], owners[first]


def _distance_to_center(cells: CenterCells, objects: Objects, rho2: Tensor, pyramid: Pyramid) -> Tensor:
    """``u`` of every candidate cell, float32 ``[N, L, 9]``."""
    strides = objects.boxes.new_tensor(pyramid.strides)[None, :, None]
    half = objects.boxes.new_tensor([s // 2 for s in pyramid.strides])[None, :, None]
    center = objects.centers[:, None, None]
    dx = cells.column * strides + half - center[..., 0]
    dy = cells.row * strides + half - center[..., 1]
    return weighted_distance(dx, dy, rho2[:, None, None])
