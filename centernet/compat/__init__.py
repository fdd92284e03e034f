"""The original package's module paths and names, so that code written for it runs unchanged.

:data:`PUBLISHED` is the whole story: what the original offers at a path where this package has nothing of that name,
and where ours is. Every other published path and name simply exists here. Modules that exist are given the names they
lack; modules that do not are made, empty, under the name that this package was imported by
(``third_party.CenterNet2.centernet`` just as well as ``centernet``). Nothing is imported before a name is asked for.
"""

import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

__all__ = ["PUBLISHED", "offer_published_names"]

_PREDICTOR = ".modeling.roi_heads.box_predictor:ProbabilisticBoxPredictor"
_ROI_HEADS = {
    "CustomROIHeads": ".modeling.roi_heads.probabilistic_heads:ProbabilisticROIHeads",
    "CustomCascadeROIHeads": ".modeling.roi_heads.probabilistic_heads:ProbabilisticCascadeROIHeads",
}
_AUGMENTATION = ".data.augmentation"
_ADAPTERS = ".compat.adapters"

# module path -> name -> "module:name" of ours; a leading dot is this package
PUBLISHED: dict[str, dict[str, str]] = {
    "modeling.backbone.dlafpn": {"dla34": f"{_ADAPTERS}:dla34"},
    "modeling.dense_heads.utils": {
        "reduce_sum": f"{_ADAPTERS}:reduce_sum",
        "_transpose": f"{_ADAPTERS}:transpose_targets",
    },
    "modeling.layers.heatmap_focal_loss": {
        "heatmap_focal_loss": f"{_ADAPTERS}:heatmap_focal_loss",
        "heatmap_focal_loss_jit": f"{_ADAPTERS}:heatmap_focal_loss",
        "binary_heatmap_focal_loss": f"{_ADAPTERS}:binary_heatmap_focal_loss",
        "binary_heatmap_focal_loss_jit": f"{_ADAPTERS}:binary_heatmap_focal_loss",
    },
    "modeling.layers.iou_loss": {"IOULoss": f"{_ADAPTERS}:IOULoss", "giou_loss": "fvcore.nn:giou_loss"},
    "modeling.layers.ml_nms": {"ml_nms": f"{_ADAPTERS}:ml_nms"},
    "modeling.roi_heads.custom_fast_rcnn": {
        "CustomFastRCNNOutputLayers": _PREDICTOR,
        "load_class_freq": ".modeling.roi_heads.fed_loss:load_class_freq",
        "get_fed_loss_inds": ".modeling.roi_heads.fed_loss:get_fed_loss_inds",
    },
    "modeling.roi_heads.custom_roi_heads": {**_ROI_HEADS, "CustomFastRCNNOutputLayers": _PREDICTOR},
    "data.custom_build_augmentation": {
        "build_custom_augmentation": f"{_AUGMENTATION}:build_custom_augmentation",
        "build_custom_transform_gen": f"{_AUGMENTATION}:build_custom_augmentation",
    },
    "data.custom_dataset_dataloader": {
        "build_custom_train_loader": ".data.loader:build_custom_train_loader",
        "get_detection_dataset_dicts_with_source": ".data.loader:get_detection_dataset_dicts_with_source",
        "ClassAwareSampler": ".data.samplers:ClassAwareSampler",
        "MultiDatasetSampler": ".data.samplers:MultiDatasetSampler",
    },
    "data.transforms": {},
    "data.transforms.custom_augmentation_impl": {
        "EfficientDetResizeCrop": f"{_AUGMENTATION}:EfficientDetResizeCrop",
    },
    "data.transforms.custom_transform": {
        "EfficientDetResizeCropTransform": f"{_AUGMENTATION}:EfficientDetResizeCropTransform",
    },
}


def offer_published_names(package: str) -> None:
    """Make every path and name of :data:`PUBLISHED` importable below ``package``; twice does no harm.

    Args:
        package: the name that this package was imported by.
    """
    for path, names in PUBLISHED.items():
        name = f"{package}.{path}"
        module = _existing(name) or _make(name, is_package=any(other.startswith(f"{path}.") for other in PUBLISHED))
        _offer(module, package, names)


def _existing(name: str) -> ModuleType | None:
    if name not in sys.modules and importlib.util.find_spec(name) is None:
        return None
    return importlib.import_module(name)


def _make(name: str, *, is_package: bool) -> ModuleType:
    module = ModuleType(name, "A module path of the original package; see PUBLISHED in the compat package.")
    module.__spec__ = ModuleSpec(name, loader=None, is_package=is_package)
    parent, _, leaf = name.rpartition(".")
    module.__package__ = name if is_package else parent
    if is_package:
        module.__path__ = []
    sys.modules[name] = module
    setattr(importlib.import_module(parent), leaf, module)
    return module


def _offer(module: ModuleType, package: str, names: Mapping[str, str]) -> None:
    """Give ``module`` those of ``names`` that it lacks, each fetched when it is first asked for."""
    namespace = vars(module)
    if not namespace.get("__file__"):
        namespace["__all__"] = sorted(names)
    present: Callable[[str], Any] | None = namespace.get("__getattr__")

    def fetch(name: str) -> Any:
        if name in names:
            source, _, attribute = names[name].partition(":")
            value = getattr(importlib.import_module(source, package), attribute)
            namespace[name] = value
            return value
        if present is not None:
            return present(name)
        raise AttributeError(f"module '{module.__name__}' has no attribute '{name}'")

    namespace["__getattr__"] = fetch
    namespace["__dir__"] = lambda: sorted({*namespace, *names})
