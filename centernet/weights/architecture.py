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
    builders: tuple[str, str]  # levels p3 to p7 on DLA-34 and on a ResNet
    config: str


_NECKS = (
    _Neck(
        "FCOS-style BiFPN",
        "backbone.repeated_bifpn.",
        ("build_p37_fcos_dla_bifpn_backbone", "build_fcos_resnet_bifpn_backbone"),
        "configs/CenterNet2_DLA-fcosBiFPN-P5_640_16x_ST.yaml",
    ),
    _Neck(
        "BiFPN",
        "backbone.cell.",
        ("build_p37_dla_bifpn_backbone", "build_resnet_bifpn_backbone"),
        "configs/CenterNet2_DLA-BiFPN-P5_640_16x_ST.yaml",
    ),
)


def _neck(names: Iterable[str]) -> _Neck | None:
    names = list(names)
    # with a dot before it, for whole detectors under a prefix of their own, such as "model."
    return next((neck for neck in _NECKS if any(f".{neck.prefix}" in f".{name}" for name in names)), None)


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
    name = cfg.MODEL.BACKBONE.NAME
    neck = _neck(read_weights(weights).tensors)
    body = next((k for known in _NECKS for k, builder in enumerate(known.builders) if builder == name), None)
    if neck is None or body is None:
        what = "holds no BiFPN" if neck is None else "holds a BiFPN, and the config names another kind of backbone"
        logger.info("MODEL.BIFPN.FROM_WEIGHTS: %s %s, so %s stays", weights, what, name)
        return cfg
    builder = neck.builders[body]
    logger.info(
        "MODEL.BIFPN.FROM_WEIGHTS: %s holds %s*, which is the %s: MODEL.BACKBONE.NAME is %s",
        weights,
        neck.prefix,
        neck.name,
        builder,
    )
    if builder == name:
        return cfg
    followed = cfg.clone()
    followed.defrost()
    followed.MODEL.BACKBONE.NAME = builder
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
