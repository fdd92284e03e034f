"""Pictures of what the model is taught and what it says: config keys ``DEBUG``, ``SAVE_DEBUG``, ``DEBUG_SHOW_NAME``
and ``VIS_THRESH``.

Nothing here is called unless ``DEBUG`` is on, and OpenCV is imported by the first drawing. The three ``debug_*``
functions keep the published names and arguments; arguments of ours are keyword-only. ``draw_*`` call them with what
our modules hold.
"""

import functools
import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple, ParamSpec

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.structures import ImageList, Instances
from detectron2.utils.logger import log_every_n_seconds
from torch import Tensor

from ..ops.detections import PaddedDetections
from ..ops.grid import Pyramid, cell_centers
from ..ops.targets import Targets
from .debug_canvas import class_color, draw_box, draw_cells, draw_dots, emit, new_canvas, overlay, to_array
from .padded_instances import PaddedInstances

__all__ = ["debug_second_stage", "debug_test", "debug_train"]

_GREY = (160, 160, 160)

_Arguments = ParamSpec("_Arguments")


class DebugOptions(NamedTuple):
    """What to draw, and how to make pictures of network inputs again.

    Attributes:
        vis_thresh: boxes with a score above this are drawn.
        pixel_mean, pixel_std: normalisation of the input, one number a channel.
        input_format: channel order of the input; anything but ``"RGB"`` is taken for BGR.
        save: JPEG files instead of windows.
        show_names: class names instead of numbers, where they are known.
    """

    vis_thresh: float
    pixel_mean: Sequence[float]
    pixel_std: Sequence[float]
    input_format: str = "BGR"
    save: bool = False
    show_names: bool = False

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "DebugOptions | None":
        """None when ``cfg.DEBUG`` is off."""
        if not cfg.DEBUG:
            return None
        normalisation = (cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD)
        return cls(cfg.VIS_THRESH, *normalisation, cfg.INPUT.FORMAT, cfg.SAVE_DEBUG, cfg.DEBUG_SHOW_NAME)

    def pictures(self, images: ImageList) -> list[Tensor]:
        """The images of a normalised batch without padding: float ``[3, H, W]``, BGR, 0 to 255."""
        mean, std = (images.tensor.new_tensor(c).view(-1, 1, 1) for c in (self.pixel_mean, self.pixel_std))
        pictures = [images[i].detach() * std + mean for i in range(len(images))]
        return [p.flip(0) for p in pictures] if self.input_format == "RGB" else pictures


def draw_training(
    options: DebugOptions, images: ImageList, gt_instances: Sequence[Instances], targets: Targets, pyramid: Pyramid
) -> None:
    """:func:`debug_train` of one batch's targets."""
    regression = targets.regression_ltrb.new_full((pyramid.num_cells, 4), -1.0)
    regression[targets.regression_cells] = targets.regression_ltrb
    locations = [cell_centers(size, stride) for size, stride in zip(pyramid.sizes, pyramid.strides, strict=True)]
    labels, cells = targets.positive_labels, targets.positive_cells
    shown = (targets.heatmap, regression, labels, cells, pyramid.sizes, locations, pyramid.strides)
    debug_train(options.pictures(images), gt_instances, *shown, save_debug=options.save)


def draw_first_stage(
    options: DebugOptions,
    images: ImageList,
    head_output: tuple[Sequence[Tensor], Sequence[Tensor], Sequence[Tensor]],
    detections: PaddedDetections,
    strides: Sequence[int],
    *,
    as_proposals: bool,
) -> None:
    """:func:`debug_test` of one batch's maps and boxes."""
    classes, boxes, agnostic = head_output
    # Instances of our own: those of the caller stay unmade, and the second stage on padded tensors
    found = list(PaddedInstances(detections, images.image_sizes, as_proposals=as_proposals))
    debug_test(
        options.pictures(images), classes, boxes, agnostic, found, options.vis_thresh, options.show_names,
        mult_agn=True, save_debug=options.save, strides=strides,
    )  # fmt: skip


def draw_second_stage(
    options: DebugOptions,
    images: ImageList,
    instances: Sequence[Instances],
    proposals: Sequence[Instances],
    num_classes: int,
) -> None:
    """:func:`debug_second_stage` of one batch."""
    shown = (options.pictures(images), instances, proposals)
    debug_second_stage(*shown, options.vis_thresh, options.save, options.show_names, num_classes=num_classes)


def _never_fatal(draw: Callable[_Arguments, None]) -> Callable[_Arguments, None]:
    """A drawing that fails for want of OpenCV, a screen or disk space costs a warning, at most one a minute."""

    @functools.wraps(draw)
    def guarded(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> None:
        failures: tuple[type[Exception], ...] = (ImportError, OSError)
        try:
            import cv2

            failures += (cv2.error,)
            with torch.no_grad():
                draw(*args, **kwargs)
        except failures as error:
            message = f"DEBUG: {draw.__name__} could not draw ({type(error).__name__}: {error}); the model goes on"
            log_every_n_seconds(logging.WARNING, message, n=60, name=__name__)

    return guarded


@_never_fatal
def debug_train(
    images: Sequence[Tensor],
    gt_instances: Sequence[Instances],
    flattened_hms: Tensor,
    reg_targets: Tensor,
    labels: Tensor,
    pos_inds: Tensor,
    shapes_per_level: Sequence[Sequence[int]] | Tensor,
    locations: Sequence[Tensor],
    strides: Sequence[int],
    *,
    save_debug: bool = False,
) -> None:
    """First-stage targets, one picture an image and level: heatmap, outlined cells that regress a box, ground-truth
    boxes, positives as dots. Flat cells are numbered by level, then image, then row by row.

    Args:
        images: one ``[3, H, W]`` an image, BGR, 0 to 255.
        gt_instances: ``gt_boxes`` (xyxy, pixels) and ``gt_classes``.
        flattened_hms: ``[num_cells, C]`` in [0, 1].
        reg_targets: ``[num_cells, 4]``; all negative where a cell regresses nothing.
        labels, pos_inds: ``[P]`` classes and flat cells of the positives.
        shapes_per_level: ``(height, width)`` in cells, one a level.
        locations: ``[H_l * W_l, 2]`` pixel position ``(x, y)`` of every cell, one a level.
        strides: pixels a cell, one a level.
    """
    sizes = tuple((int(height), int(width)) for height, width in shapes_per_level)
    pyramid = Pyramid(sizes, tuple(int(s) for s in strides), len(images))
    heat = to_array(flattened_hms.reshape(pyramid.num_cells, -1)).max(axis=1)
    regressing = to_array(reg_targets).max(axis=1) >= 0
    cells, classes = to_array(pos_inds).astype(int), to_array(labels).astype(int)
    for (height, width), stride, begin, centers in zip(
        sizes, pyramid.strides, pyramid.level_starts(), map(to_array, locations), strict=True
    ):
        for index, (image, truth) in enumerate(zip(images, gt_instances, strict=True)):
            first, last = (begin + i * height * width for i in (index, index + 1))
            canvas = overlay(image, heat[first:last].reshape(height, width), stride)
            draw_cells(canvas, centers[regressing[first:last]], stride)
            for box, label in zip(to_array(truth.gt_boxes.tensor), truth.gt_classes.tolist(), strict=True):
                draw_box(canvas, box, class_color(label))
            here = (cells >= first) & (cells < last)
            draw_dots(canvas, centers[cells[here] - first], classes[here])
            emit(canvas, f"train_image{index}_stride{stride}", save_debug)


@_never_fatal
def debug_test(
    images: Sequence[Tensor],
    logits_pred: Sequence[Tensor | None],
    reg_pred: Sequence[Tensor],
    agn_hm_pred: Sequence[Tensor | None] = (),
    preds: Sequence[Instances] = (),
    vis_thresh: float = 0.3,
    debug_show_name: bool = False,
    mult_agn: bool = False,
    *,
    save_debug: bool = False,
    strides: Sequence[int] | None = None,
) -> None:
    """First-stage predictions: a picture an image, level and heatmap, and one an image with its boxes.

    Args:
        images: one ``[3, H, W]`` an image, BGR, 0 to 255.
        logits_pred: class logits, one ``[B, C, H_l, W_l]`` a level, or None each; the best class is drawn.
        reg_pred: not drawn; ``preds`` are the boxes decoded from it.
        agn_hm_pred: class-agnostic logits, one ``[B, 1, H_l, W_l]`` a level, or None each.
        preds: detections or proposals with scores.
        vis_thresh: boxes above this score are drawn.
        debug_show_name: class names instead of numbers.
        mult_agn: draw class probability times class-agnostic probability.
        strides: pixels a cell, one a level; None: the smallest powers of two that cover the images.
    """
    num_classes = None
    for level, logits in enumerate(logits_pred):
        agnostic = agn_hm_pred[level] if len(agn_hm_pred) else None
        maps = {} if agnostic is None else {"agnostic": agnostic.sigmoid()}
        if logits is not None:
            num_classes = logits.shape[1]
            best = logits.sigmoid().amax(dim=1, keepdim=True)
            maps["classes"] = best * maps["agnostic"] if mult_agn and agnostic is not None else best
        for name, heatmap in maps.items():
            stride = strides[level] if strides else _covering_stride(heatmap, images)
            for index, image in enumerate(images):
                canvas = overlay(image, to_array(heatmap[index, 0]), stride)
                emit(canvas, f"test_image{index}_stride{stride}_{name}", save_debug)
    names = _class_names(num_classes) if debug_show_name else None
    for index, found in enumerate(preds):
        canvas = new_canvas(images[index])
        _draw_instances(canvas, found, vis_thresh, names)
        emit(canvas, f"test_image{index}_boxes", save_debug)


@_never_fatal
def debug_second_stage(
    images: Sequence[Tensor],
    instances: Sequence[Instances],
    proposals: Sequence[Instances] | None = None,
    vis_thresh: float = 0.3,
    save_debug: bool = False,
    debug_show_name: bool = False,
    *,
    num_classes: int | None = None,
) -> None:
    """Two pictures an image: proposals, and final boxes with class and score.

    Args:
        images: one ``[3, H, W]`` an image, BGR, 0 to 255.
        instances: ``pred_boxes`` (xyxy, pixels of ``images``), ``scores``, ``pred_classes``.
        proposals: ``proposal_boxes`` and ``scores`` or ``objectness_logits``, read as probabilities.
        vis_thresh: boxes above this score are drawn.
        save_debug: JPEG files instead of windows.
        debug_show_name: class names instead of numbers, if ``num_classes`` is that of COCO or LVIS.
        num_classes: of the model.
    """
    names = _class_names(num_classes) if debug_show_name else None
    groups = {"detections": instances} if proposals is None else {"proposals": proposals, "detections": instances}
    for index, image in enumerate(images):
        for kind, group in groups.items():
            canvas = new_canvas(image)
            _draw_instances(canvas, group[index], vis_thresh, names)
            emit(canvas, f"second_stage_image{index}_{kind}", save_debug)


def _covering_stride(heatmap: Tensor, images: Sequence[Tensor]) -> int:
    height, width = (max(image.shape[axis] for image in images) for axis in (1, 2))
    stride = 1
    while heatmap.shape[2] * stride < height or heatmap.shape[3] * stride < width:
        stride *= 2
    return stride


def _draw_instances(canvas: np.ndarray, found: Instances, threshold: float, names: Sequence[str] | None) -> None:
    """Boxes above the threshold, the best on top; proposals without class."""
    are_detections = found.has("pred_boxes")
    boxes = to_array((found.pred_boxes if are_detections else found.proposal_boxes).tensor)
    scores = to_array(found.scores if found.has("scores") else found.objectness_logits)
    for row in np.argsort(scores, kind="stable"):
        if scores[row] <= threshold:
            continue
        if not are_detections:
            draw_box(canvas, boxes[row], _GREY, f"{scores[row]:.2f}")
            continue
        label = int(found.pred_classes[row])
        name = names[label] if names and label < len(names) else label
        draw_box(canvas, boxes[row], class_color(label), f"{name} {scores[row]:.2f}")


@functools.cache
def _class_names(count: int | None) -> Sequence[str] | None:
    """Those of COCO or LVIS, whichever has ``count`` classes."""
    from detectron2.data import MetadataCatalog

    for dataset in ("coco_2017_val", "lvis_v1_val", "lvis_v0.5_val"):
        names = MetadataCatalog.get(dataset).get("thing_classes", ())
        if len(names) == count:
            return names
    return None
