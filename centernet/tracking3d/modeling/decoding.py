"""From the heads' outputs to the detections of a picture.

Source: QD-3DT (arXiv 2103.07351) section 3.1; thresholds and order as in the published program.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import batched_nms

from ..ops.codecs import BoxCodec, CenterCodec, DepthCodec, DimensionCodec, OrientationCodec, decode_confidence
from ..ops.losses import Box3DCodecs, Box3DOutputs
from ..ops.mode import Mode

__all__ = ["DecodingRules", "Picture", "PictureDetections", "box3d_codecs", "class_scores", "decode_detections"]

_BOX_CODEC = BoxCodec()


class Picture(NamedTuple):
    """What is known of a picture besides its pixels.

    Attributes:
        size: (height, width) of the network input without padding, pixels.
        resize: (x, y), size of the network input / size of the original.
        focal: of the network input, pixels, or None.
    """

    size: tuple[int, int]
    resize: tuple[float, float] = (1.0, 1.0)
    focal: float | None = None


@dataclass(frozen=True)
class DecodingRules:
    """Which boxes are detections.

    Attributes:
        min_score: of class score times confidence.
        nms_iou: boxes of a class that overlap more are duplicates.
        most: detections a picture.
        use_confidence: False: confidence is 1 everywhere.
        hidden_classes: never reported in modern mode (nuScenes' "ignore", which is a class of the published head only).
        mode: ``"parity"``: duplicates are ranked by class score, and the first ``most`` remain in the order of the
            proposals; boxes are what the published inclusive corners, divided by the resize factor, mean.
            ``"modern"``: duplicates and order by score times confidence.
    """

    min_score: float = 0.05
    nms_iou: float = 0.5
    most: int = 100
    use_confidence: bool = True
    hidden_classes: tuple[int, ...] = ()
    mode: Mode = "modern"


class PictureDetections(NamedTuple):
    """Detections of a picture.

    Attributes:
        boxes: float ``[N, 4]``, continuous xyxy, pixels of the original.
        scores: float ``[N]``, of the class.
        classes: int64 ``[N]``.
        depth: float ``[N]``, metres.
        confidence: float ``[N]``, of the depth, in [0, 1].
        dims: float ``[N, 3]``, h, w, l, metres.
        alpha: float ``[N]``, radians.
        center2d: float ``[N, 2]``, projected 3D centre, pixels of the original.
        input_boxes: float ``[N, 4]``, the boxes in pixels of the network input.
    """

    boxes: Tensor
    scores: Tensor
    classes: Tensor
    depth: Tensor
    confidence: Tensor
    dims: Tensor
    alpha: Tensor
    center2d: Tensor
    input_boxes: Tensor


def box3d_codecs(mode: Mode, reference_focal: float | None = None) -> Box3DCodecs:
    """The codecs of a mode; ``reference_focal`` (pixels) see :class:`~..ops.codecs.DepthCodec`."""
    return Box3DCodecs(
        DepthCodec(reference_focal=reference_focal), DimensionCodec(), CenterCodec(mode), OrientationCodec(mode)
    )


def class_scores(logits: Tensor, proposal_scores: Tensor | None = None) -> Tensor:
    """Probabilities of the classes ``[R, C]`` of logits ``[R, C + 1]``, background last.

    With ``proposal_scores`` ``[R]`` (those of a probabilistic first stage) the square root of their product, as in
    CenterNet2 (arXiv 2103.07461).
    """
    scores = logits.float().softmax(1)[:, :-1]
    return scores if proposal_scores is None else (scores * proposal_scores[:, None]).sqrt()


def decode_detections(
    proposals: Tensor,
    scores: Tensor,
    deltas: Tensor,
    outputs: Box3DOutputs,
    picture: Picture,
    codecs: Box3DCodecs,
    rules: DecodingRules,
) -> PictureDetections:
    """Detections of one picture.

    Args:
        proposals: float ``[R, 4]``, continuous xyxy, pixels of the network input.
        scores: float ``[R, C]``, see :func:`class_scores`.
        deltas: float ``[R, 4 C]``.
        outputs: with fields ``[R, C, ...]``.
        picture: whose proposals they are.
        codecs: of the 3D outputs.
        rules: see there.
    """
    confidence = decode_confidence(outputs.confidence)
    if not rules.use_confidence:
        confidence = torch.ones_like(confidence)
    joint = scores * confidence
    kept = joint > rules.min_score
    if rules.mode == "modern" and rules.hidden_classes:
        kept[:, list(rules.hidden_classes)] = False
    row, column = torch.nonzero(kept, as_tuple=True)
    input_boxes = _BOX_CODEC.decode(proposals[row], deltas.unflatten(1, (-1, 4))[row, column])
    input_boxes = _BOX_CODEC.clip(input_boxes, picture.size, mode=rules.mode)
    boxes = _original_boxes(input_boxes, picture, rules.mode)
    scores, confidence, joint = scores[row, column], confidence[row, column], joint[row, column]
    ranking = scores if rules.mode == "parity" else joint
    # in float64 the offsets between the classes cost no precision
    keep = batched_nms(boxes.double(), ranking.double(), column, rules.nms_iou)
    if rules.mode == "parity":
        keep = keep.sort().values
    keep = keep[: rules.most]
    row, column, boxes = row[keep], column[keep], boxes[keep]
    own = Box3DOutputs(*(field[row, column] for field in outputs))
    return PictureDetections(
        boxes=boxes,
        scores=scores[keep],
        classes=column,
        depth=codecs.depth.decode(own.depth, picture.focal),
        confidence=confidence[keep],
        dims=codecs.dims.decode(own.dims),
        alpha=codecs.orientation.decode(own.rotation),
        center2d=codecs.center.decode(own.center, boxes),
        input_boxes=input_boxes[keep],
    )


def _original_boxes(boxes: Tensor, picture: Picture, mode: Mode) -> Tensor:
    factor = boxes.new_tensor(picture.resize).repeat(2)
    if mode == "modern":
        return boxes / factor
    last_pixel = boxes.new_tensor((0.0, 0.0, 1.0, 1.0))
    return (boxes - last_pixel) / factor + last_pixel  # dividing inclusive corners keeps the 1 of the convention
