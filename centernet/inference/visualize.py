"""Predictions drawn on pictures through detectron2's visualizers, and the class names to write on them."""

import colorsys
import logging
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data.catalog import Metadata
from detectron2.structures import Instances
from detectron2.utils.video_visualizer import VideoVisualizer
from detectron2.utils.visualizer import ColorMode, VisImage, Visualizer

from ..data.datasets import class_names, ensure_registered
from ..errors import UserError

__all__ = ["as_predictions", "draw_predictions", "resolve_metadata"]

logger = logging.getLogger(__name__)

_CPU = torch.device("cpu")


def resolve_metadata(cfg: CfgNode) -> Metadata:
    """Class names and colours for the model of ``cfg``.

    They are ``MODEL.CLASS_NAMES``, or without it those of the first dataset of ``DATASETS.TEST``, then
    ``DATASETS.TRAIN``, whose class names are known or stand in its annotation file. Where there are none, or where
    their count does not fit the model (one warning each), classes are named by their numbers. The returned metadata is
    a copy of the catalog's where a dataset has these names.
    """
    own = list(cfg.MODEL.CLASS_NAMES)
    problems: list[str] = []
    fields = _metadata_of_dataset(cfg, own, problems)
    names = own or fields.get("thing_classes")
    if problems and fields["name"] in ("model", "numbers"):
        unknown = "" if names else "class names are not known: numbers are shown, and "
        logger.warning("%scategory ids of COCO results count from 1 (%s)", unknown, problems[0])
    count = _class_count(cfg)
    if names and count is not None and len(names) != count:
        origin = "MODEL.CLASS_NAMES" if own else f"dataset {fields['name']}"
        logger.warning(
            "%s has %d classes, the model %d: class numbers are shown instead of names", origin, len(names), count
        )
        names, fields = None, {"name": "numbers"}
    fields["thing_classes"] = names or [str(number) for number in range(count or 0)]
    fields.setdefault("stuff_classes", [str(number) for number in range(cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES)])
    return Metadata(**fields)


def _metadata_of_dataset(cfg: CfgNode, own: list[str], problems: list[str]) -> dict[str, Any]:
    """Of the first dataset with class names, those of the model if it has ``own``."""
    for dataset in (*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN):
        names = _class_names(dataset, problems)
        if names and own in ([], names):
            return dict(MetadataCatalog.get(dataset).as_dict())
    return {"name": "model" if own else "numbers"}


def as_predictions(instances: Instances) -> Instances:
    """Give first-stage proposals the fields of predictions, to be drawn as such; predictions pass unchanged.

    Args:
        instances: of one image. Proposals have ``proposal_boxes`` and ``scores`` or ``objectness_logits``;
            the latter are probabilities when the CenterNet first stage made them, logits when an RPN did
            (told apart by leaving [0, 1]).

    Returns:
        ``Instances`` with ``pred_boxes``, ``scores`` in [0, 1] and, for proposals, ``pred_classes`` -1: no
        class is known.
    """
    if instances.has("pred_boxes") or not instances.has("proposal_boxes"):
        return instances
    result = Instances(instances.image_size)
    result.pred_boxes = instances.proposal_boxes
    if instances.has("scores"):
        result.scores = instances.scores
    else:
        logits = instances.objectness_logits
        are_probabilities = bool(((logits >= 0) & (logits <= 1)).all())
        result.scores = logits if are_probabilities else logits.sigmoid()
    result.pred_classes = torch.full((len(instances),), -1, dtype=torch.int64, device=result.scores.device)
    return result


def draw_predictions(
    image_rgb: np.ndarray,
    predictions: dict[str, Any],
    metadata: Metadata,
    instance_mode: ColorMode = ColorMode.IMAGE,
    visualizer: Visualizer | VideoVisualizer | None = None,
) -> VisImage:
    """Draw one picture's predictions.

    Args:
        image_rgb: uint8 [H, W, 3], **RGB**.
        predictions: a detectron2 model's output for it; ``panoptic_seg``, ``sem_seg``, ``instances`` and
            ``proposals`` are drawn, on any device. Boxes are x1, y1, x2, y2 in pixels of ``image_rgb``.
        metadata: class names and colours.
        instance_mode: how detectron2 colours instances; ignored with ``visualizer``.
        visualizer: draws instead of a fresh one; a ``VideoVisualizer`` keeps an object's colour from frame to
            frame, a ``Visualizer`` must have been made with ``image_rgb``.

    Returns:
        detectron2's ``VisImage``; ``get_image()`` gives uint8 [H, W, 3] RGB.
    """
    pen: Any = visualizer or Visualizer(image_rgb, metadata, instance_mode=instance_mode)
    if isinstance(pen, VideoVisualizer):
        pen = _FramePen(image_rgb, pen)
    output: VisImage | None = None
    if "panoptic_seg" in predictions:
        segments, segments_info = predictions["panoptic_seg"]
        return pen.draw_panoptic_seg_predictions(segments.to(_CPU), segments_info)
    if "sem_seg" in predictions:
        output = pen.draw_sem_seg(predictions["sem_seg"].argmax(dim=0).to(_CPU))
    for key in ("instances", "proposals"):
        if key in predictions:
            output = _draw_instances(pen, predictions[key].to(_CPU))
    return output if output is not None else VisImage(image_rgb)


class _FramePen:
    """A ``VideoVisualizer`` bound to one frame, with the methods of a ``Visualizer``."""

    def __init__(self, frame_rgb: np.ndarray, visualizer: VideoVisualizer) -> None:
        self._frame = frame_rgb
        self._visualizer = visualizer

    @property
    def metadata(self) -> Metadata:
        return self._visualizer.metadata

    @metadata.setter
    def metadata(self, metadata: Metadata) -> None:
        self._visualizer.metadata = metadata

    def draw_instance_predictions(self, instances: Instances) -> VisImage:
        return self._then(self._visualizer.draw_instance_predictions(self._frame, instances))

    def draw_sem_seg(self, sem_seg: torch.Tensor) -> VisImage:
        return self._then(self._visualizer.draw_sem_seg(self._frame, sem_seg))

    def draw_panoptic_seg_predictions(self, segments: torch.Tensor, segments_info: list[dict[str, Any]]) -> VisImage:
        return self._then(self._visualizer.draw_panoptic_seg_predictions(self._frame, segments, segments_info))

    def _then(self, output: VisImage) -> VisImage:
        # a second drawing goes on top of the first: VideoVisualizer starts from the bare frame each time
        self._frame = output.get_image()
        return output


def _draw_instances(pen: Any, instances: Instances) -> VisImage:
    are_proposals = not instances.has("pred_boxes") and instances.has("proposal_boxes")
    if are_proposals:  # class -1 would be written with the last class's name
        return _draw_named(pen, as_predictions(instances), ["object"])
    if not instances.has("track_ids"):
        return pen.draw_instance_predictions(instances)
    shown = Instances(instances.image_size, **instances.get_fields())
    tracks = [int(number) for number in instances.track_ids]
    known = pen.metadata.get("thing_classes") or []
    names = [known[label] if label < len(known) else str(label) for label in instances.pred_classes.tolist()]
    shown.pred_classes = torch.arange(len(tracks))
    shown.COLOR = [_track_colour(number) for number in tracks]
    labels = [name if number < 0 else f"#{number} {name}" for name, number in zip(names, tracks, strict=True)]
    return _draw_named(pen, shown, labels)


def _draw_named(pen: Any, instances: Instances, names: list[str]) -> VisImage:
    metadata, pen.metadata = pen.metadata, Metadata(name="names", thing_classes=names)
    try:
        return pen.draw_instance_predictions(instances)
    finally:
        pen.metadata = metadata


def _track_colour(number: int) -> tuple[float, float, float]:
    """RGB in [0, 1]; neighbouring numbers are far apart on the colour circle, no number is grey."""
    if number < 0:
        return (0.6, 0.6, 0.6)
    return colorsys.hsv_to_rgb(number * 0.618034 % 1, 0.75, 1.0)


def _class_count(cfg: CfgNode) -> int | None:
    """How many classes the model tells apart; None where it does not say."""
    architecture = cfg.MODEL.META_ARCHITECTURE
    if architecture == "CenterNetDetector":
        return cfg.MODEL.CENTERNET.NUM_CLASSES
    if architecture == "RetinaNet":
        return cfg.MODEL.RETINANET.NUM_CLASSES
    if architecture in ("GeneralizedRCNN", "PanopticFPN"):
        return cfg.MODEL.ROI_HEADS.NUM_CLASSES
    return None


def _class_names(dataset: str, problems: list[str]) -> list[str] | None:
    # a model can be shown without its dataset: what is missing there only costs the names
    try:
        ensure_registered([dataset])
        return class_names(dataset)
    except UserError as error:
        problems.append(str(error))
        return None
