"""How large the objects are at the size that the model sees, against the ranges that its levels are responsible for.

A level is responsible for objects whose half diagonal ``sqrt(w^2 + h^2) / 2`` at input size lies in its range of
``MODEL.CENTERNET.SOI`` (paper, section 3).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from detectron2.config import CfgNode

__all__ = ["Advice", "Sizes", "input_scales", "measure_sizes"]

_ONE_LEVEL = 0.8  # of the objects on one level: the others learn nothing
_TINY = 0.1  # of the objects smaller than a cell of the finest level
_LARGEST_FACTOR = 3.0  # beyond this, larger images are no remedy
_ENLARGED = 1.5


class Advice(NamedTuple):
    """A sentence, and whether it is a 'warning' or a 'note'."""

    level: str
    text: str


@dataclass
class Sizes:
    """Object sizes at the model's input size.

    Attributes:
        half_diagonals: float [n], pixels, of objects that are not crowds.
        scale: median factor from the image to the model's input.
        ranges: ``SOI``, half diagonals in pixels, one a level.
        shares: part of the objects that each level is responsible for; ranges overlap, so the sum may exceed 1.
        tiny: part of the objects whose shorter side is below a cell of the finest level.
        advice: on SOI and on the input size.
    """

    half_diagonals: np.ndarray
    scale: float
    ranges: list[tuple[float, float]]
    shares: list[float]
    tiny: float
    advice: list[Advice] = field(default_factory=list)

    def percentiles(self) -> dict[str, float]:
        """Half diagonals in pixels: ``{"5": ..., "25": ..., "50": ..., "75": ..., "95": ...}``; {} without objects."""
        if not len(self.half_diagonals):
            return {}
        points = (5, 25, 50, 75, 95)
        return dict(zip(map(str, points), np.percentile(self.half_diagonals, points).round(1).tolist(), strict=True))


def input_scales(cfg: CfgNode, widths: np.ndarray, heights: np.ndarray) -> np.ndarray:
    """Factor from each image to the training input, at the middle of what the config's augmentation draws.

    Args:
        widths, heights: [n], pixels.
    """
    longest, shortest = np.maximum(widths, heights), np.minimum(widths, heights)
    if cfg.INPUT.CUSTOM_AUG == "EfficientDetResizeCrop":
        return cfg.INPUT.TRAIN_SIZE * float(np.mean(cfg.INPUT.SCALE_RANGE)) / longest
    side = float(np.median(cfg.INPUT.MIN_SIZE_TRAIN))
    return np.minimum(side / shortest, cfg.INPUT.MAX_SIZE_TRAIN / longest)


def measure_sizes(cfg: CfgNode, records: Sequence[dict[str, Any]]) -> Sizes:
    """Measure the objects of dataset dicts (boxes XYXY, pixels) and advise on SOI and on the input size."""
    sides, factors = [], []
    for record in records:
        boxes = np.array([e["bbox"] for e in record["annotations"] if not e["iscrowd"]], np.float64).reshape(-1, 4)
        factor = input_scales(cfg, np.array([record["width"]]), np.array([record["height"]]))
        factors.append(float(factor[0]))
        sides.append((boxes[:, 2:] - boxes[:, :2]) * factor[0])
    all_sides = np.concatenate(sides) if sides else np.zeros((0, 2))
    radii = np.hypot(all_sides[:, 0], all_sides[:, 1]) / 2
    ranges = [(float(low), float(high)) for low, high in cfg.MODEL.CENTERNET.SOI]
    count = max(1, len(radii))
    stride = cfg.MODEL.CENTERNET.FPN_STRIDES[0]
    sizes = Sizes(
        half_diagonals=radii,
        scale=float(np.median(factors)) if factors else 1.0,
        ranges=ranges,
        shares=[float(((low <= radii) & (radii <= high)).sum() / count) for low, high in ranges],
        tiny=float((all_sides.min(axis=1) < stride).sum() / count),
    )
    if len(radii):
        sizes.advice = _advice(cfg, sizes, all_sides.min(axis=1))
    return sizes


def _advice(cfg: CfgNode, sizes: Sizes, shorter: np.ndarray) -> list[Advice]:
    advice: list[Advice] = []
    stride = cfg.MODEL.CENTERNET.FPN_STRIDES[0]
    custom = cfg.INPUT.CUSTOM_AUG == "EfficientDetResizeCrop"
    key = "INPUT.TRAIN_SIZE and INPUT.TEST_SIZE" if custom else "INPUT.MIN_SIZE_TRAIN and INPUT.MIN_SIZE_TEST"
    current = cfg.INPUT.TRAIN_SIZE if custom else float(np.median(cfg.INPUT.MIN_SIZE_TRAIN))
    if sizes.tiny > _TINY:
        factor = stride / max(1e-6, float(np.percentile(shorter, 100 * _TINY)))
        remedy = f"raise {key} to about {_round(current * factor)}"
        if factor > _LARGEST_FACTOR:
            remedy = f"cut the images into tiles, or raise {key} as far as memory allows (now {current:g})"
        what = f"{sizes.tiny:.0%} of the objects are narrower than {stride} pixels, a cell of the finest level"
        advice.append(Advice("warning", f"{what}: {remedy}"))
    elif sizes.scale > _ENLARGED and float(np.percentile(shorter, 5)) > 4 * stride:
        what = f"images are enlarged {sizes.scale:.1f} times, hardly an object is narrower than {4 * stride} pixels"
        advice.append(Advice("note", f"{what}: lower {key} (now {current:g}) to train faster"))
    top = int(np.argmax(sizes.shares))
    if len(sizes.ranges) > 1 and sizes.shares[top] > _ONE_LEVEL:
        low, high = sizes.ranges[top]
        where = f"{sizes.shares[top]:.0%} of the objects fall to level {top + 1} (half diagonals {low:g} to {high:g})"
        remedy = f'MODEL.CENTERNET.SOI "{_spread(cfg, sizes)}" in a training from scratch'
        advice.append(
            Advice("note", f"{where}: the other levels see few; another input size spreads them, or {remedy}")
        )
    return advice


def _spread(cfg: CfgNode, sizes: Sizes) -> list[list[int]]:
    """Ranges like the published ones (each twice the one before, overlapping by a fifth) around the median object,
    except that no level gets objects whose half diagonal is below two of its cells."""
    strides = cfg.MODEL.CENTERNET.FPN_STRIDES
    median, count = float(np.median(sizes.half_diagonals)), len(sizes.ranges)
    doubled = [median * 2.0 ** (k - count / 2) for k in range(1, count)]
    edges = [max(edge, 2.0 * stride) for edge, stride in zip(doubled, strides[1:], strict=False)]
    lows = [0] + [_round(0.8 * edge) for edge in edges]
    highs = [_round(edge) for edge in edges] + [10_000_000]
    return [list(pair) for pair in zip(lows, highs, strict=True)]


def _round(value: float) -> int:
    """To two digits."""
    step = 10 ** max(0, len(str(int(value))) - 2)
    return int(round(value / step) * step)
