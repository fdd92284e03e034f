"""DLA bodies under FPN, and with an up-sampling path over their three coarsest levels.

Source: Deep Layer Aggregation (arXiv 1707.06484); FPN (arXiv 1612.03144).
"""

from collections.abc import Sequence

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import BACKBONE_REGISTRY
from detectron2.modeling.backbone.fpn import FPN

from ...errors import UserError
from ...registration import register_once
from .dla import DLA, build_dla_body, dla_fpn, dla_norm
from .dla_up import NODES, DLAUpBackbone

__all__ = ["DLA", "build_dla_fpn3_backbone", "build_dla_fpn5_backbone", "build_dlaup_backbone"]

BODY_LEVELS = ("dla3", "dla4", "dla5")


@register_once(BACKBONE_REGISTRY)
def build_dla_fpn3_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """DLA (``MODEL.DLA``) with FPN (``MODEL.FPN``, over dla3 to dla5): p3 to p5, strides 8 to 32.

    Raises:
        UserError: keys of ``MODEL.DLA`` or ``MODEL.FPN`` do not suit.
    """
    return dla_fpn(cfg, build_dla_body(cfg, BODY_LEVELS), extra_levels=False)


@register_once(BACKBONE_REGISTRY)
def build_dla_fpn5_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """The same with p6 and p7 from ``dla5``: p3 to p7, strides 8 to 128.

    Raises:
        UserError: keys of ``MODEL.DLA`` or ``MODEL.FPN`` do not suit.
    """
    return dla_fpn(cfg, build_dla_body(cfg, BODY_LEVELS), extra_levels=True)


@register_once(BACKBONE_REGISTRY)
def build_dlaup_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> DLAUpBackbone:
    """DLA with an up-sampling path of ``MODEL.DLA.DLAUP_NODE`` nodes over ``MODEL.DLA.DLAUP_IN_FEATURES``.

    ``dla3`` becomes ``dlaup3`` and so on, with the strides and channels of the body's levels.

    Raises:
        UserError: keys of ``MODEL.DLA`` do not suit.
    """
    node, levels = cfg.MODEL.DLA.DLAUP_NODE, list(cfg.MODEL.DLA.DLAUP_IN_FEATURES)
    if node not in NODES:
        raise UserError(f"MODEL.DLA.DLAUP_NODE is '{node}': choose from {sorted(NODES)}")
    body = build_dla_body(cfg, levels)
    if not _consecutive(levels):
        raise UserError(f"MODEL.DLA.DLAUP_IN_FEATURES is {levels}: name at least two consecutive levels, finest first")
    return DLAUpBackbone(body, levels, NODES[node], dla_norm(cfg))


def _consecutive(levels: Sequence[str]) -> bool:
    numbers = [int(name[3:]) for name in levels]
    return len(numbers) > 1 and numbers == list(range(numbers[0], numbers[0] + len(numbers)))
