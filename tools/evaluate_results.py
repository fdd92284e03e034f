#!/usr/bin/env python3
"""Score a saved result file without a model.

    python tools/evaluate_results.py --data coco_2017_val output/inference_coco_2017_val/coco_instances_results.json
    python tools/evaluate_results.py --data labels.json results.json --output output/scores
    python tools/evaluate_results.py --data lvis_v1_val.json results.json --lvis

RESULTS is a list in COCO's result format: image_id, category_id, score and bbox (x, y, width, height in pixels),
segmentation or keypoints. Prints the table and writes metrics.json (all figures and every class, in percent).
Detections with numbers that are not finite, and those of categories that the data do not have, are left out and
counted.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from centernet.errors import UserError, command_line
from centernet.evaluation.result_file import score_result_file
from centernet.evaluation.table import score_table


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("results", metavar="RESULTS", help="JSON file with the detections")
    add("--data", required=True, metavar="NAME_OR_JSON[:ROOT]", help="registered dataset or annotation file")
    add("--lvis", action="store_true", help="LVIS's rules: federated annotations, 300 detections an image")
    add("--output", default="output/evaluate_results", metavar="DIR", help="of metrics.json (default %(default)s)")
    return parser.parse_args(arguments)


@command_line
def main(arguments: list[str] | None = None) -> None:
    """Score, tell, write."""
    options = parse(arguments)
    scores = score_result_file(options.data, options.results, lvis=options.lvis)
    for note in scores.notes:
        print(note)
    for task, metrics in scores.metrics().items():
        print(f"\n{scores.rules} rules, {score_table(task, metrics)}")
    path = Path(options.output) / "metrics.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {"data": options.data, "results": options.results, **scores.as_json()}
        path.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", "utf-8")
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error
    print(f"\nwritten: {path}")


if __name__ == "__main__":
    sys.exit(main())
