"""Constant norms folded into the convolutions before them.

A batch norm with stored statistics is an affine map of channels, so its factor and shift fit into the weight and bias
of the convolution whose output it takes. Which norm follows which convolution is seen in one run of the model, at the
level of operators: names, attributes and the code of the modules do not matter.
"""

import logging
from collections import defaultdict
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["fold_norms"]

_TOLERANCE = 1e-4  # of the largest value of an output: more than rounding
_logger = logging.getLogger(__name__)


@torch.no_grad()
def fold_norms(model: nn.Module, run: Callable[[], Any]) -> int:
    """Fold every constant batch norm of ``model`` that can be, in place.

    A norm is folded if everything it takes is the output of one convolution, and that goes nowhere else. It becomes
    ``nn.Identity``, or what it does besides (timm's norms hold the activation). All else stays as it is: GroupNorm,
    norms of transposed convolutions, norms that several convolutions share.

    Args:
        model: in evaluation mode.
        run: runs the model once, through every layer that counts, and returns tensors in any nesting. It is called
            again afterwards: where the results differ by more than rounding, nothing is folded.

    Returns:
        How many norms were folded.
    """
    with _Uses(model) as uses:
        before = uses.outputs(run())
    pairs = uses.pairs()
    undo = [_fold(model, convolution, norm) for convolution, norm in pairs]
    if pairs and not _same(before, tree_leaves(run())):
        _logger.warning("Folding the %d norms of this model changes its results: it keeps them", len(pairs))
        for restore in undo:
            restore()
        return 0
    return len(pairs)


class _Uses(TorchDispatchMode):
    """Records which convolution made what each norm takes, and which output of a convolution goes elsewhere."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._owners: dict[int, list[nn.Module]] = defaultdict(list)  # of a weight, by its id
        for module in model.modules():
            if isinstance(weight := getattr(module, "weight", None), Tensor) and weight.dim() == 4:
                self._owners[id(weight)].append(module)
        self._norms = [module for module in model.modules() if _is_constant_norm(module)]
        self._hooks: list[Any] = []
        self._inside = False  # a norm
        self._made: dict[int, tuple[int, Tensor]] = {}  # id of an output -> id of the weight, the output (kept alive)
        self._elsewhere: set[int] = set()  # weights whose output goes not only to norms
        self._sources: dict[nn.Module, set[int]] = defaultdict(set)  # weights before a norm; 0: no convolution
        self._followers: dict[int, set[nn.Module]] = defaultdict(set)  # norms after a weight

    def __enter__(self) -> "_Uses":
        for norm in self._norms:
            self._hooks += [norm.register_forward_pre_hook(self._enters), norm.register_forward_hook(self._leaves)]
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for hook in self._hooks:
            hook.remove()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if not self._inside:
            self.outputs((args, kwargs))
        result = func(*args, **(kwargs or {}))
        if _is_plain_convolution(func.name(), args):
            self._made[id(result)] = id(args[1]), result
        return result

    def outputs(self, values: Any) -> list[Any]:
        """The leaves of what the model or an operator takes: all that are no longer between convolution and norm."""
        leaves = tree_leaves(values)
        self._elsewhere.update(self._made[id(leaf)][0] for leaf in leaves if id(leaf) in self._made)
        return leaves

    def _enters(self, norm: nn.Module, args: tuple[Tensor, ...]) -> None:
        weight = self._made[id(args[0])][0] if id(args[0]) in self._made else 0
        self._sources[norm].add(weight)
        self._followers[weight].add(norm)
        self._inside = True

    def _leaves(self, norm: nn.Module, args: Any, result: Any) -> None:
        self._inside = False

    def pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        """``(convolution, norm)`` of all that can be folded."""
        found = []
        for norm, weights in self._sources.items():
            weight = next(iter(weights))
            owners = self._owners.get(weight, [])
            if len(weights) == len(owners) == len(self._followers[weight]) == 1 and weight not in self._elsewhere:
                found.append((owners[0], norm))
        return found


def _is_constant_norm(module: nn.Module) -> bool:
    """Batch norms that use stored statistics: PyTorch's, detectron2's, torchvision's and timm's frozen ones."""
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return not module.training and module.running_mean is not None
    return type(module).__name__.startswith("Frozen") and isinstance(getattr(module, "running_mean", None), Tensor)


def _is_plain_convolution(name: str, args: tuple) -> bool:
    if name.startswith("torchvision::deform_conv2d"):
        return True
    return name == "aten::convolution" and not args[6]  # transposed


def _fold(model: nn.Module, convolution: nn.Module, norm: nn.Module) -> Callable[[], None]:
    """Fold one norm; returns what undoes it."""
    parts: Any = norm
    old_weight, old_bias = cast(Tensor, convolution.weight), cast(Any, convolution.bias)
    factor = (parts.running_var.double() + parts.eps).rsqrt()
    shift = -parts.running_mean.double()
    if old_bias is not None:
        shift = shift + old_bias.double()
    if parts.weight is not None:
        factor = factor * parts.weight.double()
    shift = shift * factor
    if parts.bias is not None:
        shift = shift + parts.bias.double()
    convolution.weight = _constant(old_weight.double() * factor[:, None, None, None], old_weight)
    convolution.bias = _constant(shift, old_weight)
    names = [name for name, module in model.named_modules(remove_duplicate=False) if module is norm]
    rest = [part for part in (getattr(norm, "drop", None), getattr(norm, "act", None)) if part is not None]
    for name in names:
        model.set_submodule(name, nn.Sequential(*rest) if rest else nn.Identity())

    def restore() -> None:
        convolution.weight, convolution.bias = old_weight, old_bias
        for name in names:
            model.set_submodule(name, norm)

    return restore


def _constant(value: Tensor, like: object) -> nn.Parameter:
    assert isinstance(like, Tensor)
    return nn.Parameter(value.to(like), requires_grad=False)


def _same(before: list[Any], after: list[Any]) -> bool:
    """Whether two results, as lists of leaves, differ by rounding at most."""
    for old, new in zip(before, after, strict=True):
        compared = isinstance(old, Tensor) and old.is_floating_point() and old.numel() > 0
        if compared and not (new - old).abs().max() <= _TOLERANCE * old.abs().max():
            return False
    return True
