"""`benchmark.py training`: time and memory of a training step with each option of the trainer, on random images.

Each measurement is a process of its own. Rounds are interleaved (every option once, then again), and an option is
compared with the plain run of its own round, so that a machine that slows down slows all of them. Memory is the peak of
the process (`VmHWM` of /proc; the libraries alone are some 500 MB of it) or, on a GPU, of its tensors.
"""

import argparse
import logging
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.engine import HookBase
from detectron2.structures import Boxes, Instances

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tools")]

from benchmarks.processes import from_proc, in_process  # noqa: E402
from benchmarks.random_boxes import random_boxes  # noqa: E402

import centernet  # noqa: E402, F401  registers the models
from centernet.config_file import load_config  # noqa: E402
from centernet.engine.ema import weight_average  # noqa: E402
from centernet.engine.optimizer import build_optimizer  # noqa: E402
from centernet.engine.preparation import check_preparation, prepare_for_training  # noqa: E402
from centernet.engine.step import check_step, step_options  # noqa: E402
from centernet.engine.trainer import Trainer  # noqa: E402
from centernet.errors import UserError, command_line  # noqa: E402
from centernet.modeling.build import build_detector  # noqa: E402

CONFIG = REPOSITORY / "configs" / "demo" / "CenterNet2_R18_bccd.yaml"
SIZE = 272, 363  # pixels: a photograph of 480 x 640 at the middle one of the demo's training sizes
OBJECTS, WARM_UP = 12, 3
AMP = ["SOLVER.AMP.ENABLED", True, "SOLVER.AMP.PRECISION"]
CHANNELS_LAST = ["MODEL.CHANNELS_LAST", True]
COMPILE = ["MODEL.COMPILE.ENABLED", True, "MODEL.COMPILE.CANVASES", None]  # the canvas is that of the images

OPTIONS: dict[str, list[Any]] = {
    "plain": [],
    "bfloat16": [*AMP, "bfloat16"],
    "float16": [*AMP, "float16"],
    "EMA": ["SOLVER.EMA.ENABLED", True],
    "accumulation 2": ["SOLVER.GRADIENT_ACCUMULATION", 2],
    "clipping by the norm of the model": [
        "SOLVER.CLIP_GRADIENTS.ENABLED", True, "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "full_model"
    ],
    "channels-last": CHANNELS_LAST,
    "compile": COMPILE,
    "activation checkpointing": ["MODEL.ACTIVATION_CHECKPOINTING", True],
    "AdamW": ["SOLVER.OPTIMIZER", "ADAMW"],
    "bfloat16, channels-last": [*AMP, "bfloat16", *CHANNELS_LAST],
    "bfloat16, channels-last, compile": [*AMP, "bfloat16", *CHANNELS_LAST, *COMPILE],
}  # fmt: skip
ON_GPU = {"float16"}  # half a minute an iteration on most CPUs


def random_batches(size: tuple[int, int], images: int, classes: int) -> Iterator[list[dict[str, Any]]]:
    """Noise with :data:`OBJECTS` boxes an image; the same batches in every process."""
    number = 0
    while True:
        batch = []
        for _ in range(images):
            random = np.random.RandomState(number)
            pixels = torch.from_numpy(random.randint(0, 256, (3, *size)).astype(np.uint8))
            boxes = Boxes(random_boxes(OBJECTS, *size, seed=number))
            labels = torch.from_numpy(random.randint(0, classes, OBJECTS))
            batch.append({"image": pixels, "instances": Instances(size, gt_boxes=boxes, gt_classes=labels)})
            number += 1
        yield batch


def configured(config: str, device: str, size: tuple[int, int], options: Sequence[Any]) -> Any:
    """The config with an option; rates so small that noise is not learned and the work stays that of the start."""
    canvas = [[-(-side // 32) * 32 for side in size]]
    given = [canvas if value is None else value for value in options]
    rate = 1e-6 if "ADAMW" in options else 1e-4
    fixed = ["MODEL.DEVICE", device, "MODEL.WEIGHTS", "", "SOLVER.BASE_LR", rate, "SOLVER.WARMUP_ITERS", 0]
    return load_config(config, [str(value) for value in [*fixed, *given]])


class Clock(HookBase):
    """Time of the iterations after the first :data:`WARM_UP`, the averaging of the weights included."""

    def __init__(self, device: str, average: Any) -> None:
        self.device, self.average, self.seconds = device, average, 0.0

    def before_train(self) -> None:
        if self.average is not None:
            self.average.start()

    def after_step(self) -> None:
        if self.average is not None:
            self.average.update()
        if self.trainer.iter + 1 == WARM_UP:
            self.seconds = -self._now()

    def after_train(self) -> None:
        self.seconds += self._now()

    def _now(self) -> float:
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


def measure(
    config: str, device: str, size: tuple[int, int], options: Sequence[Any], iterations: int, results: Any
) -> None:
    """In a process of its own: seconds an iteration and peak memory in MB, or the sentence why there is none."""
    logging.disable(logging.WARNING)
    try:
        cfg = configured(config, device, size, options)
        check_step(cfg, 1)
        check_preparation(cfg)
        torch.manual_seed(0)
        model = build_detector(cfg)
        prepare_for_training(cfg, model)
        optimizer = build_optimizer(cfg, model)
        schedule = torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)
        trainer = Trainer(model, optimizer, schedule, seed=1, **step_options(cfg))
        clock = Clock(device, weight_average(cfg, model))
        trainer.register_hooks([clock])
        trainer.open_data(random_batches(size, cfg.SOLVER.IMS_PER_BATCH, cfg.MODEL.ROI_HEADS.NUM_CLASSES))
        trainer.train(0, WARM_UP + iterations)
    except UserError as error:
        results.put({"error": str(error)})
        return
    memory = torch.cuda.max_memory_allocated() / 2**20 if device == "cuda" else from_proc("status", "VmHWM")
    results.put({"seconds": clock.seconds / iterations, "memory": memory, "images": cfg.SOLVER.IMS_PER_BATCH})


def table(found: dict[str, list[dict[str, Any]]]) -> str:
    """Markdown: medians over rounds, ratios to the plain run of the same round."""
    lines = [
        "| option | s / iteration | fastest | images / s | time, plain = 1 | peak memory MB | memory, plain = 1 |",
        "|---|---|---|---|---|---|---|",
    ]
    plain = found["plain"]
    for option, rounds in found.items():
        if failed := [r["error"] for r in rounds if "error" in r]:
            lines.append(f"| {option} | not here: {failed[0]} | | | | | |")
            continue
        seconds, memory = ([r[key] for r in rounds] for key in ("seconds", "memory"))
        middle, held = statistics.median(seconds), statistics.median(memory)
        slower, larger = (
            statistics.median(r[key] / p[key] for r, p in zip(rounds, plain, strict=True))
            for key in ("seconds", "memory")
        )
        speed = rounds[0]["images"] / middle
        lines.append(
            f"| {option} | {middle:.3f} | {min(seconds):.3f} | {speed:.2f} | {slower:.2f} | {held:.0f} | {larger:.2f} |"
        )
    return "\n".join(lines)


def measure_training(
    config: str = str(CONFIG),
    size: tuple[int, int] = SIZE,
    rounds: int = 3,
    iterations: int = 15,
    device: str = "cuda" if torch.cuda.is_available() else "cpu",
    options: Sequence[str] = (),
) -> None:
    """Print the table. ``options``: names of :data:`OPTIONS`; none: all that make sense on the device."""
    chosen = options or [name for name in OPTIONS if device == "cuda" or name not in ON_GPU]
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in dict.fromkeys(["plain", *chosen])}
    for _ in range(rounds):
        for name, measured in found.items():
            measured.append(in_process(measure, config, device, size, OPTIONS[name], iterations))
            print(f"{name}: {measured[-1]}", file=sys.stderr, flush=True)
    where = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"{Path(config).stem}, {size[0]} x {size[1]}, {rounds} rounds of {iterations} iterations, {where}\n")
    print(table(found))


@command_line
def main() -> None:
    """On its own: ``python tools/benchmarks/training.py --rounds 5``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config-file", default=str(CONFIG))
    parser.add_argument("--size", type=int, nargs=2, default=SIZE, metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=15, help=f"measured, after {WARM_UP} others")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--options", nargs="+", choices=OPTIONS, default=(), help="besides plain; all if not given")
    args = parser.parse_args()
    measure_training(args.config_file, tuple(args.size), args.rounds, args.iterations, args.device, args.options)


if __name__ == "__main__":
    raise SystemExit(main())
