"""What is trained and evaluated: 2D detectors, or the 3D detector and tracker, by MODEL.META_ARCHITECTURE.

The training loop is the same for both; data, checks and scores are not.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from detectron2.config import CfgNode
from torch import nn

from .. import data, evaluation
from ..data.loader import Loader
from ..data.mapper import MappedDataset
from ..evaluation.metric_names import metric_names as metric_names_2d

__all__ = ["build_train_loader", "check_task", "evaluate_model", "is_tracking3d", "metric_names", "test_pictures"]


def is_tracking3d(cfg: CfgNode) -> bool:
    """Whether the config is one of ``configs/tracking3d``."""
    return bool(cfg.MODEL.META_ARCHITECTURE == "QD3DT")


def check_task(cfg: CfgNode, names: Sequence[str], *, eval_only: bool) -> None:
    """Raise :class:`UserError` for data sets that do not fit the model, and what the evaluation would refuse.

    Args:
        cfg: of the run.
        names: of the data sets that it uses.
        eval_only: nothing is trained.
    """
    if is_tracking3d(cfg):
        from ..tracking3d.checks import check_config, check_datasets

        check_datasets(cfg, names)
        check_config(cfg, eval_only=eval_only)
        return
    data.ensure_registered(names)
    data.check_dataset_fits(cfg, names)
    evaluation.check(cfg)


def build_train_loader(cfg: CfgNode, *, start_iteration: int, seed: int, bad_images: data.BadImages) -> Loader:
    """Batches of pictures, or of pairs of pictures; see the two functions of that name."""
    options: dict[str, Any] = {"start_iteration": start_iteration, "seed": seed, "bad_images": bad_images}
    if is_tracking3d(cfg):
        from ..tracking3d.data import build_pair_train_loader

        return build_pair_train_loader(cfg, **options)
    return data.build_train_loader(cfg, **options)


def evaluate_model(cfg: CfgNode, model: nn.Module) -> OrderedDict[str, dict[str, Any]]:
    """Scores on every data set of ``DATASETS.TEST``; called by every process."""
    if is_tracking3d(cfg):
        from ..tracking3d.evaluate import evaluate

        return evaluate(cfg, model)
    return evaluation.evaluate(cfg, model)


def metric_names(cfg: CfgNode) -> list[str]:
    """What the figures of :func:`evaluate_model` will be called, ``task/figure``."""
    if is_tracking3d(cfg):
        from ..tracking3d.evaluate import metric_names as metric_names_3d

        return metric_names_3d(cfg)
    return metric_names_2d(cfg)


def test_pictures(cfg: CfgNode, name: str) -> MappedDataset:
    """The inputs of the model for every picture of a data set, with annotations where pictures can show them."""
    if is_tracking3d(cfg):
        from ..tracking3d.data import build_video_test_loader

        return build_video_test_loader(cfg, name).dataset
    return data.build_test_loader(cfg, name, data.build_validation_mapper(cfg)).dataset
