"""The report's sentences."""

from detectron2.config import CfgNode

from ..proposals import StoredProposals
from .calibration import Reliability

__all__ = [
    "CONFIG_KEYS",
    "EXPLANATIONS",
    "KIND_MEANINGS",
    "METRIC_MEANINGS",
    "bias_words",
    "product_words",
    "score_words",
]

METRIC_MEANINGS = {
    "AP": "mean over classes and IoU 0.50, 0.55, ..., 0.95",
    "AP50": "IoU 0.50",
    "AP75": "IoU 0.75",
    "APs": "small objects: area below 32 x 32 pixels",
    "APm": "medium objects",
    "APl": "large objects: area above 96 x 96 pixels",
    "APr": "rare classes (at most 10 training images)",
    "APc": "common classes (at most 100)",
    "APf": "frequent classes",
    "AR@": "recall with so many detections an image, mean over classes and IoU",
    "ARs": "recall of small objects",
    "ARm": "recall of medium objects",
    "ARl": "recall of large objects",
}

KIND_MEANINGS = {
    "classification": "right place (IoU 0.5 or more), wrong class",
    "localisation": "right class, inexact box (IoU 0.1 to 0.5)",
    "both": "wrong class and inexact box",
    "duplicate": "the object was found already by a better scored detection",
    "background": "nothing there (IoU below 0.1 with every object)",
    "missed": "an object that no detection found, and no error above points at",
    "all false positives": "everything that found no object",
    "all unfound objects": "everything that no detection found",
}

EXPLANATIONS = {
    "coco": "COCO's rules: every detection is judged; at most 100 of an image and class count.",
    "lvis": "LVIS's rules, here and in all that follows: classes that nobody looked for in a picture are not judged "
    "there; at most 300 detections of an image count.",
    "errors": "Kinds of errors in the sense of TIDE (Bolya et al., arXiv 2008.08115). What a kind costs is the AP50 "
    "that would be gained if it were mended and nothing else; kinds hide each other, so the costs do not add up. All "
    "detections count, whatever their score: many errors of low score cost little.",
    "calibration": "A probability holds if, of the detections that state 0.7, seven in ten are right. Right means: IoU "
    "0.5 or more with an object, of the same class for detections, one detection an object. ECE, the expected "
    "calibration error, is the mean distance between stated and observed, weighted with the entries of each bin (Guo "
    "et al., arXiv 1706.04599). Most entries state nearly 0; the last column leaves them out.",
    "reliability": "Above: what was observed in each of ten bins, with its 95 % interval; on the dashed line the "
    "statement holds, below it the model is too sure. Below: entries of each bin (log scale).",
    "objectness": "A proposal has two fair readings: it overlaps an object (IoU 0.5 or more; many proposals may "
    "overlap the same one), or it is the best scored of its object. P(object) is trained for centres, of which an "
    "object has one, so the second reading is what it states.",
    "objectness lvis": "LVIS names only some of the objects in a picture, and a proposal has no class that could "
    "excuse it: one on an object without annotation counts as wrong, so the first stage is better than its curves.",
    "confusion": "What was taken for what: detections that found an object of their own class are on the diagonal, the "
    "others may take one that is left, of any class (IoU 0.5 or more).",
    "confusion colours": "Numbers are counts; the shade is the share of the row's true class (in the last row, "
    "relative to its largest count). Last row: background taken for an object. Last column: objects not found.",
    "pictures": "Pictures by the AP50 that would be gained without their errors: on the left the objects, on the right "
    "the detections.",
}

CONFIG_KEYS = (
    "MODEL.META_ARCHITECTURE", "MODEL.BACKBONE.NAME", "MODEL.RESNETS.DEPTH", "MODEL.PROPOSAL_GENERATOR.NAME",
    "MODEL.ROI_HEADS.NAME", "MODEL.ROI_HEADS.NUM_CLASSES", "MODEL.WEIGHTS", "MODEL.CENTERNET.SOI",
    "MODEL.CENTERNET.SQRT_SCORE", "MODEL.ROI_BOX_HEAD.MULT_PROPOSAL_SCORE", "MODEL.CENTERNET.POST_NMS_TOPK_TEST",
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "MODEL.ROI_HEADS.NMS_THRESH_TEST", "TEST.DETECTIONS_PER_IMAGE",
    "DATASETS.TRAIN", "DATASETS.TEST", "INPUT.MIN_SIZE_TRAIN", "INPUT.MIN_SIZE_TEST", "INPUT.MAX_SIZE_TEST",
    "INPUT.CUSTOM_AUG", "SOLVER.IMS_PER_BATCH", "SOLVER.BASE_LR", "SOLVER.MAX_ITER", "SOLVER.LR_SCHEDULER_NAME",
    "SOLVER.WARMUP_ITERS", "SEED",
)  # fmt: skip

_DOT, _ROOT = "\N{MIDDLE DOT}", "\N{SQUARE ROOT}"


def bias_words(curve: Reliability) -> str:
    """In words whether the values state too much."""
    if not curve.counts.sum():
        return "nothing to judge"
    if abs(curve.bias) < 0.02:
        return "right on average" if curve.error < 0.05 else "right on average, wrong in parts"
    return "too sure" if curve.bias > 0 else "too modest"


def score_words(cfg: CfgNode | None) -> str:
    """What the model's score is."""
    if cfg is None:
        return "Without the config nobody can say what the score states."
    if cfg.MODEL.META_ARCHITECTURE != "GeneralizedRCNN":
        root = cfg.MODEL.CENTERNET.WITH_AGN_HM and cfg.MODEL.CENTERNET.SQRT_SCORE
        return f"The score of this one-stage model is {'the root of a' if root else 'a'} probability of the heatmap."
    if not cfg.MODEL.ROI_BOX_HEAD.MULT_PROPOSAL_SCORE:
        return "The score of this model is p = P(class | object) of the second stage alone."
    inner = f"{_ROOT}P" if cfg.MODEL.CENTERNET.SQRT_SCORE else "P"
    return (
        f"The score of this model is {_ROOT}(p {_DOT} {inner}), with p = P(class | object) of the second stage and "
        "P = P(object) of the first: it ranks detections and, being a root, is no probability; its curve is shown "
        "because it is often read as one."
    )


def product_words(cfg: CfgNode | None, proposals: StoredProposals | None) -> str:
    """Where the curve of the product comes from, or why there is none."""
    product = f"p{_DOT}P = P(class | object) {_DOT} P(object) is the model's probability of a class"
    if proposals is not None and len(proposals.products):
        return f"{product}; its curve is of the detections that the model makes if it ranks by it."
    if cfg is None or cfg.MODEL.META_ARCHITECTURE != "GeneralizedRCNN":
        return ""
    if not cfg.MODEL.ROI_BOX_HEAD.MULT_PROPOSAL_SCORE:
        return f"{product}; this model does not multiply its stages (MODEL.ROI_BOX_HEAD.MULT_PROPOSAL_SCORE)."
    if not cfg.MODEL.CENTERNET.SQRT_SCORE:
        return f"{product}, and here the square of the score."
    return (
        f"{product}; the results alone do not tell it: evaluate with TEST.SAVE_PROPOSALS True to see how far it holds."
    )
