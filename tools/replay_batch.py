#!/usr/bin/env python3
"""Run a batch again that a training kept because a loss or gradient was nan or infinite.

    python tools/replay_batch.py output/my/bad_batches/iteration_0001234_rank0.pth
    python tools/replay_batch.py DUMP --weights output/my/model_0000999.pth     do other weights take it?
    python tools/replay_batch.py DUMP --device cuda SOLVER.AMP.ENABLED False    and without mixed precision?

The model is that of the run (the dump has its config), with the weights and random numbers of that step. Prints what is
wrong with the batch itself, the losses, and the first module whose output is not finite; if all of them are finite, the
first parameter whose gradient is not. Weights do not change, nothing is written. No code of the dump runs.

Exit status: 0 everything is finite, 1 something is not, 2 something to mend (one line says what).
"""

import argparse
import logging
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from detectron2.config import CfgNode
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

import centernet  # noqa: F401  registers models
from centernet.config_file import load_config, resolve_device
from centernet.engine.batch_dump import read_batch_dump
from centernet.engine.checkpoint import TrainingCheckpointer
from centernet.engine.precision import Precision
from centernet.engine.preparation import prepare_for_training
from centernet.engine.random_state import restore_random_state
from centernet.errors import UserError, command_line
from centernet.modeling.build import build_detector
from centernet.modeling.finite_check import NonFiniteError, settle_finite_checks


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("dump", metavar="DUMP", help="a file of OUTPUT_DIR/bad_batches")
    add("--weights", default="", metavar="FILE", help="default: those of that step, kept beside the dump")
    add("--device", default="", metavar="DEVICE", help="cpu or cuda (default: that of the run, if it is there)")
    add("opts", nargs="*", metavar="KEY VALUE", help="config settings that replace those of the run")
    return parser.parse_intermixed_args(arguments)


@command_line
def main(arguments: list[str] | None = None) -> int:
    """Replay; returns the exit status."""
    options = parse(arguments)
    logging.getLogger("detectron2").setLevel(logging.WARNING)
    dump = read_batch_dump(options.dump)
    cfg = _config(dump, options)
    model = build_detector(cfg)
    prepare_for_training(cfg, model)
    precision = Precision.from_config(cfg)
    precision.prepare(model)
    TrainingCheckpointer(model).resume_or_load(_weights(dump, options), resume=False)
    print(f"iteration {dump['iteration']}, rank {dump['rank']} of {dump['world_size']}: {dump['reason']}")
    for number, sample in enumerate(dump["batch"]):
        print(f"image {number}: {_described(sample)}")
    found = replay(model, dump["batch"], dump["random_state"], precision)
    print(f"\n{found or 'Everything is finite, the gradients too.'}")
    return 1 if found else 0


def replay(model: nn.Module, batch: list[dict[str, Any]], random_state: dict[str, Any], precision: Precision) -> str:
    """Forward and backward pass of a model in training mode; prints the losses.

    Returns:
        What is not finite first, in words; '' if everything is finite.
    """
    first: list[str] = []
    hooks = [m.register_forward_hook(_watching(name, first)) for name, m in model.named_modules() if name]
    model.train()
    restore_random_state(random_state)
    stopped = ""
    losses: dict[str, Tensor] = {}
    with EventStorage(0):
        try:
            with precision.autocast():
                losses = model(batch)
            settle_finite_checks(model)
        except NonFiniteError as error:
            stopped = str(error)
    for hook in hooks:
        hook.remove()
    for name, loss in losses.items():
        print(f"{name} {loss.item():.6g}")
    if first:
        return f"First output that is not finite: {first[0]}"
    if stopped:
        return f"Not finite: {stopped}"
    bad = [name for name, loss in losses.items() if not torch.isfinite(loss)]
    if bad:
        return f"Every module's output is finite, but these losses are not: {', '.join(bad)}"
    sum(losses.values(), torch.zeros(())).backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and not torch.isfinite(parameter.grad).all():
            return f"The losses are finite, but the gradient of {name} is not"
    return ""


def _config(dump: dict[str, Any], options: argparse.Namespace) -> CfgNode:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "config.yaml"
        file.write_text(dump["config"], "utf-8")
        cfg = load_config(file, options.opts)
    cfg.MODEL.COMPILE.ENABLED = False  # minutes, and modules could not be watched
    if options.device:
        cfg.MODEL.DEVICE = options.device
    resolve_device(cfg)
    return cfg


def _weights(dump: dict[str, Any], options: argparse.Namespace) -> str:
    if options.weights:
        return str(options.weights)
    beside = Path(options.dump).with_name(Path(dump["weights"]).name) if dump["weights"] else None
    if beside is None or not beside.is_file():
        raise UserError(
            f"the weights of that step are not in {Path(options.dump).parent}: give --weights, for example the last "
            "checkpoint of the run"
        )
    return str(beside)


def _described(sample: dict[str, Any]) -> str:
    image, objects = sample["image"], sample.get("instances")
    words = [str(sample.get("file_name", "(no file name)")), f"{image.shape[-1]}x{image.shape[-2]}"]
    if not torch.isfinite(image.float()).all():
        words.append("THE IMAGE IS NOT FINITE")
    if objects is not None:
        words.append(f"{len(objects)} objects")
        boxes = objects.gt_boxes.tensor
        if not torch.isfinite(boxes).all():
            words.append("A BOX IS NOT FINITE")
        elif len(boxes) and ((boxes[:, 2:] - boxes[:, :2]) <= 0).any():
            words.append("a box is empty")
    return ", ".join(words)


def _watching(name: str, first: list[str]) -> Any:
    def hook(module: nn.Module, inputs: Any, output: Any) -> None:
        if first or all(map(_finite, _tensors(output))):
            return
        from_inputs = "" if all(map(_finite, _tensors(inputs))) else ", whose inputs are not finite already"
        weights = [n for n, p in module.named_parameters(recurse=False) if not _finite(p)]
        broken = f"; its {' and '.join(weights)} not finite" if weights else ""
        first.append(f"{name} ({type(module).__name__}{from_inputs}{broken})")

    return hook


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from (t for item in value.values() for t in _tensors(item))
    elif isinstance(value, list | tuple):
        yield from (t for item in value for t in _tensors(item))


def _finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor.detach()).all())


if __name__ == "__main__":
    sys.exit(main())
