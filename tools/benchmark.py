#!/usr/bin/env python3
"""Measure this machine: inference of models run in several ways, beside detectron2's and torchvision's; a training step
beside Faster R-CNN's, and with each option; first-stage targets; the evaluation against the official packages; the
index of annotations; a step of the 3D tracker.

    python tools/benchmark.py inference --write docs/BENCHMARKS.md
    python tools/benchmark.py models --repeats 5
"""

import argparse
import logging
import platform
from collections.abc import Callable
from pathlib import Path

import torch
from benchmarks import inference

from centernet.errors import command_line

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "CenterNet2_R50_1x.yaml"


def _targets(args: argparse.Namespace) -> None:
    from benchmarks.targets import measure_targets

    measure_targets(args.repeats)


def _models(args: argparse.Namespace) -> None:
    from benchmarks.models import measure_models

    measure_models(args.config_file, tuple(args.size), args.repeats)


def _evaluation(args: argparse.Namespace) -> None:
    from benchmarks.evaluation import measure_evaluation

    measure_evaluation(min(args.repeats, 3))


def _index(args: argparse.Namespace) -> None:
    from benchmarks.index import measure_index

    measure_index()


def _training(args: argparse.Namespace) -> None:
    from benchmarks.training import measure_training

    measure_training(rounds=min(args.repeats, 5))


def _tracking3d(args: argparse.Namespace) -> None:
    from benchmarks.tracking3d import measure_tracking3d

    measure_tracking3d(args.repeats)


SUBJECTS: dict[str, tuple[Callable[[argparse.Namespace], None], str]] = {
    "targets": (_targets, "the targets of the first stage"),
    "models": (_models, "inference and a training step, beside Faster R-CNN R50-FPN"),
    "evaluation": (_evaluation, "scores of COCO and LVIS, beside the official packages"),
    "index": (_index, "200,000 images and their annotations, beside detectron2's way"),
    "training": (_training, "a training step with each option of the trainer"),
    "tracking3d": (_tracking3d, "a step of the 3D tracker, by how many detections and tracks there are"),
}


@command_line
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    subjects = parser.add_subparsers(dest="what", required=True)
    inference.add_arguments(subjects.add_parser("inference", help="latency, throughput, memory and stages"))
    for name, (_, words) in SUBJECTS.items():
        options = subjects.add_parser(name, help=words)
        options.add_argument("--repeats", type=int, default=15)
        if name == "models":
            options.add_argument("--config-file", default=str(CONFIG))
            options.add_argument("--size", type=int, nargs=2, default=(512, 640), metavar=("HEIGHT", "WIDTH"))
    args = parser.parse_args(argv)
    if args.what == "inference":
        return inference.measure(args)
    logging.disable(logging.WARNING)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, Python {platform.python_version()}\n")
    SUBJECTS[args.what][0](args)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
