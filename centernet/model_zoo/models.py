"""Configs and models of the zoo, ready to use."""

from collections.abc import Sequence

import torch
from detectron2.config import CfgNode
from torch import nn

from ..config_file import load_config, resolve_device
from ..errors import UserError
from ..modeling.build import build_detector
from ..weights import follow_weights
from .checkpoints import get_checkpoint
from .lookup import get_config_file, info
from .row import Row

__all__ = ["get", "get_config"]


def get_config(name: str, opts: Sequence[str] | None = None) -> CfgNode:
    """The config of a model.

    Args:
        name: of the zoo.
        opts: overrides, ``[KEY, VALUE, ...]``. MODEL.WEIGHTS is what training starts from; the trained weights are
            ``["MODEL.WEIGHTS", f"zoo://{name}"]``.

    Returns:
        A config that is not frozen.

    Raises:
        UserError: no such name, key or value.
    """
    return load_config(get_config_file(name), opts or ())


def get(name: str, trained: bool = True, device: str | torch.device | None = None) -> nn.Module:
    """A model in evaluation mode.

    Args:
        name: of the zoo. A motion model is a network (:mod:`..tracking3d.motion`), on the CPU if no device is named.
        trained: with the published weights, every one of which must fit. False: random ones, and nothing is
            downloaded.
        device: None: the config's, which is the GPU if there is one.

    Raises:
        UserError: no such name, or its weights cannot be had, read or do not fit.
    """
    from ..inference.weights import load_weights  # here: the room brings the drawing libraries with it

    row = info(name)
    if row.motion:
        return _motion_network(row, trained).to(device or "cpu")
    cfg = get_config(row.name)
    cfg.MODEL.WEIGHTS = get_checkpoint(row.name) if trained else ""
    if device is None:
        resolve_device(cfg)
    else:
        cfg.MODEL.DEVICE = str(device)
    model = build_detector(follow_weights(cfg, cfg.MODEL.WEIGHTS)).eval()
    if trained:
        load_weights(model, cfg.MODEL.WEIGHTS)
    return model


def _motion_network(row: Row, trained: bool) -> nn.Module:
    from ..tracking3d.motion.checkpoint import NETWORKS, load_network

    if not trained:
        return NETWORKS[row.motion]().eval()
    path = get_checkpoint(row.name)
    network = load_network(path).network
    if type(network).__name__ != row.motion:
        raise UserError(
            f"{path} holds a {type(network).__name__}, and {row.name} is a {row.motion}: put the right file there"
        )
    return network
