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
    scores: dict[str, Any] = {}
    for alpha in request["alphas"]:
        summary = _tracking(request, alpha)
        key = "AMOTA" if alpha == 1 else f"AMOTA@{alpha:g}"
        scores[key] = summary["amota"]
        scores[f"{key}_by_class"] = summary["label_metrics"]["amota"]
        scores.update({name.upper(): summary[name] for name in _MEANS if name != "amota"})
    return scores


def _tracking(request: dict[str, Any], alpha: float) -> dict[str, Any]:
    from nuscenes.eval.common.config import config_factory
    from nuscenes.eval.tracking import metrics, utils
    from nuscenes.eval.tracking.evaluate import TrackingEval

    def motar(
        df: Any,
        num_matches: int,
        num_misses: int,
        num_switches: int,
        num_false_positives: int,
        num_objects: int,
        ana: Any = None,
    ) -> float:
        return float(
            metrics.motar(df, num_matches, num_misses, num_switches, num_false_positives, num_objects, alpha, ana)
        )

    utils.motar = motar  # the table of metrics is built from this name
    scored = TrackingEval(
        config_factory("tracking_nips_2019"),
        request["submission"],
        request["split"],
        request["output"],
        request["version"],
        request["dataroot"],
        verbose=False,
    )
    return dict(scored.main(render_curves=False))


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
