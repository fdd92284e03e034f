"""Augmentations of training, chosen by ``INPUT.CUSTOM_AUG``: detectron2's shortest-edge resize, the resize and
crop of EfficientDet, or large-scale jitter; and the resizing of evaluation, chosen by
``INPUT.TEST_INPUT_TYPE``.

Sources: "EfficientDet" (arXiv 1911.09070); "Simple Copy-Paste" (arXiv 2012.07177) for large-scale jitter; both
without padding. Coordinates are pixels, x to the right and y down, of the image before (input) and after (output)
the transform.
"""

from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from fvcore.transforms.transform import CropTransform, Transform
from PIL import Image
from torch.nn import functional

from ..errors import UserError

__all__ = [
    "EfficientDetResizeCrop",
    "EfficientDetResizeCropTransform",
    "RandomWindow",
    "build_custom_augmentation",
    "build_custom_transform_gen",
    "build_test_resize",
    "check_input",
]

CUSTOM_AUGMENTATIONS = ("ResizeShortestEdge", "EfficientDetResizeCrop", "LargeScaleJitter")
PSEUDO_LABEL_WEIGHTS = ("none", "score")
TEST_INPUT_TYPES = ("default", "square")
RANDOM_FLIPS = ("none", "horizontal", "vertical")
_TORCH_MODES = {Image.Resampling.NEAREST: "nearest", Image.Resampling.BICUBIC: "bicubic"}  # else bilinear


def build_custom_augmentation(cfg: CfgNode, is_train: bool) -> list[T.Augmentation]:
    """The resizing that ``INPUT.CUSTOM_AUG`` names, and in training the flip that ``INPUT.RANDOM_FLIP`` names,
    with probability 1/2.

    Raises:
        UserError: ``INPUT.CUSTOM_AUG`` is none of ``ResizeShortestEdge``, ``EfficientDetResizeCrop`` and
            ``LargeScaleJitter``, or, in training, ``INPUT.RANDOM_FLIP`` is not ``none``, ``horizontal`` or
            ``vertical``.
    """
    name = cfg.INPUT.CUSTOM_AUG
    _check_choice("INPUT.CUSTOM_AUG", name, CUSTOM_AUGMENTATIONS)
    if not is_train:
        if name == "ResizeShortestEdge":
            return [T.ResizeShortestEdge(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST, "choice")]
        return [EfficientDetResizeCrop(cfg.INPUT.TEST_SIZE, (1, 1))]
    size, scale = cfg.INPUT.TRAIN_SIZE, cfg.INPUT.SCALE_RANGE
    resize: list[T.Augmentation]
    if name == "ResizeShortestEdge":
        resize = [
            T.ResizeShortestEdge(
                cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING
            )
        ]
    elif name == "EfficientDetResizeCrop":
        resize = [EfficientDetResizeCrop(size, scale)]
    else:
        resize = [T.ResizeScale(*scale, target_height=size, target_width=size), RandomWindow(size)]
    flip = cfg.INPUT.RANDOM_FLIP
    _check_choice("INPUT.RANDOM_FLIP", flip, RANDOM_FLIPS)
    if flip == "none":
        return resize
    return [*resize, T.RandomFlip(horizontal=flip == "horizontal", vertical=flip == "vertical")]


build_custom_transform_gen = build_custom_augmentation


def build_test_resize(cfg: CfgNode) -> T.Augmentation:
    """The resizing of evaluation and of the predictor, whatever ``INPUT.CUSTOM_AUG`` is.

    ``INPUT.TEST_INPUT_TYPE`` ``"default"``: short side ``MIN_SIZE_TEST`` pixels (0: not resized), long side
    at most ``MAX_SIZE_TEST``. ``"square"``: long side ``TEST_SIZE`` pixels, nothing cropped.

    Raises:
        UserError: another ``INPUT.TEST_INPUT_TYPE``.
    """
    kind = cfg.INPUT.TEST_INPUT_TYPE
    _check_choice("INPUT.TEST_INPUT_TYPE", kind, TEST_INPUT_TYPES)
    if kind == "default":
        return T.ResizeShortestEdge(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST, "choice")
    return EfficientDetResizeCrop(cfg.INPUT.TEST_SIZE, (1, 1))


def check_input(cfg: CfgNode) -> None:
    """Check the choices in ``cfg.INPUT`` before anything is loaded.

    Raises:
        UserError: ``TEST_INPUT_TYPE``, ``CUSTOM_AUG``, ``RANDOM_FLIP`` or ``PSEUDO_LABEL_WEIGHT`` is not a
            value that exists, or ``CROP.ENABLED`` stands with a ``CUSTOM_AUG``, which does not crop that way.
    """
    _check_choice("INPUT.TEST_INPUT_TYPE", cfg.INPUT.TEST_INPUT_TYPE, TEST_INPUT_TYPES)
    _check_choice("INPUT.RANDOM_FLIP", cfg.INPUT.RANDOM_FLIP, RANDOM_FLIPS)
    _check_choice("INPUT.PSEUDO_LABEL_WEIGHT", cfg.INPUT.PSEUDO_LABEL_WEIGHT, PSEUDO_LABEL_WEIGHTS)
    custom = cfg.INPUT.CUSTOM_AUG
    if not custom:
        return
    _check_choice("INPUT.CUSTOM_AUG", custom, CUSTOM_AUGMENTATIONS)
    if cfg.INPUT.CROP.ENABLED:
        raise UserError(
            f"INPUT.CROP.ENABLED has no effect with INPUT.CUSTOM_AUG '{custom}': set INPUT.CROP.ENABLED to False "
            "or INPUT.CUSTOM_AUG to ''"
        )


def _check_choice(key: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UserError(f"{key} is '{value}', must be one of {', '.join(choices)}")


class RandomWindow(T.FixedSizeCrop):
    """detectron2's crop of a random square window, without padding and without its need of another package for
    polygons: what reaches beyond the window stays part of the polygon (mask targets are cut to the box anyway).
    """

    def __init__(self, size: int) -> None:
        """``size``: side of the window, pixels; smaller images stay whole."""
        super().__init__((size, size), pad=False)
        self.size = size  # for the representation

    def get_transform(self, image: np.ndarray) -> "WindowTransform":
        """Draw the window for ``image``, an array [h, w, ...] (only its size matters)."""
        crop = super().get_transform(image).transforms[0]
        return WindowTransform(crop.x0, crop.y0, crop.w, crop.h, crop.orig_w, crop.orig_h)


class WindowTransform(CropTransform):
    """A crop that moves polygons as it moves points."""

    def apply_polygons(self, polygons: list[np.ndarray]) -> list[np.ndarray]:
        """Move polygons, each float [n, 2] as x, y."""
        return [self.apply_coords(polygon) for polygon in polygons]


class EfficientDetResizeCrop(T.Augmentation):
    """Scale the image by a random factor relative to a square of side ``size``, then crop a random window of
    it.

    With ``f`` uniform in ``scale``, the image is scaled (aspect kept) to touch a square of side ``f * size``
    from inside, and what reaches beyond ``size`` is cut at a random offset. Nothing is padded: the output may
    be smaller than ``size``.

    Draws from numpy's global generator, in this order: scale, y offset, x offset.
    """

    def __init__(
        self,
        size: int,
        scale: tuple[float, float],
        interp: int = Image.Resampling.BILINEAR,
    ) -> None:
        """
        Args:
            size: side of the square, output pixels.
            scale: smallest and largest factor.
            interp: a ``PIL.Image.Resampling`` for uint8 images.
        """
        super().__init__()
        self.target_size = (size, size)
        self.scale = scale
        self.interp = interp

    def get_transform(self, image: np.ndarray) -> "EfficientDetResizeCropTransform":
        """Draw the transform for ``image``, an array [h, w, ...] (only its size matters)."""
        height, width = image.shape[:2]
        factor = np.random.uniform(*self.scale)
        target_h, target_w = self.target_size
        img_scale = min(factor * target_h / height, factor * target_w / width)
        scaled_h, scaled_w = int(height * img_scale), int(width * img_scale)
        offset_y = int(max(0.0, float(scaled_h - target_h)) * np.random.uniform(0, 1))
        offset_x = int(max(0.0, float(scaled_w - target_w)) * np.random.uniform(0, 1))
        return EfficientDetResizeCropTransform(
            scaled_h, scaled_w, offset_y, offset_x, img_scale, self.target_size, self.interp
        )


class EfficientDetResizeCropTransform(Transform):
    """Resize to ``scaled_h`` x ``scaled_w``, then crop the window of at most ``target_size`` at the offsets.

    Attributes:
        scaled_h, scaled_w: size after scaling, before cropping, pixels.
        offset_y, offset_x: upper left corner of the crop in the scaled image, pixels.
        img_scale: output pixels an input pixel, both axes (coordinates use this, not the rounded size ratio).
        target_size: height and width of the crop, pixels.
        interp: a ``PIL.Image.Resampling``.
    """

    def __init__(
        self,
        scaled_h: int,
        scaled_w: int,
        offset_y: int,
        offset_x: int,
        img_scale: float,
        target_size: tuple[int, int],
        interp: int = Image.Resampling.BILINEAR,
    ) -> None:
        super().__init__()
        # a very thin image scaled down far would vanish
        self.scaled_h, self.scaled_w = max(scaled_h, 1), max(scaled_w, 1)
        self.offset_y, self.offset_x = offset_y, offset_x
        self.img_scale = img_scale
        self.target_size = target_size
        self.interp = interp

    def apply_image(self, img: np.ndarray, interp: int | None = None) -> np.ndarray:
        """Resize and crop ``img``, [h, w] or [h, w, c] of any numeric dtype; uint8 by Pillow, others by
        torch.

        Returns:
            An array of the same dtype, [min(scaled_h, target_h - offset), ...] in its first two axes.
        """
        method = Image.Resampling(self.interp if interp is None else interp)
        resized = self._resize_uint8(img, method) if img.dtype == np.uint8 else self._resize_any(img, method)
        bottom = min(self.scaled_h, self.offset_y + self.target_size[0])
        right = min(self.scaled_w, self.offset_x + self.target_size[1])
        return resized[self.offset_y : bottom, self.offset_x : right]

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        """Map points, float [n, 2] as x, y, in place."""
        coords[:, 0] = coords[:, 0] * self.img_scale - self.offset_x
        coords[:, 1] = coords[:, 1] * self.img_scale - self.offset_y
        return coords

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        """Resize and crop a label map [h, w] without mixing labels."""
        return self.apply_image(segmentation, interp=Image.Resampling.NEAREST)

    def inverse(self) -> Transform:
        """The transform that takes coordinates of the output back to the input (what was cut away stays
        lost)."""
        return _InverseResizeCrop(self)

    def _resize_uint8(self, img: np.ndarray, method: Image.Resampling) -> np.ndarray:
        # Pillow has no one-channel arrays with a channel axis
        flat = img[:, :, 0] if img.ndim == 3 and img.shape[2] == 1 else img
        resized = np.asarray(Image.fromarray(flat).resize((self.scaled_w, self.scaled_h), method))
        return resized[:, :, None] if flat.ndim != img.ndim else resized

    def _resize_any(self, img: np.ndarray, method: Image.Resampling) -> np.ndarray:
        mode = _TORCH_MODES.get(method, "bilinear")
        channels_last = img[:, :, None] if img.ndim == 2 else img
        # label maps of wide integers survive float64 exactly
        tensor = torch.from_numpy(np.ascontiguousarray(channels_last.transpose(2, 0, 1)).astype(np.float64))
        options: dict[str, Any] = {} if mode == "nearest" else {"align_corners": False}
        resized = functional.interpolate(tensor[None], (self.scaled_h, self.scaled_w), mode=mode, **options)[
            0
        ]
        array = resized.numpy().transpose(1, 2, 0).astype(img.dtype)
        return array[:, :, 0] if img.ndim == 2 else array


class _InverseResizeCrop(Transform):
    """Coordinates of an :class:`EfficientDetResizeCropTransform`'s output back to its input; no images."""

    def __init__(self, forward: EfficientDetResizeCropTransform) -> None:
        super().__init__()
        self.forward = forward

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        raise NotImplementedError("the part that was cropped away cannot be restored")

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        coords[:, 0] = (coords[:, 0] + self.forward.offset_x) / self.forward.img_scale
        coords[:, 1] = (coords[:, 1] + self.forward.offset_y) / self.forward.img_scale
        return coords
