"""Non-maximum suppression with an output of fixed size: padded indices of the best survivors."""

import torch
import torchvision
from torch import Tensor

from .capture import capture_target, define_once
from .detections import best_first
from .scripted import best_survivors, nms_of_batch, scripted

ROUNDS = 64  # suppression chains up to this long are exact on a GPU
_PARALLEL_LIMIT = 4096  # above this many boxes an image the pairwise overlap matrix costs too much memory
_BLOCK, _BLOCK_ROUNDS = 512, 32  # in an exported graph: boxes of consecutive ranks that are settled together
_PAIRS_AT_ONCE = 4 * _PARALLEL_LIMIT**2  # images are taken together up to this many pairs of boxes, about 1 GB


def _nms_best(
    boxes: Tensor, scores: Tensor, groups: Tensor, valid: Tensor, threshold: float, limit: int, order_equals: bool
) -> Tensor:
    """Greedy NMS of every image of a batch, within each group (class) apart.

    An operator of its own, so that graph capture and export see one node with a fixed output shape. On a GPU it is
    :func:`parallel_nms_mask`, which never waits for the host; on a CPU, and for more boxes than fit a pairwise matrix,
    torchvision's kernel image by image.

    Args:
        boxes: float ``[B, N, 4]`` xyxy, pixels.
        scores: float ``[B, N]``.
        groups: int64 ``[B, N]``; boxes of different groups do not suppress each other.
        valid: bool ``[B, N]``; other boxes neither survive nor suppress.
        threshold: IoU above which the lower-scored box is suppressed.
        limit: survivors wanted.
        order_equals: on a CPU, equal scores come in the order of the published models, at the price of an NMS of all
            boxes where there are any; otherwise the first one comes first.

    Returns:
        int64 ``[B, min(limit, N)]``: indices of the best survivors, best first; -1 in padding.
    """
    count = max(0, min(limit, boxes.shape[1]))
    if boxes.is_cuda and boxes.shape[1] <= _PARALLEL_LIMIT:
        return best_first(scores, parallel_nms_mask(boxes, scores, groups, valid, threshold), count)
    best = torch.full((len(boxes), count), -1, device=boxes.device)
    for image in range(len(boxes)):
        index = valid[image].nonzero().squeeze(1)
        candidates = boxes[image, index].float(), scores[image, index], groups[image, index]
        survivors = best_survivors(*candidates, threshold, count)
        if order_equals:
            survivors = _order_equals(*candidates, threshold, survivors[: count + 1])
        best[image, : len(survivors[:count])] = index[survivors[:count]]
    return best


def _order_equals(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float, survivors: Tensor) -> Tensor:
    """The survivors of torchvision's ``batched_nms``, whose order of equal scores is the published one, if any of those
    given have equal scores. (Above 1,000 boxes that order is of an unstable sort: it can differ between kinds of CPU.)
    """
    ranked = scores[survivors]
    if not (ranked[1:] == ranked[:-1]).any():
        return survivors
    return torchvision.ops.batched_nms(boxes, scores.float(), groups, threshold)


def parallel_nms_mask(boxes: Tensor, scores: Tensor, groups: Tensor, valid: Tensor, threshold: float) -> Tensor:
    """NMS without data-dependent shapes or host synchronisation.

    Greedy NMS is the fixed point of ``keep[j] = valid[j] and no kept i before j overlaps j``. Iterating it from ``keep
    = valid`` settles every box whose chain of suppressors is no longer than the number of rounds; real chains are far
    shorter than :data:`ROUNDS`.
    """
    images = max(1, _PAIRS_AT_ONCE // max(1, boxes.shape[1] ** 2))
    parts = zip(boxes.split(images), scores.split(images), groups.split(images), valid.split(images), strict=True)
    return torch.cat([_settle(*part, threshold=threshold, block=max(1, boxes.shape[1])) for part in parts])


def _settle(
    boxes: Tensor, scores: Tensor, groups: Tensor, valid: Tensor, threshold: float, block: int, rounds: int = ROUNDS
) -> Tensor:
    """Blocks of the ranking one after the other, so that only chains within a block count, and only they iterate."""
    order = torch.where(valid, scores, torch.full_like(scores, -1.0)).argsort(dim=1, descending=True, stable=True)
    boxes = boxes.float().gather(1, order[..., None].expand(-1, -1, 4))
    groups, valid = groups.gather(1, order), valid.gather(1, order)
    dtype = torch.float16 if boxes.is_cuda else torch.float32
    valid = valid[:, None]
    keep = valid[..., :0].to(dtype)  # 1 or 0, as a row: [B, 1, N]
    one, zero = keep.new_ones(()), keep.new_zeros(())
    for start in range(0, valid.shape[2], block):
        end = min(start + block, valid.shape[2])
        same = groups[:, :end, None] == groups[:, None, start:end]
        suppresses = (_overlap(boxes[:, :end], boxes[:, start:end], threshold) & same).to(dtype)
        alive = valid[..., start:end]
        if start > 0:
            alive = alive & (torch.bmm(keep, suppresses[:, :start]) == 0)
        inside = suppresses[:, start:].triu(diagonal=1)
        most = torch.where(alive, 0.5, -1.0)  # suppressors; a box that is not alive has too many without any
        settled = torch.where(alive, one, zero)
        for _ in range(min(rounds, end - start)):
            settled = torch.where(torch.bmm(settled, inside) < most, one, zero)
        keep = torch.cat((keep, settled), dim=2)
    return torch.zeros_like(valid[:, 0]).scatter(1, order, keep[:, 0] > 0)


def _overlap(boxes: Tensor, others: Tensor, threshold: float) -> Tensor:
    """Whether each of ``boxes`` and each of ``others`` have an IoU above the threshold, bool ``[B, N, M]``."""

    def shared(low: int, high: int) -> Tensor:
        pairs = torch.minimum(boxes[:, :, None, high], others[:, None, :, high])
        return pairs.sub_(torch.maximum(boxes[:, :, None, low], others[:, None, :, low])).clamp_(min=0)

    intersection = shared(0, 2).mul_(shared(1, 3))
    area, other_area = ((b[..., 2] - b[..., 0]) * (b[..., 3] - b[..., 1]) for b in (boxes, others))
    union = (area[:, :, None] + other_area[:, None]).sub_(intersection)
    return intersection > union.mul_(threshold)


def _shape_only(
    boxes: Tensor, scores: Tensor, groups: Tensor, valid: Tensor, threshold: float, limit: int, order_equals: bool
) -> Tensor:
    return torch.empty((boxes.shape[0], max(0, min(limit, boxes.shape[1]))), dtype=torch.int64, device=boxes.device)


_operator = define_once("nms_best", _nms_best, _shape_only)


def nms_best(
    boxes: Tensor, scores: Tensor, groups: Tensor, valid: Tensor, threshold: float, limit: int, order_equals: bool
) -> Tensor:
    """See :func:`_nms_best`. In a graph for ``torch.export`` it settles blocks of ranks, exact for chains of up to
    32 suppressions within one, and in TorchScript it is a loop over the images; both take the first one of equal
    scores first."""
    target = capture_target()
    if target == "torchscript":
        return scripted(nms_of_batch)(boxes, scores, groups, valid, threshold, limit)
    if target == "export":
        return best_first(scores, _settle(boxes, scores, groups, valid, threshold, _BLOCK, _BLOCK_ROUNDS), limit)
    return _operator(boxes, scores, groups, valid, threshold, limit, order_equals)
