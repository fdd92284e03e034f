"""Parts of a model that stay constant, named by regular expressions (MODEL.FREEZE)."""

import logging
import re
from collections.abc import Sequence

from detectron2.layers import FrozenBatchNorm2d
from torch import nn

from ..config_file import nearest_name
from ..errors import UserError

__all__ = ["check_patterns", "freeze"]

_logger = logging.getLogger(__name__)


def check_patterns(patterns: Sequence[str]) -> None:
    """Raise :class:`UserError` for an entry of MODEL.FREEZE that is no regular expression."""
    for pattern in patterns:
        try:
            re.compile(pattern)
        except (re.error, TypeError) as error:
            raise UserError(f"MODEL.FREEZE: {pattern!r} is not a regular expression ({error})") from error


def freeze(model: nn.Module, patterns: Sequence[str]) -> int:
    """Make every parameter constant whose name starts with a match of one of ``patterns``.

    A batch norm whose parameters are all constant keeps its statistics, too: it becomes a ``FrozenBatchNorm2d`` of the
    same names. Parameters that are constant already stay so.

    Returns:
        Number of parameters (tensors) that the patterns made constant.

    Raises:
        UserError: a pattern fits no parameter, or nothing is left to train.
    """
    check_patterns(patterns)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    chosen: set[str] = set()
    for pattern in patterns:
        found = {name for name in parameters if re.match(pattern, name)}
        if not found:
            near = _near(pattern, parameters)
            raise UserError(f"MODEL.FREEZE: no parameter has a name that starts like '{pattern}'{near}")
        chosen |= found
    count = sum(parameters[name].requires_grad for name in chosen)
    for name in chosen:
        parameters[name].requires_grad = False
    if patterns and not any(parameter.requires_grad for parameter in parameters.values()):
        raise UserError(f"MODEL.FREEZE {list(patterns)} leaves nothing to train: name less")
    norms = [name for name, module in model.named_modules() if _is_constant_norm(name, module, chosen)]
    for name in norms:
        parent, _, child = name.rpartition(".")
        model.get_submodule(parent).add_module(child, _constant(model.get_submodule(name)))
    if patterns:
        text = "MODEL.FREEZE: %d of %d parameters are constant, and the statistics of %d batch norms"
        _logger.info(text, len(chosen), len(parameters), len(norms))
    return count


def _is_constant_norm(name: str, module: nn.Module, chosen: set[str]) -> bool:
    own = {f"{name}.{leaf}" for leaf, _ in module.named_parameters(recurse=False)}
    return isinstance(module, nn.modules.batchnorm._BatchNorm) and bool(own) and own <= chosen


def _constant(norm: nn.Module) -> nn.Module:
    """timm's batch norms carry an activation, which detectron2's conversion would drop."""
    if type(norm).__module__.startswith("timm."):
        from timm.layers import freeze_batch_norm_2d

        return freeze_batch_norm_2d(norm)
    return FrozenBatchNorm2d.convert_frozen_batchnorm(norm)


def _near(pattern: str, names: dict[str, nn.Parameter]) -> str:
    """'; did you mean X?' with the part of a name, as deep as the pattern, that is most like it."""
    plain = re.sub(r"\\.", ".", pattern).strip("^$.*")
    prefixes = {".".join(name.split(".")[:k]) for name in names for k in range(1, name.count(".") + 2)}
    near = nearest_name(plain, sorted(prefixes), cutoff=0.0)
    return f"; the nearest is {near}" if near else ""
