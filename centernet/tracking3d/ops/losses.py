"""Losses of the 3D head. All in float32 or wider; without positives each is a zero that has a gradient path.

Source: QD-3DT (arXiv 2103.07351) section 3.1; the confidence target and the weights as in the published program.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .codecs import CenterCodec, DepthCodec, DimensionCodec, OrientationCodec, at_least_float32, confidence_target

SURE = 0.8
"""Confidence targets above it count as positives, of which there are few."""

_BETA = 1 / 9  # of every smooth L1 here
_SURE_WEIGHT, _UNSURE_WEIGHT = 5.0, 0.1


class Box3DOutputs(NamedTuple):
    """Raw outputs for the positives of a batch, each in the slot of its own class.

    Attributes:
        depth: float ``[P]``, encoded.
        confidence: float ``[P]``, of the depth, no sigmoid.
        dims: float ``[P, 3]``, encoded h, w, l.
        rotation: float ``[P, 8]``, see :class:`~.codecs.OrientationCodec`, with normalised pairs.
        center: float ``[P, 2]``, encoded offset of the projected 3D centre.
    """

    depth: Tensor
    confidence: Tensor
    dims: Tensor
    rotation: Tensor
    center: Tensor


class Box3DTargets(NamedTuple):
    """What annotations say of the same positives.

    Attributes:
        depth: float ``[P]``, metres; <= 0 is unknown.
        alpha: float ``[P]``, radians; <= -10 is unknown.
        dims: float ``[P, 3]``, metres; <= 0 is unknown.
        center_offset: float ``[P, 2]``, projected 3D centre minus centre of the 2D box, pixels of the original picture.
        focal: float ``[P]``, pixels, or None; for a depth codec with a reference focal length.
    """

    depth: Tensor
    alpha: Tensor
    dims: Tensor
    center_offset: Tensor
    focal: Tensor | None = None


class Box3DCodecs(NamedTuple):
    """The codecs that make the targets; their modes decide which defects of the published losses are kept."""

    depth: DepthCodec = DepthCodec()
    dims: DimensionCodec = DimensionCodec()
    center: CenterCodec = CenterCodec()
    orientation: OrientationCodec = OrientationCodec()


def own_class(outputs: Tensor, classes: Tensor) -> Tensor:
    """The slots of given classes: ``[R, C, ...]`` and int64 ``[R]`` -> ``[R, ...]``."""
    return outputs[torch.arange(len(classes), device=outputs.device), classes]


def box3d_losses(outputs: Box3DOutputs, targets: Box3DTargets, codecs: Box3DCodecs | None = None) -> dict[str, Tensor]:
    """The five losses of the 3D head, each a mean over its positives.

    ``"parity"`` orientation keeps two defects: unknown angles are trained (as members of both bins) unless all are
    unknown, and the confidence of an unknown depth is trained towards that of the code -1. ``"modern"`` masks both.
    Means over positives count the masked ones in both modes, those over the members of a bin do not.

    Args:
        outputs: of ``P`` positives.
        targets: of the same.
        codecs: None: the modern ones.

    Returns:
        float scalars ``loss_depth_3d``, ``loss_unc_3d``, ``loss_dim_3d``, ``loss_rot_3d``, ``loss_2dc_3d``.
    """
    codecs = codecs or Box3DCodecs()
    outputs = Box3DOutputs(*map(at_least_float32, outputs))
    depth, depth_known = codecs.depth.encode(targets.depth, targets.focal)
    dims, dims_known = codecs.dims.encode(targets.dims)
    center = codecs.center.encode_offset(targets.center_offset)
    confidence = confidence_target(outputs.depth, depth)
    weight = torch.where(confidence > SURE, _SURE_WEIGHT, _UNSURE_WEIGHT).to(confidence)
    if codecs.orientation.mode == "modern":
        weight = weight * depth_known
    return {
        "loss_depth_3d": _smooth_l1(outputs.depth, depth, depth_known),
        "loss_unc_3d": _smooth_l1(outputs.confidence, confidence, weight),
        "loss_dim_3d": _smooth_l1(outputs.dims, dims, dims_known),
        "loss_rot_3d": orientation_loss(outputs.rotation, targets.alpha, codecs.orientation),
        "loss_2dc_3d": _smooth_l1(outputs.center, center, torch.ones_like(center)),
    }


def orientation_loss(outputs: Tensor, alpha: Tensor, codec: OrientationCodec) -> Tensor:
    """Cross entropy of the two memberships and L1 of sine and cosine over the members of each bin.

    Args:
        outputs: float ``[P, 8]`` with normalised pairs.
        alpha: float ``[P]``, radians; unknown ones as in :func:`box3d_losses`.
        codec: its mode decides about these.

    Returns:
        float scalar, the sum of two cross entropies and four means.
    """
    target = codec.encode(alpha)
    bins = at_least_float32(outputs).unflatten(-1, (2, 4))
    entropy = F.cross_entropy(bins[..., :2].flatten(0, 1), target.member.flatten().long(), reduction="none").view(-1, 2)
    direction = torch.stack((target.residual.sin(), target.residual.cos()), -1)
    distance = (bins[..., 2:] - direction).abs().sum(-1)
    if codec.mode == "modern":
        counted = target.valid[:, None].expand_as(target.member)
    else:
        counted = target.valid.any().expand_as(target.member)
    return (_mean(entropy, counted) + _mean(distance, target.member & counted)).sum()


def confidence_accuracy(outputs: Box3DOutputs, depth: Tensor, codec: DepthCodec) -> Tensor:
    """Share of positives whose confidence is above 0.5 exactly where its target is above :data:`SURE`; for the log.

    Args:
        outputs: of ``P`` positives.
        depth: float ``[P]``, true depths, metres.
        codec: of the depth.

    Returns:
        float scalar in [0, 1].
    """
    target = confidence_target(outputs.depth, codec.encode(depth).value)
    right = (outputs.confidence > 0.5) == (target > SURE)
    return right.float().sum() / max(len(right), 1)


def _mean(values: Tensor, counted: Tensor) -> Tensor:
    """Mean over the first axis of ``[P, B]``, of what counts; 0 where nothing does."""
    return torch.where(counted, values, torch.zeros_like(values)).sum(0) / counted.sum(0).clamp(min=1)


def _smooth_l1(outputs: Tensor, targets: Tensor, weight: Tensor) -> Tensor:
    return (F.smooth_l1_loss(outputs, targets, reduction="none", beta=_BETA) * weight).sum() / max(outputs.numel(), 1)
