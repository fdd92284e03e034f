"""Checks that all readers share: is a box four finite numbers, has it an area, is it inside its image?"""

import math
from collections.abc import Sequence
from typing import Any

from detectron2.structures import BoxMode

from .images import Size
from .problems import Problems

__all__ = ["annotation", "as_numbers", "checked_box"]

# pixel; no more than this outside is rounding, or VOC by a tool that counts from 0: clipped without a word
_ROUNDING = 1.0


def checked_box(box: Sequence[float], size: Size, where: str, problems: Problems) -> list[float] | None:
    """A box clipped to its image, or None, with a problem noted, if nothing can be made of it.

    Args:
        box: x0, y0, x1, y1 in pixels, x to the right, y down; pixel ``k`` covers ``[k, k + 1]``.
        size: of the image.
        where: names the box for the user.
    """
    if not all(map(math.isfinite, box)):
        problems.add("box-nan", where)
        return None
    x0, y0, x1, y1 = map(float, box)
    if x1 < x0 or y1 < y0:
        problems.add("box-negative", where)
        return None
    if x1 == x0 or y1 == y0:
        problems.add("box-empty", where)
        return None
    inside = [max(x0, 0.0), max(y0, 0.0), min(x1, float(size.width)), min(y1, float(size.height))]
    if inside[2] <= inside[0] or inside[3] <= inside[1]:
        problems.add("box-outside", where)
        return None
    if max(-x0, -y0, x1 - size.width, y1 - size.height) > _ROUNDING:
        problems.add("box-clipped", where)
    return inside


def as_numbers(values: Any, where: str, problems: Problems) -> list[float] | None:
    """Four numbers as floats; text that is a number is read and noted; None, noted, for anything else."""
    if not isinstance(values, (list, tuple)) or len(values) != 4 or any(isinstance(v, bool) for v in values):
        problems.add("box-not-four-numbers", where)
        return None
    try:
        numbers = [float(value) for value in values]
    except (TypeError, ValueError, OverflowError):
        problems.add("box-not-four-numbers", where)
        return None
    if any(isinstance(value, str) for value in values):
        problems.add("box-text", where)
    return numbers


def annotation(box: list[float], category: int, *, iscrowd: int = 0, **more: Any) -> dict[str, Any]:
    """An annotation in detectron2's format; ``more`` are its further keys."""
    return {"bbox": box, "bbox_mode": BoxMode.XYXY_ABS, "category_id": category, "iscrowd": iscrowd, **more}
