"""Which of the two BiFPNs a checkpoint was trained with.

The published DLA-BiFPN models come with either of two necks of the same name that compute different things. Their
checkpoints tell them apart: ``backbone.cell.*`` or ``backbone.repeated_bifpn.*``.
"""

import logging
from collections.abc import Iterable
from typing import NamedTuple

from detectron2.config import CfgNode

from ..errors import UserError
from .reader import read_weights

__all__ = ["check_architecture", "follow_weights"]

logger = logging.getLogger(__name__)


class _Neck(NamedTuple):
    name: str
    prefix: str  # of its entries
    builder: str  # with DLA-34, levels p3 to p7
    config: str


_NECKS = (
    _Neck(
        "FCOS-style BiFPN",
        "backbone.repeated_bifpn.",
        "build_p37_fcos_dla_bifpn_backbone",
        "configs/CenterNet2_DLA-fcosBiFPN-P5_640_16x_ST.yaml",
    ),
    _Neck(
        "BiFPN",
        "backbone.cell.",
        "build_p37_dla_bifpn_backbone",
        "configs/CenterNet2_DLA-BiFPN-P5_640_16x_ST.yaml",
    ),
)


def _neck(names: Iterable[str]) -> _Neck | None:
    names = list(names)
    return next((neck for neck in _NECKS if any(name.startswith(neck.prefix) for name in names)), None)


def follow_weights(cfg: CfgNode, weights: str) -> CfgNode:
    """With ``MODEL.BIFPN.FROM_WEIGHTS``, the config with the backbone that ``weights`` was trained with.

    Args:
        cfg: is not changed.
        weights: the file that will be loaded; '' for none.

    Returns:
        ``cfg`` itself if there is nothing to change, else a changed copy, frozen if ``cfg`` is.

    Raises:
        UserError: the file cannot be read.
    """
    if not cfg.MODEL.BIFPN.FROM_WEIGHTS or not weights:
        return cfg
    neck = _neck(read_weights(weights).tensors)
    if neck is None:
        logger.info("MODEL.BIFPN.FROM_WEIGHTS: %s holds no BiFPN, so %s stays", weights, cfg.MODEL.BACKBONE.NAME)
        return cfg
    logger.info(
        "MODEL.BIFPN.FROM_WEIGHTS: %s holds %s*, which is the %s: MODEL.BACKBONE.NAME is %s",
        weights,
        neck.prefix,
        neck.name,
        neck.builder,
    )
    if neck.builder == cfg.MODEL.BACKBONE.NAME:
        return cfg
    followed = cfg.clone()
    followed.defrost()
    followed.MODEL.BACKBONE.NAME = neck.builder
    if cfg.is_frozen():
        followed.freeze()
    return followed


def check_architecture(model: Iterable[str], file: Iterable[str]) -> None:
    """Raise :class:`UserError` if the names of a model and of a file are those of different BiFPNs."""
    here, there = _neck(model), _neck(file)
    if here and there and here is not there:
        raise UserError(
            f"these weights are of the {there.name} ({there.prefix}*) and the model has the {here.name} "
            f"({here.prefix}*): use the config they were trained with, such as {there.config}, or set "
            "MODEL.BIFPN.FROM_WEIGHTS True"
        )
