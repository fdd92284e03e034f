"""What a config says about one training step: precision, gradient accumulation, clipping, bad numbers."""

from typing import Any

from detectron2.config import CfgNode

from .accumulation import check_accumulation
from .clipping import check_clipping, largest_norm
from .non_finite import NonFinitePolicy
from .precision import Precision

__all__ = ["check_step", "step_options"]


def check_step(cfg: CfgNode, processes: int) -> None:
    """Raise :class:`~centernet.errors.UserError` for what cannot be, among it a precision that the device lacks."""
    Precision.from_config(cfg)
    check_accumulation(cfg, processes)
    check_clipping(cfg)
    NonFinitePolicy.from_config(cfg)


def step_options(cfg: CfgNode) -> dict[str, Any]:
    """Arguments of :class:`~.trainer.Trainer`."""
    return {
        "precision": Precision.from_config(cfg),
        "parts": cfg.SOLVER.GRADIENT_ACCUMULATION,
        "largest_norm": largest_norm(cfg),
        "non_finite": NonFinitePolicy.from_config(cfg),
    }
