"""Which published layout a file of tensors has, and the names of a model for it.

========================  ==========================================================================================
a whole detector          names equal those of the model
Caffe2                    ``res2_0_branch2a_w``: detectron2's own conversion, then as a body
a body                    names equal those below a prefix of the model (``backbone.bottom_up.``, ``backbone.base.``,
                          ...): detectron2's and Res2Net's converted files, DLA, timm
torchvision, Res2Net      ``layer1.0.conv1.weight``: renamed, then as a body
those of other rooms      :func:`register_layout`, such as QD-3DT's
those of timm_names       MobileNetV2, EfficientNet-Lite0, Swin, ConvNeXt: renamed to timm's, then as a body
========================  ==========================================================================================

A prefix that all names have, such as ``model.`` of Lightning or ``module.module.``, is taken off if the rest then fits.
"""

import logging
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import NamedTuple

import torch
from detectron2.checkpoint.c2_model_loading import convert_c2_detectron_names
from torch import Tensor

from . import timm_names

__all__ = ["DetectorLayout", "Match", "is_caffe2", "is_constant", "match_names", "may_lack", "register_layout"]

logger = logging.getLogger(__name__)

# Entries that a file may lack or have too much: counters, constants of the config, anchors of old detectron2, and a
# classifier that no detector uses but DLA's published checkpoints hold.
_CONSTANTS = {
    "num_batches_tracked",
    "pixel_mean",
    "pixel_std",
    "freq_weight",
    "fed_loss_cls_weights",
}
_CONSTANT_PARTS = re.compile(r"(^|\.)(backbone\.base\.fc|anchor_generator\.cell_anchors)\.")
# Deformable convolutions start from zero offsets, which no ImageNet file has.
_ZERO_AT_START = re.compile(r"\.conv2_offsets?\.(\d+\.)?(weight|bias)$")
_TIMM_BODY = "backbone.bottom_up.body."


class Match(NamedTuple):
    """Tensors under the names of a model. What fits nowhere keeps its name."""

    layout: str  # as in the table of this module, or "unknown"
    tensors: dict[str, Tensor]
    prefix: str  # of the body that the file is for, such as "backbone.bottom_up."; "" for a whole detector
    left_out: list[str]  # names of classifiers, and of stages that the model's body does not have


class DetectorLayout(NamedTuple):
    """A published layout of whole detectors with names of its own."""

    name: str
    recognise: Callable[[Iterable[str]], bool]  # from the names
    convert: Callable[[Mapping[str, Tensor]], tuple[dict[str, Tensor], list[str]]]  # our tensors, and names left out


_detectors: dict[str, DetectorLayout] = {}


def register_layout(layout: DetectorLayout) -> None:
    """Let :func:`match_names` know ``layout``; it comes before all others."""
    _detectors[layout.name] = layout


def is_constant(name: str) -> bool:
    """Whether an entry may be missing or superfluous: it is a counter or constant, or nothing uses it."""
    return name.rpartition(".")[2] in _CONSTANTS or bool(_CONSTANT_PARTS.search(name))


def may_lack(name: str, model: Collection[str]) -> bool:
    """Whether a body does not need an entry from a file for classification: offsets, and DLA's unused projections."""
    tree, found, _ = name.rpartition(".project.")  # unused where the tree's first child is a tree: timm leaves it out
    return bool(_ZERO_AT_START.search(name)) or bool(found and f"{tree}.tree1.root.conv.weight" in model)


def is_caffe2(names: Iterable[str]) -> bool:
    """Whether names are those of Caffe2's and Detectron's blobs: ``conv1_w``, ``res2_0_branch2a_bn_s``."""
    return any(re.search(r"(^conv1|^res\d_\d+_branch\w+)_w$", name) for name in names)


def match_names(model: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> Match:
    """Find the layout of ``tensors`` and give them the names of the model.

    Args:
        model: the model's state dict; only names and shapes are looked at.
        tensors: those of a file, by the names of the file.

    Returns:
        ``layout`` is "unknown" and the names are unchanged if few of them have a place in the model.
    """
    inner: Mapping[str, Tensor] | None = tensors
    while inner:
        match = _match(model, inner)
        if match is not None:
            return match
        inner = _without_first_part(inner)
    return Match("unknown", dict(tensors), "", [])


def _without_first_part(tensors: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """The same names without the part before the first dot; None if it is not that of all."""
    firsts = {name.partition(".")[0] for name in tensors}
    if len(firsts) != 1 or not all(name.partition(".")[2] for name in tensors):
        return None
    return {name.partition(".")[2]: value for name, value in tensors.items()}


def _match(model: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> Match | None:
    """The layout of names as they are; None if few of them have a place in the model."""
    for detector in _detectors.values():
        if detector.recognise(tensors):
            converted, unused = detector.convert(tensors)
            return Match(detector.name, converted, "", unused)
    own = {name.partition(".")[0] for name in model}
    if sum(name.partition(".")[0] in own for name in tensors) >= len(tensors) / 2:
        return Match("a whole detector", dict(tensors), "", [])
    best: Match | None = None
    most = 0
    for layout, renamed in _variants(tensors):
        for prefix, count in _prefixes(model, renamed).most_common(1):
            if count > most:
                best, most = _below(prefix, layout, model, renamed), count
    for layout, renamed in _timm_variants(model, tensors):
        count = sum(_TIMM_BODY + name in model for name in renamed)
        if count > most:
            best, most = _below(_TIMM_BODY, layout, model, renamed), count
    if best is None or not _enough(most, best, model, tensors):
        return None
    return best


def _enough(count: int, match: Match, model: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> bool:
    """A few equal names, such as conv1.weight, are no match; a body that stops early uses few of a file's."""
    body = [name for name in model if name.startswith(match.prefix)]
    return count >= 0.3 * len(tensors) or count >= 0.8 * len(body)


# --------------------------------------------------------------------------------------------------- variants


def _variants(tensors: Mapping[str, Tensor]) -> Iterable[tuple[str, dict[str, Tensor]]]:
    """The tensors under the names of each convention that they may follow."""
    if is_caffe2(tensors):
        yield "Caffe2", _caffe2(tensors)
        return
    yield "a body", dict(tensors)
    if "layer1.0.conv1.weight" in tensors:
        deep_stem = "conv1.0.weight" in tensors
        names = _res2net_name if deep_stem else _torchvision_name
        yield "Res2Net" if deep_stem else "torchvision", {names(name): value for name, value in tensors.items()}


def _caffe2(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    renamed = dict(convert_c2_detectron_names(dict(tensors))[0])
    renamed.pop("stem.conv1.bias", None)  # MSRA's files have it beside the norm; detectron2 does not use it either
    if not any(name.endswith("running_mean") for name in renamed):
        # the statistics are merged into weight and bias: what is left is the identity, as FrozenBatchNorm2d has it
        for name in [name for name in renamed if name.endswith("norm.weight")]:
            stem = name[: -len("weight")]
            renamed[stem + "running_mean"] = torch.zeros_like(renamed[name])
            renamed[stem + "running_var"] = torch.ones_like(renamed[name])
    return renamed


def _torchvision_name(name: str) -> str:
    """``layer1.0.bn1.weight`` to ``res2.0.conv1.norm.weight``, as detectron2's ResNet has it."""
    name = re.sub(r"^layer(\d)\.", lambda match: f"res{int(match[1]) + 1}.", name)
    name = re.sub(r"\bbn(\d)\.", r"conv\1.norm.", name)
    name = name.replace(".downsample.0.", ".shortcut.").replace(".downsample.1.", ".shortcut.norm.")
    return re.sub(r"^conv1\.", "stem.conv1.", name)


def _res2net_name(name: str) -> str:
    """The same for Res2Net v1b (deep stem; ``downsample.0`` is a pooling without tensors)."""
    name = re.sub(r"^layer(\d)\.", lambda match: f"res{int(match[1]) + 1}.", name)
    name = re.sub(r"^(conv1|bn1|fc)\.", r"stem.\1.", name)
    name = name.replace(".downsample.1.", ".shortcut.1.").replace(".downsample.2.", ".shortcut.1.norm.")
    return re.sub(r"(^res.*\.)bn(\d)\.", r"\1conv\2.norm.", name)


def _timm_variants(
    model: Mapping[str, Tensor], tensors: Mapping[str, Tensor]
) -> Iterable[tuple[str, dict[str, Tensor]]]:
    known = {name[len(_TIMM_BODY) :] for name in model if name.startswith(_TIMM_BODY)}
    if not known:
        return
    published = next((layout for layout in timm_names.LAYOUTS if layout.recognise(tensors)), None)
    renamed = published.convert(tensors) if published else tensors
    layout = published.name if published else "timm"
    yield layout, {timm_names.features_only_name(name, known) or name: value for name, value in renamed.items()}


# ------------------------------------------------------------------------------------------------------- body


def _prefixes(model: Iterable[str], names: Collection[str]) -> Counter[str]:
    """How many names a prefix of the backbone leads to the model's; of equal counts the shorter prefix comes first."""
    counts: Counter[str] = Counter()
    for full in sorted(model, key=lambda name: name.count(".")):
        if not full.startswith("backbone."):
            continue
        parts = full.split(".")
        for k in range(1, len(parts)):
            if ".".join(parts[k:]) in names:
                counts[".".join(parts[:k]) + "."] += 1
    return counts


def _below(prefix: str, layout: str, model: Iterable[str], tensors: Mapping[str, Tensor]) -> Match:
    """Put a body's tensors below ``prefix``; classifiers and whole stages that the body lacks are left out."""
    known = {name for name in model if name.startswith(prefix)}
    children = {name[len(prefix) :].partition(".")[0] for name in known}
    kept, left_out = {}, []
    for name, value in tensors.items():
        child = name.partition(".")[0]
        is_classifier = bool(re.match(r"(stem\.)?(fc|linear|classifier|head)\.", name)) and prefix + name not in known
        if child not in children or is_classifier:
            left_out.append(name)
        else:
            kept[prefix + name] = value
    return Match(layout, kept, prefix, sorted(left_out))
