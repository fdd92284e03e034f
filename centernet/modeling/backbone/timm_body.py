"""Any network of timm (github.com/huggingface/pytorch-image-models, Apache-2.0) as the body of a feature pyramid.

timm is an extra and imported when a body is built. Building never touches the network: weights come through
``MODEL.WEIGHTS``, as a file, ``timm://NAME`` or ``package://PACKAGE/PATH`` (:mod:`centernet.weights.sources`).

The timm network is the attribute ``body``, so its tensors are named ``backbone.bottom_up.body.<name>`` in a detector,
with the names of timm's ``features_only`` model (:mod:`centernet.weights.timm_names` maps others to them).
"""

import difflib
import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import BACKBONE_REGISTRY, Backbone
from torch import Tensor, nn

from ...errors import UserError
from ...registration import register_once
from ...weights.timm_names import features_only_name
from .bifpn import bifpn_from_config
from .fpn_p5 import LastLevelP6P7_P5, build_fpn

__all__ = ["TimmBody", "build_timm_bifpn_backbone", "build_timm_fpn_backbone"]

logger = logging.getLogger(__name__)

# Switches of timm that let a network take images of any size; each is dropped where a network does not know it.
# always_partition: windows are shifted in the last stage too, as in Swin's published detectors (arXiv 2103.14030);
# without it timm leaves the shift out because at the size of classification that stage is a single window.
_ANY_SIZE = {"dynamic_img_size": True, "strict_img_size": False, "always_partition": True}
_TRIAL = (96, 160)  # pixels, height and width of the image that a body must prove itself with


class TimmBody(Backbone):
    """A timm network that hands on one map a stride, ``stage<log2(stride)>``: stage3, stage4, stage5 by default."""

    def __init__(
        self,
        name: str,
        out_strides: Sequence[int] = (8, 16, 32),
        *,
        in_channels: int = 3,
        drop_path: float = 0.0,
        freeze_at: int = 0,
        norm: str = "",
        out_norm: str = "",
    ):
        """
        Args:
            name: a model of timm, such as ``convnext_tiny`` (a tag, as in ``convnext_tiny.fb_in1k``, does no harm).
            out_strides: powers of two, ascending; the deepest map of each stride is handed on.
            in_channels: channels of the image.
            drop_path: rate of stochastic depth (arXiv 1603.09382) in the last block; it grows linearly from 0.
            freeze_at: everything up to the features of stride ``2 ** freeze_at`` is constant, as in detectron2: 1 the
                stem, 2 up to stride 4, ...; 0 nothing. Batch norms in it use their stored statistics.
            norm: 'FrozenBN': all batch norms are constant; '': as timm has them.
            out_norm: 'LN': a layer norm over the channels of each output, as in the published detectors on Swin and
                ConvNeXt (arXiv 2201.03545), whose stages end without one; '': none.

        Raises:
            UserError: timm is not installed; it has no such model; the model has no features of these strides, or
                only for images of one size; ``freeze_at``, ``norm`` or ``out_norm`` is not one of the above.
        """
        super().__init__()
        if norm not in ("", "FrozenBN") or out_norm not in ("", "LN"):
            raise UserError(
                f"MODEL.TIMM.NORM is '{norm}' and OUT_NORM '{out_norm}', but NORM must be '' or 'FrozenBN' and "
                "OUT_NORM '' or 'LN'"
            )
        self.timm_name = name
        self.body = _create(name, in_channels, drop_path)
        info: Any = self.body.feature_info
        features = [info.info[index] for index in info.out_indices]
        self._picked = _deepest(features, out_strides, name)
        self._channels_last = str(getattr(self.body, "output_fmt", "NCHW")).endswith("NHWC")
        self._size_divisibility = max(out_strides)

        self._out_features = [f"stage{int(math.log2(stride))}" for stride in out_strides]
        self._out_feature_strides = dict(zip(self._out_features, out_strides, strict=True))
        channels = [int(features[index]["num_chs"]) for index in self._picked]
        self._out_feature_channels = dict(zip(self._out_features, channels, strict=True))

        if norm == "FrozenBN":
            self.body = _with_constant_norms(self.body)
        _freeze(self.body, info.info, freeze_at, name)
        self.out_norms = nn.ModuleDict()
        if out_norm == "LN":
            from timm.layers import LayerNorm2d

            self.out_norms.update({k: LayerNorm2d(n) for k, n in self._out_feature_channels.items()})
        self._prove(name, in_channels)

    @property
    def size_divisibility(self) -> int:
        """Height and width of the input must be multiples of this, pixels."""
        return self._size_divisibility

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """``[B, in_channels, H, W]`` to ``{"stage3": [B, C3, H / 8, W / 8], ...}``, channels first."""
        maps = self.body(x)
        out = {}
        for key, index in zip(self._out_features, self._picked, strict=True):
            feature = maps[index].permute(0, 3, 1, 2).contiguous() if self._channels_last else maps[index]
            out[key] = self.out_norms[key](feature) if self.out_norms else feature
        return out

    @torch.no_grad()
    def _prove(self, name: str, in_channels: int) -> None:
        """What timm says about strides, channels and layout is tried once: some networks take one size only."""
        first = next(self.body.parameters())
        image = torch.zeros(1, in_channels, *_TRIAL, device=first.device, dtype=first.dtype)
        self.eval()
        try:
            found = {key: tuple(x.shape[1:]) for key, x in self(image).items()}
        except (AssertionError, IndexError, RuntimeError, ValueError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UserError(
                f"MODEL.TIMM.NAME: {name} cannot take images of any size ({reason}), which a detector needs; name "
                "another model of timm"
            ) from error
        finally:
            self.train()
        for key, shape in self.output_shape().items():
            wanted = (shape.channels, *(side // shape.stride for side in _TRIAL))
            if found[key] != wanted:
                raise UserError(
                    f"MODEL.TIMM.NAME: the features of {name} at stride {shape.stride} are {found[key]} for an image "
                    f"of {_TRIAL} pixels, not {wanted}, so no pyramid fits them; name another model of timm"
                )


@register_once(BACKBONE_REGISTRY)
def build_timm_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """A timm network (``MODEL.TIMM``) with FPN (``MODEL.FPN``): p3 to p7, strides 8 to 128.

    All outputs of the body go in; ``MODEL.FPN.IN_FEATURES`` is not read.
    """
    body = _configured_body(cfg, input_shape)
    channels = cfg.MODEL.FPN.OUT_CHANNELS
    return build_fpn(cfg, body, LastLevelP6P7_P5(channels, channels), list(body.output_shape()))


@register_once(BACKBONE_REGISTRY)
def build_timm_bifpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """A timm network (``MODEL.TIMM``) with BiFPN (``MODEL.BIFPN``): p3 to p7, strides 8 to 128."""
    body = _configured_body(cfg, input_shape)
    return bifpn_from_config(cfg, body, list(body.output_shape()))


def _configured_body(cfg: CfgNode, input_shape: ShapeSpec) -> TimmBody:
    node = cfg.MODEL.TIMM
    strides = list(node.OUT_STRIDES)
    if not strides or strides != [2 ** (6 - len(strides) + i) for i in range(len(strides))]:
        raise UserError(
            f"MODEL.TIMM.OUT_STRIDES is {strides}, but must be powers of two, each twice the one before, that end "
            "with 32, such as [8, 16, 32]"
        )
    return TimmBody(
        node.NAME,
        strides,
        in_channels=input_shape.channels,
        drop_path=node.DROP_PATH,
        freeze_at=node.FREEZE_AT,
        norm=node.NORM,
        out_norm=node.OUT_NORM,
    )


def _create(name: str, in_channels: int, drop_path: float) -> nn.Module:
    """The network without weights and classifier, taking images of any size where timm knows how."""
    try:
        import timm
    except ImportError as error:
        raise UserError(
            f"MODEL.TIMM.NAME is {name}, but timm is not installed; pip install centernet2-detectron2[timm]"
        ) from error
    if not timm.is_model(name.partition(".")[0]) or set(name) & set(":/"):  # an address would be looked up
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "timm.list_models() lists all names"
        raise UserError(f"MODEL.TIMM.NAME: timm {timm.__version__} has no model '{name}'; {hint}")
    options: dict[str, Any] = {"in_chans": in_channels, "drop_path_rate": float(drop_path), **_ANY_SIZE}
    while True:
        try:
            return timm.create_model(name, pretrained=False, features_only=True, **options)
        except TypeError as error:
            unknown = [option for option in ("features_only", *options) if f"'{option}'" in str(error)]
            if "features_only" in unknown:
                raise UserError(f"MODEL.TIMM.NAME: {name} gives no features; name another model of timm") from error
            if "drop_path_rate" in unknown and drop_path:
                raise UserError(f"MODEL.TIMM.DROP_PATH is {drop_path}, but {name} has no drop path; set 0") from error
            if "unexpected keyword" not in str(error) or not unknown:
                raise
            for option in unknown:
                del options[option]
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            raise UserError(f"MODEL.TIMM.NAME: timm cannot build {name} as a body: {error}") from error


def _deepest(features: Sequence[Mapping[str, Any]], strides: Sequence[int], name: str) -> list[int]:
    """Which of the outputs are wanted: the last one of each stride."""
    found = {feature["reduction"]: index for index, feature in enumerate(features)}
    absent = [stride for stride in strides if stride not in found]
    if absent:
        raise UserError(
            f"MODEL.TIMM.NAME: {name} has features of stride {', '.join(map(str, sorted(found)))}, but none of "
            f"{', '.join(map(str, absent))}, which the pyramid needs; name a network with stages, such as convnext_tiny"
        )
    return [found[stride] for stride in strides]


def _freeze(body: nn.Module, features: Sequence[Mapping[str, Any]], freeze_at: int, name: str) -> None:
    """Make everything constant up to the features of stride ``2 ** freeze_at``, or before the first features.

    timm registers modules in the order of use (its own feature extraction relies on that).
    """
    if freeze_at <= 0:
        return
    inside = [feature for feature in features if feature["reduction"] <= 2**freeze_at]
    anchor = inside[-1]["module"] if inside else features[0]["module"]
    order = [key for key, _ in body.named_modules()]
    key = features_only_name(anchor, order)
    if key is None:
        raise UserError(f"MODEL.TIMM.FREEZE_AT is {freeze_at}, but {name} does not tell where its stages end; set 0")
    end = order.index(key)
    if inside:
        end = max(i for i, other in enumerate(order) if other == key or other.startswith(f"{key}.")) + 1
    for path in order[:end]:
        module = body.get_submodule(path)
        for parameter in module.parameters(recurse=False):
            parameter.requires_grad = False
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            parent, _, child = path.rpartition(".")
            body.get_submodule(parent).add_module(child, _with_constant_norms(module))


def _with_constant_norms(module: nn.Module) -> nn.Module:
    """All batch norms of ``module`` made constant. timm's own conversion: its batch norms carry the activation,
    which detectron2's ``FrozenBatchNorm2d.convert_frozen_batchnorm`` would drop."""
    from timm.layers import freeze_batch_norm_2d

    return freeze_batch_norm_2d(module)
