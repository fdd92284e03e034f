"""The optimiser of a config: SGD as detectron2 builds it, or AdamW; rates that decrease down the body."""

import re
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.solver.build import get_default_optimizer_params, reduce_param_groups
from torch import nn

from ..errors import UserError
from ..modeling.backbone.depth import BodyLayers, body_layers
from .clipping import with_clipping

__all__ = ["OptimizerState", "build_optimizer", "check_optimizer"]

_KINDS = ("SGD", "ADAMW")


def check_optimizer(cfg: CfgNode) -> None:
    """Raise :class:`UserError` for an optimiser that does not exist or a LAYER_DECAY that makes no sense."""
    node = cfg.SOLVER
    if node.OPTIMIZER not in _KINDS:
        raise UserError(f"SOLVER.OPTIMIZER is '{node.OPTIMIZER}': use one of {', '.join(_KINDS)}")
    for entry in node.LR_FACTORS:
        _check_factor(entry)
    if not 0 < node.LAYER_DECAY <= 1:
        raise UserError(f"SOLVER.LAYER_DECAY is {node.LAYER_DECAY}: it must be above 0 and at most 1 (1: none)")


def _check_factor(entry: Any) -> None:
    try:
        pattern, factor = entry
        re.compile(pattern)
        if not factor > 0:
            raise ValueError
    except (TypeError, ValueError, re.error):
        raise UserError(
            f"SOLVER.LR_FACTORS has the entry {entry!r}: give pairs of a regular expression and a number above 0"
        ) from None


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """The optimiser over the trainable parameters of ``model``, with gradient clipping inside if it is asked for.

    SGD is detectron2's. AdamW takes the same keys; besides norms, layer scales, position biases and the like in a
    body of timm (all that its authors leave out) have WEIGHT_DECAY_NORM. With SOLVER.LAYER_DECAY ``d`` a parameter in
    layer ``i`` of the ``n`` of the body has the rate ``BASE_LR * d ** (n - i)`` (BEiT, arXiv 2106.08254).
    SOLVER.LR_FACTORS multiplies these rates.

    Returns:
        Its first group has the full learning rate, which the log shows.

    Raises:
        UserError: SOLVER.LAYER_DECAY, and the layers of this body are not known.
    """
    node = cfg.SOLVER
    groups = get_default_optimizer_params(
        model,
        base_lr=node.BASE_LR,
        weight_decay_norm=node.WEIGHT_DECAY_NORM,
        bias_lr_factor=node.BIAS_LR_FACTOR,
        weight_decay_bias=node.WEIGHT_DECAY_BIAS,
    )
    adamw = node.OPTIMIZER == "ADAMW"
    if adamw or node.LAYER_DECAY != 1:
        layers = body_layers(model)
        if layers is None and node.LAYER_DECAY != 1:
            raise UserError(
                f"SOLVER.LAYER_DECAY is {node.LAYER_DECAY}, but the layers of {cfg.MODEL.BACKBONE.NAME} are not known: "
                "it works with ResNets and with timm's networks that group their layers; set it to 1"
            )
        norm_decay = node.WEIGHT_DECAY_NORM if adamw else None
        groups = _by_layer(model, groups, layers or BodyLayers({}, 0, frozenset()), node.LAYER_DECAY, norm_decay)
    if node.LR_FACTORS:
        groups = _with_factors(model, groups, node.LR_FACTORS)
    kind: Any = with_clipping(cfg, torch.optim.AdamW if adamw else torch.optim.SGD)
    momentum = {} if adamw else {"momentum": node.MOMENTUM, "nesterov": node.NESTEROV}
    optimizer: torch.optim.Optimizer = kind(groups, lr=node.BASE_LR, weight_decay=node.WEIGHT_DECAY, **momentum)
    return optimizer


def _with_factors(model: nn.Module, groups: list[dict[str, Any]], factors: list[list[Any]]) -> list[dict[str, Any]]:
    """``groups`` with rates multiplied by the factor of the first pattern that the start of a name fits."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    plain: list[dict[str, Any]] = []
    changed: list[dict[str, Any]] = []
    for group in groups:
        for parameter in group["params"]:
            own = {**group, "params": [parameter]}
            factor = next((f for pattern, f in factors if re.match(pattern, names[id(parameter)])), None)
            if factor is not None:
                own["lr"] = group["lr"] * factor
            (plain if factor is None else changed).append(own)
    return list(reduce_param_groups(plain + changed))


class OptimizerState:
    """An optimiser as a part of checkpoints: what it has gathered is loaded; rates, decays and momentum stay those of
    the config."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer

    def state_dict(self) -> dict[str, Any]:
        """The optimiser's."""
        return self._optimizer.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` returned.

        Raises:
            UserError: it is of an optimiser of another kind, or of other parameters.
        """
        groups, saved = self._optimizer.param_groups, state_dict["param_groups"]
        sizes = [[len(group["params"]) for group in each] for each in (groups, saved)]
        # a newer PyTorch has more settings than an older one; of two kinds, each has some of its own
        kinds = zip(groups, saved, strict=False)
        if sizes[0] != sizes[1] or any(a.keys() - b.keys() and b.keys() - a.keys() for a, b in kinds):
            raise UserError(
                "the checkpoint's optimiser is not that of this config: set SOLVER.OPTIMIZER, SOLVER.LAYER_DECAY, the "
                "weight decays and what is frozen (MODEL.FREEZE, FREEZE_AT) back to what the run began with (see its "
                "log.txt), or start anew, without --resume, with the checkpoint as MODEL.WEIGHTS"
            )
        own = [{name: value for name, value in group.items() if name != "params"} for group in groups]
        self._optimizer.load_state_dict(state_dict)
        for group, settings in zip(self._optimizer.param_groups, own, strict=True):
            group.update(settings)


def _by_layer(
    model: nn.Module, groups: list[dict[str, Any]], layers: BodyLayers, decay: float, norm_decay: float | None
) -> list[dict[str, Any]]:
    """``groups`` with rates by layer and, unless ``norm_decay`` is None, that decay for what counts as a norm."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    full: list[dict[str, Any]] = []
    lower: list[dict[str, Any]] = []
    for group in groups:
        for parameter in group["params"]:
            name = names[id(parameter)]
            own = {**group, "params": [parameter]}
            if name in layers.of and decay != 1:
                own["lr"] = group["lr"] * decay ** (layers.number - layers.of[name])
            if norm_decay is not None and name in layers.undecayed:
                own["weight_decay"] = norm_decay
            (lower if name in layers.of and decay != 1 else full).append(own)
    return list(reduce_param_groups(full + lower))
