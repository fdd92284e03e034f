"""One forward pass over a batch: which path a model takes, on which device, in which precision."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import GeneralizedRCNN
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from ..errors import UserError
from ..modeling import CenterNet, CenterNetDetector, ProbabilisticCascadeROIHeads, ProbabilisticROIHeads
from ..modeling.augmented_inference import with_test_time_augmentation
from ..modeling.finite_check import settle_finite_checks
from ..modeling.fixed_size import FixedSizeDetector
from ..modeling.padded_instances import PaddedInstances
from .low_precision import DTYPES, fastest_precision

__all__ = ["Network", "check_precision"]

_CPU = torch.device("cpu")


class Network:
    """A model in evaluation mode that gives detections in pixels of the pictures, one batch at a time.

    Box detectors of this package run on tensors of fixed size
    (:class:`~centernet.modeling.fixed_size.FixedSizeDetector`) and say ``objectness``; models with masks or keypoints,
    with ``TEST.AUG``, with ``DEBUG`` pictures, and those of other projects run as ``model(batched_inputs)``.

    Attributes:
        divisor: height and width of a batch are padded to multiples of it, pixels.
        fixed_size: the detector on tensors, optimised if asked for; None where the model does not run so.
    """

    def __init__(self, cfg: CfgNode, model: nn.Module, *, precision: str = "float32", optimize: bool = False) -> None:
        """
        Args:
            cfg: ``TEST.AUG`` and ``MODEL.DEVICE`` are read.
            model: on that device.
            precision: see :class:`~.predictor.Predictor`.
            optimize: likewise.

        Raises:
            UserError: ``precision`` is unknown or the device does not compute it; ``optimize`` with a model that does
                not run on tensors of fixed size.
        """
        self.model = model
        self._device = torch.device(cfg.MODEL.DEVICE)
        self._lock = threading.Lock()
        detector = FixedSizeDetector(model, fast=True) if _is_fixed_size(cfg, model) else None
        self._augments: bool = cfg.TEST.AUG.ENABLED
        self._batched = None if detector else with_test_time_augmentation(cfg, model)
        self.divisor = detector.divisor if detector else _divisor(model)
        self._dtype: torch.dtype | None = None
        self.fixed_size: Any = detector
        if not optimize:
            self._dtype = check_precision(precision, self._device)
        elif detector is None:
            raise UserError(
                "optimize=True is for this package's detectors of boxes: a model with masks, keypoints, test-time "
                "augmentation or parts of other projects runs as it is, so leave it out"
            )
        else:
            from .optimization import optimize_detector  # brings the compiler with it

            self.fixed_size = optimize_detector(detector, precision=precision)

    def __call__(self, inputs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """
        Args:
            inputs: at least one; ``image`` uint8 [3, H, W] in the channel order of ``INPUT.FORMAT``; ``height`` and
                ``width`` of the picture that results are for, pixels.

        Returns:
            one dict a picture, in detectron2's format, tensors on the CPU.

        Raises:
            UserError: a tensor of the model holds NaN or infinity.
        """
        found = self._run(inputs)
        return found if self._batched is not None else _postprocessed(found, inputs)

    def _run(self, inputs: Sequence[dict[str, Any]]) -> list[Any]:
        """Finished dicts of a model that takes such, else detections in pixels of the network's input; on the CPU."""
        # an optimised detector has checks of its own
        checked = self.model if self.fixed_size is None else self.fixed_size
        with self.alone(checked), torch.inference_mode(), self._autocast():
            if self._batched is None:
                return self._detect(inputs)
            # augmented inference resizes once more: bytes, as in evaluation, since floats would not be antialiased
            dtype = torch.uint8 if self._augments else torch.float32
            predictions = self._batched([{**entry, "image": entry["image"].to(dtype)} for entry in inputs])
            found = [{key: _to_cpu(value) for key, value in one.items()} for one in predictions]
        return [{key: _writable(value) for key, value in one.items()} for one in found]

    def canvas(self, image: Tensor) -> tuple[int, int]:
        """Height and width, pixels, that ``image`` [3, H, W] is padded to by itself. Only images with one canvas should
        share a batch: padding changes results."""
        height, width = image.shape[-2:]
        return _padded([(height, width)], self.divisor)

    @contextmanager
    def alone(self, checked: nn.Module) -> Iterator[None]:
        """For what computes with the model: one thread at a time, as detectron2's augmented inference switches parts
        off and on and checks are the model's.

        Args:
            checked: at the end the verdicts of its checks are waited for: whoever has results has waited anyway.

        Raises:
            UserError: a tensor of ``checked`` held NaN or infinity.
        """
        with self._lock:
            yield
            settle_finite_checks(checked)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    def _autocast(self) -> AbstractContextManager[Any]:
        return nullcontext() if self._dtype is None else torch.autocast(self._device.type, self._dtype)

    def _detect(self, inputs: Sequence[dict[str, Any]]) -> list[Instances]:
        sizes = [tuple(entry["image"].shape[-2:]) for entry in inputs]
        images = torch.zeros((len(inputs), 3, *_padded(sizes, self.divisor)), dtype=torch.uint8)
        for image, entry, (height, width) in zip(images, inputs, sizes, strict=True):
            image[:, :height, :width] = entry["image"]
        image_sizes = torch.tensor(sizes)
        detections, objectness = self.fixed_size.detect_with_objectness(
            images.to(self._device), image_sizes.to(self._device)
        )
        detections, objectness = type(detections)(*(field.cpu() for field in detections)), objectness.cpu()
        found = list(PaddedInstances(detections, sizes))
        for instances, values, valid in zip(found, objectness, detections.valid, strict=True):
            instances.objectness = values[valid]
        return found


def check_precision(precision: str, device: torch.device) -> torch.dtype | None:
    """The type that convolutions and matrix products shall have; None: float32.

    Raises:
        UserError: there is no such precision, or the device does not compute it.
    """
    name = fastest_precision(device) if precision == "auto" else precision
    if name not in DTYPES:
        raise UserError(f"precision is {precision!r}, but must be 'float32', 'bfloat16', 'float16' or 'auto'")
    if name == "float32":
        return None
    try:
        with torch.inference_mode(), torch.autocast(device.type, DTYPES[name]):
            nn.Conv2d(4, 4, 3, device=device)(torch.ones(1, 4, 4, 4, device=device))
    except RuntimeError as error:
        raise UserError(
            f"PyTorch has no {name} convolutions for this device ({device}): use 'float32' or 'auto'"
        ) from error
    return DTYPES[name]


def _is_fixed_size(cfg: CfgNode, model: nn.Module) -> bool:
    """Whether tensors of fixed size are all that the model does; a subclass may do more."""
    if cfg.TEST.AUG.ENABLED or cfg.DEBUG or type(getattr(model, "proposal_generator", None)) is not CenterNet:
        return False
    if type(model) is CenterNetDetector:
        return True
    heads: Any = getattr(model, "roi_heads", None)
    ours = type(heads) in (ProbabilisticROIHeads, ProbabilisticCascadeROIHeads)
    return type(model) is GeneralizedRCNN and ours and not (heads.mask_on or heads.keypoint_on)


def _divisor(model: nn.Module) -> int:
    return max(1, int(getattr(getattr(model, "backbone", None), "size_divisibility", 1)))


def _padded(sizes: Sequence[tuple[int, int]], divisor: int) -> tuple[int, int]:
    height, width = (max(sides) for sides in zip(*sizes, strict=True))
    return -(-height // divisor) * divisor, -(-width // divisor) * divisor


def _postprocessed(raw: Sequence[Instances], inputs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    results = []
    for instances, entry in zip(raw, inputs, strict=True):
        for field, value in instances.get_fields().items():
            instances.set(field, _writable(value))
        results.append({"instances": detector_postprocess(instances, entry["height"], entry["width"])})
    return results


def _writable(value: Any) -> Any:
    """A copy made out of inference mode, so that whoever has the result may write into it."""
    if isinstance(value, Instances):
        return Instances(value.image_size, **{name: _writable(field) for name, field in value.get_fields().items()})
    if isinstance(value, Tensor | Boxes):
        return value.clone()
    return tuple(_writable(part) for part in value) if isinstance(value, tuple) else value


def _to_cpu(value: Any) -> Any:
    if isinstance(value, Tensor | Instances):
        return value.to(_CPU)
    return tuple(_to_cpu(part) for part in value) if isinstance(value, tuple) else value
