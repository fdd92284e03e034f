"""ONNX: the whole detector in one file that onnxruntime runs, NMS inside."""

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError
from ..ops.capture import capturing
from .pictures import CoreProgram, ResizeRule
from .request import CORE_INPUTS, CORE_OUTPUTS, Request, missing_package

__all__ = ["OnnxProgram", "capture", "load", "resizer", "serialise"]

_IR_VERSION = 10  # what the exporter writes
_OPSET = 20  # DeformConv is in 19; 21 has a GroupNormalization that onnxruntime runs no faster than its parts
_LARGEST = 2**31 - 2**20  # bytes of a protobuf message, less a little for the metadata


def capture(program: CoreProgram, example: tuple[Tensor, ...], request: Request, rule: ResizeRule) -> Any:
    """The model as an ``onnx.ModelProto``.

    Args:
        example: inputs of ``program``.
        request: what is fixed, and whether pictures are resized inside.
        rule: that of the resizing.

    Raises:
        UserError: a package is missing.
    """
    try:
        import onnx
        from onnxscript import version_converter  # noqa: F401  # torch.onnx needs it

        from .onnx_operators import translations
    except ImportError as error:
        raise missing_package("ONNX", error) from None
    with torch.no_grad(), capturing("onnx"), _quiet():
        exported = torch.onnx.export(
            program,
            example,
            dynamo=True,
            opset_version=_OPSET,
            input_names=CORE_INPUTS[: len(example)],
            output_names=CORE_OUTPUTS,
            dynamic_shapes=request.dynamic_shapes(program.divisor, program.coarsest, len(example)),
            custom_translation_table=translations(),
            external_data=False,
            verbose=False,
        )
    assert exported is not None
    model = exported.model_proto
    _drop_notes(model)
    if request.preprocess:
        pictures = _picture_model(request, rule, program.divisor)
        joined = [(f"resized_{name}", name) for name in CORE_INPUTS[: len(example)]]
        model = onnx.compose.merge_models(pictures, model, io_map=joined)
        outputs = {value.name: value for value in model.graph.output}
        del model.graph.output[:]
        model.graph.output.extend(outputs[name] for name in request.outputs)
    model.graph.name = "centernet"
    model.producer_name = "centernet"
    return model


def resizer(program: CoreProgram, request: Request, rule: ResizeRule) -> Callable[[np.ndarray], np.ndarray]:
    """The resizing of a file alone: ``pictures`` to ``images``."""
    pictures = load(_picture_model(request, rule, program.divisor).SerializeToString())
    return lambda batch: pictures(batch)[0]


def serialise(model: Any, metadata: dict[str, str]) -> bytes:
    """The file, with ``metadata`` in it.

    Raises:
        UserError: it would be larger than the format allows.
    """
    from onnx.helper import set_model_props

    if model.ByteSize() > _LARGEST:
        raise UserError(
            f"the model has {model.ByteSize() / 2**30:.1f} GB and an ONNX file holds 2 GB at most: export it as "
            "torch_export"
        )
    set_model_props(model, metadata)
    return bytes(model.SerializeToString())


class OnnxProgram:
    """An ONNX file in onnxruntime, on the CPU.

    Attributes:
        metadata: of the file.
    """

    def __init__(self, file: bytes | str, threads: int | None = None):
        try:
            import onnxruntime
        except ImportError as error:
            raise missing_package("ONNX", error) from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads() if threads is None else threads
        options.log_severity_level = 3  # warnings are about constants that it could fold, not for users
        self._session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        self._names = [i.name for i in self._session.get_inputs()]
        self.metadata: dict[str, str] = self._session.get_modelmeta().custom_metadata_map

    def __call__(self, *inputs: np.ndarray) -> Sequence[np.ndarray]:
        """Inputs and outputs in the order of the file."""
        return self._session.run(None, dict(zip(self._names, inputs, strict=True)))  # type: ignore[no-any-return]


def load(file: bytes | str) -> OnnxProgram:
    """The program of a file (its content or its path)."""
    return OnnxProgram(file)


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter's own notes are about its insides."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    before = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def _drop_notes(model: Any) -> None:
    """Each node carries the stack of the Python code that it came from, with the folders of this machine."""
    del model.metadata_props[:]
    for part in (model.graph, *model.functions):
        del part.metadata_props[:]
        for node in part.node:
            del node.metadata_props[:]
            node.doc_string = ""
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        del value.metadata_props[:]


def _picture_model(request: Request, rule: ResizeRule, divisor: int) -> Any:
    import onnx

    return onnx.parser.parse_model(_picture_graph(request, rule, divisor))


def _size_graph(rule: ResizeRule) -> str:
    """From ``exact`` (a picture's height and width) to ``whole``, those after resizing."""
    if rule.square:
        return f"""
            long = Constant <value_float = {float(rule.long)}> ()
            long_exact = CastLike (long, exact)
            ratios = Div (long_exact, exact)
            scale = ReduceMin <keepdims = 0> (ratios)
            scaled = Mul (exact, scale)
            floor = Floor (scaled)
            whole = Cast <to = 7> (floor)"""
    if rule.short == 0:
        return "whole = Identity (size)"
    return f"""
            short = Constant <value_float = {float(rule.short)}> ()
            short_exact = CastLike (short, exact)
            least = ReduceMin <keepdims = 0> (exact)
            scale = Div (short_exact, least)
            scaled = Mul (exact, scale)
            longest = ReduceMax <keepdims = 0> (scaled)
            long = Constant <value_float = {float(rule.long)}> ()
            long_exact = CastLike (long, exact)
            shrink = Div (long_exact, longest)
            unit = Constant <value_float = 1.0> ()
            unit_exact = CastLike (unit, exact)
            no_more = Min (shrink, unit_exact)
            fitted = Mul (scaled, no_more)
            half = Constant <value_float = 0.5> ()
            half_exact = CastLike (half, exact)
            added = Add (fitted, half_exact)
            floor = Floor (added)
            whole = Cast <to = 7> (floor)"""


def _picture_graph(request: Request, rule: ResizeRule, divisor: int) -> str:
    """What :class:`~.pictures.PictureProgram` does before the core, in ONNX's text format.

    Resize with ``antialias`` follows Pillow: sums of integers, the two directions one after the other.
    """
    batch, height, width = request.picture_dims()
    sizes = "int64[batch, 2] resized_image_sizes"
    sizes += ", int64[batch, 2] resized_picture_sizes" if request.postprocess else ""
    return f"""
        <ir_version: {_IR_VERSION}, opset_import: ["" : {_OPSET}]>
        pictures (uint8[{batch}, {height}, {width}, 3] pictures)
            => (uint8[batch, 3, rows, columns] resized_images, {sizes}, int64[batch, 2] image_sizes)
        {{
            size = Shape <start = 1, end = 3> (pictures)
            exact = Cast <to = 11> (size)
            {_size_graph(rule)}
            one = Constant <value_ints = [1]> ()
            new = Max (whole, one)
            resized = Resize <mode = "linear", antialias = 1, exclude_outside = 1, axes = [1, 2]>
                (pictures, "", "", new)
            planes = Transpose <perm = [0, 3, 1, 2]> (resized)
            divisor = Constant <value_ints = [{divisor}]> ()
            to_next = Constant <value_ints = [{divisor - 1}]> ()
            next = Add (new, to_next)
            steps = Div (next, divisor)
            canvas = Mul (steps, divisor)
            beyond = Sub (canvas, new)
            before = Constant <value_ints = [0, 0]> ()
            pads = Concat <axis = 0> (before, beyond)
            axes = Constant <value_ints = [2, 3]> ()
            resized_images = Pad (planes, pads, "", axes)
            batch = Shape <end = 1> (pictures)
            two = Constant <value_ints = [2]> ()
            pairs = Concat <axis = 0> (batch, two)
            image_sizes = Expand (new, pairs)
            resized_image_sizes = Identity (image_sizes)
            {"resized_picture_sizes = Expand (size, pairs)" if request.postprocess else ""}
        }}"""
