"""The exponential moving average of the weights (Polyak averaging, DOI 10.1137/0330046), as part of training."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.utils import comm
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ..errors import UserError
from .atomic_file import write_atomically

__all__ = ["FILE", "AverageWeights", "WeightAverage", "check_average", "weight_average"]

FILE = "model_final_ema.pth"
_logger = logging.getLogger(__name__)


def check_average(cfg: CfgNode) -> None:
    """Raise :class:`UserError` for values of SOLVER.EMA that make no sense."""
    node = cfg.SOLVER.EMA
    if not node.ENABLED:
        return
    if not 0 <= node.DECAY < 1:
        raise UserError(f"SOLVER.EMA.DECAY is {node.DECAY}: it must be at least 0 and below 1, such as 0.9998")
    if node.WARMUP < 0:
        raise UserError(f"SOLVER.EMA.WARMUP is {node.WARMUP}: it is a number of iterations, 0 for none")


def weight_average(cfg: CfgNode, model: nn.Module) -> "WeightAverage | None":
    """The average that SOLVER.EMA asks for, not started yet; None if it asks for none."""
    node = cfg.SOLVER.EMA
    return WeightAverage(model, node.DECAY, node.WARMUP) if node.ENABLED else None


class WeightAverage:
    """Averages of a model's trainable parameters and floating-point buffers, in float32 at least.

    What is constant (frozen parameters) and what is counted (integer buffers) is the model's own. All processes have
    the same weights, so each averages for itself. Batch-norm statistics differ between processes, as they do in the
    model; the main process's are saved.
    """

    def __init__(self, model: nn.Module, decay: float, warmup: int = 0) -> None:
        """
        Args:
            model: not wrapped for several processes; its weights may still be loaded before :meth:`start`.
            decay: share of the average that stays at an update, in [0, 1).
            warmup: updates in which it is ``(1 + update) / (10 + update)`` where that is less.
        """
        self.model = model
        self.decay = decay
        self.warmup = warmup
        self.updates = 0
        self._kept = frozenset(model.state_dict())
        self._averages: dict[str, Tensor] = {}
        self._loaded: dict[str, Tensor] = {}

    def start(self) -> None:
        """Begin at the weights of the model or, after :meth:`load_state_dict`, at what was loaded."""
        tensors = self._tracked()
        found = {k: v for k, v in self._loaded.items() if k in tensors and v.shape == tensors[k].shape}
        if self.updates and len(found) < len(tensors):
            _logger.warning("SOLVER.EMA: %d averages of the checkpoint do not fit", len(tensors) - len(found))
        self._averages = {name: _float32_copy(value) for name, value in tensors.items()}
        for name, value in found.items():
            self._averages[name].copy_(value)
        self._loaded = {}

    @torch.no_grad()
    def update(self) -> None:
        """Take the model's weights in, after a step of the optimiser."""
        decay = self.decay
        if self.updates < self.warmup:
            decay = min(decay, (1 + self.updates) / (10 + self.updates))
        tensors = self._tracked()
        pairs = [(average, tensors[name].to(average.dtype)) for name, average in self._averages.items()]
        averages, values = map(list, zip(*pairs, strict=True))
        get_ema_multi_avg_fn(decay)(averages, values, None)
        self.updates += 1

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model has the averages inside, and its own weights, the same bits, afterwards."""
        tensors = self._tracked()
        own = {name: value.clone() for name, value in tensors.items()}
        _assign(tensors, self._averages)
        try:
            yield
        finally:
            _assign(tensors, own)

    def model_state_dict(self) -> dict[str, Any]:
        """The model's state dict with the averages in it, in the model's types; tensors are not shared."""
        with self.applied():
            return {name: value.detach().clone() for name, value in self.model.state_dict().items()}

    def state_dict(self) -> dict[str, Any]:
        """``updates`` and the averages by name, for a checkpoint."""
        return {"updates": self.updates, "tensors": dict(self._averages)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` returned, from :meth:`start` on."""
        self.updates = int(state_dict["updates"])
        self._loaded = dict(state_dict["tensors"])

    def _tracked(self) -> dict[str, Tensor]:
        """What is averaged, by the model's names; a tensor with two names once."""
        tensors = {name: value for name, value in self.model.named_parameters() if value.requires_grad}
        buffers = {name: value for name, value in self.model.named_buffers() if value.is_floating_point()}
        return {name: value.detach() for name, value in (tensors | buffers).items() if name in self._kept}


def _float32_copy(value: Tensor) -> Tensor:
    return value.clone().to(torch.promote_types(value.dtype, torch.float32))


@torch.no_grad()
def _assign(tensors: dict[str, Tensor], values: dict[str, Tensor]) -> None:
    for name, value in values.items():
        tensors[name].copy_(value)


class AverageWeights(HookBase):
    """Updates a :class:`WeightAverage` with every step that was taken; writes its weights when training is done.

    To be registered before evaluation. ``OUTPUT_DIR/model_final_ema.pth`` holds the averaged weights as the entry
    ``model``: MODEL.WEIGHTS takes it wherever it takes ``model_final.pth``.
    """

    def __init__(self, average: WeightAverage, folder: Path) -> None:
        self._average = average
        self._folder = folder

    def before_train(self) -> None:
        self._average.start()

    def after_step(self) -> None:
        if not self.trainer.step_skipped:
            self._average.update()

    def after_train(self) -> None:
        if self.trainer.iter >= self.trainer.max_iter and comm.is_main_process():
            weights = {"model": self._average.model_state_dict()}
            write_atomically(str(self._folder / FILE), lambda stream: torch.save(weights, stream))
