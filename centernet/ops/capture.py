"""What a graph capture is for, and so which form the two operators of fixed shape take in it.

``centernet::nms_best`` and ``centernet::roi_align_levels`` run fast kernels in eager mode and under ``torch.compile``.
A graph that leaves this process is of other parts:

* ``"export"``: ATen and torchvision operators only, no shape that depends on data; such a program loads without this
  package;
* ``"torchscript"``: scripted functions over torchvision's operators;
* ``"onnx"``: one node each, for the translator to replace.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor

Target = Literal["torchscript", "export", "onnx"]
TARGETS: tuple[Target, ...] = ("torchscript", "export", "onnx")
_target: Target | None = None  # one a process: graphs are captured by one thread at a time


def capture_target() -> Target | None:
    """What is being captured, None in ordinary use (also under ``torch.compile``)."""
    return _target


@contextmanager
def capturing(target: Target) -> Iterator[None]:
    """Around ``torch.export.export``, ``torch.jit.trace`` or ``torch.onnx.export`` of a model.

    Raises:
        ValueError: no such target.
    """
    global _target
    if target not in TARGETS:
        raise ValueError(f"{target!r} is no target of a capture: use one of {', '.join(TARGETS)}")
    before, _target = _target, target
    try:
        yield
    finally:
        _target = before


def define_once(name: str, function: Callable[..., Tensor], shape_only: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """``function`` as the operator ``centernet::name``, defined once a process even if this package is imported under
    two names. ``shape_only``: an empty tensor of the result's shape."""
    if not hasattr(torch.ops.centernet, name):
        operator = torch.library.custom_op(f"centernet::{name}", function, mutates_args=())
        operator.register_fake(shape_only)
    return getattr(torch.ops.centernet, name)  # type: ignore[no-any-return]
