"""`benchmark.py targets`: time and memory of the targets of the first stage."""

import statistics
from collections.abc import Callable

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from centernet.ops.assign import Objects
from centernet.ops.grid import Pyramid
from centernet.ops.targets import TargetRules, build_targets

from .random_boxes import random_boxes
from .rounds import timed
from .tables import markdown

__all__ = ["measure_targets"]

STRIDES = (8, 16, 32, 64, 128)
SIZES_OF_INTEREST = ((0, 80), (64, 160), (128, 320), (256, 640), (512, 1e7))


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
    rows = []
    for count in (0, 10, 100, 500):
        zeros = torch.zeros(count, dtype=torch.int64)
        objects = Objects(random_boxes(count, height, width), zeros, zeros)

        def build(objects: Objects = objects) -> None:
            build_targets(objects, pyramid, rules)

        build()
        times = [1e3 * timed(build, "cpu").wall for _ in range(repeats)]
        rows.append([count, f"{statistics.median(times):.2f}", f"{min(times):.2f}", f"{peak_memory(build):.1f}"])
    print(markdown(["objects", "median ms", "fastest ms", "peak MB"], rows))
