"""Pictures of what a model sees while it is trained: ground truth, detections and the first stage's heatmap."""

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.structures import Instances
from torch import Tensor, nn
from torch.nn.functional import interpolate

from ..data.datasets import class_names
from ..modeling.debug_canvas import class_color, draw_box, new_canvas, overlay, to_array
from ..modeling.dense_heads.centernet import CenterNet
from .processes import unwrapped
from .random_state import keep_random_state
from .task import test_pictures

__all__ = ["Pictures", "without_own_pictures"]

_COUNT = 4  # pictures
_LONGEST_SIDE = 640  # of each of the three panels, pixels
_MOST_BOXES = 100  # a panel


def without_own_pictures(model: nn.Module) -> None:
    """Switch off, on every process, the pictures that detectron2's models draw of their training batches."""
    modules: Iterable[Any] = model.modules()
    for module in modules:
        if hasattr(module, "vis_period"):
            module.vis_period = 0


class Pictures(HookBase):
    """Every ``VIS_PERIOD`` iterations, a few fixed pictures for the writers, each with three panels: ground truth,
    detections above ``VIS_THRESH``, and where the first stage sees an object.

    On the main process alone; the model runs as in inference on pictures of the first test dataset (without one: of the
    first training dataset), and no state of the training changes. Takes the place of detectron2's own pictures
    (:func:`without_own_pictures`), in colours from the generators of the training.
    """

    def __init__(self, cfg: CfgNode, model: nn.Module) -> None:
        """
        Args:
            cfg: of the run; ``VIS_PERIOD`` is above 0.
            model: of the training, possibly wrapped for several processes.
        """
        self._model = unwrapped(model)
        self._period, self._threshold = cfg.VIS_PERIOD, cfg.VIS_THRESH
        self._is_rgb = cfg.INPUT.FORMAT == "RGB"
        name = (*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN)[0]
        samples = test_pictures(cfg, name)
        chosen = np.linspace(0, len(samples) - 1, min(_COUNT, len(samples))).round().astype(int).tolist()
        self._read: Callable[[], list[Any]] = lambda: [samples[index] for index in chosen]
        self._names = class_names(name) or []

    def after_step(self) -> None:
        if (self.trainer.iter + 1) % self._period == 0:
            with keep_random_state():
                self._draw()

    def _draw(self) -> None:
        # a picture that cannot be read is None, and whoever needs it will say so
        samples = [sample for sample in self._read() if isinstance(sample, dict)]
        for sample, title in zip(samples, _titles(samples), strict=True):
            height, width = sample["image"].shape[1:]
            with _Heat(self._model) as heat:
                (found,) = self._infer([{**sample, "height": height, "width": width}])
            self.trainer.storage.put_image(f"pictures/{title}", self._panels(sample, found, heat.map(height, width)))

    @torch.no_grad()
    def _infer(self, batch: list[dict[str, Any]]) -> list[Instances | None]:
        modes = [(module, module.training) for module in self._model.modules()]
        self._model.eval()
        try:
            return [output.get("instances", output.get("proposals")) for output in self._model(batch)]
        finally:
            for module, mode in modes:
                module.training = mode

    def _panels(self, sample: dict[str, Any], found: Instances | None, heat: np.ndarray | None) -> Tensor:
        """uint8 ``[3, H, n W]``, RGB: panels side by side."""
        image = sample["image"].float()
        image = image.flip(0) if self._is_rgb else image  # canvases are BGR
        scale = min(1.0, _LONGEST_SIDE / max(image.shape[1:]))
        image = interpolate(image[None], scale_factor=scale, mode="area")[0] if scale < 1 else image
        panels = [new_canvas(image), new_canvas(image)]
        if "instances" in sample:
            truth = sample["instances"]
            self._boxes(panels[0], to_array(truth.gt_boxes.tensor) * scale, truth.gt_classes.tolist())
        if found is not None:
            found = found[found.scores > self._threshold] if found.has("scores") else found
            boxes = to_array((found.pred_boxes if found.has("pred_boxes") else found.proposal_boxes).tensor) * scale
            classes = found.pred_classes.tolist() if found.has("pred_classes") else [None] * len(boxes)
            self._boxes(panels[1], boxes, classes, to_array(found.scores) if found.has("scores") else None)
        if heat is not None:
            scaled = interpolate(torch.from_numpy(heat)[None, None], size=image.shape[1:], mode="area")[0, 0]
            panels.append(overlay(image, scaled.numpy(), 1))
        return torch.from_numpy(np.concatenate(panels, axis=1)[:, :, ::-1].transpose(2, 0, 1).copy())

    def _boxes(
        self, canvas: np.ndarray, boxes: np.ndarray, classes: Sequence[int | None], scores: np.ndarray | None = None
    ) -> None:
        """The best on top."""
        for k in reversed(range(min(len(boxes), _MOST_BOXES))):
            label = classes[k]
            known = label is not None and label < len(self._names)
            words = [self._names[label] if known else str(label)] if label is not None else []  # type: ignore[index]
            words += [f"{scores[k]:.2f}"] if scores is not None else []
            draw_box(canvas, boxes[k], class_color(label or 0), " ".join(words))


def _titles(samples: Sequence[dict[str, Any]]) -> list[str]:
    """File names from the folder that all share: frames of two videos are called the same in their folders."""
    paths = [Path(sample.get("file_name", "picture")) for sample in samples]
    folder = os.path.commonpath([path.parent for path in paths]) if paths else ""
    return [path.relative_to(folder).with_suffix("").as_posix() for path in paths]


class _Heat:
    """Watches the first stage's head in a forward pass of one image."""

    def __init__(self, model: nn.Module) -> None:
        self._stages = [module for module in model.modules() if isinstance(module, CenterNet)]
        self._levels: list[tuple[Tensor, int]] = []

    def __enter__(self) -> "_Heat":
        self._hooks = [stage.centernet_head.register_forward_hook(self._watch) for stage in self._stages]
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _watch(self, _head: nn.Module, _inputs: Any, output: tuple[Sequence[Any], ...]) -> None:
        classes, _, agnostic = output
        logits = [a if a is not None else c for a, c in zip(agnostic, classes, strict=True)]
        maps = [level.detach()[0].sigmoid().amax(dim=0) for level in logits]
        self._levels = list(zip(maps, self._stages[0].strides, strict=True))

    def map(self, height: int, width: int) -> np.ndarray | None:
        """The largest probability of all levels, float32 ``[height, width]``; None without such a head."""
        seen = np.zeros((height, width), np.float32)
        for level, stride in self._levels:
            pixels = to_array(level).repeat(stride, axis=0).repeat(stride, axis=1)[:height, :width]
            part = seen[: pixels.shape[0], : pixels.shape[1]]
            np.maximum(part, pixels, out=part)
        return seen if self._levels else None
