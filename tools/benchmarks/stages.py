"""Where the time of one picture goes: from the file to boxes in its own pixels, stage by stage.

Stages are the modules of a model, found by name and timed through hooks; a stage counts without the stages inside it.
So one table serves our models and the detectors they are compared with. On a GPU every border of a stage waits for the
device: the sum is more than a free run takes.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from centernet.config_file import load_config
from centernet.data.augmentation import build_test_resize
from centernet.inference.images import load_image
from centernet.modeling.roi_heads import probabilistic_heads

from .tables import markdown, spread

__all__ = ["STAGES", "StageClock", "picture_seconds", "stage_table", "watch"]

LOAD, RESIZE, NORMALISE, BACKBONE, NECK, HEAD, DECODE = (
    *("load (JPEG)", "resize", "normalise, pad", "backbone", "neck", "first-stage head"),
    "decoding, first NMS",
)
POOL, ROI, SELECT, POST = "ROI pooling", "ROI heads", "boxes, scores, last NMS", "post (original pixels)"
STAGES = (LOAD, RESIZE, NORMALISE, BACKBONE, NECK, HEAD, DECODE, POOL, ROI, SELECT, POST)

# modules of our detectors, detectron2's and torchvision's; a name that a model lacks is left out
_MODULES = {
    "backbone": NECK, "backbone.bottom_up": BACKBONE, "backbone.base": BACKBONE,
    "model.backbone": NECK, "model.backbone.body": BACKBONE, "model.transform": NORMALISE,
    "proposal_generator": DECODE, "proposal_generator.centernet_head": HEAD, "proposal_generator.rpn_head": HEAD,
    "model.rpn": DECODE, "model.rpn.head": HEAD, "roi_heads": SELECT, "model.roi_heads": SELECT,
    "roi_heads.box_pooler": POOL, "model.roi_heads.box_roi_pool": POOL,
    "roi_heads.box_head": ROI, "roi_heads.box_predictor": ROI,
    "model.roi_heads.box_head": ROI, "model.roi_heads.box_predictor": ROI,
}
# what the fixed-size core calls without its module
_METHODS = {"proposal_generator.propose_with_objectness": DECODE, "roi_heads.detect_with_owner": SELECT}


class StageClock:
    """Wall and CPU seconds of nested stages. CPU time is that of all threads of this process.

    Attributes:
        seconds: ``{stage: [wall, CPU]}`` since the last :meth:`clear`.
    """

    def __init__(self, device: str) -> None:
        self._device = device
        self._stack: list[str] = []
        self._last = (0.0, 0.0)
        self.seconds: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])

    def clear(self) -> None:
        self.seconds.clear()

    def enter(self, stage: str) -> None:
        self._settle()
        self._stack.append(stage)

    def leave(self) -> None:
        self._settle()
        self._stack.pop()
        if self._stack == [NORMALISE]:  # of the whole call: what comes before its first stage, and after
            self._stack = [POST]

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self.enter(name)
        try:
            yield
        finally:
            self.leave()

    def timed(self, function: Callable[..., Any], stage: str) -> Callable[..., Any]:
        """``function`` as a stage."""

        def run(*args: Any, **kwargs: Any) -> Any:
            with self.stage(stage):
                return function(*args, **kwargs)

        return run

    def _settle(self) -> None:
        """What has passed since the last border belongs to the innermost stage."""
        if self._device.startswith("cuda"):
            torch.cuda.synchronize()
        now = time.perf_counter(), time.process_time()
        if self._stack:
            for clock, (value, last) in enumerate(zip(now, self._last, strict=True)):
                self.seconds[self._stack[-1]][clock] += value - last
        self._last = now


@contextmanager
def watch(model: nn.Module, clock: StageClock) -> Iterator[None]:
    """Time the modules of a model while this lasts."""
    handles = []
    for name, stage in _MODULES.items():
        try:
            module = model.get_submodule(name)
        except AttributeError:
            continue
        parts = list(module) if isinstance(module, nn.ModuleList) else [module]
        for part in parts:
            handles.append(part.register_forward_pre_hook(lambda *_, stage=stage: clock.enter(stage)))
            handles.append(part.register_forward_hook(lambda *_: clock.leave(), always_call=True))
    with ExitStack() as undo:
        for handle in handles:
            undo.callback(handle.remove)
        # our ROI heads pool through a function, not through their pooler
        undo.callback(setattr, probabilistic_heads, "pool_boxes", probabilistic_heads.pool_boxes)
        probabilistic_heads.pool_boxes = clock.timed(probabilistic_heads.pool_boxes, POOL)
        for name, stage in _METHODS.items():
            owner, method = getattr(model, name.split(".")[0], None), name.split(".")[1]
            if hasattr(owner, method):
                undo.callback(delattr, owner, method)
                setattr(owner, method, clock.timed(getattr(owner, method), stage))
        yield


def model_seconds(call: Callable[[], Any], model: nn.Module, clock: StageClock) -> dict[str, list[float]]:
    """``{stage: [wall, CPU]}`` of one call that runs ``model``."""
    clock.clear()
    with watch(model, clock), torch.inference_mode(), clock.stage(NORMALISE):
        call()
    return {stage: list(both) for stage, both in clock.seconds.items()}


def picture_seconds(
    size: tuple[int, int], clock: StageClock, folder: str, picture: str | None = None
) -> Callable[[], Any]:
    """A call that loads and resizes a picture and returns ``{stage: [wall, CPU]}``.

    Args:
        size: height and width after resizing.
        picture: a file; without one, a JPEG of smooth noise with sides 1.25 times as long, put into ``folder``.
    """
    if picture is None:
        height, width = (round(1.25 * side) for side in size)
        coarse = np.random.RandomState(0).randint(0, 256, (height // 8, width // 8, 3), np.uint8)
        file = Path(folder) / "picture.jpg"
        Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(file, quality=90)
        picture = str(file)
    sides = ["INPUT.MIN_SIZE_TEST", str(min(size)), "INPUT.MAX_SIZE_TEST", str(max(size))]
    resize = build_test_resize(load_config("", sides))

    def call() -> dict[str, list[float]]:
        clock.clear()
        with clock.stage(LOAD):
            image = load_image(picture)
        with clock.stage(RESIZE):
            image = resize.get_transform(image).apply_image(image)
            torch.as_tensor(np.ascontiguousarray(image.transpose(2, 0, 1)))
        return {stage: list(both) for stage, both in clock.seconds.items()}

    return call


def stage_table(found: dict[str, Sequence[dict[str, list[float]]]]) -> str:
    """Markdown.

    Args:
        found: by title, the stages of each turn.
    """
    rows = []
    for stage in STAGES:
        rows.append([stage, *(_cell([t[stage] for t in turns if stage in t]) for turns in found.values())])
    sums = ([[sum(clock) for clock in zip(*turn.values(), strict=True)] for turn in turns] for turns in found.values())
    return markdown(["stage, ms", *found], [*rows, ["all", *map(_cell, sums)]])


def _cell(seconds: Sequence[Sequence[float]]) -> str:
    """Of ``[wall, CPU]`` of each turn; '' for a stage that a model does not have."""
    if not seconds:
        return ""
    wall, cpu = (spread([1e3 * value for value in clock]) for clock in zip(*seconds, strict=True))
    return f"{wall.text(1)}, CPU {cpu.median:.1f}"
