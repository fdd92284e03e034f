"""Functions of the original package whose arguments differ from ours, on top of :mod:`centernet.ops` and the models.

Signatures are the published ones; for new code use what each of them calls.
"""

from collections.abc import Sequence

import torch
from detectron2.config import CfgNode
from detectron2.layers import batched_nms
from detectron2.structures import Instances
from detectron2.utils import comm
from torch import Tensor, nn

from ..modeling.backbone.dla import DLA, dla_norm
from ..ops import losses


def reduce_sum(tensor: Tensor) -> Tensor:
    """Sum over all processes; with one process ``tensor`` itself. ``tensor`` is left as it is."""
    if comm.get_world_size() < 2:
        return tensor
    total = tensor.clone()
    torch.distributed.all_reduce(total)
    return total


def transpose_targets(training_targets: Sequence[Tensor], num_loc_list: Sequence[int]) -> list[Tensor]:
    """From one tensor an image to one tensor a level (published as ``_transpose``).

    Args:
        training_targets: ``[M, ...]`` each, all levels of one image, finest first.
        num_loc_list: cells of each level; they sum to ``M``.

    Returns:
        ``[B * M_l, ...]`` each, image by image.
    """
    by_image = [target.split(list(num_loc_list)) for target in training_targets]
    return [torch.cat(level) for level in zip(*by_image, strict=True)]


def heatmap_focal_loss(
    inputs: Tensor,
    targets: Tensor,
    pos_inds: Tensor,
    labels: Tensor,
    alpha: float = -1,
    beta: float = 4,
    gamma: float = 2,
    reduction: str = "sum",
    sigmoid_clamp: float = 1e-4,
    ignore_high_fp: float = -1.0,
) -> tuple[Tensor, Tensor]:
    """:func:`centernet.ops.losses.heatmap_focal_loss` of logits ``inputs`` ``[M, C]``; also the ``_jit`` name.

    Args:
        targets: ``[M, C]`` in [0, 1].
        pos_inds, labels: int64 ``[P]``, row and class of each positive.
        alpha, beta, gamma, sigmoid_clamp, ignore_high_fp: see :class:`centernet.ops.losses.FocalRules`.

    Raises:
        ValueError: a ``reduction`` other than ``'sum'``.
    """
    if reduction != "sum":
        raise ValueError(f"reduction is '{reduction}': heatmap losses are summed, use 'sum'")
    rules = losses.FocalRules(alpha, beta, gamma, sigmoid_clamp, ignore_high_fp)
    return losses.heatmap_focal_loss(inputs, targets, pos_inds, labels, rules)


def binary_heatmap_focal_loss(
    inputs: Tensor,
    targets: Tensor,
    pos_inds: Tensor,
    alpha: float = -1,
    beta: float = 4,
    gamma: float = 2,
    sigmoid_clamp: float = 1e-4,
    ignore_high_fp: float = -1.0,
) -> tuple[Tensor, Tensor]:
    """:func:`heatmap_focal_loss` of one channel: ``inputs`` and ``targets`` are ``[M]`` or ``[M, 1]``."""
    column, heatmap = inputs.reshape(-1, 1), targets.reshape(-1, 1)
    rules = losses.FocalRules(alpha, beta, gamma, sigmoid_clamp, ignore_high_fp)
    return losses.heatmap_focal_loss(column, heatmap, pos_inds, torch.zeros_like(pos_inds), rules)


class IOULoss(nn.Module):
    """:func:`centernet.ops.losses.iou_loss` with weights and a reduction."""

    def __init__(self, loc_loss_type: str = "iou"):
        """``loc_loss_type``: ``'giou'``, ``'linear_iou'`` or ``'iou'``."""
        super().__init__()
        self.loc_loss_type = loc_loss_type

    def forward(self, pred: Tensor, target: Tensor, weight: Tensor | None = None, reduction: str = "sum") -> Tensor:
        """Loss of ``ltrb`` distances ``[..., 4]``, in strides.

        Args:
            weight: ``[...]``, a factor of each box.
            reduction: ``'none'`` keeps ``[...]``, ``'batch'`` sums all but the first axis, ``'sum'`` everything.

        Raises:
            ValueError: another ``reduction`` or an unknown ``loc_loss_type``.
        """
        loss = losses.iou_loss(pred, target, self.loc_loss_type)
        if weight is not None:
            loss = loss * weight
        if reduction == "sum":
            return loss.sum()
        if reduction == "batch":
            return loss.flatten(1).sum(dim=1)
        if reduction == "none":
            return loss
        raise ValueError(f"reduction is '{reduction}': use 'sum', 'batch' or 'none'")


def ml_nms(
    boxlist: Instances,
    nms_thresh: float,
    max_proposals: int = -1,
    score_field: str = "scores",
    label_field: str = "labels",
) -> Instances:
    """NMS of one image, class by class.

    Args:
        boxlist: ``pred_boxes`` and ``pred_classes``, or ``proposal_boxes`` (then of one class); ``scores``.
        nms_thresh: IoU; not positive: nothing is suppressed.
        max_proposals: best boxes to keep; not positive: all.
        score_field, label_field: accepted for existing callers, not read.

    Returns:
        The survivors, best first; ``boxlist`` itself without NMS.
    """
    if nms_thresh <= 0:
        return boxlist
    scores = boxlist.scores
    if boxlist.has("pred_boxes"):
        boxes, classes = boxlist.pred_boxes.tensor, boxlist.pred_classes
    else:
        boxes, classes = boxlist.proposal_boxes.tensor, torch.zeros_like(scores, dtype=torch.int64)
    keep = batched_nms(boxes, scores, classes, nms_thresh)
    return boxlist[keep[:max_proposals] if max_proposals > 0 else keep]


def dla34(cfg: CfgNode, pretrained: bool | None = None) -> DLA:
    """DLA-34 with the norm ``MODEL.DLA.NORM``; outputs ``dla0`` to ``dla5``.

    Args:
        pretrained: accepted for existing callers. Nothing is downloaded here: ``MODEL.WEIGHTS`` brings the weights.
    """
    return DLA(34, dla_norm(cfg), [f"dla{level}" for level in range(6)])
