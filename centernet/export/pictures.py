"""Pictures to the network input and boxes back, inside an exported file: the resizing of evaluation."""

from typing import Final, NamedTuple

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from torch import Tensor, nn

from ..data.augmentation import check_input
from ..modeling.fixed_size import FixedSizeDetector
from ..ops.detections import PaddedDetections, clip_boxes

__all__ = ["CoreProgram", "PictureProgram", "ResizeRule", "resized_size", "round_up"]


class ResizeRule(NamedTuple):
    """What :func:`centernet.data.build_test_resize` does.

    Attributes:
        square: the long side becomes ``long``, rounded down; otherwise the short side ``short`` and the long one at
            most ``long``, rounded.
        short, long: pixels; ``short`` 0: not resized.
    """

    square: bool
    short: int
    long: int

    @classmethod
    def of(cls, cfg: CfgNode) -> "ResizeRule":
        """Raises :class:`~centernet.errors.UserError` for a ``TEST_INPUT_TYPE`` that does not exist."""
        check_input(cfg)
        if cfg.INPUT.TEST_INPUT_TYPE == "square":
            return cls(True, 0, cfg.INPUT.TEST_SIZE)
        return cls(False, cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)


def resized_size(height: int, width: int, square: bool, short: int, long: int) -> tuple[int, int]:
    """Height and width, pixels, that a picture is resized to; see :class:`ResizeRule`. TorchScript compiles it."""
    if square:
        scale = min(long / height, long / width)
        return max(int(height * scale), 1), max(int(width * scale), 1)
    if short == 0:
        return height, width
    scale = short / min(height, width)
    new_height, new_width = height * scale, width * scale
    longest = max(new_height, new_width)
    if longest > long:
        new_height, new_width = new_height * (long / longest), new_width * (long / longest)
    return max(int(new_height + 0.5), 1), max(int(new_width + 0.5), 1)


def round_up(size: int, divisor: int) -> int:
    """The smallest multiple of ``divisor`` that is no smaller than ``size``."""
    return (size + divisor - 1) // divisor * divisor


class CoreProgram(nn.Module):
    """What every format captures: network input in, padded detections out, as a plain tuple of tensors.

    Attributes:
        to_pictures: whether boxes come in pixels of the original pictures.
        divisor: of height and width of the network input, pixels.
        coarsest: stride of the coarsest map, pixels.
    """

    def __init__(self, detector: FixedSizeDetector, *, to_pictures: bool):
        super().__init__()
        self.detector = detector
        self.to_pictures = to_pictures
        self.divisor = detector.divisor
        self.coarsest = int(max(detector.model.proposal_generator.strides))  # type: ignore[union-attr, arg-type]

    def forward(
        self, images: Tensor, image_sizes: Tensor, picture_sizes: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """
        Args:
            images: uint8 ``[B, 3, H, W]``.
            image_sizes: int64 ``[B, 2]`` ``(height, width)`` of the valid part, pixels.
            picture_sizes: int64 ``[B, 2]`` of the original pictures; with ``to_pictures`` only.

        Returns:
            boxes, scores, classes, valid of :class:`~centernet.ops.detections.PaddedDetections`.
        """
        found = self.detector(images, image_sizes)
        if self.to_pictures:
            assert picture_sizes is not None
            found = boxes_of_pictures(found, image_sizes, picture_sizes)
        return found.boxes, found.scores, found.classes, found.valid


def boxes_of_pictures(found: PaddedDetections, image_sizes: Tensor, picture_sizes: Tensor) -> PaddedDetections:
    """What detectron2's ``detector_postprocess`` does: boxes scaled to the original pictures and clipped to them; those
    that are left without area are no longer valid."""
    scale = (picture_sizes.double() / image_sizes.double()).float().flip(1).repeat(1, 2)[:, None]
    boxes = clip_boxes(found.boxes * scale, picture_sizes)
    valid = found.valid & (boxes[..., 2] > boxes[..., 0]) & (boxes[..., 3] > boxes[..., 1])
    return found._replace(boxes=boxes, valid=valid)


class PictureProgram(nn.Module):
    """Pictures of one size in, resized as in evaluation; for TorchScript (any size) and torch.export (a fixed one).

    Attributes:
        core: a :class:`CoreProgram`, or a traced one.
    """

    to_pictures: Final[bool]
    square: Final[bool]
    short: Final[int]
    long: Final[int]
    divisor: Final[int]

    def __init__(self, core: nn.Module, rule: ResizeRule, divisor: int, *, to_pictures: bool):
        super().__init__()
        self.core = core
        self.square, self.short, self.long = rule
        self.divisor = divisor
        self.to_pictures = to_pictures

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """
        Args:
            pictures: uint8 ``[B, H, W, 3]``, channel order of ``INPUT.FORMAT``.

        Returns:
            the four tensors of the core, and int64 ``[B, 2]`` ``(height, width)`` of the resized pictures.
        """
        images, sizes, originals = self.resize(pictures)
        if self.to_pictures:
            boxes, scores, classes, valid = self.core(images, sizes, originals)
        else:
            boxes, scores, classes, valid = self.core(images, sizes)
        return boxes, scores, classes, valid, sizes

    def resize(self, pictures: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pictures to ``images``, ``image_sizes`` and ``picture_sizes`` of the core."""
        batch, height, width = pictures.shape[0], pictures.shape[1], pictures.shape[2]
        new_height, new_width = resized_size(height, width, self.square, self.short, self.long)
        images = pictures.permute(0, 3, 1, 2)
        images = F.interpolate(images, [new_height, new_width], mode="bilinear", align_corners=False, antialias=True)
        bottom = (new_height + self.divisor - 1) // self.divisor * self.divisor - new_height
        right = (new_width + self.divisor - 1) // self.divisor * self.divisor - new_width
        sizes = torch.tensor([new_height, new_width], dtype=torch.int64).expand(batch, 2)
        originals = torch.tensor([height, width], dtype=torch.int64).expand(batch, 2)
        return F.pad(images, [0, right, 0, bottom]), sizes, originals
