"""Datasets, augmentations, samplers and loaders. Importing this package registers the datasets."""

from .augmentation import (
    EfficientDetResizeCrop,
    EfficientDetResizeCropTransform,
    build_custom_augmentation,
    build_custom_transform_gen,
    build_test_resize,
    check_input,
)
from .bad_images import BadImages
from .checks import check_dataset_fits
from .datasets import ensure_registered, register_coco_json
from .loader import (
    Loader,
    build_custom_train_loader,
    build_test_loader,
    build_train_loader,
    get_detection_dataset_dicts_with_source,
)
from .mapper import build_test_mapper, build_train_mapper, build_validation_mapper
from .own_data import OwnData, prepare_own_data, use_own_data
from .samplers import ClassAwareSampler, MultiDatasetSampler, ResumableBatchSampler, ResumableSampler
from .workers import DeadWorkerError

__all__ = [
    "BadImages",
    "ClassAwareSampler",
    "DeadWorkerError",
    "EfficientDetResizeCrop",
    "EfficientDetResizeCropTransform",
    "Loader",
    "MultiDatasetSampler",
    "OwnData",
    "ResumableBatchSampler",
    "ResumableSampler",
    "build_custom_augmentation",
    "build_custom_train_loader",
    "build_custom_transform_gen",
    "build_test_loader",
    "build_test_mapper",
    "build_test_resize",
    "build_train_loader",
    "build_train_mapper",
    "build_validation_mapper",
    "check_dataset_fits",
    "check_input",
    "ensure_registered",
    "get_detection_dataset_dicts_with_source",
    "prepare_own_data",
    "register_coco_json",
    "use_own_data",
]
