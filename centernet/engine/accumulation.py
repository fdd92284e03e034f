"""Gradient accumulation: a batch in parts, whose losses and gradients average to those of the whole batch.

Three things of the whole batch decide about a part: the canvas that its images are padded to (normalisation layers
see the padding), what its losses are divided by (:mod:`centernet.modeling.normaliser`), and the order of random draws
(parts follow the order of the batch). What cannot be shared: statistics of batch norms that are not frozen are of one
part, the federated loss draws its classes for each part, and a part's second-stage losses are means over its own
regions. The latter is exact while every part samples as many (BATCH_SIZE_PER_IMAGE from more proposals than that);
otherwise each part counts the same, as each process does in the published recipe. Masks likewise.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.structures import Instances
from detectron2.utils.events import EventStorage, get_event_storage
from torch import Tensor, nn

from ..errors import UserError
from ..modeling.normaliser import batch_counts, record_counts
from .precision import Precision
from .processes import unwrapped
from .random_state import keep_random_state

__all__ = ["check_accumulation", "in_parts", "of_one_batch"]

Batch = list[dict[str, Any]]


def check_accumulation(cfg: CfgNode, processes: int) -> None:
    """Raise :class:`UserError` if the batch of a process cannot be taken in SOLVER.GRADIENT_ACCUMULATION parts."""
    parts, batch = cfg.SOLVER.GRADIENT_ACCUMULATION, cfg.SOLVER.IMS_PER_BATCH // processes
    if parts < 1:
        raise UserError(f"SOLVER.GRADIENT_ACCUMULATION is {parts}: it is the number of parts of a batch, 1 or more")
    if batch % parts:
        raise UserError(
            f"SOLVER.GRADIENT_ACCUMULATION is {parts}, but a process has {batch} images an iteration "
            f"(SOLVER.IMS_PER_BATCH {cfg.SOLVER.IMS_PER_BATCH}): take a number that divides them"
        )


def in_parts(batch: Batch, parts: int) -> list[Batch]:
    """``batch`` in ``parts`` equal parts, in its order."""
    size, rest = divmod(len(batch), parts)
    if rest or not size:
        raise UserError(f"a batch of {len(batch)} images cannot be taken in {parts} equal parts")
    return [batch[start : start + size] for start in range(0, len(batch), size)]


@contextmanager
def of_one_batch(model: nn.Module, parts: Sequence[Batch], precision: Precision) -> Iterator[None]:
    """Inside, forward passes of ``parts`` know of each other: the mean of their losses is the loss of the batch.

    Where ground truth does not decide what the first stage's losses are divided by (MORE_POS), this costs a forward
    pass of all parts that only counts; the second stage is then exact, too. With a single part nothing is done.
    """
    if len(parts) == 1:
        yield
        return
    model = unwrapped(model)
    with ExitStack() as stack:
        canvas = None
        if isinstance(backbone := getattr(model, "backbone", None), nn.Module):
            canvas = _canvas(parts, getattr(backbone, "size_divisibility", 0))
            stack.enter_context(_padded(backbone, canvas))
        counts = _targets_of(model, parts, canvas)
        if counts is None:
            counts = _counting_pass(model, parts, precision)
        stack.enter_context(batch_counts(counts, len(parts)))
        yield


def _canvas(parts: Sequence[Batch], divisor: int) -> tuple[int, int]:
    """Height and width in pixels that detectron2 pads the whole batch to."""
    sizes = [x["image"].shape[-2:] for part in parts for x in part]
    step = max(divisor, 1)
    height, width = (-(-max(side) // step) * step for side in zip(*sizes, strict=True))
    return height, width


@contextmanager
def _padded(backbone: nn.Module, canvas: tuple[int, int]) -> Iterator[None]:
    """``backbone`` pads its input with zeros, as detectron2 does."""

    def pad(_module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        images = inputs[0]
        down, right = (max(0, side - there) for side, there in zip(canvas, images.shape[-2:], strict=True))
        return (F.pad(images, (0, right, 0, down)), *inputs[1:]) if down or right else inputs

    handle = backbone.register_forward_pre_hook(pad)
    try:
        yield
    finally:
        handle.remove()


def _targets_of(model: nn.Module, parts: Sequence[Batch], canvas: tuple[int, int] | None) -> dict[str, Tensor] | None:
    """Counts of the first stage's targets in all parts together; None if predictions have a part in them."""
    stage: Any = next((m for m in model.modules() if hasattr(m, "count_targets")), None)
    if stage is None or canvas is None:
        return {}
    device = next(model.parameters()).device
    totals: dict[str, Tensor] = {}
    for part in parts:
        objects = [x["instances"] for x in part]
        objects = [Instances(x.image_size, gt_boxes=x.gt_boxes, gt_classes=x.gt_classes).to(device) for x in objects]
        counts = stage.count_targets(objects, [tuple(x["image"].shape[-2:]) for x in part], canvas)
        if counts is None:
            return None
        totals = {name: totals[name] + count if totals else count for name, count in counts.items()}
    return totals


def _counting_pass(model: nn.Module, parts: Sequence[Batch], precision: Precision) -> dict[str, Tensor]:
    """Counts of all parts together from forward passes that leave nothing behind."""
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]  # batch norms' statistics
    with keep_random_state(), EventStorage(get_event_storage().iter), record_counts() as counts:
        for part in parts:
            # gradients stay on, though not asked for: frozen batch norms compute differently without them
            with precision.autocast():
                model(part)
    with torch.no_grad():
        for buffer, before in buffers:
            buffer.copy_(before)
    return counts
