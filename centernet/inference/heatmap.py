"""Where the first stage sees objects: its P(object) maps as one heatmap on the picture's pixels."""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..modeling.fixed_size import FixedSizeDetector

if TYPE_CHECKING:
    from .predictor import Predictor

__all__ = ["draw_heatmap", "first_stage_heatmap"]

_OPACITY = 0.75  # where P(object) is a half or more


def first_stage_heatmap(predictor: "Predictor", image_bgr: np.ndarray) -> np.ndarray:
    """P(object) of the first stage around every pixel: the largest of all levels. Costs backbone and head once more.

    Args:
        predictor: whose model is shown the picture as it is at prediction.
        image_bgr: uint8 [H, W, 3], BGR.

    Returns:
        float32 [H, W] in [0, 1]. A cell of a level counts at its centre; between centres it is interpolated, so a
        peak marks the centre of an object, and is the wider the larger the objects of its level.

    Raises:
        UserError: the model has no first stage of this package, ``image_bgr`` is not such an array, or a tensor of the
            model holds NaN or infinity.
    """
    model: Any = predictor.model
    detector = FixedSizeDetector(model)
    pixels = predictor.prepare(image_bgr)["image"][None].to(model.pixel_mean.device)
    height, width = pixels.shape[-2:]
    with predictor.network.alone(detector), torch.inference_mode():
        padding = (0, -width % detector.divisor, 0, -height % detector.divisor)
        size = torch.tensor([[height, width]], device=pixels.device)
        maps = detector.heatmaps(detector.features(detector.normalise(F.pad(pixels, padding), size)))
        merged = _merge(maps, model.proposal_generator.strides, height, width)
        heatmap = F.interpolate(merged, image_bgr.shape[:2], mode="bilinear", align_corners=False)
    return heatmap[0, 0].clamp(0, 1).cpu().numpy()


def _merge(maps: list[Tensor], strides: tuple[int, ...], height: int, width: int) -> Tensor:
    """The largest value of all levels at each pixel: ``[1, 1, H_l, W_l]`` a level in, ``[1, 1, height, width]`` out."""
    merged = maps[0].new_zeros(1, 1, height, width)
    for level, stride in zip(maps, strides, strict=True):
        pixels = F.interpolate(level, scale_factor=float(stride), mode="bilinear", align_corners=False)
        merged = torch.maximum(merged, pixels[:, :, :height, :width])
    return merged


def draw_heatmap(image_rgb: np.ndarray, heatmap: np.ndarray) -> np.ndarray:
    """Lay a heatmap over a picture: nothing where it is 0, from blue over yellow to red where it is 1.

    Args:
        image_rgb: uint8 [H, W, 3].
        heatmap: float [H, W] in [0, 1].

    Returns:
        a new uint8 [H, W, 3] RGB.
    """
    import cv2

    probability = np.clip(heatmap, 0, 1).astype(np.float32)
    # the root tells weak ones apart: P(object) of 0.1 is a candidate
    colours: Any = cv2.applyColorMap((255 * np.sqrt(probability)).astype(np.uint8), cv2.COLORMAP_TURBO)[:, :, ::-1]
    opacity = _OPACITY * np.minimum(2 * probability, 1)[:, :, None]
    return np.rint(image_rgb * (1 - opacity) + colours * opacity).astype(np.uint8)
