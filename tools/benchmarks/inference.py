"""`benchmark.py inference`: latency, throughput, memory and stages of models run in several ways, beside detectron2's
Faster and Cascade R-CNN and torchvision's Faster R-CNN.

All rows of a batch size alternate in one process; a ratio is the median of the ratios turn by turn. Peak memory is
measured in a process of its own: on a CPU what the process grows by, from its imports to its largest size during two
batches (the weights are part of it), on a GPU the most that PyTorch's allocator holds. A way that is not to be had
here is a line with its reason.
"""

import argparse
import datetime
import gc
import json
import logging
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from centernet.engine.atomic_file import write_text_atomically
from centernet.errors import UserError
from centernet.inference.outputs import check_writable

from .contenders import (
    EAGER,
    OPTIMISED,
    VARIANTS,
    Case,
    build_call,
    count_detections,
    default_variants,
    pictures,
    watched_call,
)
from .detectors import BASELINE, RIVALS, config_of, is_rival, title
from .processes import forget_peak, from_proc, in_process
from .rounds import busy_share, paired_ratio, take_turns
from .stages import StageClock, model_seconds, picture_seconds, stage_table
from .tables import command, fill_markers, hardware, markdown, spread, versions

__all__ = ["add_arguments", "measure"]

MARKER = "benchmark inference"
PRESETS = {
    "cpu": (["CenterNet2_R50_1x", "CenterNet2_DLA-BiFPN-P3_4x"], list(RIVALS)),
    "cuda": (
        ["CenterNet2_R50_1x", "CenterNet2_DLA-BiFPN-P5_640_24x_ST", "CenterNet2_X101-DCN_2x"],
        [BASELINE, "cascade_rcnn"],
    ),
}
PACKAGES = ("torch", "torchvision", "detectron2", "onnxruntime", "numpy")
COLUMNS = ("run as", "ms a batch", "images / s", "CPU ms", "Faster R-CNN = 1", "by CPU time", "peak MB", "boxes")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the subcommand."""
    cuda = torch.cuda.is_available()
    add = parser.add_argument
    add("--models", nargs="+", metavar="MODEL", help="names of the model zoo or YAML files; default: those of the bars")
    add("--against", nargs="*", choices=RIVALS, help="rivals; default: those of the device")
    add("--variants", nargs="+", choices=VARIANTS, help="ways to run our models; default: all of the device")
    add("--device", choices=("cpu", "cuda"), default="cuda" if cuda else "cpu")
    add("--size", type=int, nargs=2, default=(512, 640), metavar=("HEIGHT", "WIDTH"), help="pixels")
    add("--batch", type=int, nargs="+", default=[1], help="batch sizes")
    add("--turns", type=int, help="measured; default 15 on a CPU, 50 on a GPU")
    add("--warm-up", type=int, help="turns before; default 2 on a CPU, 10 on a GPU")
    add("--weights", default="", help="for the (single) model; default: random weights of seed 0")
    add("--opts", nargs="+", default=[], metavar="KEY VALUE", help="overrides of the config of our models")
    add("--fit-norms", action="store_true", help="random weights with features, and so regions, as if trained")
    add("--picture", help="for the stages load and resize; default: a JPEG of noise")
    add("--no-memory", action="store_true", help="leave out the processes that measure memory")
    add("--no-stages", action="store_true", help="leave out the table of stages")
    add("--json", metavar="FILE", help="all turns; written as soon as there are any")
    add("--markdown", metavar="FILE", help="the tables into a file")
    add("--write", metavar="FILE", help=f"the tables between the markers '{MARKER}' of a page: docs/BENCHMARKS.md")


def measure(args: argparse.Namespace) -> int:
    """Measure, print, and write what is asked for. An interrupted run keeps what it has, and leaves ``--write`` alone.

    Raises:
        UserError: a model or a file that does not exist, or options that do not fit.
    """
    logging.disable(logging.WARNING)
    _check(args)
    settings = _settings(args)
    text, report = [_heading(args, settings)], {"settings": settings, "rows": [], "stages": {}, "interrupted": False}
    print(text[0], flush=True)
    with _signals(), tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        steps: list[Callable[[], str]] = [partial(_batch, args, batch, folder, report) for batch in args.batch]
        steps += [] if args.no_stages else [partial(_stages, args, folder, report)]
        for step in steps:
            try:
                text.append(step())
                print(f"\n{text[-1]}", flush=True)
            except KeyboardInterrupt:
                report["interrupted"] = True
            _save(args, report)
            if args.markdown:
                write_text_atomically(args.markdown, "\n\n".join(text) + "\n")
            if report["interrupted"]:
                print("\nInterrupted: these are the results so far.")
                return 130
    if args.write:
        fill_markers(args.write, MARKER, "\n\n".join(text))
    return 0


def _check(args: argparse.Namespace) -> None:
    models, rivals = PRESETS[args.device]
    args.models = args.models or models
    args.against = rivals if args.against is None else args.against
    gpu = args.device == "cuda"
    args.turns = (50 if gpu else 15) if args.turns is None else args.turns
    args.warm_up = (10 if gpu else 2) if args.warm_up is None else args.warm_up
    if gpu and not torch.cuda.is_available():
        raise UserError("--device cuda: PyTorch sees no GPU here; use --device cpu")
    if args.weights and len(args.models) > 1:
        raise UserError("--weights is for one model: name it with --models")
    if args.weights and args.fit_norms:
        raise UserError("--fit-norms is for random weights: leave it or --weights out")
    if min(args.turns, *args.batch, *args.size) < 1 or args.warm_up < 0:
        raise UserError("--turns, --batch and --size must be positive, --warm-up at least 0")
    for name in args.models:
        config_of(name, args.device, tuple(args.opts))
    if args.write and not Path(args.write).is_file():
        raise UserError(f"--write: there is no file {args.write}")
    for file in filter(None, (args.json, args.markdown)):
        check_writable(Path(file))


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    kept = ("models", "against", "device", "size", "batch", "turns", "warm_up", "weights", "opts", "fit_norms")
    return {name: getattr(args, name) for name in kept} | {
        "date": datetime.date.today().isoformat(),
        "hardware": hardware(args.device),
        "versions": versions(PACKAGES),
        "command": command(),
    }


def _heading(args: argparse.Namespace, settings: dict[str, Any]) -> str:
    weights = "weights of a file" if args.weights else "random weights of seed 0"
    weights += ", norms fitted to the pictures" if args.fit_norms else ""
    return (
        f"`{settings['command']}`, {settings['date']}: {settings['hardware']}. {settings['versions']}. "
        f"{args.size[0]} x {args.size[1]} pixels, {weights}. Medians of {args.turns} alternating turns, in brackets "
        "the 10th and 90th percentile."
    )


@contextmanager
def _signals() -> Iterator[None]:
    """A kill is an interrupt: what was measured is kept."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _save(args: argparse.Namespace, report: dict[str, Any]) -> None:
    if args.json:
        write_text_atomically(args.json, json.dumps(report, indent=1))


# ------------------------------------------------------------------------------------------------- one batch size


def _cases(args: argparse.Namespace, batch: int, folder: str) -> list[Case]:
    return [
        Case(
            *(name, variant, args.device, tuple(args.size), batch),
            *(args.weights, tuple(args.opts), args.fit_norms, folder),
        )
        for name in [*args.against, *args.models]
        for variant in (not is_rival(name) and args.variants) or default_variants(name, args.device)
    ]


def _batch(args: argparse.Namespace, batch: int, folder: str, report: dict[str, Any]) -> str:
    """Measure all rows of a batch size, add them to ``report``, and return their table."""
    cases = _cases(args, batch, folder)
    rows = [{"model": c.model, "title": title(c.model), "variant": c.variant, "batch": batch} for c in cases]
    report["rows"] += rows
    try:
        _measure_time(args, cases, rows)
        _save(args, report)  # the processes that follow take minutes
        gc.collect()
        for case, row in zip(cases, rows, strict=True):
            if "error" not in row and not args.no_memory:
                row.update(in_process(measure_memory, case))
    except KeyboardInterrupt:
        report["interrupted"] = True
    return batch_table(rows, batch)


def _measure_time(args: argparse.Namespace, cases: Sequence[Case], rows: Sequence[dict[str, Any]]) -> None:
    """Add to the rows their turns, or the reason why there are none.

    Raises:
        KeyboardInterrupt: with the turns so far in the rows.
    """
    calls: list[tuple[dict[str, Any], Callable[[], Any]]] = []
    for case, row in zip(cases, rows, strict=True):
        try:
            call = build_call(case)
            with torch.inference_mode():
                row["boxes"] = count_detections(call())
            calls.append((row, call))
        except Exception as error:  # one way that does not work here must not cost the others
            sentence = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            row["error"] = sentence.splitlines()[0]
    name = f"batch {rows[0]['batch']}"
    turns, interrupted = take_turns([call for _, call in calls], args.turns, args.warm_up, args.device, name)
    for (row, _), taken in zip(calls, turns, strict=True):
        row["wall"], row["cpu"] = [turn.wall for turn in taken], [turn.cpu for turn in taken]
    if interrupted:
        raise KeyboardInterrupt
    if args.device == "cuda":
        for row, call in calls:
            row["busy"] = busy_share(call, spread(row["wall"]).median)


def measure_memory(case: Case, results: Any) -> None:
    """In a process of its own: most MB held while a model is built and two batches run."""
    logging.disable(logging.WARNING)
    pictures(case.size, case.batch)
    forget_peak()
    before = from_proc("status", "VmRSS")
    call = build_call(case)
    with torch.inference_mode():
        for _ in range(2):
            call()
    if case.device == "cuda":
        results.put({"memory": torch.cuda.max_memory_allocated() / 2**20})
    else:
        results.put({"memory": from_proc("status", "VmHWM") - before})


def batch_table(rows: Sequence[dict[str, Any]], batch: int) -> str:
    """Markdown of the rows of one batch size; those with ``error`` say why they have no figures."""
    base = next((row for row in rows if row["model"] == BASELINE and row.get("wall")), None)
    gpu = any("busy" in row for row in rows)
    columns = [f"batch {batch}: model", *COLUMNS, *(["GPU busy"] if gpu else [])]
    lines = []
    for row in rows:
        cells = [row["title"], row["variant"]]
        if "error" in row:
            cells.append(f"not here: {row['error'][:160]}")
        elif row.get("wall"):
            wall, cpu = spread([1e3 * value for value in row["wall"]]), spread([1e3 * value for value in row["cpu"]])
            ratios = [f"{paired_ratio(row[key], base[key]):.2f}" if base else "" for key in ("wall", "cpu")]
            memory = f"{row['memory']:,.0f}" if "memory" in row else ""
            digits = 0 if wall.median >= 100 else 1
            speed = f"{1e3 * batch / wall.median:.3g}"
            cells += [wall.text(digits), speed, f"{cpu.median:.{digits}f}", *ratios, memory, row["boxes"]]
            cells += [f"{100 * row['busy']:.0f} %"] if "busy" in row else []
        lines.append(cells)
    return markdown(columns, lines)


# --------------------------------------------------------------------------------------------------------- stages


def _stages(args: argparse.Namespace, folder: str, report: dict[str, Any]) -> str:
    """The table of stages of all models at batch 1: eager, and optimised without compiling, which hides stages."""
    size, clock = tuple(args.size), StageClock(args.device)
    picture = picture_seconds(size, StageClock("cpu"), folder, args.picture)
    found: dict[str, list[dict[str, list[float]]]] = {}
    current: dict[str, list[float]] = {}
    calls: list[Callable[[], Any]] = [lambda: current.update(picture())]

    def take(name: str, call: Callable[[], Any], model: nn.Module) -> None:
        found[name].append({**current, **model_seconds(call, model, clock)})

    for case in _cases(args, 1, folder):
        if case.variant not in (EAGER, OPTIMISED):
            continue
        name = title(case.model) + (", optimised, not compiled" if case.variant == OPTIMISED else "")
        try:
            call, model = watched_call(case)
        except (ImportError, UserError):
            continue  # the table before says why
        found[name] = []
        calls.append(partial(take, name, call, model))
    turns, report["interrupted"] = take_turns(calls, args.turns, args.warm_up, args.device, "stages")
    whole = len(turns[0])
    if not whole:
        return "No turn of the stages was finished."
    report["stages"] = {name: taken[args.warm_up :][:whole] for name, taken in found.items()}
    return stage_table(report["stages"])
