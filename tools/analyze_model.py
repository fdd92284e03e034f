#!/usr/bin/env python3
"""Parameters, multiply-adds and activations of a model, part by part.

    python tools/analyze_model.py CenterNet2_R50_1x --size 512 640 --size 800 1344 --against faster_rcnn
    python tools/analyze_model.py configs/demo/CenterNet2_R18_digits.yaml --parameters --json model.json

fvcore counts while it traces one picture of noise: a multiply-add is one FLOP, as in papers; activations are the values
that convolutions, linear layers and ROI pooling put out. Random weights have their norms fitted to the picture, so that
the second stage sees as many regions as with trained ones. What is not counted is named.
"""

import argparse
import json
import logging
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from benchmarks.detectors import BASELINE, detector, title
from benchmarks.tables import markdown
from detectron2.export import TracingAdapter
from fvcore.nn import ActivationCountAnalysis, FlopCountAnalysis
from fvcore.nn.jit_handles import generic_activation_jit, get_shape
from torch import nn

from centernet.engine.atomic_file import write_text_atomically
from centernet.errors import UserError, command_line

BODIES = ("backbone.bottom_up", "backbone.base")
HEADS = ("proposal_generator.centernet_head", "proposal_generator.rpn_head")
OTHERS = {"roi_heads.mask_head": "mask head", "roi_heads.keypoint_head": "keypoint head"}
REST = {
    "backbone": "neck", "proposal_generator": "rest of the first stage",
    "roi_heads": "ROI pooling, scores, NMS", "": "rest",
}
ORDER = ("backbone", "neck", "first", "rest of", "ROI", "box", "mask", "keypoint", "rest")  # of the table
ADAPTIVE_SAMPLES = 2  # points a bin and axis that are taken for ROIAlign's "as many as the box spans cells"
Counts = dict[str, float]  # by the prefix of the part's modules


def parts(model: nn.Module) -> dict[str, str]:
    """``{prefix of module names: part}``; what is inside comes first: the first prefix that fits owns a tensor."""
    found = {name: "backbone" for name in BODIES if _has(model, name)}
    found |= {name: "first-stage head" for name in HEADS if _has(model, name)}
    for name, words in (("roi_heads.box_head", "box head"), ("roi_heads.box_predictor", "box predictor")):
        if not _has(model, name):
            continue
        module = model.get_submodule(name)
        stages = len(module) if isinstance(module, nn.ModuleList) else 0
        found |= {f"{name}.{k}": f"{words} {k + 1}" for k in range(stages)} or {name: words}
    found |= {name: words for name, words in OTHERS.items() if _has(model, name)}
    return found | {name: words for name, words in REST.items() if _has(model, name)}


def _has(model: nn.Module, name: str) -> bool:
    try:
        model.get_submodule(name)
    except AttributeError:
        return False
    return True


def count_parameters(model: nn.Module) -> Counts:
    """Of each prefix of :func:`parts`."""
    prefixes = parts(model)
    counts: Counts = dict.fromkeys(prefixes, 0)
    for name, parameter in model.named_parameters():
        counts[next(p for p in prefixes if not p or name.startswith(f"{p}."))] += parameter.numel()
    return counts


def _per_part(by_module: dict[str, float], model: nn.Module) -> Counts:
    """What modules count, their children included, as parts without one another; a neck is its backbone's rest."""
    prefixes = parts(model)
    whole = {p: float(by_module.get(f"model.{p}" if p else "", 0)) for p in prefixes}
    counts = dict(whole)
    for prefix in prefixes:
        parent = next((p for p in prefixes if p != prefix and (not p or prefix.startswith(f"{p}."))), None)
        if parent is not None:
            counts[parent] -= whole[prefix]
    return counts


# ----------------------------------------------------------------------------------------------------- operators


def _roi_align_flops(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    """Four corners a sampling point."""
    return Counter({"roi_align": 4 * ADAPTIVE_SAMPLES**2 * prod(get_shape(outputs[0]))})


def _deform_conv_flops(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    """The convolution, and four corners a sampling point of each input channel."""
    out, weight, x = (get_shape(value) for value in (outputs[0], inputs[1], inputs[0]))
    taps = weight[2] * weight[3]
    sampling = 4 * x[0] * x[1] * taps * out[2] * out[3]
    return Counter({"deform_conv2d": prod(out) * weight[1] * taps + sampling})


def _nms_flops(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    """At most: two multiplications for the overlap of each pair of boxes."""
    boxes = get_shape(inputs[0])
    return Counter({"nms": prod(boxes[:-2]) * boxes[-2] * (boxes[-2] - 1)})


HANDLERS: dict[str, Callable[..., Counter[str]]] = {
    "torchvision::roi_align": _roi_align_flops,
    "centernet::roi_align_levels": _roi_align_flops,
    "torchvision::deform_conv2d": _deform_conv_flops,
    "torchvision::nms": _nms_flops,
    "centernet::nms_best": _nms_flops,
}


def count_work(model: nn.Module, size: tuple[int, int]) -> tuple[Counts, Counts, dict[str, int]]:
    """Of one picture.

    Args:
        size: height and width, pixels.

    Returns:
        Multiply-adds and activations of each prefix of :func:`parts`, and how often an operator that is not counted
        was met.
    """
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8)
    batch = [{"image": image, "height": size[0], "width": size[1]}]
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        traced = TracingAdapter(model, batch, allow_non_tensor=True)
        flops = FlopCountAnalysis(traced, traced.flattened_inputs).set_op_handle(**HANDLERS)
        activations = ActivationCountAnalysis(traced, traced.flattened_inputs)
        pooled = [name for name in HANDLERS if "nms" not in name]
        activations.set_op_handle(**{name: generic_activation_jit(name.split("::")[1]) for name in pooled})
        for analysis in (flops, activations):
            analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
        found = [_per_part(analysis.by_module(), model) for analysis in (flops, activations)]
        return found[0], found[1], dict(flops.unsupported_ops())


# --------------------------------------------------------------------------------------------------------- report


def analyze(name: str, sizes: Sequence[tuple[int, int]], opts: Sequence[str] = ()) -> dict[str, Any]:
    """Everything about a model of :func:`benchmarks.detectors.detector`; no sizes: parameters alone."""
    largest = max(sizes, key=prod, default=(0, 0))
    model = detector(name, "cpu", largest, opts=tuple(opts), fitted=bool(sizes))
    names, parameters = parts(model), count_parameters(model)
    report: dict[str, Any] = {"model": title(name), "parts": [], "sizes": [list(size) for size in sizes]}
    work = [count_work(model, size) for size in sizes]
    for prefix, part in names.items():
        row = {"part": part, "parameters": int(parameters[prefix])}
        row |= {"flops": [flops[prefix] for flops, _, _ in work]}
        row |= {"activations": [activations[prefix] for _, activations, _ in work]}
        report["parts"].append(row)
    report["parameters"] = sum(p.numel() for p in model.parameters())
    report["trainable"] = sum(p.numel() for p in model.parameters() if p.requires_grad)
    for index, kind in enumerate(("flops", "activations")):
        report[kind] = [sum(counts[index].values()) for counts in work]
    report["not_counted"] = work[0][2] if work else {}
    return report


def table(report: dict[str, Any]) -> str:
    """Markdown; parts without anything are left out."""
    sizes = [f"{height} x {width}" for height, width in report["sizes"]]
    columns = [report["model"], "parameters", *(f"{what}, {s}" for s in sizes for what in ("GFLOP", "M activations"))]

    def cells(part: str, row: dict[str, Any]) -> list[str]:
        pairs = zip(row["flops"], row["activations"], strict=True)
        return [part, f"{row['parameters']:,}", *(f"{v:.2f}" for f, a in pairs for v in (f / 1e9, a / 1e6))]

    rows = [row for row in report["parts"] if row["parameters"] or any(row["flops"]) or any(row["activations"])]
    rows.sort(key=lambda row: next(rank for rank, word in enumerate(ORDER) if row["part"].startswith(word)))
    return markdown(columns, [*(cells(row["part"], row) for row in rows), cells("all", report)])


def comparison(report: dict[str, Any], other: dict[str, Any]) -> str:
    """Ratios of the totals."""
    words = [f"parameters {report['parameters'] / other['parameters']:.2f}"]
    for kind in ("flops", "activations"):
        for size, mine, theirs in zip(report["sizes"], report[kind], other[kind], strict=True):
            words.append(f"{kind} at {size[0]} x {size[1]} {mine / theirs:.2f}")
    return f"{report['model']} / {other['model']}: {', '.join(words)}."


@command_line
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="MODEL", help="name of the model zoo or YAML file")
    sides = {"metavar": ("HEIGHT", "WIDTH"), "help": "may be given several times; default 512 640"}
    parser.add_argument("--size", type=int, nargs=2, action="append", **sides)
    parser.add_argument("--parameters", action="store_true", help="count parameters alone: nothing runs")
    parser.add_argument("--against", choices=(BASELINE, "cascade_rcnn"), help="a model of detectron2's beside it")
    parser.add_argument("--opts", nargs="+", default=[], metavar="KEY VALUE", help="overrides of the config")
    parser.add_argument("--json", metavar="FILE", help="everything into a file")
    args = parser.parse_args(argv)
    logging.disable(logging.WARNING)
    sizes = [] if args.parameters else [tuple(size) for size in args.size or [(512, 640)]]
    if any(side < 32 for size in sizes for side in size):
        raise UserError("--size must be at least 32 pixels on each side")
    reports = [analyze(name, sizes, args.opts) for name in args.models]
    if args.against:
        reports.append(analyze(args.against, sizes))
    for report in reports:
        print(table(report), "\n")
        if report["not_counted"]:
            words = ", ".join(f"{name.split('::')[1]} {count}" for name, count in report["not_counted"].items())
            print(f"Not counted (operator, calls): {words}.\n")
    if args.against:
        for report in reports[:-1]:
            print(comparison(report, reports[-1]))
    if args.json:
        write_text_atomically(args.json, json.dumps(reports, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
