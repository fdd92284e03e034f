"""One confidence threshold for every meta architecture: in the config for speed, on the result exact."""

import math
from numbers import Real
from typing import Any

import numpy as np
from detectron2.config import CfgNode

from ..errors import UserError

__all__ = ["check_threshold", "filter_predictions", "set_score_threshold"]

_ONE_STAGE = ("CenterNetDetector", "ProposalNetwork")


def set_score_threshold(cfg: CfgNode, threshold: float) -> None:
    """Tell the model of ``cfg`` (in place, frozen or not) that scores under ``threshold`` are unwanted.

    A detection's *score* is what the picture shows next to its box. What is compared with it depends on the
    model:

    - two-stage (``GeneralizedRCNN``), RetinaNet and panoptic models compare the score itself;
    - the first stage alone (``CenterNetDetector``, ``ProposalNetwork``) compares a *probability* with
      ``MODEL.CENTERNET.INFERENCE_TH``. With ``WITH_AGN_HM`` the score is the square root of the decoded
      probability (of class x objectness where there is a class heatmap), so that key gets ``threshold ** 2``:
      class probability >= class x objectness >= threshold², hence no detection above the threshold is lost.
      The first stage of a two-stage model keeps its own key: its candidates are no detections.

    The models compare with ``>`` and may let more pass (see above), therefore the keys get the next smaller
    float32 and :func:`filter_predictions` makes the result exactly ``score >= threshold``. Fewer candidates
    never change the detections that remain: a box is only ever suppressed by one with a higher score.

    Args:
        cfg: a config with this package's keys.
        threshold: smallest score kept, in [0, 1].

    Raises:
        UserError: ``threshold`` is not in [0, 1].
    """
    check_threshold(threshold)
    frozen = cfg.is_frozen()
    cfg.defrost()
    passing = _just_below(threshold)
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = passing
    cfg.MODEL.RETINANET.SCORE_THRESH_TEST = passing
    cfg.MODEL.PANOPTIC_FPN.COMBINE.INSTANCES_CONFIDENCE_THRESH = threshold
    if cfg.MODEL.META_ARCHITECTURE in _ONE_STAGE:
        probability = threshold**2 if cfg.MODEL.CENTERNET.WITH_AGN_HM else threshold
        cfg.MODEL.CENTERNET.INFERENCE_TH = _just_below(probability)
    if frozen:
        cfg.freeze()


def check_threshold(threshold: float) -> None:
    """Raise :class:`UserError` if ``threshold`` is not in [0, 1]."""
    if not isinstance(threshold, Real) or not 0.0 <= threshold <= 1.0:  # also catches NaN
        raise UserError(f"the confidence threshold is {threshold!r}, but is a probability: give a number from 0 to 1")


def filter_predictions(predictions: dict[str, Any], threshold: float) -> dict[str, Any]:
    """Keep the instances and proposals whose score is at least ``threshold``.

    Args:
        predictions: one image's output of a detectron2 model; ``instances`` and ``proposals`` without
            ``scores``, and every other entry, pass unchanged.
        threshold: smallest score kept, in [0, 1].

    Returns:
        a new dict; the given one is not changed.
    """
    kept = dict(predictions)
    for key in ("instances", "proposals"):
        if key in kept and kept[key].has("scores"):
            kept[key] = kept[key][kept[key].scores >= threshold]
    return kept


def _just_below(value: float) -> float:
    """The largest float32 below ``value``, so that ``score > result`` means ``score >= value``; or 0."""
    if math.isclose(value, 0.0, abs_tol=1e-12):
        return 0.0
    return float(np.nextafter(np.float32(value), np.float32(0)))
