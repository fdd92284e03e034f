"""TorchScript forms of the two operators of fixed shape, over torchvision's kernels: a traced model keeps their loops
over the images and their shapes that depend on data."""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor


def best_survivors(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float, limit: int) -> Tensor:
    """Greedy NMS of one image.

    Whether a box survives depends on better boxes only, so a prefix of the ranking settles itself: the quadratic
    kernel sees all boxes only when most of them are suppressed.

    Args:
        boxes: float ``[N, 4]`` xyxy, pixels.
        scores, groups: ``[N]``.

    Returns:
        Indices of at least the ``limit`` best survivors (fewer if there are fewer), best first.
    """
    order = scores.argsort(dim=0, descending=True, stable=True)
    if order.shape[0] == 0:
        return order
    size = min(limit + limit // 4, order.shape[0])
    # groups are moved apart; float64 because a thousand image widths leave float32 no room for fractions of a pixel
    extent = (boxes.max() - boxes.min() + 1).double()
    apart = boxes.double() + (groups * extent)[:, None]
    ranking = scores.double()
    survivors = order[:0]
    settled = False
    while not settled:
        prefix = order[:size]
        survivors = prefix[torch.ops.torchvision.nms(apart[prefix], ranking[prefix], threshold)]
        settled = survivors.shape[0] >= limit or size == order.shape[0]
        size = min(2 * size, order.shape[0])
    return survivors


def nms_of_batch(boxes: Tensor, scores: Tensor, groups: Tensor, valid: Tensor, threshold: float, limit: int) -> Tensor:
    """:func:`centernet.ops.nms.nms_best` image by image, the first one of equal scores first."""
    count = min(limit, boxes.shape[1])
    best = torch.full([boxes.shape[0], count], -1, dtype=torch.int64, device=boxes.device)
    for image in range(boxes.shape[0]):
        index = valid[image].nonzero().squeeze(1)
        survivors = best_survivors(boxes[image][index], scores[image][index], groups[image][index], threshold, count)
        survivors = index[survivors[:count]]
        best[image, : survivors.shape[0]] = survivors
    return best


def pool_levels(
    maps: list[Tensor],
    regions: Tensor,
    level: Tensor,
    height: int,
    width: int,
    scales: list[float],
    samples: int,
    aligned: bool,
) -> Tensor:
    """ROIAlign of ``regions`` ``[R, 5]`` (image index, xyxy), each on the map that ``level`` ``[R]`` names."""
    out = torch.zeros([regions.shape[0], maps[0].shape[1], height, width], dtype=maps[0].dtype, device=maps[0].device)
    for number in range(len(maps)):
        index = (level == number).nonzero().squeeze(1)
        rows = regions[index].to(maps[0].dtype)
        out[index] = torch.ops.torchvision.roi_align(
            maps[number], rows, scales[number], height, width, samples, aligned
        )
    return out


@cache
def scripted(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """One of the functions of this module, compiled by TorchScript."""
    return torch.jit.script(function)  # type: ignore[no-any-return]
