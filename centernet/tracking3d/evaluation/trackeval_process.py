"""Script: CLEAR and HOTA of KITTI's 2D tracking by ``trackeval``, in a process of its own.

Reads a request as JSON from standard input and writes the scores to its ``scores`` file. :mod:`.official` starts it. It
imports nothing of this package.
"""

import json
import sys
from typing import Any

MISSING = 3
"""Exit status: a package cannot be imported."""


def kitti(request: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Scores by class, over all sequences; HOTA and its parts are means over its thresholds."""
    import trackeval

    evaluator = trackeval.Evaluator(
        {
            "USE_PARALLEL": False,
            "PRINT_RESULTS": False,
            "PRINT_CONFIG": False,
            "TIME_PROGRESS": False,
            "OUTPUT_SUMMARY": False,
            "OUTPUT_EMPTY_CLASSES": False,
            "OUTPUT_DETAILED": False,
            "PLOT_CURVES": False,
            "BREAK_ON_ERROR": True,
            "LOG_ON_ERROR": None,
        }
    )
    dataset = trackeval.datasets.Kitti2DBox(
        {
            "GT_FOLDER": request["truth"],
            "TRACKERS_FOLDER": request["trackers"],
            "OUTPUT_FOLDER": request["output"],
            "TRACKERS_TO_EVAL": [request["tracker"]],
            "CLASSES_TO_EVAL": request["classes"],
            "SPLIT_TO_EVAL": request["split"],
            "PRINT_CONFIG": False,
        }
    )
    quiet = {"PRINT_CONFIG": False}
    metrics = [
        trackeval.metrics.HOTA(),
        trackeval.metrics.CLEAR({"THRESHOLD": 0.5, **quiet}),
        trackeval.metrics.Identity({"THRESHOLD": 0.5, **quiet}),
    ]
    results, _ = evaluator.evaluate([dataset], metrics)
    combined = results["Kitti2DBox"][request["tracker"]]["COMBINED_SEQ"]
    return {name: _flat(combined[name]) for name in request["classes"]}


def _flat(groups: dict[str, dict[str, Any]]) -> dict[str, float]:
    wanted = {
        "HOTA": ("HOTA", "DetA", "AssA", "LocA"),
        "CLEAR": ("MOTA", "MOTP", "CLR_TP", "CLR_FP", "CLR_FN", "IDSW", "Frag", "MT", "ML"),
        "Identity": ("IDF1",),
    }
    return {key: _mean(groups[group][key]) for group, keys in wanted.items() for key in keys}


def _mean(value: Any) -> float:
    return float(value.mean()) if hasattr(value, "mean") else float(value)


def main() -> int:
    """Answer the request on standard input."""
    request = json.load(sys.stdin)
    try:
        import trackeval  # noqa: F401
    except ImportError as error:
        sys.stderr.write(f"{error}\n")
        return MISSING
    scores = kitti(request)
    with open(request["scores"], "w", encoding="utf-8") as file:
        json.dump(scores, file)
    return 0


if __name__ == "__main__":
    sys.exit(main())
