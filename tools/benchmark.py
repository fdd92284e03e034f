#!/usr/bin/env python3
"""Measure this machine: first-stage targets, CenterNet2 against detectron2's Faster R-CNN in the same run, the
evaluation against the official packages, the index of annotations, and a training step with each option.

Weights are random (seeded), so no download is needed; proposals and detections are then at their maximum numbers.
"""

import argparse
import logging
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from benchmarks.random_boxes import random_boxes
from detectron2 import model_zoo
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_model
from detectron2.solver import build_optimizer
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from torch.profiler import ProfilerActivity, profile

import centernet  # noqa: F401  registers the models
from centernet.config_file import load_config
from centernet.errors import command_line
from centernet.ops.assign import Objects
from centernet.ops.grid import Pyramid
from centernet.ops.targets import TargetRules, build_targets

REPOSITORY = Path(__file__).resolve().parents[1]
STRIDES = (8, 16, 32, 64, 128)
SIZES_OF_INTEREST = ((0, 80), (64, 160), (128, 320), (256, 640), (512, 1e7))


def seconds(call: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def peak_memory(call: Callable[[], object]) -> float:
    """Most memory held at once by tensors made during a call, MB."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        call()
    changes = sorted(
        (e.start_ns(), e.nbytes()) for e in record.profiler.kineto_results.events() if e.name() == "[memory]"
    )
    return max(np.cumsum([nbytes for _, nbytes in changes]), default=0) / 1e6


def measure_targets(repeats: int) -> None:
    """Time and memory of the targets of one 800 x 1344 image with strides 8 to 128."""
    height, width = 800, 1344
    pyramid = Pyramid(tuple((-(-height // s), -(-width // s)) for s in STRIDES), STRIDES, 1)
    rules = TargetRules(SIZES_OF_INTEREST)
    print("| objects | median ms | fastest ms | peak MB |\n|---|---|---|---|")
    for count in (0, 10, 100, 500):
        zeros = torch.zeros(count, dtype=torch.int64)
        objects = Objects(random_boxes(count, height, width), zeros, zeros)

        def build(objects: Objects = objects) -> None:
            build_targets(objects, pyramid, rules)

        build()
        times = [1e3 * seconds(build) for _ in range(repeats)]
        print(f"| {count} | {statistics.median(times):.2f} | {min(times):.2f} | {peak_memory(build):.1f} |")


class Contender:
    """A model with random weights, its optimiser, and the two things that are timed."""

    def __init__(self, cfg: CfgNode, size: tuple[int, int]):
        cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS, cfg.SOLVER.BASE_LR = "cpu", "", 1e-5
        torch.manual_seed(0)
        self.model = build_model(cfg)
        self.optimizer = build_optimizer(cfg, self.model)
        height, width = size
        image = torch.from_numpy(np.random.RandomState(0).randint(0, 255, (3, height, width)).astype(np.uint8))
        instances = Instances(size)
        instances.gt_boxes = Boxes(random_boxes(20, height, width))
        instances.gt_classes = torch.arange(20)
        self.batch = [{"image": image, "height": height, "width": width, "instances": instances}]

    def infer(self) -> None:
        self.model.eval()
        with torch.no_grad():
            self.model(self.batch)

    def step(self) -> None:
        self.model.train()
        with EventStorage():
            loss = sum(self.model(self.batch).values())
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


def measure_models(config: str, size: tuple[int, int], repeats: int) -> None:
    """Inference and one training step (20 objects) at batch 1, alternating with Faster R-CNN R50-FPN."""
    base = get_cfg()
    base.merge_from_file(model_zoo.get_config_file("COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml"))
    rival, ours = Contender(base, size), Contender(load_config(config), size)
    print(
        f"| {size[0]} x {size[1]}, batch 1 | Faster R-CNN s | {Path(config).stem} s | ratio of medians | median ratio |"
    )
    print("|---|---|---|---|---|")
    for name, count in (("infer", repeats), ("step", max(3, repeats // 2))):
        pairs = []
        for turn in range(count + 1):  # the first turn warms up
            pair = seconds(getattr(rival, name)), seconds(getattr(ours, name))
            pairs += [pair] if turn else []
        theirs, mine = (statistics.median(p[i] for p in pairs) for i in (0, 1))
        paired = statistics.median(m / t for t, m in pairs)
        print(f"| {name} | {theirs:.3f} | {mine:.3f} | {mine / theirs:.2f} | {paired:.2f} |")


@command_line
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("targets", "models", "evaluation", "index", "training"))
    parser.add_argument("--config-file", default=str(REPOSITORY / "configs" / "CenterNet2_R50_1x.yaml"))
    parser.add_argument("--size", type=int, nargs=2, default=(512, 640), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--repeats", type=int, default=15)
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, Python {platform.python_version()}\n")
    if args.what == "targets":
        measure_targets(args.repeats)
    elif args.what == "evaluation":
        from benchmarks.evaluation import measure_evaluation

        measure_evaluation(min(args.repeats, 3))
    elif args.what == "index":
        from benchmarks.index import measure_index

        measure_index()
    elif args.what == "training":
        from benchmarks.training import measure_training

        measure_training(rounds=min(args.repeats, 5))
    else:
        measure_models(args.config_file, tuple(args.size), args.repeats)


if __name__ == "__main__":
    raise SystemExit(main())
