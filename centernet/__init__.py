"""CenterNet2 as a detectron2 extension. Importing this package registers its models, backbones and datasets."""

__version__ = "0.1.0"

from typing import TYPE_CHECKING, Any

from .compat import offer_published_names
from .config import add_centernet_config
from .data.datasets import categories_v1, nuimages
from .data.datasets.coco import _PREDEFINED_SPLITS_COCO
from .errors import UserError
from .model_zoo import register_zoo_addresses
from .modeling import (
    CenterNet,
    CenterNetDetector,
    ProbabilisticCascadeROIHeads,
    ProbabilisticROIHeads,
    build_dla_backbone,
    build_dla_fpn3_backbone,
    build_fcos_resnet_bifpn_backbone,
    build_p35_resnet_fpn_backbone,
    build_p67_res2net_fpn_backbone,
    build_p67_resnet_fpn_backbone,
    build_resnet_bifpn_backbone,
)
from .tracking3d.modeling import QD3DT  # noqa: F401  registers the wing's models

if TYPE_CHECKING:
    from .inference import Predictor

# published names; more of them are in compat
CustomROIHeads = ProbabilisticROIHeads
CustomCascadeROIHeads = ProbabilisticCascadeROIHeads
offer_published_names(__name__)
register_zoo_addresses()


def __getattr__(name: str) -> Any:
    if name == "Predictor":  # at the first use: it brings the drawing libraries with it
        from .inference import Predictor

        return Predictor
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")


__all__ = [
    "CenterNet",
    "CenterNetDetector",
    "CustomCascadeROIHeads",
    "CustomROIHeads",
    "Predictor",
    "ProbabilisticCascadeROIHeads",
    "ProbabilisticROIHeads",
    "UserError",
    "_PREDEFINED_SPLITS_COCO",
    "add_centernet_config",
    "build_dla_backbone",
    "build_dla_fpn3_backbone",
    "build_fcos_resnet_bifpn_backbone",
    "build_p35_resnet_fpn_backbone",
    "build_p67_res2net_fpn_backbone",
    "build_p67_resnet_fpn_backbone",
    "build_resnet_bifpn_backbone",
    "categories_v1",
    "nuimages",
]
