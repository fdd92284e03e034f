"""A model made from a config, ready for pictures: arrays in, predictions out, alone or in batches."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode

from ..config_file import check_weights
from ..data.augmentation import build_test_resize
from ..errors import UserError
from ..modeling.augmented_inference import check_test_time_augmentation, with_test_time_augmentation
from ..modeling.build import build_detector
from ..modeling.finite_check import settle_finite_checks
from ..weights import follow_weights
from .thresholds import filter_predictions, set_score_threshold
from .visualize import resolve_metadata
from .weights import load_weights

__all__ = ["Predictor", "build_test_resize", "filter_predictions", "set_score_threshold"]


class Predictor:
    """Runs the model of a config on pictures: detectron2's ``DefaultPredictor`` plus batches and checks.

    Attributes:
        cfg: a private copy of the config.
        model: the model in evaluation mode, on ``cfg.MODEL.DEVICE``.
        metadata: class names and colours, see :func:`~.visualize.resolve_metadata`.
        aug: the resizing that evaluation uses, see :func:`~centernet.data.build_test_resize`.
        input_format: channel order that the model wants, ``"BGR"`` or ``"RGB"``.

    Raises:
        UserError: a weights file that is missing, unreadable or does not fit; an ``INPUT.FORMAT`` or
            ``INPUT.TEST_INPUT_TYPE`` that does not exist; ``TEST.AUG`` of a one-stage model.

    ``TEST.AUG.ENABLED`` takes several sizes and flips of each picture; the pictures of a batch one after the other.
    """

    def __init__(self, cfg: CfgNode) -> None:
        if cfg.INPUT.FORMAT not in ("BGR", "RGB"):
            raise UserError(
                f"INPUT.FORMAT is '{cfg.INPUT.FORMAT}', but only BGR and RGB pictures can be shown to a model"
            )
        check_test_time_augmentation(cfg)
        check_weights(cfg)
        self.cfg = follow_weights(cfg, cfg.MODEL.WEIGHTS).clone()
        self.input_format: str = cfg.INPUT.FORMAT
        self.aug = build_test_resize(self.cfg)
        self.metadata = resolve_metadata(self.cfg)
        self.model = build_detector(self.cfg).eval()
        load_weights(self.model, self.cfg.MODEL.WEIGHTS, strict=self.cfg.MODEL.WEIGHTS_STRICT)
        self._predict = with_test_time_augmentation(self.cfg, self.model)

    def __call__(self, image: np.ndarray) -> dict[str, Any]:
        """Predict one picture.

        Args:
            image: uint8 [H, W, 3], **BGR** whatever the model wants (it is converted), any size.

        Returns:
            the model's output for this picture in detectron2's format: ``instances`` (boxes are x1, y1, x2,
            y2 in pixels of ``image``, scores in [0, 1]), or ``proposals``, ``sem_seg``, ``panoptic_seg``;
            tensors on the model's device.

        Raises:
            UserError: ``image`` is not such an array.
        """
        return self.predict_batch([image])[0]

    def predict_batch(self, images: Sequence[np.ndarray]) -> list[dict[str, Any]]:
        """Predict several pictures in one forward pass, padded to a common size; memory grows with it.

        Args:
            images: uint8 [H, W, 3] BGR arrays; sizes may differ.

        Returns:
            one dict a picture, as :meth:`__call__`; an empty list for no picture.

        Raises:
            UserError: one of ``images`` is not such an array; it is named by its position.
        """
        if not images:
            return []
        inputs = [self._model_input(image, position) for position, image in enumerate(images)]
        with torch.inference_mode():
            predictions: list[dict[str, Any]] = self._predict(inputs)
        settle_finite_checks(self.model)  # the results are here, so nobody waits for the verdict
        return predictions

    def _model_input(self, image: np.ndarray, position: int) -> dict[str, Any]:
        _check_image(image, position)
        height, width = image.shape[:2]
        if self.input_format == "RGB":
            image = np.ascontiguousarray(image[:, :, ::-1])
        resized = self.aug.get_transform(image).apply_image(image)
        tensor = torch.as_tensor(resized.astype("float32").transpose(2, 0, 1))
        return {"image": tensor, "height": height, "width": width}


def _check_image(image: object, position: int) -> None:
    what = f"picture {position} of the batch"
    if not isinstance(image, np.ndarray):
        raise UserError(f"{what} is a {type(image).__name__}, but must be a numpy array [height, width, 3], uint8, BGR")
    if image.ndim != 3 or image.shape[2] != 3:
        raise UserError(f"{what} has shape {image.shape}, but must be [height, width, 3]: convert grey or RGBA to BGR")
    if image.dtype != np.uint8:
        raise UserError(f"{what} has dtype {image.dtype}, but must be uint8 with values 0 to 255")
    if 0 in image.shape:
        raise UserError(f"{what} has no pixel (shape {image.shape})")
