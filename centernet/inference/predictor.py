"""A detector ready for pictures: pictures of any kind in, detections out, alone, in lists or in endless streams."""

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias, overload

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.structures import Instances
from detectron2.utils.file_io import PathManager

from ..config_file import check_weights, load_config, resolve_device
from ..data.augmentation import build_test_resize
from ..errors import UserError
from ..modeling.augmented_inference import check_test_time_augmentation
from ..modeling.build import build_detector
from ..weights import follow_weights
from .batching import in_batches
from .images import Channels, Picture, Source, SourceError, check_channels, is_source, read_picture
from .network import Network
from .results import Categories, Detections, categories_of
from .thresholds import filter_predictions, set_score_threshold
from .visualize import as_predictions, resolve_metadata
from .weights import load_weights

__all__ = ["OnError", "Predictor", "build_test_resize", "filter_predictions", "set_score_threshold"]

OnError: TypeAlias = Literal["raise", "skip"] | Callable[[SourceError], object]

logger = logging.getLogger(__name__)

_WEIGHTS = (".pth", ".pt", ".pkl", ".safetensors")


class _Prepared(NamedTuple):
    """A picture as the network wants it."""

    entry: dict[str, Any]
    picture: Picture
    position: int


class Predictor:
    """A trained detector: ``Predictor("CenterNet2_R50_1x")("street.jpg")`` gives :class:`~.results.Detections`.

    Several threads may call one predictor; the network computes one batch at a time.

    Attributes:
        cfg: a private copy of the config.
        model: the model in evaluation mode, on ``cfg.MODEL.DEVICE``.
        network: how it is run, see :class:`~.network.Network`.
        metadata: class names and colours, see :func:`~.visualize.resolve_metadata`.
        aug: the resizing that evaluation uses, see :func:`~centernet.data.build_test_resize`.
        input_format: channel order that the model wants, ``"BGR"`` or ``"RGB"``.
        threshold: smallest score of a result; None: the config's.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | CfgNode,
        weights: str | os.PathLike[str] | None = None,
        *,
        device: str | torch.device | None = None,
        precision: str | None = None,
        threshold: float | None = None,
        optimize: bool = False,
        test_time_augmentation: bool | None = None,
        batch_size: int = 8,
        channels: Channels | None = None,
        opts: Sequence[Any] = (),
    ) -> None:
        """
        Args:
            model: a name of the model zoo (``centernet.model_zoo.names()``), the path of a YAML config, or a config.
            weights: path, http(s) address or ``zoo://NAME`` of the trained weights. None: of a zoo name the published
                ones, fetched at the first use; of a config its ``MODEL.WEIGHTS``. "": random ones, with a warning.
            device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ...; None: the config's, and the CPU where there is no GPU.
            precision: of convolutions and matrix products: ``"float32"``, ``"bfloat16"``, ``"float16"``, or ``"auto"``,
                which is a half precision where the hardware has it. Boxes are decoded and suppressed in float32. None:
                ``"float32"``, and ``"auto"`` with ``optimize``.
            threshold: smallest score of a result, 0 to 1; None: what the config says.
            optimize: fold norms, channels-last, pool boxes faster; on a GPU also compile and replay CUDA graphs (the
                first pictures of each size take longer there). See :func:`~.optimization.optimize_detector`.
            test_time_augmentation: several sizes and flips of each picture, ``TEST.AUG`` of the config; two-stage
                models only. None: as the config says.
            batch_size: most pictures of a list or iterator a forward pass.
            channels: channel order of arrays and tensors, ``"BGR"`` or ``"RGB"``. None: arrays are BGR, as in
                detectron2; tensors must have it said here or at the call.
            opts: changes to the config, ``["KEY", value, ...]``.

        Raises:
            UserError: no such model, device, precision or key; weights that are missing, unreadable or do not fit; an
                ``INPUT.FORMAT`` or ``INPUT.TEST_INPUT_TYPE`` that does not exist; test-time augmentation of a
                one-stage model.
        """
        check_channels(channels)
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise UserError(f"batch_size is {batch_size!r}, but must be a whole number from 1")
        cfg = _config(model, weights, opts)
        _set_device(cfg, device)
        if test_time_augmentation is not None:
            cfg.TEST.AUG.ENABLED = bool(test_time_augmentation)
        if threshold is not None:
            set_score_threshold(cfg, threshold)
        _check_config(cfg)
        self.cfg = follow_weights(cfg, cfg.MODEL.WEIGHTS).clone()
        self.input_format: str = cfg.INPUT.FORMAT
        self.threshold = threshold
        self.batch_size = batch_size
        self.channels = channels
        self.aug = build_test_resize(self.cfg)
        self.metadata = resolve_metadata(self.cfg)
        self.model = build_detector(self.cfg).eval()
        load_weights(self.model, self.cfg.MODEL.WEIGHTS, strict=self.cfg.MODEL.WEIGHTS_STRICT)
        precision = precision or ("auto" if optimize else "float32")
        self.network = Network(self.cfg, self.model, precision=precision, optimize=optimize)

    @cached_property
    def categories(self) -> Categories:
        """The classes of results, in the order of ``pred_classes``."""
        return categories_of(self.metadata)

    @overload
    def __call__(self, images: Source, *, channels: Channels | None = ...) -> Detections: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]  # a str is a sequence of str
        self, images: Sequence[Source], *, channels: Channels | None = ..., on_error: OnError = ...
    ) -> list[Detections]: ...
    @overload
    def __call__(
        self, images: Iterable[Source], *, channels: Channels | None = ..., on_error: OnError = ...
    ) -> Iterator[Detections]: ...
    def __call__(
        self,
        images: Source | Iterable[Source],
        *,
        channels: Channels | None = None,
        on_error: OnError = "raise",
    ) -> Detections | list[Detections] | Iterator[Detections]:
        """Detect objects.

        Args:
            images: one picture of any kind that :func:`~.images.read_picture` takes; or a list or other sequence of
                such; or an iterator, which is read as results are asked for (up to four batches ahead; with
                ``batch_size=1`` not at all). Kinds may be mixed.
            channels: order of the channels of arrays and tensors; None: what the constructor was told.
            on_error: what happens at a picture of several that cannot be used. ``"raise"``: the results before it are
                given, then one error that names it; ``"skip"``: the error is logged and the rest go on; a function:
                it gets the error. ``error.position`` and ``result.position`` say which picture it was.

        Returns:
            :class:`~.results.Detections`; a list of them; or an iterator; in the order of the pictures. Pictures of
            a batch are padded alike, so a result is that of the picture alone, up to rounding.

        Raises:
            UserError: a picture cannot be used (:class:`~.images.SourceError`), or the model gives no detections.
        """
        check_channels(channels)
        if not (on_error in ("raise", "skip") or callable(on_error)):
            raise UserError(f"on_error is {on_error!r}, but must be 'raise', 'skip' or a function that takes the error")
        order = channels or self.channels
        if is_source(images) or not isinstance(images, Iterable) or isinstance(images, Mapping):
            picture = read_picture(images, order)  # type: ignore[arg-type]  # it says what else it is
            return self._run([self._prepare(picture, 0, "the picture")])[0]
        results = self._stream(images, order, on_error)  # type: ignore[arg-type]  # several: see is_source
        return list(results) if isinstance(images, Sequence) else results

    def predict_batch(self, images: Sequence[np.ndarray]) -> list[dict[str, Any]]:
        """Predict several pictures in one forward pass, padded to a common size; memory grows with it.

        Padding is seen, by norms over whole maps and at the borders of a picture: where sizes after resizing differ,
        results are not those of each picture alone. :meth:`__call__` takes care of that.

        Args:
            images: uint8 [H, W, 3] BGR arrays; sizes may differ.

        Returns:
            one dict a picture, in detectron2's format: ``instances`` (boxes are x1, y1, x2, y2 in pixels of the
            picture, scores in [0, 1]), or ``proposals``, ``sem_seg``, ``panoptic_seg``; tensors on the CPU. An empty
            list for no picture.

        Raises:
            UserError: one of ``images`` is not such an array; it is named by its position.
        """
        return self.predict_prepared(
            [self.prepare(image, name=f"picture {position} of the batch") for position, image in enumerate(images)]
        )

    def prepare(self, image: np.ndarray, *, name: str = "the picture") -> dict[str, Any]:
        """The part of :meth:`predict_batch` before the network, for threads that read pictures.

        Args:
            image: uint8 [H, W, 3] BGR.
            name: of the picture in messages.

        Returns:
            ``image``, uint8 [3, H', W'] as the model sees it, ``height`` and ``width``.

        Raises:
            UserError: ``image`` is not such an array.
        """
        if not isinstance(image, np.ndarray):
            raise UserError(
                f"{name} is a {type(image).__name__}, but must be a numpy array [height, width, 3], uint8, BGR"
            )
        return self._prepare(read_picture(image, "BGR", name=name), 0, name).entry

    def predict_prepared(self, inputs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """:meth:`predict_batch` of what :meth:`prepare` gave; an empty list for none."""
        found = self.network(inputs) if inputs else []
        return found if self.threshold is None else [filter_predictions(one, self.threshold) for one in found]

    def _stream(self, images: Iterable[Source], channels: Channels | None, on_error: OnError) -> Iterator[Detections]:
        for result in in_batches(self._read(images, channels, on_error), self._run, self.batch_size):
            if isinstance(result, Detections):
                yield result
            elif on_error == "raise":
                raise result
            elif on_error == "skip":
                logger.error("error: %s", result)
            else:
                on_error(result)  # type: ignore[arg-type, operator]  # a SourceError: see _read

    def _read(
        self, images: Iterable[Source], channels: Channels | None, on_error: OnError
    ) -> Iterator[tuple[tuple[int, int], _Prepared] | SourceError]:
        """Each picture with the size that it is padded to, or what is wrong with it."""
        for position, image in enumerate(images):
            name = f"picture {position}"
            try:
                prepared = self._prepare(read_picture(image, channels, name=name), position, name)
            except SourceError as error:
                error.position = position
                yield error
                if on_error == "raise":
                    return
            else:
                yield self.network.canvas(prepared.entry["image"]), prepared

    def _prepare(self, picture: Picture, position: int, name: str) -> _Prepared:
        """Resize, and put the channels in the model's order."""
        image = picture.pixels
        height, width = image.shape[:2]
        if self.input_format == "RGB":
            image = np.ascontiguousarray(image[:, :, ::-1])
        try:
            resized = self.aug.get_transform(image).apply_image(image)
        except ValueError:  # Pillow: no side may be 0
            resized = image[:0]
        if 0 in resized.shape:
            place = f" ({picture.source})" if picture.source else ""
            error = SourceError(
                f"{name}{place} of {width} x {height} pixels is too narrow: one side of it would be 0 at the size that "
                "the model sees"
            )
            error.source = picture.source
            raise error
        tensor = torch.from_numpy(np.array(resized.transpose(2, 0, 1), dtype=np.uint8, order="C"))
        return _Prepared({"image": tensor, "height": height, "width": width}, picture, position)

    def _run(self, batch: Sequence[_Prepared]) -> list[Detections]:
        found = self.predict_prepared([one.entry for one in batch])
        return [self._as_detections(one, prepared) for one, prepared in zip(found, batch, strict=True)]

    def _as_detections(self, prediction: dict[str, Any], prepared: _Prepared) -> Detections:
        categories = self.categories
        if "instances" in prediction:
            instances: Instances = prediction["instances"]
        elif "proposals" in prediction:
            instances = as_predictions(prediction["proposals"])
            instances.pred_classes = torch.zeros_like(instances.pred_classes)
            categories = Categories(("object",), (1,))
        else:
            raise UserError(
                f"the model gives no detections, but {', '.join(prediction)}: call predict_batch, or give a detector"
            )
        return Detections.of(instances, categories, prepared.picture, prepared.position)


def _config(
    model: str | os.PathLike[str] | CfgNode, weights: str | os.PathLike[str] | None, opts: Sequence[Any]
) -> CfgNode:
    """A private config with the weights to load."""
    words = [word if isinstance(word, str) else repr(word) for word in opts]
    if isinstance(model, CfgNode):
        cfg = model.clone()
        cfg.defrost()
        changes = load_config("", words)  # finds mistakes; the values are taken over below
        for key in words[::2]:
            _copy_key(cfg, changes, key)
    elif isinstance(model, str | os.PathLike):
        name = os.fspath(model)
        if name.lower().endswith(_WEIGHTS):
            raise UserError(
                f"{name} is a file of weights: give the model's name or config first, Predictor(MODEL, {name!r})"
            )
        is_file = "/" in name or os.sep in name or name.endswith((".yaml", ".yml")) or Path(name).is_file()
        # the zoo is a room above this one
        path = Path(name).expanduser() if is_file else PathManager.get_local_path(f"zoo://{name}.yaml")
        cfg = load_config(path, words)
        if weights is None and not is_file and "MODEL.WEIGHTS" not in words[::2]:
            weights = f"zoo://{name}"
    else:
        raise UserError(
            f"the model is a {type(model).__name__}, but must be a name of the model zoo, the path of a YAML config or "
            "a config"
        )
    if weights is not None:
        cfg.MODEL.WEIGHTS = os.fspath(weights)
    return cfg


def _check_config(cfg: CfgNode) -> None:
    if cfg.INPUT.FORMAT not in ("BGR", "RGB"):
        raise UserError(f"INPUT.FORMAT is '{cfg.INPUT.FORMAT}', but only BGR and RGB pictures can be shown to a model")
    check_test_time_augmentation(cfg)
    check_weights(cfg)


def _copy_key(cfg: CfgNode, changes: CfgNode, key: str) -> None:
    *sections, name = key.split(".")
    for section in sections:
        cfg, changes = cfg[section], changes[section]
    cfg[name] = changes[name]


def _set_device(cfg: CfgNode, device: str | torch.device | None) -> None:
    if device is None:
        resolve_device(cfg)
        return
    try:
        wanted = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise UserError(f"there is no device {device!r}: use 'cpu', 'cuda' or 'cuda:NUMBER'") from error
    if wanted.type == "cuda" and (wanted.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise UserError(
            f"device {device} is not there: PyTorch sees {count or 'no'} GPU{'s' * (count != 1)}; use 'cpu'"
        )
    cfg.MODEL.DEVICE = str(wanted)
