"""What a config makes of a model before it is trained: frozen parts, memory layout, recomputation, compilation."""

import logging

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn

from ..errors import UserError
from ..modeling.activation_checkpointing import checkpoint_stages
from ..modeling.compiled import CompiledOnCanvases, check_canvases, check_compiler, configured_canvases
from ..modeling.freeze import check_patterns, freeze

__all__ = ["check_preparation", "prepare_for_training"]

_logger = logging.getLogger(__name__)


def check_preparation(cfg: CfgNode) -> None:
    """Raise :class:`UserError` for values of MODEL.FREEZE, COMPILE and ACTIVATION_CHECKPOINTING that cannot be."""
    node = cfg.MODEL
    check_patterns(node.FREEZE)
    if not node.COMPILE.ENABLED:
        return
    check_canvases(cfg)
    if node.ACTIVATION_CHECKPOINTING:
        raise UserError(
            "MODEL.COMPILE.ENABLED and MODEL.ACTIVATION_CHECKPOINTING do not go together: a compiled backbone decides "
            "itself what it computes again; set one of them to False"
        )


def prepare_for_training(cfg: CfgNode, model: nn.Module) -> CompiledOnCanvases | None:
    """Change ``model`` in place, before the optimiser and DistributedDataParallel look at it. State dicts keep their
    names (constant batch norms count nothing any more).

    Returns:
        What is compiled, None if nothing is.

    Raises:
        UserError: a pattern of MODEL.FREEZE that fits nothing, a machine that cannot compile, a canvas that the
            backbone does not take.
    """
    node = cfg.MODEL
    if node.FREEZE:
        freeze(model, node.FREEZE)
    if node.CHANNELS_LAST:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        model.get_submodule("backbone").register_forward_pre_hook(_channels_last)
    if node.ACTIVATION_CHECKPOINTING:
        stages = checkpoint_stages(model)
        _logger.info("MODEL.ACTIVATION_CHECKPOINTING: computed twice, for less memory: %s", ", ".join(stages))
    if not node.COMPILE.ENABLED:
        return None
    check_compiler(node.DEVICE)
    canvases = configured_canvases(cfg, int(getattr(model.get_submodule("backbone"), "size_divisibility", 0)) or 1)
    _logger.info("MODEL.COMPILE: the first batch on each canvas of %s takes minutes", [list(c) for c in canvases])
    return CompiledOnCanvases(model, canvases)


def _channels_last(_module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
    return (inputs[0].contiguous(memory_format=torch.channels_last),)
