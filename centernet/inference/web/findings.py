"""What a model finds in one picture, as the page needs it: filtered by score without asking the model again."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from detectron2.config import CfgNode

from ..results import Detections

__all__ = ["LOWEST_SCORE", "Findings", "class_probabilities", "read_findings"]

LOWEST_SCORE = 0.05  # the model is asked for everything from here on; the slider begins here


@dataclass(frozen=True)
class Findings:
    """Detections of one picture, best first.

    Attributes:
        boxes: float ``[N, 4]`` x1, y1, x2, y2, pixels of the original picture.
        scores: float ``[N]`` in [0, 1].
        classes: int ``[N]``, from 0.
        objectness: P(object) of the first stage, float ``[N]`` in [0, 1]; None where the model has no such number.
        class_probability: P(class | object), float ``[N]`` in [0, 1]; None where the model has no such number.
    """

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    objectness: np.ndarray | None = None
    class_probability: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.scores)

    def at_least(self, score: float) -> "Findings":
        """Those with at least this score."""
        keep = self.scores >= score
        parts = (self.boxes, self.scores, self.classes, self.objectness, self.class_probability)
        return Findings(*(None if part is None else part[keep] for part in parts))  # type: ignore[arg-type]

    def records(self, class_names: list[str]) -> list[dict[str, Any]]:
        """One JSON object a detection; boxes are x1, y1, x2, y2 in pixels."""
        records: list[dict[str, Any]] = []
        for row in range(len(self)):
            record = {
                "class": class_names[self.classes[row]],
                "score": round(float(self.scores[row]), 4),
                "box": [round(float(value), 1) for value in self.boxes[row]],
            }
            for name, values in (("objectness", self.objectness), ("class_probability", self.class_probability)):
                if values is not None:
                    record[name] = round(float(values[row]), 4)
            records.append(record)
        return records


def read_findings(detections: Detections, cfg: CfgNode) -> Findings:
    """The results of a model made from ``cfg``, as arrays."""
    scores = detections.scores.numpy()
    objectness = None
    if detections.has("objectness") and cfg.MODEL.CENTERNET.WITH_AGN_HM:  # else the first stage has classes
        objectness = detections.objectness.numpy()
    return Findings(
        boxes=detections.pred_boxes.tensor.numpy(),
        scores=scores,
        classes=detections.pred_classes.numpy(),
        objectness=objectness,
        class_probability=None if objectness is None else class_probabilities(cfg, scores, objectness),
    )


def class_probabilities(cfg: CfgNode, scores: np.ndarray, objectness: np.ndarray) -> np.ndarray | None:
    """P(class | object) from the final score and P(object), by the rule with which the model combines them.

    Source: "Probabilistic two-stage detection" (arXiv 2103.07461) equations 1 and 2; the published models report
    ``sqrt(P(class | object) * sqrt(P(object)))``.

    Args:
        cfg: of the model.
        scores, objectness: float ``[N]`` in [0, 1].

    Returns:
        Float ``[N]`` in [0, 1]; None for a model that knows no class.
    """
    node = cfg.MODEL.CENTERNET
    rooted = node.WITH_AGN_HM and node.SQRT_SCORE
    if cfg.MODEL.META_ARCHITECTURE == "GeneralizedRCNN":
        if not cfg.MODEL.ROI_BOX_HEAD.MULT_PROPOSAL_SCORE:
            return scores
        product, first = scores**2, np.sqrt(objectness) if rooted else objectness
    elif node.ONLY_PROPOSAL:
        return None
    else:
        product, first = scores**2 if rooted else scores, objectness
    return np.clip(product / np.maximum(first, 1e-12), 0.0, 1.0)
