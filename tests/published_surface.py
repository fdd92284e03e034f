"""What the original package lets others import (specification, section 8), and a program that imports it.

``python published_surface.py '[[parent, ...], [folder, ...], config]'`` puts the folders on ``sys.path``, imports
everything below every parent, detects with heads of the first and the last copy, and prints a JSON list of what went
wrong.
"""

import importlib
import json
import sys

BACKBONES = {
    "fpn_p5": "LastLevelP6P7_P5 build_p67_resnet_fpn_backbone build_p35_resnet_fpn_backbone",
    "dla": "DLASeg build_dla_backbone build_retinanet_dla_fpn_backbone",
    "dlafpn": "dla34 DLA build_dla_fpn3_backbone build_dla_fpn5_backbone build_dlaup_backbone",
    "bifpn": "BiFPN build_resnet_bifpn_backbone build_p37_dla_bifpn_backbone",
    "bifpn_fcos": "build_fcos_resnet_bifpn_backbone build_p35_fcos_resnet_bifpn_backbone "
    "build_p35_fcos_dla_bifpn_backbone build_p37_fcos_dla_bifpn_backbone",
    "res2net": "build_res2net_backbone build_p67_res2net_fpn_backbone build_res2net_bifpn_backbone",
}
SURFACE = {
    "": "CenterNetDetector CenterNet CustomROIHeads CustomCascadeROIHeads build_p67_resnet_fpn_backbone "
    "build_dla_backbone build_dla_fpn3_backbone build_resnet_bifpn_backbone build_fcos_resnet_bifpn_backbone "
    "build_p67_res2net_fpn_backbone categories_v1 _PREDEFINED_SPLITS_COCO nuimages",
    "config": "add_centernet_config",
    **{f"modeling.backbone.{file}": names for file, names in BACKBONES.items()},
    "modeling.debug": "debug_train debug_test debug_second_stage",
    "modeling.dense_heads.centernet": "CenterNet",
    "modeling.dense_heads.centernet_head": "CenterNetHead",
    "modeling.dense_heads.utils": "reduce_sum _transpose",
    "modeling.layers.deform_conv": "DFConv2d",
    "modeling.layers.heatmap_focal_loss": "heatmap_focal_loss heatmap_focal_loss_jit binary_heatmap_focal_loss "
    "binary_heatmap_focal_loss_jit",
    "modeling.layers.iou_loss": "IOULoss giou_loss",
    "modeling.layers.ml_nms": "ml_nms",
    "modeling.meta_arch.centernet_detector": "CenterNetDetector",
    "modeling.roi_heads.custom_fast_rcnn": "CustomFastRCNNOutputLayers",
    "modeling.roi_heads.custom_roi_heads": "CustomROIHeads CustomCascadeROIHeads",
    "modeling.roi_heads.fed_loss": "load_class_freq get_fed_loss_inds",
    "data.custom_build_augmentation": "build_custom_augmentation build_custom_transform_gen",
    "data.custom_dataset_dataloader": "build_custom_train_loader ClassAwareSampler MultiDatasetSampler "
    "get_detection_dataset_dicts_with_source",
    "data.datasets.coco": "_PREDEFINED_SPLITS_COCO register_distill_coco_instances",
    "data.datasets.nuimages": "categories",
    "data.datasets.objects365": "categories_v1",
    "data.transforms.custom_augmentation_impl": "EfficientDetResizeCrop",
    "data.transforms.custom_transform": "EfficientDetResizeCropTransform",
}
REGISTRIES = {
    "detectron2.modeling.proposal_generator:PROPOSAL_GENERATOR_REGISTRY": "CenterNet",
    "detectron2.modeling:ROI_HEADS_REGISTRY": "CustomROIHeads CustomCascadeROIHeads",
    "detectron2.modeling:META_ARCH_REGISTRY": "CenterNetDetector",
    "detectron2.modeling:BACKBONE_REGISTRY": " ".join(
        name for names in BACKBONES.values() for name in names.split() if name.startswith("build_")
    ),
}
DATASETS = ["coco_2017_unlabeled", "coco_un_yolov4_55_0.5", "objects365_train", "objects365_val"]
DATASETS += ["nuimages_train", "nuimages_val", "nuimages_mini"]


def missing(package: str) -> list[str]:
    """Paths and names of :data:`SURFACE` that cannot be imported below ``package``."""
    found = []
    for path, names in SURFACE.items():
        full = f"{package}.{path}" if path else package
        for name in names.split():
            scope: dict = {}
            try:
                exec(f"from {full} import {name}", scope)
                exec(f"import {full}; {full}.{name}", scope)  # and as an attribute of its parents
            except (ImportError, AttributeError) as error:
                found.append(f"{full}.{name}: {error}")
    return found


def unregistered() -> list[str]:
    from detectron2.data import DatasetCatalog

    found = [name for name in DATASETS if name not in DatasetCatalog.list()]
    for place, names in REGISTRIES.items():
        module, _, attribute = place.partition(":")
        registry = getattr(importlib.import_module(module), attribute)
        found += [f"{attribute}: {name}" for name in names.split() if name not in registry]
    return found


def strangers(package: str) -> list[str]:
    """Modules of ``package`` whose functions and classes come from another copy of it."""
    own = [module for name, module in sys.modules.items() if f"{name}.".startswith(f"{package}.")]
    homes = {
        f"{module.__name__}.{name} is of {home}"
        for module in own
        for name, value in vars(module).items()
        if "centernet." in (home := getattr(value, "__module__", None) or "") and not home.startswith(f"{package}.")
    }
    return sorted(homes)


def scores(package: str, config: str) -> list[float]:
    """Of a detector with the config and heads of ``package``, whichever copy its registered parts are from."""
    import torch
    from detectron2.config import get_cfg
    from detectron2.modeling import ROI_HEADS_REGISTRY, build_model

    heads = importlib.import_module(f"{package}.modeling.roi_heads.custom_roi_heads").CustomCascadeROIHeads
    name = package.replace(".", "_")
    ROI_HEADS_REGISTRY._do_register(name, heads)
    cfg = get_cfg()
    importlib.import_module(f"{package}.config").add_centernet_config(cfg)
    cfg.merge_from_file(config)
    cfg.MODEL.ROI_HEADS.NAME, cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = name, "cpu", ""
    cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.RESNETS.RES2_OUT_CHANNELS, cfg.MODEL.RESNETS.NORM = 18, 64, "BN"
    cfg.MODEL.FPN.OUT_CHANNELS, cfg.MODEL.ROI_BOX_HEAD.FC_DIM, cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 64, 64, 0.0
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    with torch.no_grad():
        picture = torch.randint(0, 256, (3, 64, 96), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
        return model([{"image": picture}])[0]["instances"].scores.tolist()


def main(parents: list[str], folders: list[str], config: str) -> list[str]:
    sys.path[:0] = folders
    packages = [f"{parent}.centernet" if parent else "centernet" for parent in parents]
    problems = []
    for package in packages:
        problems += missing(package) + unregistered() + strangers(package)
        location = importlib.import_module(package).__file__
        if not any(location.startswith(folder) for folder in folders):
            problems.append(f"{package} came from {location}")
    found = [scores(package, config) for package in dict.fromkeys((packages[0], packages[-1]))]
    if not found[0] or any(abs(a - b) > 1e-6 for a, b in zip(found[0], found[-1], strict=True)):
        problems.append(f"{packages[0]} and {packages[-1]} detect different things")
    return problems


if __name__ == "__main__":
    print(json.dumps(main(*json.loads(sys.argv[1]))))
