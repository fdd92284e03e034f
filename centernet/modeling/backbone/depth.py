"""How deep each parameter of a body lies, for learning rates that decrease layer by layer."""

from typing import Any, NamedTuple

import torch
from detectron2.modeling.backbone.resnet import ResNet
from torch import nn

from ...weights.timm_names import features_only_name
from .timm_body import TimmBody

__all__ = ["BodyLayers", "body_layers", "find_body"]


class BodyLayers(NamedTuple):
    """Layers of a body, from the stem (0) to the last block (``number - 1``)."""

    of: dict[str, int]  # name of a parameter in the detector: its layer
    number: int  # of layers
    undecayed: frozenset[str]  # parameters that, like those of norms, are not meant to decay


def find_body(model: nn.Module) -> tuple[str, nn.Module]:
    """Name and module of the body: the backbone without pyramid and up-sampling path."""
    name, module = "backbone", model.get_submodule("backbone")
    while inner := next((key for key in ("bottom_up", "base") if hasattr(module, key)), None):
        name, module = f"{name}.{inner}", module.get_submodule(inner)
    return name, module


def body_layers(model: nn.Module) -> BodyLayers | None:
    """Layers of the body of a detector: blocks of detectron2's ResNet, or what timm counts as layers of a network
    (``group_matcher``). None if this body has no such order."""
    prefix, body = find_body(model)
    if isinstance(body, TimmBody):
        return _timm_layers(f"{prefix}.", body)
    if isinstance(body, ResNet):
        return _resnet_layers(f"{prefix}.", body)
    return None


def _resnet_layers(prefix: str, body: ResNet) -> BodyLayers:
    modules = ["stem"] + [f"{name}.{k}" for name in body.stage_names for k in range(len(body.get_submodule(name)))]
    of = {
        f"{prefix}{module}.{name}": layer
        for layer, module in enumerate(modules)
        for name, _ in body.get_submodule(module).named_parameters()
    }
    return BodyLayers(of, len(modules), frozenset())


def _timm_layers(prefix: str, wrapper: TimmBody) -> BodyLayers | None:
    """timm knows the layers of its plain networks only: one is made without memory, for its names."""
    import timm
    from timm.models import group_parameters

    with torch.device("meta"):
        plain: Any = timm.create_model(wrapper.timm_name, pretrained=False)
    if not hasattr(plain, "group_matcher"):
        return None
    parameters = dict(wrapper.body.named_parameters())
    known = {name: features_only_name(name, parameters) for name, _ in plain.named_parameters()}
    of = {}
    for name, layer in group_parameters(plain, plain.group_matcher(coarse=False), reverse=True).items():
        if inside := known.get(name):
            of[f"{prefix}body.{inside}"] = layer
    marked = plain.no_weight_decay() if hasattr(plain, "no_weight_decay") else ()
    undecayed = {inside for name in marked if (inside := known.get(name))}
    undecayed |= {name for name, value in parameters.items() if value.ndim < 2 and not name.endswith(".bias")}
    number = max(of.values(), default=-1) + 1
    of |= {f"{prefix}body.{name}": number - 1 for name in parameters if f"{prefix}body.{name}" not in of}
    return BodyLayers(of, number, frozenset(f"{prefix}body.{name}" for name in undecayed))
