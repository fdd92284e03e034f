"""The first-stage head: towers shared by all levels, a box branch and heatmap branches.

Source: "Probabilistic two-stage detection" (arXiv 2103.07461) section 4; towers as in FCOS (arXiv 1904.01355).
"""

import math

import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec, get_norm
from torch import Tensor, nn

from ..layers.deform_conv import DFConv2d
from ..layers.scale import Scale

_BOX_BIAS = 8.0  # strides; distances start large so that the IoU loss has a gradient
_INIT_STD = 0.01


class CenterNetHead(nn.Module):
    """Predicts a box and a probability at every cell.

    Attributes:
        share_tower, cls_tower, bbox_tower: ``nn.Sequential`` of [3x3 conv, norm, ReLU]; triples without norm are pairs.
        bbox_pred, agn_hm, cls_logits: 3x3 convs to 4, 1 and ``num_classes`` channels; the latter two only when asked
            for.
        scales: one learnable factor a level.
    """

    @configurable
    def __init__(
        self,
        in_channels: int,
        num_levels: int,
        *,
        num_classes: int = 80,
        with_agn_hm: bool = False,
        only_proposal: bool = False,
        norm: str = "GN",
        num_cls_convs: int = 4,
        num_box_convs: int = 4,
        num_share_convs: int = 0,
        use_deformable: bool = False,
        prior_prob: float = 0.01,
    ):
        """
        Args:
            in_channels: channels of every level, kept through the towers.
            num_levels: levels that share this head.
            only_proposal: no class branch.
            with_agn_hm: add the class-agnostic heatmap, on the box tower.
            norm: norm of the towers, '' for none; 'GN' falls back to 25 groups when 32 do not divide ``in_channels``.
            use_deformable: the last conv of each tower is a modulated deformable conv.
            prior_prob: heatmap probability at initialisation.
        """
        super().__init__()
        num_cls_convs = 0 if only_proposal else num_cls_convs
        self.share_tower = _tower(in_channels, num_share_convs, norm, use_deformable)
        self.cls_tower = _tower(in_channels, num_cls_convs, norm, use_deformable)
        self.bbox_tower = _tower(in_channels, num_box_convs, norm, use_deformable)
        self.bbox_pred = _conv3x3(in_channels, 4, bias=_BOX_BIAS)
        self.scales = nn.ModuleList([Scale(1.0) for _ in range(num_levels)])
        prior = -math.log((1 - prior_prob) / prior_prob)
        self.agn_hm = _conv3x3(in_channels, 1, bias=prior) if with_agn_hm else None
        self.cls_logits = None if only_proposal else _conv3x3(in_channels, num_classes, bias=prior)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: list[ShapeSpec]) -> dict:
        node = cfg.MODEL.CENTERNET
        return {
            "in_channels": input_shape[0].channels,
            "num_levels": len(node.IN_FEATURES),
            "num_classes": node.NUM_CLASSES,
            "with_agn_hm": node.WITH_AGN_HM,
            "only_proposal": node.ONLY_PROPOSAL,
            "norm": node.NORM,
            "num_cls_convs": node.NUM_CLS_CONVS,
            "num_box_convs": node.NUM_BOX_CONVS,
            "num_share_convs": node.NUM_SHARE_CONVS,
            "use_deformable": node.USE_DEFORMABLE,
            "prior_prob": node.PRIOR_PROB,
        }

    def forward(self, features: list[Tensor]) -> tuple[list[Tensor | None], list[Tensor], list[Tensor | None]]:
        """
        Args:
            features: one ``[B, in_channels, H_l, W_l]`` a level.

        Returns:
            ``(class logits, ltrb, agnostic logits)``, each one entry a level: ``[B, num_classes, H_l, W_l]`` or None,
            ``[B, 4, H_l, W_l]`` distances in strides (>= 0), ``[B, 1, H_l, W_l]`` or None.
        """
        classes: list[Tensor | None] = []
        boxes: list[Tensor] = []
        agnostic: list[Tensor | None] = []
        for scale, feature in zip(self.scales, features, strict=True):
            shared = self.share_tower(feature)
            tower = self.bbox_tower(shared)
            classes.append(None if self.cls_logits is None else self.cls_logits(self.cls_tower(shared)))
            boxes.append(F.relu(scale(self.bbox_pred(tower))))
            agnostic.append(None if self.agn_hm is None else self.agn_hm(tower))
        return classes, boxes, agnostic


def _conv3x3(in_channels: int, out_channels: int, bias: float = 0.0) -> nn.Conv2d:
    conv = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1)
    nn.init.normal_(conv.weight, std=_INIT_STD)
    assert conv.bias is not None
    nn.init.constant_(conv.bias, bias)
    return conv


def _tower(channels: int, depth: int, norm: str, use_deformable: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    for index in range(depth):
        if use_deformable and index == depth - 1:
            deformable = DFConv2d(channels, channels, bias=True)
            # the published heads start their offsets at N(0, 0.01), not at zero
            nn.init.normal_(deformable.offset.weight, std=_INIT_STD)
            layers.append(deformable)
        else:
            layers.append(_conv3x3(channels, channels))
        if norm == "GN" and channels % 32 != 0:
            layers.append(nn.GroupNorm(25, channels))
        elif norm:
            layers.append(get_norm(norm, channels))
        layers.append(nn.ReLU())
    return nn.Sequential(*layers)
