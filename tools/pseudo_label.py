#!/usr/bin/env python3
"""Label pictures with a trained detector, to train another one on them beside labelled ones (self-training).

    python tools/pseudo_label.py --config-file configs/CenterNet2_R50_1x.yaml --input photos/ --output pseudo.json \\
        --opts MODEL.WEIGHTS model_final.pth
    python tools/pseudo_label.py --config-file ... --input annotations/image_info_unlabeled2017.json \\
        --image-root unlabeled2017 --output annotations/pseudo.json --opts MODEL.WEIGHTS model_final.pth
    python tools/pseudo_label.py ... --class-thresholds auto --precision 0.8 --validation coco_2017_val --opts ...
    python tools/pseudo_label.py ... --class-thresholds counts --validation my_labelled_set --opts ...

The result is a COCO file, each annotation with its score; train with it as docs/SELF_TRAINING.md says. Beside it,
OUTPUT.journal.jsonl keeps every finished picture: the same command goes on after a kill and gives the same bytes.
Exit status: 0 done, 1 done, but some pictures are broken (named, and left out), 2 a mistake in the command or files.
"""

import argparse
import logging
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from centernet.config_file import load_config, resolve_device
from centernet.data import get_detection_dataset_dicts_with_source
from centernet.errors import UserError, command_line
from centernet.inference import Predictor, set_score_threshold
from centernet.inference.class_thresholds import (
    NEVER,
    count_thresholds,
    judge_detections,
    precision_thresholds,
    read_thresholds,
)
from centernet.inference.pseudo_labels import (
    Journal,
    Unlabelled,
    find_unlabelled,
    label_images,
    write_labels,
)

EXIT_SOME_BROKEN = 1
LOWEST_SCORE = 0.05  # of the detections that thresholds are chosen from
THRESHOLDS = (
    'by class: a file with JSON {"name": score}; auto: for --precision on --validation, which the teacher must not '
    "have been trained on; counts: as many labels a picture as --validation, usually its training set, has objects"
)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--config-file", required=True, metavar="FILE", help="the teacher's YAML file")
    add("--input", required=True, nargs="+", metavar="PATH", help="folders, globs, pictures, or one list (.txt, .json)")
    add("--image-root", type=Path, metavar="FOLDER", help="that file names in the result are relative to")
    add("--output", required=True, type=Path, metavar="FILE", help="the COCO file to write")
    add("--threshold", type=float, default=0.5, metavar="P", help="smallest score of a label (default 0.5)")
    add("--class-thresholds", metavar="FILE|auto|counts", help=THRESHOLDS)
    add("--precision", type=float, default=0.8, metavar="P", help="share of right labels wanted by auto (default 0.8)")
    add("--validation", metavar="NAME", help="labelled set: classes, auto, counts (default: DATASETS.TEST)")
    add("--labels-ratio", type=float, default=1.0, metavar="R", help="of counts: labels for each expected object")
    add("--batch-size", type=int, default=8, metavar="N", help="pictures at a time (default 8)")
    add("--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE", help="config settings, last")
    return parser.parse_args(arguments)


def check(options: argparse.Namespace) -> None:
    """Refuse numbers that cannot be meant."""
    if not 0 <= options.threshold <= 1:
        raise UserError(f"--threshold is {options.threshold}, but it is a score: give a number from 0 to 1")
    if not 0 < options.precision <= 1:
        raise UserError(f"--precision is {options.precision}, but it is a share: give a number above 0, up to 1")
    if not options.labels_ratio > 0:
        raise UserError(f"--labels-ratio is {options.labels_ratio}, but must be above 0")
    if options.batch_size < 1:
        raise UserError(f"--batch-size is {options.batch_size}, but must be at least 1")


def beside(output: Path, word: str) -> Path:
    """A file beside the result."""
    return output.with_name(f"{output.name}.{word}.jsonl")


def labelled_records(options: argparse.Namespace, teacher: Predictor) -> Sequence[dict[str, Any]]:
    """The labelled set, in detectron2's format."""
    name = options.validation or next(iter(teacher.cfg.DATASETS.TEST), None)
    if name is None:
        raise UserError(
            f"--class-thresholds {options.class_thresholds} needs labelled pictures: name a set with --validation"
        )
    return get_detection_dataset_dicts_with_source([name], filter_empty=False)


def thresholds_for_precision(options: argparse.Namespace, teacher: Predictor, names: list[str]) -> list[float]:
    """By class, for the wanted precision on labelled pictures."""
    records = labelled_records(options, teacher)
    images = [
        Unlabelled({"id": number, "file_name": record["file_name"]}, Path(record["file_name"]))
        for number, record in enumerate(records)
    ]
    journal = beside(options.output, "validation")
    book = label_images(teacher, images, journal, floor=LOWEST_SCORE, batch_size=options.batch_size)
    found = {entry["id"]: entry["detections"] for entry in book.entries() if "broken" not in entry}
    judged = judge_detections({number: records[number]["annotations"] for number in found}, found)
    return precision_thresholds(judged, len(names), options.precision, options.threshold)


def teacher_of(options: argparse.Namespace, floor: float) -> Predictor:
    """The teacher, which need not look for what scores less than ``floor``."""
    cfg = load_config(options.config_file, options.opts)
    if options.validation:  # it has the names of the classes, too
        cfg.DATASETS.TEST = (options.validation,)
    set_score_threshold(cfg, floor)
    resolve_device(cfg)
    teacher = Predictor(cfg)
    if teacher.metadata.name == "numbers":
        print(
            "note: the names of the teacher's classes are not known, so the labels have numbers and cannot be mixed "
            "with data that have names: name the teacher's data with --validation or DATASETS.TEST"
        )
    return teacher


def thresholds_for_counts(
    options: argparse.Namespace, teacher: Predictor, names: list[str], book: Journal
) -> list[float]:
    """By class, for as many labels a picture as the labelled pictures have objects."""
    records = labelled_records(options, teacher)
    objects = Counter(a["category_id"] for r in records for a in r["annotations"] if not a.get("iscrowd", 0))
    pictures, scores = 0, [[] for _ in names]
    for entry in book.entries():
        if "broken" not in entry:
            pictures += 1
            for detection in entry["detections"]:
                scores[detection["class"]].append(detection["score"])
    factor = options.labels_ratio * pictures / max(len(records), 1)
    return count_thresholds(scores, [round(factor * objects[c]) for c in range(len(names))], options.threshold)


@command_line
def main(arguments: list[str] | None = None) -> int:
    """Find pictures, run the teacher, write; returns the exit status."""
    options = parse(arguments)
    check(options)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("centernet").setLevel(logging.INFO)
    images = find_unlabelled(options.input, options.image_root)
    teacher = teacher_of(options, LOWEST_SCORE if options.class_thresholds else options.threshold)
    categories = teacher.categories.as_coco()
    names = [category["name"] for category in categories]
    counts = options.class_thresholds == "counts"
    if options.class_thresholds == "auto":
        thresholds = thresholds_for_precision(options, teacher, names)
    elif options.class_thresholds and not counts:
        thresholds = read_thresholds(Path(options.class_thresholds), names, options.threshold)
    else:
        thresholds = [options.threshold] * len(names)
    floor = LOWEST_SCORE if counts else min(thresholds)
    book = label_images(
        teacher, images, beside(options.output, "journal"), floor=min(floor, 1.0), batch_size=options.batch_size
    )
    if counts:
        thresholds = thresholds_for_counts(options, teacher, names, book)
    labels, broken = write_labels(options.output, images, book, categories, thresholds)
    print(f"{labels} labels on {len(images) - len(broken)} pictures in {options.output}")
    if options.class_thresholds:
        limits = [f"{n} {'none' if t == NEVER else f'{t:.3f}'}" for n, t in zip(names, thresholds, strict=True)]
        print(f"thresholds: {', '.join(limits)}")
    if broken:
        print(f"{len(broken)} pictures are broken and left out:", *broken, sep="\n  ")
    return EXIT_SOME_BROKEN if broken else 0


if __name__ == "__main__":
    sys.exit(main())
