#!/usr/bin/env python3
"""Write one HTML page about the results of a run: how good, what goes wrong, and whether the probabilities hold.

    python tools/report.py output/demo                                   writes output/demo/report.html
    python tools/report.py output/demo --data digits_val                 if it was evaluated on several data sets
    python tools/report.py output/demo --data my/val.json:my/images --results detections.json --output page.html

Average precision, precision-recall curves, the kinds of errors and what each costs, the confusion matrix, classes by
frequency, the calibration of P(object) and of the final score, the worst pictures, training curves, the config. The
page needs no other file. For the calibration of the first stage evaluate with TEST.SAVE_PROPOSALS True:

    python train_net.py output/demo/config.yaml --eval-only MODEL.WEIGHTS output/demo/model_final.pth \\
        TEST.SAVE_PROPOSALS True

Exit status: 0 written, 2 something to mend (one line says what).
"""

import argparse
import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import centernet  # noqa: F401  registers datasets
from centernet.errors import UserError, command_line
from centernet.evaluation.report import read_inputs, write_report


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("folder", metavar="RUN_FOLDER", help="OUTPUT_DIR of a training or an evaluation")
    add("--data", default="", metavar="NAME|JSON:ROOT", help="data of the results (default: DATASETS.TEST of the run)")
    add("--results", default="", metavar="FILE", help="COCO results (default: RUN_FOLDER/inference_<data>)")
    add("--output", default="", metavar="FILE", help="the page (default: RUN_FOLDER/report.html)")
    add("--threshold", type=float, metavar="F", help="smallest score for confusion and pictures (default: best F1)")
    add("--pictures", type=int, default=12, metavar="N", help="worst pictures to show (default %(default)s)")
    return parser.parse_args(arguments)


@command_line
def main(arguments: list[str] | None = None) -> int:
    """Read, judge, write; returns the exit status."""
    options = parse(arguments)
    if options.pictures < 0:
        raise UserError(f"--pictures is {options.pictures}: give 0 or more")
    logging.getLogger("detectron2").setLevel(logging.WARNING)
    folder = Path(options.folder)
    inputs = read_inputs(folder, options.data, options.results)
    for sentence in inputs.notes:
        print(f"note: {sentence}")
    output = Path(options.output) if options.output else folder / "report.html"
    analysis = write_report(inputs, output, threshold=options.threshold, pictures=options.pictures)
    metrics = analysis.scores.metrics()
    print(f"AP {metrics['AP']:.1f}, AP50 {metrics['AP50']:.1f}")
    print(f"written: {output} ({output.stat().st_size / 1e6:.1f} MB)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
