"""Gradient clipping: detectron2's two kinds inside the optimiser, and the norm over the whole model in the trainer."""

from detectron2.config import CfgNode
from detectron2.solver.build import maybe_add_gradient_clipping
from torch.optim import Optimizer

from ..errors import UserError

__all__ = ["check_clipping", "largest_norm", "with_clipping"]

_TYPES = ("value", "norm", "full_model")


def check_clipping(cfg: CfgNode) -> None:
    """Raise :class:`UserError` for values of SOLVER.CLIP_GRADIENTS that make no sense."""
    node = cfg.SOLVER.CLIP_GRADIENTS
    if not node.ENABLED:
        return
    if node.CLIP_TYPE not in _TYPES:
        raise UserError(f"SOLVER.CLIP_GRADIENTS.CLIP_TYPE is '{node.CLIP_TYPE}': use one of {', '.join(_TYPES)}")
    if not node.CLIP_VALUE > 0:
        raise UserError(f"SOLVER.CLIP_GRADIENTS.CLIP_VALUE is {node.CLIP_VALUE}: it must be above 0, or nothing learns")
    if node.CLIP_TYPE != "value" and not node.NORM_TYPE > 0:
        raise UserError(f"SOLVER.CLIP_GRADIENTS.NORM_TYPE is {node.NORM_TYPE}: it must be above 0 (2 is Euclidean)")


def largest_norm(cfg: CfgNode) -> tuple[float, float] | None:
    """``(largest norm, kind of norm)`` of the gradients of all parameters together with CLIP_TYPE full_model, else
    None."""
    node = cfg.SOLVER.CLIP_GRADIENTS
    if not node.ENABLED or node.CLIP_TYPE != "full_model":
        return None
    return float(node.CLIP_VALUE), float(node.NORM_TYPE)


def with_clipping(cfg: CfgNode, kind: type[Optimizer]) -> type[Optimizer]:
    """The class of optimiser, with detectron2's clipping of each value or parameter's norm if that is asked for."""
    return kind if largest_norm(cfg) else maybe_add_gradient_clipping(cfg, kind)
