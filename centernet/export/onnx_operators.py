"""This package's two operators of fixed shape as ONNX operators, and the pictures' way to the network input.

Written for onnxscript; importing this module needs that package.
"""

from collections.abc import Callable, Sequence
from typing import Any

import onnxscript
import torch
from onnxscript import opset20

from ..ops import nms, roi_align  # noqa: F401  # they define the operators

Value = Any  # of a graph that is being built
op: Any = opset20  # its types are stricter than ONNX


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """For ``torch.onnx.export(custom_translation_table=)``."""
    return {
        torch.ops.centernet.nms_best.default: nms_best,
        torch.ops.centernet.roi_align_levels.default: roi_align_levels,
        torch.ops.aten.remainder.Scalar: remainder,
    }


def remainder(value: Value, divisor: Any) -> Value:
    """Of integers; onnxscript's wants ``divisor`` to be a number, here it is the size of a map."""
    return op.Mod(value, op.CastLike(divisor, value))


def nms_best(
    boxes: Value,
    scores: Value,
    groups: Value,
    valid: Value,
    threshold: float,
    limit: int,
    order_equals: bool,
) -> Value:
    """:func:`centernet.ops.nms.nms_best`; of equal scores the first one comes first.

    NonMaxSuppression takes a plane of scores a class over boxes that all classes share, so groups need not be moved
    apart by offsets that cost float32 its fractions of a pixel.
    """
    absent = op.Constant(value_float=-1.0)
    groups = op.Where(valid, groups, op.Constant(value_int=0))
    last = op.ReduceMax(groups, keepdims=0)
    number = op.Range(op.Constant(value_int=0), op.Add(last, op.Constant(value_int=1)), op.Constant(value_int=1))
    member = op.Equal(op.Unsqueeze(number, [0, 2]), op.Unsqueeze(groups, [1]))
    planes = op.Where(member, op.Unsqueeze(op.Where(valid, scores, absent), [1]), absent)
    count = op.Min(op.Constant(value_ints=[limit]), op.Shape(scores, start=1, end=2))
    survivors = op.NonMaxSuppression(boxes, planes, count, [threshold], [-0.5])
    place = op.Gather(survivors, op.Constant(value_ints=[0, 2]), axis=1)  # image and box, without the plane
    kept = op.ScatterND(op.Expand(absent, op.Shape(scores)), place, op.GatherND(scores, place))
    best, index = op.TopK(kept, count, axis=1, largest=1, sorted=1)
    return op.Where(op.Less(best, op.Constant(value_float=-0.5)), op.Constant(value_int=-1), index)


def roi_align_levels(
    maps: Sequence[Value],
    boxes: Value,
    height: int,
    width: int,
    scales: Sequence[float],
    samples: int,
    aligned: bool,
    canonical_level: int,
    canonical_size: float,
) -> Value:
    """:func:`centernet.ops.roi_align.roi_align_levels`: RoiAlign of each level's boxes, put back into their order."""
    shape = op.Shape(boxes)
    slots = op.Gather(shape, op.Constant(value_int=1))
    rows = op.Mul(op.Gather(shape, op.Constant(value_int=0)), slots)
    row = op.Range(op.Constant(value_int=0), rows, op.Constant(value_int=1))
    image = op.Div(row, slots)
    flat = _finite(op.Reshape(boxes, op.Constant(value_ints=[-1, 4])))
    level = _levels(flat, scales, canonical_level, canonical_size)
    parts, order = [], []
    for number, (values, scale) in enumerate(zip(maps, scales, strict=True)):
        here = op.Squeeze(op.NonZero(op.Equal(level, op.Constant(value_int=number))), [0])
        order.append(here)
        parts.append(
            op.RoiAlign(
                values,
                op.Gather(flat, here),
                op.Gather(image, here),
                mode="avg",
                coordinate_transformation_mode="half_pixel" if aligned else "output_half_pixel",
                output_height=height,
                output_width=width,
                sampling_ratio=samples,
                spatial_scale=scale,
            )
        )
    if len(parts) == 1:
        return parts[0]
    back = op.ScatterElements(row, op.Concat(*order, axis=0), row, axis=0)
    return op.Gather(op.Concat(*parts, axis=0), back, axis=0)


def _finite(boxes: Value) -> Value:
    """Boxes ``[R, 4]`` with NaN or infinity become empty: onnxruntime refuses to pool them."""
    odd = op.Or(op.IsNaN(boxes), op.IsInf(boxes))
    any_odd = op.ReduceMax(op.Cast(odd, to=onnxscript.FLOAT.dtype), op.Constant(value_ints=[1]), keepdims=1)
    zero = op.Constant(value_float=0.0)
    return op.Where(op.Greater(any_odd, zero), zero, boxes)


def _levels(boxes: Value, scales: Sequence[float], canonical_level: int, canonical_size: float) -> Value:
    """:func:`centernet.ops.roi_align.box_levels` of ``[R, 4]``, by comparisons: logarithms differ between runtimes."""
    zero = op.Constant(value_float=0.0)
    ends_less_starts = op.Sub(_columns(boxes, 2, 3), _columns(boxes, 0, 1))
    area = op.Max(op.Mul(_columns(ends_less_starts, 0), _columns(ends_less_starts, 1)), zero)
    side = op.Add(op.Div(op.Sqrt(area), op.Constant(value_float=canonical_size)), op.Constant(value_float=1e-8))
    # level l from 2 ** (l - canonical) on, where 2 ** l is the stride
    ends = [1.0 / scale / 2.0**canonical_level for scale in scales[1:]]
    if not ends:
        return op.Cast(op.Squeeze(op.Mul(side, zero), [1]), to=onnxscript.INT64.dtype)
    reached = op.Cast(op.GreaterOrEqual(side, op.Constant(value_floats=ends)), to=onnxscript.INT64.dtype)
    return op.ReduceSum(reached, op.Constant(value_ints=[1]), keepdims=0)


def _columns(values: Value, *numbers: int) -> Value:
    return op.Gather(values, op.Constant(value_ints=list(numbers)), axis=1)
