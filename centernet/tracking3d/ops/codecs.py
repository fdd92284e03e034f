"""What the heads predict, and what it stands for: depth, confidence, sizes, projected centres, orientation, 2D boxes.

Each codec is a small immutable value; ``encode`` gives targets, ``decode`` takes raw outputs of one class slot. All
arguments may have any leading shape ``...``; half precision is computed in float32.

Source: QD-3DT (arXiv 2103.07351) section 3.1; two overlapping orientation bins as in Mousavian et al. (CVPR 2017).
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .geometry import wrap_angle
from .mode import Mode

BIN_CENTERS = (-math.pi / 2, math.pi / 2)
"""Centres of the two orientation bins, radians; both reach 120 degrees to either side."""

INVALID_ALPHA = -10.0
"""Observation angles at or below it are unknown (KITTI's DontCare)."""

_TINY = 1e-6


def at_least_float32(tensor: Tensor) -> Tensor:
    """``tensor`` in float32, or in float64 if it is so already."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


class MaskedTarget(NamedTuple):
    """Targets, some of which say nothing.

    Attributes:
        value: float ``[...]``, finite everywhere.
        valid: bool ``[...]``.
    """

    value: Tensor
    valid: Tensor


@dataclass(frozen=True)
class DepthCodec:
    """Depth in metres <-> ``scale * ln(depth)``.

    Attributes:
        scale: of the logarithm.
        reference_focal: pixels, or None. With it the network predicts ``depth * reference_focal / focal``, what the
            object's size in the picture tells about, so that one model serves several cameras. Published models: None.
    """

    scale: float = 2.0
    reference_focal: float | None = None

    def encode(self, depth: Tensor, focal: Tensor | float | None = None) -> MaskedTarget:
        """Targets of depths ``[...]``; not valid (value -1) where the depth is not positive.

        Args:
            depth: metres.
            focal: focal length of the picture that the network sees, pixels; wanted with ``reference_focal`` only.
        """
        depth = at_least_float32(depth)
        valid = depth > 0
        normalised = depth / self._stretch(focal)
        code = self.scale * normalised.clamp(min=_TINY).log()
        return MaskedTarget(torch.where(valid, code, torch.full_like(code, -1.0)), valid)

    def decode(self, code: Tensor, focal: Tensor | float | None = None) -> Tensor:
        """Depths in metres ``[...]``; arguments as of :meth:`encode`."""
        return (at_least_float32(code) / self.scale).exp() * self._stretch(focal)

    def _stretch(self, focal: Tensor | float | None) -> Tensor | float:
        if self.reference_focal is None:
            return 1.0
        if focal is None:
            raise ValueError("a depth codec with a reference focal length needs the focal length of the picture")
        return focal / self.reference_focal


def confidence_target(code: Tensor, target: Tensor, slope: float = 5.0) -> Tensor:
    """How right a predicted depth is: ``exp(-slope * |code - target|)`` of encoded depths ``[...]``, in (0, 1].

    With the published scale it is ``exp(-10 |ln(predicted / true)|)``. There is no gradient to ``code``.
    """
    return (-slope * (at_least_float32(code).detach() - at_least_float32(target)).abs()).exp()


def decode_confidence(raw: Tensor) -> Tensor:
    """Confidence ``[...]`` in [0, 1] of raw outputs, which are regressed without a sigmoid."""
    return at_least_float32(raw).clamp(0, 1)


@dataclass(frozen=True)
class DimensionCodec:
    """Height, width, length in metres <-> ``scale * ln(size)``, each for itself."""

    scale: float = 2.0

    def encode(self, dims: Tensor) -> MaskedTarget:
        """Targets of sizes ``[..., 3]``; not valid (value 0) where a size is not positive."""
        dims = at_least_float32(dims)
        valid = dims > 0
        code = self.scale * dims.clamp(min=_TINY).log()
        return MaskedTarget(torch.where(valid, code, torch.zeros_like(code)), valid)

    def decode(self, code: Tensor) -> Tensor:
        """Sizes in metres, ``[..., 3]``."""
        return (at_least_float32(code) / self.scale).exp()


@dataclass(frozen=True)
class CenterCodec:
    """Projected 3D centre <-> its offset from the centre of the 2D box, in pixels of the original picture.

    Attributes:
        mode: ``"parity"`` decodes from a box centre that lies half a pixel too far to the left and top (the mean of
            inclusive corners), while targets are made with the true one.
        scale: pixels per unit of the output.
    """

    mode: Mode = "modern"
    scale: float = 10.0

    def encode(self, center2d: Tensor, boxes: Tensor) -> Tensor:
        """Targets ``[..., 2]`` of centres ``[..., 2]`` and their continuous boxes ``[..., 4]``."""
        return self.encode_offset(at_least_float32(center2d) - _middle(boxes))

    def encode_offset(self, offset: Tensor) -> Tensor:
        """Targets of offsets in pixels, ``[..., 2]`` both."""
        return at_least_float32(offset) / self.scale

    def decode(self, code: Tensor, boxes: Tensor) -> Tensor:
        """Centres ``[..., 2]`` in original pixels.

        Args:
            code: float ``[..., 2]``.
            boxes: float ``[..., 4]``, predicted, continuous ``xyxy``, original pixels; for parity the published
                inclusive ones with 1 added to their ends.
        """
        center = _middle(boxes) + self.scale * at_least_float32(code)
        return center - 0.5 if self.mode == "parity" else center


def _middle(boxes: Tensor) -> Tensor:
    boxes = at_least_float32(boxes)
    return (boxes[..., :2] + boxes[..., 2:]) / 2


class OrientationTarget(NamedTuple):
    """Two overlapping bins around :data:`BIN_CENTERS`.

    Attributes:
        member: bool ``[..., 2]``, the angle lies in the bin.
        residual: float ``[..., 2]``, angle minus the centre of the bin, 0 where not a member.
        valid: bool ``[...]``, the angle is known.
    """

    member: Tensor
    residual: Tensor
    valid: Tensor


@dataclass(frozen=True)
class OrientationCodec:
    """Observation angle <-> 8 numbers ``[out1, in1, sin1, cos1, out2, in2, sin2, cos2]``: two logits for being in the
    bin, sine and cosine of the residual, for either bin.

    Attributes:
        mode: ``"parity"`` decodes with the plain arc tangent, so each bin gives half a turn only, and an angle within
            30 degrees of 0 or 180 comes out turned around where the other bin's logit is larger; unknown angles count
            as members of both bins. ``"modern"`` decodes the full +-120 degrees of the bin with the larger log-odds;
            unknown angles are members of none.
    """

    mode: Mode = "modern"

    @staticmethod
    def normalise(raw: Tensor) -> Tensor:
        """Outputs ``[..., 8]`` with the sine-cosine pairs scaled to length 1."""
        bins = at_least_float32(raw).unflatten(-1, (2, 4))
        logits, pairs = bins[..., :2], bins[..., 2:]
        pairs = pairs / (pairs.square().sum(-1, keepdim=True) + 1e-10).sqrt()
        return torch.cat((logits, pairs), -1).flatten(-2)

    def encode(self, alpha: Tensor) -> OrientationTarget:
        """Targets of angles ``[...]``, radians; :data:`INVALID_ALPHA` and below is unknown."""
        alpha = at_least_float32(alpha)
        valid = alpha > INVALID_ALPHA
        if self.mode == "modern":
            alpha = wrap_angle(alpha)
        sixth = math.pi / 6
        first = (alpha < sixth) | (alpha > 5 * sixth)
        second = (alpha > -sixth) | (alpha < -5 * sixth)
        member = torch.stack((first, second), -1)
        if self.mode == "modern":
            member = member & valid[..., None]
        residual = alpha[..., None] - alpha.new_tensor(BIN_CENTERS)
        return OrientationTarget(member, torch.where(member, residual, torch.zeros_like(residual)), valid)

    def decode(self, output: Tensor) -> Tensor:
        """Angles ``[...]`` of outputs ``[..., 8]``, normalised or not; modern ones are in [-pi, pi)."""
        bins = at_least_float32(output).unflatten(-1, (2, 4))
        out, inside, sin, cos = bins.unbind(-1)
        if self.mode == "parity":
            second = ~(inside[..., 0] > inside[..., 1])
            residual = torch.atan2(torch.where(cos < 0, -sin, sin), cos.abs())  # atan(sin / cos), 0 for 0 / 0
        else:
            odds = inside - out
            second = ~(odds[..., 0] > odds[..., 1])
            residual = torch.atan2(sin, cos).clamp(-2 * math.pi / 3, 2 * math.pi / 3)
        alpha = residual + residual.new_tensor(BIN_CENTERS)
        alpha = torch.where(second, alpha[..., 1], alpha[..., 0])
        return alpha if self.mode == "parity" else wrap_angle(alpha)


@dataclass(frozen=True)
class BoxCodec:
    """Box <-> deltas from a proposal, continuous ``xyxy``, with both limits on the size that the published one has.

    Attributes:
        weights: factors of dx, dy, dw, dh in the deltas; (10, 10, 5, 5) for the ROI head, 1 for the RPN.
        limit: largest absolute value of ``ln(size / size of the proposal)``.
    """

    weights: tuple[float, float, float, float] = (10.0, 10.0, 5.0, 5.0)
    limit: float = math.log(1000 / 16)

    def encode(self, proposals: Tensor, boxes: Tensor) -> Tensor:
        """Deltas ``[..., 4]`` from ``proposals`` to ``boxes``, ``[..., 4]`` each, not empty."""
        proposals, boxes = at_least_float32(proposals), at_least_float32(boxes)
        size, target = proposals[..., 2:] - proposals[..., :2], boxes[..., 2:] - boxes[..., :2]
        shift = (_middle(boxes) - _middle(proposals)) / size
        return torch.cat((shift, (target / size).log()), -1) * proposals.new_tensor(self.weights)

    def decode(self, proposals: Tensor, deltas: Tensor) -> Tensor:
        """Boxes ``[..., 4]`` of deltas ``[..., 4]`` from ``proposals`` (broadcast), not clipped."""
        proposals, deltas = at_least_float32(proposals), at_least_float32(deltas)
        deltas = deltas / deltas.new_tensor(self.weights)
        size = proposals[..., 2:] - proposals[..., :2]
        center = _middle(proposals) + deltas[..., :2] * size
        half = size * deltas[..., 2:].clamp(-self.limit, self.limit).exp() / 2
        return torch.cat((center - half, center + half), -1)

    @staticmethod
    def clip(boxes: Tensor, size: tuple[int, int], *, mode: Mode = "modern") -> Tensor:
        """Boxes ``[..., 4]`` inside a picture of (height, width) pixels.

        ``"parity"`` keeps them at least a pixel large: the published boxes include their last pixel, so the left side
        reaches to ``width - 1`` and the right side from 1.
        """
        least = 1.0 if mode == "parity" else 0.0
        end = boxes.new_tensor((size[1], size[0]))
        low = torch.minimum(boxes[..., :2].clamp(min=0), end - least)
        high = torch.minimum(boxes[..., 2:].clamp(min=least), end)
        return torch.cat((low, high), -1)
