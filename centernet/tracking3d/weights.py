"""The published QD-3DT checkpoints' tensors under the names of our models.

Classes lose the background slot of the 3D head and of the box deltas, and have it last in the class logits. Anchors
keep their order, which :class:`~.modeling.anchors.LegacyAnchorGenerator` has, too. This module needs no model.
"""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import UserError
from ..weights.layouts import DetectorLayout

__all__ = ["LAYOUT", "Converted", "convert_released", "is_released"]

_WEIGHTS = r"(weight|bias)"
_NORM = r"(weight|bias|running_mean|running_var|num_batches_tracked)"

# pattern of a published name, and our name
_RULES: tuple[tuple[str, str], ...] = (
    # ResNet and FPN
    (r"backbone\.conv1\.weight", r"backbone.bottom_up.stem.conv1.weight"),
    (rf"backbone\.bn1\.{_NORM}", r"backbone.bottom_up.stem.conv1.norm.\1"),
    (r"backbone\.layer(\d)\.(\d+)\.conv(\d)\.weight", r"backbone.bottom_up.res<\1>.\2.conv\3.weight"),
    (rf"backbone\.layer(\d)\.(\d+)\.bn(\d)\.{_NORM}", r"backbone.bottom_up.res<\1>.\2.conv\3.norm.\4"),
    (r"backbone\.layer(\d)\.0\.downsample\.0\.weight", r"backbone.bottom_up.res<\1>.0.shortcut.weight"),
    (rf"backbone\.layer(\d)\.0\.downsample\.1\.{_NORM}", r"backbone.bottom_up.res<\1>.0.shortcut.norm.\2"),
    (rf"neck\.lateral_convs\.(\d)\.conv\.{_WEIGHTS}", r"backbone.fpn_lateral<<\1>>.\2"),
    (rf"neck\.fpn_convs\.(\d)\.conv\.{_WEIGHTS}", r"backbone.fpn_output<<\1>>.\2"),
    # DLA and its pyramid
    (rf"backbone\.((?:base_layer|level[01])\.[01]\.{_NORM})", r"backbone.bottom_up.\1"),
    (rf"backbone\.(level[2-5]\.(?:tree[12]\.)*(?:conv|bn)[12]\.{_NORM})", r"backbone.bottom_up.\1"),
    (rf"backbone\.(level[2-5]\.(?:tree[12]\.)*(?:root\.(?:conv|bn)|project\.[01])\.{_NORM})", r"backbone.bottom_up.\1"),
    (rf"neck\.last_conv\.conv\.{_WEIGHTS}", r"backbone.last_conv.\1"),
    (rf"neck\.(ida_[012]\.(?:proj|node)_\d)\.conv\.{_WEIGHTS}", r"backbone.\1.\2"),
    (r"neck\.(ida_[012]\.up_\d\.weight)", r"backbone.\1"),
    # heads
    (rf"rpn_head\.rpn_conv\.{_WEIGHTS}", r"proposal_generator.rpn_head.conv.\1"),
    (rf"rpn_head\.rpn_cls\.{_WEIGHTS}", r"proposal_generator.rpn_head.objectness_logits.\1"),
    (rf"rpn_head\.rpn_reg\.{_WEIGHTS}", r"proposal_generator.rpn_head.anchor_deltas.\1"),
    (rf"bbox_head\.shared_convs\.(\d)\.conv\.{_WEIGHTS}", r"roi_heads.box_head.conv{\1}.\2"),
    (rf"bbox_head\.shared_fcs\.(\d)\.{_WEIGHTS}", r"roi_heads.box_head.fc{\1}.\2"),
    (rf"bbox_head\.fc_cls\.{_WEIGHTS}", r"roi_heads.box_predictor.cls_score.\1"),
    (rf"bbox_head\.fc_reg\.{_WEIGHTS}", r"roi_heads.box_predictor.bbox_pred.\1"),
    (
        rf"bbox_3d_head\.((?:shared|dep|dim|rot|cen_2d)_convs\.\d)\.conv\.{_WEIGHTS}",
        r"roi_heads.box3d_head.\1.\2",
    ),
    (rf"bbox_3d_head\.(fc_(?:dep|dep_uncer|dim|rot|2dc)\.{_WEIGHTS})", r"roi_heads.box3d_head.\1"),
    (r"embed_head\.convs\.(\d)\.conv\.weight", r"roi_heads.embedding_head.convs.\1.weight"),
    (rf"embed_head\.convs\.(\d)\.gn\.{_WEIGHTS}", r"roi_heads.embedding_head.convs.\1.norm.\2"),
    (rf"embed_head\.fcs\.0\.{_WEIGHTS}", r"roi_heads.embedding_head.fc.\1"),
    (rf"embed_head\.(fc_embed\.{_WEIGHTS})", r"roi_heads.embedding_head.\1"),
)
_PATTERNS = [(re.compile(pattern + r"\Z"), name) for pattern, name in _RULES]

# evaluated and never used by the published program
_UNUSED = re.compile(r"embed_head\.depth_embed\.(weight|bias)\Z")

# rows of a class in layers whose first class is the background
_ROWS = {
    "box_predictor.bbox_pred": 4,
    "box3d_head.fc_dep": 1,
    "box3d_head.fc_dep_uncer": 1,
    "box3d_head.fc_dim": 3,
    "box3d_head.fc_rot": 8,
    "box3d_head.fc_2dc": 2,
}


class Converted(NamedTuple):
    """Tensors of a published checkpoint for our models.

    Attributes:
        tensors: by our names.
        unused: published names that no model of ours has.
        dropped: numbers (not tensors) that were left out: the unused ones and the slots of the background.
    """

    tensors: dict[str, Tensor]
    unused: list[str]
    dropped: int


def is_released(names: Iterable[str]) -> bool:
    """Whether names are those of a published QD-3DT detector."""
    return {"bbox_3d_head.fc_dep.weight", "bbox_head.fc_cls.weight"} <= set(names)


def convert_released(tensors: Mapping[str, Tensor]) -> Converted:
    """Give a published checkpoint's tensors our names and our order of classes.

    Args:
        tensors: of the file's ``state_dict``, by the published names.

    Raises:
        UserError: a name is not one of a published QD-3DT detector; those of deformable convolutions, which no
            published config has, among them.
    """
    converted, unused, unknown, dropped = {}, [], [], 0
    for name, value in tensors.items():
        own = _own_name(name)
        if _UNUSED.match(name):
            unused.append(name)
            dropped += value.numel()
        elif own is None:
            unknown.append(name)
        else:
            converted[own] = _without_background(own, value)
            dropped += value.numel() - converted[own].numel()
    if unknown:
        more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        hint = ": a model with deformable convolutions, which is not supported" if "offset" in unknown[0] else ""
        raise UserError(f"the QD-3DT checkpoint has entries that no published model has, {unknown[0]}{more}{hint}")
    return Converted(converted, unused, dropped)


def _own_name(name: str) -> str | None:
    for pattern, own in _PATTERNS:
        match = pattern.match(name)
        if match:
            return _counted(match.expand(own))
    return None


def _counted(name: str) -> str:
    """``{i}`` and ``<i>`` stand for i + 1, ``<<i>>`` for i + 2: how detectron2 counts the same layers."""
    name = re.sub(r"<<(\d)>>", lambda match: str(int(match[1]) + 2), name)
    return re.sub(r"[<{](\d)[>}]", lambda match: str(int(match[1]) + 1), name)


def _without_background(name: str, value: Tensor) -> Tensor:
    layer = name.removeprefix("roi_heads.").rpartition(".")[0]
    if layer == "box_predictor.cls_score":
        return torch.roll(value, -1, dims=0)
    return value[_ROWS[layer] :].clone() if layer in _ROWS else value


def _convert(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    converted = convert_released(tensors)
    return converted.tensors, converted.unused


LAYOUT = DetectorLayout("QD-3DT", is_released, _convert)
"""What :mod:`centernet.weights` needs to know."""
