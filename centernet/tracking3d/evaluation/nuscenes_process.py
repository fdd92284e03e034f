"""Script: nuScenes' own evaluation, in a process of its own, for the Python that has ``nuscenes-devkit``.

Reads a request as JSON from standard input and writes the scores to its ``scores`` file. :mod:`.official` starts it. It
imports nothing of this package.
"""

import json
import sys
from typing import Any

MISSING = 3
"""Exit status: a package cannot be imported."""

_MEANS = ("amota", "amotp", "recall", "motar", "mota", "motp", "mt", "ml", "fp", "fn", "ids", "frag", "tid", "lgd")


def detection(request: dict[str, Any]) -> dict[str, Any]:
    """mAP, NDS, the errors of true positives, and AP by class."""
    from nuscenes import NuScenes
    from nuscenes.eval.common.config import config_factory
    from nuscenes.eval.detection.evaluate import DetectionEval

    tables = NuScenes(request["version"], request["dataroot"], verbose=False)
    rules = config_factory("detection_cvpr_2019")
    scored = DetectionEval(tables, rules, request["submission"], request["split"], request["output"], verbose=False)
    summary = scored.main(plot_examples=0, render_curves=False)
    return {
        "mAP": summary["mean_ap"],
        "NDS": summary["nd_score"],
        **summary["tp_errors"],
        "AP": summary["mean_dist_aps"],
    }


def tracking(request: dict[str, Any]) -> dict[str, Any]:
    """AMOTA for each alpha of the request, AMOTP and the rest of the devkit's means, AMOTA by class."""
    from nuscenes.eval.common.config import config_factory
    from nuscenes.eval.tracking.evaluate import TrackingEval

    rules = config_factory("tracking_nips_2019")
    scored = TrackingEval(
        rules,
        request["submission"],
        request["split"],
        request["output"],
        request["version"],
        request["dataroot"],
        verbose=False,
    )
    metrics, curves = scored.evaluate()
    summary = metrics.serialize()
    scores: dict[str, Any] = {name.upper(): summary[name] for name in _MEANS}
    for alpha in request["alphas"]:
        by_class = summary["label_metrics"]["amota"]
        if alpha != 1:
            by_class = {name: _amota(curves[name], alpha) for name in rules.class_names}
            scores[f"AMOTA@{alpha:g}"] = _mean(by_class)
        scores["AMOTA_by_class" if alpha == 1 else f"AMOTA@{alpha:g}_by_class"] = by_class
    return scores


def _amota(curve: Any, alpha: float) -> float:
    """Mean of MOTAR over the recall thresholds, of a class's counts; thresholds that are not reached count 0.

    The devkit has it for alpha 1 only, in its metric, whose formula this is.
    """
    import numpy as np

    if np.isnan(curve.motar).all():
        return float("nan")  # no object of the class
    recall = curve.tp / curve.gt
    wrong = curve.fn + curve.ids + curve.fp - (1 - recall) * curve.gt
    motar = np.maximum(0, 1 - alpha * wrong / (recall * curve.gt))
    return float(np.where(np.isnan(curve.motar), 0, motar).mean())


def _mean(by_class: dict[str, float]) -> float:
    known = [value for value in by_class.values() if value == value]
    return sum(known) / len(known) if known else float("nan")


def main() -> int:
    """Answer the request on standard input."""
    request = json.load(sys.stdin)
    try:
        import motmetrics  # noqa: F401
        import nuscenes.eval.tracking.algo  # noqa: F401
    except ImportError as error:
        sys.stderr.write(f"{error}\n")
        return MISSING
    scores = {"detection": detection, "tracking": tracking}[request["task"]](request)
    with open(request["scores"], "w", encoding="utf-8") as file:
        json.dump(scores, file)
    return 0


if __name__ == "__main__":
    sys.exit(main())
