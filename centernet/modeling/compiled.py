"""``torch.compile`` of backbone and first-stage head, in training, for batches of a few fixed sizes."""

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from torch import Tensor, nn

from ..errors import UserError

__all__ = ["CompiledOnCanvases", "check_canvases", "check_compiler", "configured_canvases", "one_sentence"]

_MOST = 8  # graphs that torch.compile keeps of a function before it gives up
_logger = logging.getLogger(__name__)

Canvas = tuple[int, int]  # height, width, pixels


class CompiledOnCanvases:
    """Has backbone and head of a detector compiled for batches that are padded to one of a few canvases.

    In training, a batch is padded with zeros on the right and below to the smallest canvas that holds it. A batch that
    none holds, and everything in inference, runs as if nothing were compiled. Modules, names of tensors and what the
    modules return stay the same. The padding is seen: by norms over whole maps (GN, trained BN), at the borders of
    images, and by the heatmap loss, whose negatives are more.

    Attributes:
        compiled, larger: batches in training that a canvas held, and that none did.
    """

    def __init__(self, model: nn.Module, canvases: Sequence[Canvas]) -> None:
        """
        Args:
            model: with ``backbone`` and ``proposal_generator.centernet_head``.
            canvases: heights and widths, multiples of the backbone's ``size_divisibility``.

        Raises:
            UserError: one is not such a multiple.
        """
        self.compiled = 0
        self.larger = 0
        self._canvases = sorted(canvases, key=lambda canvas: canvas[0] * canvas[1])
        self._on_canvas = False
        backbone = model.get_submodule("backbone")
        head = model.get_submodule("proposal_generator.centernet_head")
        divisor = int(getattr(backbone, "size_divisibility", 0)) or 1
        for canvas in canvases:
            if any(side % divisor for side in canvas):
                raise UserError(
                    f"MODEL.COMPILE.CANVASES has {list(canvas)}, but this backbone takes multiples of {divisor} pixels"
                )
        self._backbone = _Both(backbone)
        self._head = _Both(head)
        backbone.forward = self._run_backbone  # type: ignore[method-assign, assignment]
        head.forward = self._run_head  # type: ignore[method-assign, assignment]

    def canvas(self, height: int, width: int) -> Canvas | None:
        """The smallest canvas that holds an image of this size."""
        return next((c for c in self._canvases if c[0] >= height and c[1] >= width), None)

    def summary(self) -> str:
        """For the log."""
        return f"{self.compiled} batches ran compiled, {self.larger} were larger than any of MODEL.COMPILE.CANVASES"

    def _run_backbone(self, x: Tensor) -> Any:
        self._on_canvas = False
        if not (self._backbone.module.training and torch.is_grad_enabled()):
            return self._backbone.eager(x)
        canvas = self.canvas(*x.shape[-2:])
        if canvas is None:
            if not self.larger:
                _logger.warning(
                    "A batch of %s pixels is larger than any of MODEL.COMPILE.CANVASES %s: such ones are not compiled",
                    list(x.shape[-2:]),
                    [list(c) for c in self._canvases],
                )
            self.larger += 1
            return self._backbone.eager(x)
        self.compiled += 1
        self._on_canvas = True
        return self._backbone(_padded(x, canvas))

    def _run_head(self, features: list[Tensor]) -> Any:
        return self._head(features) if self._on_canvas else self._head.eager(features)


class _Both:
    """The forward pass of a module, as it is (``eager``) and compiled."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.eager: Callable[..., Any] = module.forward
        self._compiled = torch.compile(module.forward, dynamic=False)

    def __call__(self, *args: Any) -> Any:
        return self._compiled(*args)


def _padded(x: Tensor, canvas: Canvas) -> Tensor:
    height, width = x.shape[-2:]
    if (height, width) == canvas:
        return x
    return F.pad(x, (0, canvas[1] - width, 0, canvas[0] - height))


def configured_canvases(cfg: CfgNode, divisor: int) -> list[Canvas]:
    """MODEL.COMPILE.CANVASES; if that is empty, what holds the largest training images of INPUT, rounded up to
    multiples of ``divisor``: the window of a cropping augmentation, or lying, standing and mixed pictures."""
    if cfg.MODEL.COMPILE.CANVASES:
        return [(int(height), int(width)) for height, width in cfg.MODEL.COMPILE.CANVASES]
    if cfg.INPUT.CUSTOM_AUG in ("EfficientDetResizeCrop", "LargeScaleJitter"):
        sides = [(cfg.INPUT.TRAIN_SIZE, cfg.INPUT.TRAIN_SIZE)]
    else:
        short, long = max(cfg.INPUT.MIN_SIZE_TRAIN), cfg.INPUT.MAX_SIZE_TRAIN
        short, long = min(short, long), max(short, long)
        sides = [(short, long), (long, short), (long, long)]
    up = [tuple(math.ceil(side / divisor) * divisor for side in pair) for pair in sides]
    return [(height, width) for height, width in dict.fromkeys(up)]


def check_canvases(cfg: CfgNode) -> None:
    """Raise :class:`UserError` for MODEL.COMPILE.CANVASES that are no list of at most 8 [height, width]."""
    canvases = cfg.MODEL.COMPILE.CANVASES
    if len(canvases) > _MOST or not all(_is_canvas(canvas) for canvas in canvases):
        raise UserError(
            f"MODEL.COMPILE.CANVASES is {canvases}: it must be a list of at most {_MOST} [height, width] in pixels, "
            "such as [[800, 1344], [1344, 800]], or [] to take the largest sizes of INPUT"
        )


def _is_canvas(value: object) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2 and all(type(v) is int and v > 0 for v in value)


@contextmanager
def one_sentence() -> Iterator[None]:
    """Around training: what PyTorch cannot compile, forward or backward, is a :class:`UserError`."""
    try:
        yield
    except torch._dynamo.exc.TorchDynamoException as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise UserError(
            f"MODEL.COMPILE.ENABLED: PyTorch cannot compile this model ({reason}); set it to False, or, if an earlier "
            "run was killed while it compiled, give TORCHINDUCTOR_CACHE_DIR an empty folder"
        ) from error


def check_compiler(device: torch.device | str) -> None:
    """Compile a small function: raise :class:`UserError` if this machine cannot."""
    try:
        torch.compile(lambda x: (x * 2).relu() + 1, dynamic=False)(torch.zeros(8, device=device))
    except Exception as error:  # whatever inductor, its C++ compiler or Triton raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise UserError(
            f"MODEL.COMPILE.ENABLED: PyTorch cannot compile on this machine ({reason}); install a C++ compiler and, "
            "for a GPU, Triton, or set it to False"
        ) from error
