"""Overlaps of plain boxes in pictures and of turned boxes in the world, all pairs at once.

The overlap of two turned rectangles is exact, without corner lists, sorting or tolerances: in the frame of the second
one it is the area under the boundary of the first, cut to the second's range, ``-oint clamp(y, -b, b) dx`` over
``|x| <= a`` (Green's theorem). Each of the four edges gives the integral of a clamped straight line, in closed form.
"""

import torch
from torch import Tensor
from torchvision.ops import box_iou

_CORNERS = ((1.0, 1.0), (-1.0, 1.0), (-1.0, -1.0), (1.0, -1.0))  # anticlockwise, in half lengths and half widths
_ROUNDING = 1e-12  # relative


def iou_2d(first: Tensor, second: Tensor) -> Tensor:
    """IoU of all pairs of continuous ``xyxy`` boxes, ``[N, 4]`` and ``[M, 4]`` -> ``[N, M]``; empty boxes have 0."""
    return box_iou(first, second).nan_to_num(0.0)


def iou_inclusive(first: Tensor, second: Tensor) -> Tensor:
    """IoU by the published convention, where a box ends at its last pixel and is ``x2 - x1 + 1`` wide.

    The published tracker and the pairing of its motion training use it, the latter on boxes divided by the size of the
    picture, where the 1 dominates.

    Args:
        first, second: float ``[N, 4]`` and ``[M, 4]``, inclusive ``xyxy``.

    Returns:
        float ``[N, M]``.
    """
    end = first.new_tensor((0.0, 0.0, 1.0, 1.0))
    return iou_2d(first + end, second + end)


def iou_bev(first: Tensor, second: Tensor) -> Tensor:
    """IoU of all pairs of footprints, seen from above.

    Args:
        first, second: float ``[N, 7]`` and ``[M, 7]``, ``box7`` in the world (or any frame with Z up).

    Returns:
        float ``[N, M]`` in the dtype of ``first``, computed in float64; boxes without area have 0.
    """
    a, b = first.double()[:, None], second.double()[None]
    shared = _footprint_overlaps(a, b)
    return _iou(shared, _extent(a, (5, 6)), _extent(b, (5, 6))).to(first.dtype)


def iou_3d(first: Tensor, second: Tensor) -> Tensor:
    """IoU of all pairs of volumes that stand upright; arguments and result as :func:`iou_bev`."""
    a, b = first.double()[:, None], second.double()[None]
    half_a, half_b = a[..., 4].clamp(min=0) / 2, b[..., 4].clamp(min=0) / 2
    top = torch.minimum(a[..., 2] + half_a, b[..., 2] + half_b)
    bottom = torch.maximum(a[..., 2] - half_a, b[..., 2] - half_b)
    shared = _footprint_overlaps(a, b) * (top - bottom).clamp(min=0)
    return _iou(shared, _extent(a, (4, 5, 6)), _extent(b, (4, 5, 6))).to(first.dtype)


def camera_box7(xyz: Tensor, yaw: Tensor, dims: Tensor) -> Tensor:
    """Boxes of the camera frame as ``box7 [N, 7]`` of a frame with Z up (X right, Y ahead), for :func:`iou_3d`.

    Args:
        xyz: float ``[N, 3]``, geometric centres in the camera frame, metres.
        yaw: float ``[N]``, about the camera's Y axis.
        dims: float ``[N, 3]``, h, w, l.
    """
    x, y, z = xyz.unbind(-1)
    return torch.cat((torch.stack((x, z, -y, -yaw), -1), dims), -1)


def _extent(box7: Tensor, sides: tuple[int, ...]) -> Tensor:
    return box7[..., sides].clamp(min=0).prod(-1)


def _iou(shared: Tensor, first: Tensor, second: Tensor) -> Tensor:
    union = first + second - shared
    return torch.where(union > 0, shared / torch.where(union > 0, union, 1.0), 0.0)


def _footprint_overlaps(first: Tensor, second: Tensor) -> Tensor:
    """Shared areas of ``[N, 1, 7]`` and ``[1, M, 7]``: ``[N, M]``."""
    if first.is_cuda:  # all pairs cost less there than asking which of them matter
        return _footprint_overlap(first, second)
    reach = (first[..., 5:].norm(dim=-1) + second[..., 5:].norm(dim=-1)) / 2
    row, column = ((first[..., :2] - second[..., :2]).norm(dim=-1) <= reach).nonzero(as_tuple=True)
    shared = first.new_zeros(first.shape[0], second.shape[1])
    return shared.index_put((row, column), _footprint_overlap(first[row, 0], second[0, column]))


def _footprint_overlap(first: Tensor, second: Tensor) -> Tensor:
    """Shared area of footprints, float64 ``[..., 7]`` each, broadcast; exactly 0 if they are apart."""
    half_length, half_width = (second[..., i].clamp(min=0)[..., None] / 2 for i in (6, 5))
    offset = first[..., :2] - second[..., :2]
    cos, sin = second[..., 3].cos(), second[..., 3].sin()
    center_x = offset[..., 0] * cos + offset[..., 1] * sin
    center_y = offset[..., 1] * cos - offset[..., 0] * sin
    turn = first[..., 3] - second[..., 3]
    corner = first.new_tensor(_CORNERS)
    along, across = (first[..., i].clamp(min=0)[..., None] / 2 * corner[:, k] for i, k in ((6, 0), (5, 1)))
    cos, sin = turn.cos()[..., None], turn.sin()[..., None]
    x = center_x[..., None] + along * cos - across * sin
    y = center_y[..., None] + along * sin + across * cos
    shared = -_clamped_line_integral(x, y, half_length, half_width).sum(-1)
    smaller = torch.minimum(_extent(first, (5, 6)), _extent(second, (5, 6)))
    return torch.where(shared > _ROUNDING * smaller, shared, torch.zeros_like(shared))


def _clamped_line_integral(x: Tensor, y: Tensor, limit_x: Tensor, limit_y: Tensor) -> Tensor:
    """``int clamp(y, -limit_y, limit_y) dx`` over ``|x| <= limit_x`` along each edge of polygons ``[..., 4]``."""
    step_x, step_y = x.roll(-1, -1) - x, y.roll(-1, -1) - y
    start_x, end_x = _clamp(x, limit_x), _clamp(x.roll(-1, -1), limit_x)
    upright = step_x == 0
    inverse = 1 / torch.where(upright, torch.ones_like(step_x), step_x)
    start = y + (start_x - x) * inverse * step_y
    end = y + (end_x - x) * inverse * step_y
    low, high = torch.minimum(start, end), torch.maximum(start, end)
    inner_low, inner_high = _clamp(low, limit_y), _clamp(high, limit_y)
    # mean of the clamped line: weighted by how much of it is below, between and above the limits
    below = torch.minimum(high, -limit_y) - torch.minimum(low, -limit_y)
    above = torch.maximum(high, limit_y) - torch.maximum(low, limit_y)
    between = inner_high - inner_low
    length = below + between + above
    level = length <= 0
    middle = (inner_low + inner_high) / 2
    mean = (between * middle + (above - below) * limit_y) / torch.where(level, torch.ones_like(length), length)
    return (end_x - start_x) * torch.where(level, middle, mean)


def _clamp(value: Tensor, limit: Tensor) -> Tensor:
    return torch.maximum(torch.minimum(value, limit), -limit)
