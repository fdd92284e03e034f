"""The training losses on pictures that are not trained on: they rise when a model begins to learn by heart."""

import logging
import zlib
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from detectron2.config import CfgNode
from detectron2.utils.events import EventStorage
from torch import nn

from ..data import build_test_loader, build_validation_mapper
from ..errors import UserError
from ..modeling.normaliser import own_counts
from .processes import gather_from_all, unwrapped
from .random_state import keep_random_state, seed_random_state

__all__ = ["PREFIX", "ValidationLoss"]

PREFIX = "validation/"
_logger = logging.getLogger(__name__)


class ValidationLoss:
    """Measures the losses on the images of ``DATASETS.TEST``, at test size and without augmentation.

    A mean over images, each a batch of its own, so that it does not depend on the number of processes. What is drawn
    at random (regions of the second stage) depends on the image alone. Norms use their running statistics, dropout is
    off: it is the loss of the model that is evaluated, in float32. Neither the weights nor any state of the training
    change.
    """

    def __init__(self, cfg: CfgNode, model: nn.Module) -> None:
        """
        Args:
            model: of the training, possibly wrapped for several processes.

        Raises:
            UserError: a dataset is missing or has no annotations.
        """
        self._model = unwrapped(model)
        self._loaders = [build_test_loader(cfg, name, build_validation_mapper(cfg)) for name in cfg.DATASETS.TEST]
        for name, loader in zip(cfg.DATASETS.TEST, self._loaders, strict=True):
            if "annotations" not in loader.dataset.dicts[0]:
                raise UserError(f"TEST.VALIDATION_LOSS: dataset {name} has no annotations; set it to False")

    def measure(self) -> dict[str, float]:
        """``{"validation/total_loss": ..., "validation/loss_...": ...}``, on every process; collective."""
        sums: defaultdict[str, float] = defaultdict(float)
        count = 0
        with keep_random_state(), torch.no_grad(), own_counts(), _inner_modules_as_in_inference(self._model):
            for loader in self._loaders:
                for batch in loader:
                    seed_random_state(zlib.crc32(str(batch[0]["image_id"]).encode()))
                    with EventStorage():  # heads write statistics of training into the storage
                        losses = self._model(batch)
                    values = torch.stack([loss.float() for loss in losses.values()]).tolist()
                    for name, value in zip(losses, values, strict=True):
                        sums[name] += value
                    count += 1
        return _means(gather_from_all((dict(sums), count)))


def _means(parts: list[tuple[dict[str, float], int]]) -> dict[str, float]:
    """Means over the images of all processes, of which some may have none."""
    names = dict.fromkeys(name for sums, _ in parts for name in sums)
    count = sum(count for _, count in parts)
    means = {PREFIX + name: sum(sums.get(name, 0.0) for sums, _ in parts) / count for name in names}
    return {f"{PREFIX}total_loss": sum(means.values()), **means}


@contextmanager
def _inner_modules_as_in_inference(model: nn.Module) -> Iterator[None]:
    """The model is in training mode and gives losses; its norms, dropout and other leaves behave as in inference."""
    modes = [(module, module.training) for module in model.modules()]
    for module in model.modules():
        is_norm = isinstance(module, nn.modules.batchnorm._NormBase)  # timm's have children
        module.training = not (is_norm or next(module.children(), None) is None)
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
