"""Less memory in training: stages of the body keep their inputs only and are computed again in the backward pass.

Source: "Training deep nets with sublinear memory cost" (arXiv 1604.06174); :mod:`torch.utils.checkpoint`.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from .backbone.depth import find_body
from .backbone.timm_body import TimmBody

__all__ = ["checkpoint_stages"]


def checkpoint_stages(model: nn.Module) -> list[str]:
    """Let the stages of the body of a detector be computed again in the backward pass.

    Stages are the outermost modules with trainable parameters that the body calls: stem, res2, ... of a ResNet,
    levels of DLA, stages of timm's networks. Names of modules and tensors stay as they are. The second computation
    draws the same random numbers and leaves the statistics of batch norms alone, so losses, gradients and statistics
    are those of training without.

    Returns:
        Names of the stages.
    """
    prefix, body = find_body(model)
    if isinstance(body, TimmBody):
        prefix, body = f"{prefix}.body", body.body
    stages = _outermost_called(model, body)
    for name in stages:
        stage = body.get_submodule(name)
        stage.forward = _recomputed(stage, stage.forward)  # type: ignore[method-assign]
    return [f"{prefix}.{name}" for name in stages]


def _recomputed(stage: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
    def contexts() -> tuple[AbstractContextManager, AbstractContextManager]:
        return nullcontext(), _statistics_kept(stage)

    def recomputed(*args: Any, **kwargs: Any) -> Any:
        if not (stage.training and torch.is_grad_enabled()):
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, context_fn=contexts, **kwargs)

    return recomputed


@contextmanager
def _statistics_kept(stage: nn.Module) -> Iterator[None]:
    """Whatever is written into the buffers of ``stage`` meanwhile is written into copies."""
    owners = [module._buffers for module in stage.modules()]
    kept = [(owner, dict(owner)) for owner in owners]
    for owner in owners:
        owner.update({name: buffer.clone() for name, buffer in owner.items() if buffer is not None})
    try:
        yield
    finally:
        for owner, buffers in kept:
            owner.update(buffers)


def _outermost_called(model: nn.Module, body: nn.Module) -> list[str]:
    """Names in ``body`` of the modules that a forward pass calls, without those inside others; tried with an image."""
    called: list[str] = []
    depth = 0

    def enter(name: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            nonlocal depth
            if depth == 0 and name not in called:
                called.append(name)
            depth += 1

        return hook

    def leave(*_: Any) -> None:
        nonlocal depth
        depth -= 1

    inside = [(name, module) for name, module in body.named_modules() if name]
    handles = [module.register_forward_pre_hook(enter(name)) for name, module in inside]
    handles += [module.register_forward_hook(leave) for _, module in inside]
    backbone = model.get_submodule("backbone")
    modes = [(module, module.training) for module in model.modules()]
    first = next(body.parameters())
    side = max(64, int(getattr(backbone, "size_divisibility", 0)))
    channels = int(model.get_buffer("pixel_mean").numel())
    try:
        backbone.eval()
        with torch.no_grad():
            backbone(torch.zeros(1, channels, side, side, device=first.device, dtype=first.dtype))
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes:
            module.training = mode
    return [name for name in called if any(p.requires_grad for p in body.get_submodule(name).parameters())]
