"""A few sizes of batches that work is prepared for, and the choice among them."""

import logging
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from ..errors import UserError

__all__ = ["Canvases"]

_MOST = 8  # sizes that are learnt when none are given
_logger = logging.getLogger(__name__)


class Canvases:
    """Which size a batch is computed at: the smallest of a few canvases that holds it.

    What is padded is seen by the model: GroupNorm takes its statistics over whole maps, padding included, as in batches
    of pictures of different sizes. So nothing is padded unless canvases were asked for.

    Args:
        sizes: heights and widths, pixels; none: the first 8 sizes that come are the canvases, for batches of exactly
            these sizes.
        divisor: heights and widths are multiples of it, pixels.

    Raises:
        UserError: one of ``sizes`` is not such a multiple.
    """

    def __init__(self, sizes: Sequence[tuple[int, int]], divisor: int) -> None:
        for height, width in sizes:
            if height <= 0 or width <= 0 or height % divisor or width % divisor:
                raise UserError(
                    f"the canvas {height} x {width} does not suit this model: its sides must be positive multiples of "
                    f"{divisor} pixels"
                )
        self.sizes = sorted({(int(height), int(width)) for height, width in sizes}, key=_area)
        self._learns = not sizes
        self._warned = False

    def place(self, images: Tensor) -> Tensor | None:
        """``images`` ``[B, 3, H, W]``, padded with zeros on the right and below; None if they fit no canvas."""
        height, width = images.shape[-2:]
        if self._learns and (height, width) not in self.sizes and len(self.sizes) < _MOST:
            self.sizes = sorted([*self.sizes, (height, width)], key=_area)
        if (height, width) in self.sizes:
            return images
        for canvas in () if self._learns else self.sizes:
            if canvas[0] >= height and canvas[1] >= width:
                return F.pad(images, (0, canvas[1] - width, 0, canvas[0] - height))
        if not self._warned:
            self._warned = True
            _logger.warning(
                "No canvas is for batches of %d x %d pixels (there are %s): such ones run as they are, more slowly",
                height,
                width,
                ", ".join(f"{h} x {w}" for h, w in self.sizes),
            )
        return None


def _area(size: tuple[int, int]) -> int:
    return size[0] * size[1]
