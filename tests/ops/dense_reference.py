"""The first-stage targets computed the dense way, cell by object, straight from their definition.

Slow and memory-hungry on purpose: an independent second implementation to hold the windowed one against.
"""

import torch

NOTHING = -1e8


def grid(sizes, strides):
    """Cells of one image, all levels: positions [M, 2], strides [M], level [M]."""
    points, steps, levels = [], [], []
    for level, ((height, width), stride) in enumerate(zip(sizes, strides, strict=True)):
        for i in range(height):
            for j in range(width):
                points.append((j * stride + stride // 2, i * stride + stride // 2))
                steps.append(stride)
                levels.append(level)
    return torch.tensor(points, dtype=torch.float32), torch.tensor(steps, dtype=torch.float32), torch.tensor(levels)


def dense_targets(boxes, classes, sizes, strides, soi, *, min_overlap=0.8, min_radius=4, num_classes=None):
    """Heatmap [M, C] and regression targets [M, 4] in strides (-1e8 where none) of one image."""
    points, steps, levels = grid(sizes, strides)
    channels = num_classes or 1
    heatmap = torch.zeros(len(points), channels)
    regression = torch.full((len(points), 4), NOTHING)
    if len(boxes) == 0:
        return heatmap, regression
    x, y = points[:, 0, None], points[:, 1, None]
    ltrb = torch.stack((x - boxes[:, 0], y - boxes[:, 1], boxes[:, 2] - x, boxes[:, 3] - y), dim=2)
    center = (boxes[:, :2] + boxes[:, 2:]) / 2
    s = steps[:, None, None]
    discrete = (center[None] / s).trunc() * s + s / 2
    peak = (points[:, None] == discrete).all(dim=2)
    near = ((points[:, None] - discrete).abs() <= s).all(dim=2)
    half_diagonal = (boxes[:, 2:] - boxes[:, :2]).pow(2).sum(1).sqrt() / 2
    ends = torch.tensor(soi, dtype=torch.float32)[levels]
    assigned = (half_diagonal >= ends[:, :1]) & (half_diagonal <= ends[:, 1:])
    mask = near & (ltrb.amin(2) > 0) & assigned
    delta = (1 - min_overlap) / (1 + min_overlap)
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    rho2 = (2 * delta**2 * area).clamp(min=min_radius**2)
    distance = ((points[:, None] - center) ** 2).sum(2)
    u = torch.where(peak, 0.0, distance) / rho2
    for channel in range(channels):
        mine = u if num_classes is None else u[:, classes == channel]
        if mine.shape[1]:
            heatmap[:, channel] = torch.exp(-mine.amin(1))
    heatmap[heatmap < 1e-4] = 0
    masked = torch.where(mask, u, 1e8)
    best, index = masked.min(dim=1)
    chosen = ltrb[torch.arange(len(points)), index] / steps[:, None]
    regression = torch.where((best < 1e8)[:, None], chosen, regression)
    return heatmap, regression


def to_flat(per_image, sizes):
    """[B][M, C] image-major to the flat order: level-major, then image."""
    counts = [h * w for h, w in sizes]
    return torch.cat([part for level in zip(*(x.split(counts) for x in per_image), strict=True) for part in level])
