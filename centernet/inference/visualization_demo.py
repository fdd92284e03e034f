"""Predict and draw in one call, pictures and videos: the original's ``predictor.VisualizationDemo``."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.utils.video_visualizer import VideoVisualizer
from detectron2.utils.visualizer import ColorMode, VisImage, Visualizer

from ..errors import UserError
from .batching import in_batches
from .heatmap import draw_heatmap, first_stage_heatmap
from .images import SourceError
from .predictor import Predictor
from .read_ahead import read_ahead
from .thresholds import filter_predictions
from .tracking2d import Tracker2D
from .visualize import draw_predictions

__all__ = ["VisualizationDemo"]

_PARALLEL_BATCH_SIZE = 4
_FPS = 30.0  # of a source that does not say

Predictions = dict[str, Any]
Key = TypeVar("Key")


class VisualizationDemo:
    """A model and a pen.

    Args:
        cfg: a complete config; see :class:`~.predictor.Predictor` for what it may raise.
        instance_mode: how detectron2 colours instances. Videos know ``IMAGE`` and ``IMAGE_BW``; others become
            ``IMAGE`` there.
        parallel: for many pictures and videos: reading, predicting on the one device of ``cfg``, and drawing go on in
            threads beside each other. Frames come a batch later, which a webcam would show; results are those of
            ``parallel=False`` up to rounding, with the same ``batch_size`` to the bit.
        score_threshold: predictions below it are neither returned nor drawn; None: what the model gives. Call
            :func:`~.thresholds.set_score_threshold` on ``cfg`` first to have lower scores than the config's.
        batch_size: pictures or frames of one size that are predicted together; None: 4 if ``parallel``, otherwise 1.
        heatmap: lay the first stage's P(object) over what is drawn on (:mod:`~.heatmap`; the first stage runs twice).
            Predictions get ``"heatmap"``: float32 [H, W] in [0, 1], numpy.
        track: give the instances of a video's frames ids (:mod:`~.tracking2d`), which are drawn. Predictions below
            ``score_threshold`` carry tracks on, so let the model give some.
        optimize: see :class:`~.predictor.Predictor`; in half precision where the hardware has it.
    """

    def __init__(
        self,
        cfg: CfgNode,
        instance_mode: ColorMode = ColorMode.IMAGE,
        parallel: bool = False,
        score_threshold: float | None = None,
        *,
        batch_size: int | None = None,
        heatmap: bool = False,
        track: bool = False,
        optimize: bool = False,
    ) -> None:
        self.predictor = Predictor(cfg, optimize=optimize)
        self.metadata = self.predictor.metadata
        self.instance_mode = instance_mode
        self.parallel = parallel
        self.score_threshold = score_threshold
        self.batch_size = batch_size or (_PARALLEL_BATCH_SIZE if parallel else 1)
        self.heatmap = heatmap
        self.track = track

    def run_on_image(
        self, image: np.ndarray, visualizer: Visualizer | VideoVisualizer | None = None
    ) -> tuple[Predictions, VisImage]:
        """Predict and draw one picture.

        Args:
            image: uint8 [H, W, 3], BGR.
            visualizer: draws instead of a new one: a ``VideoVisualizer`` keeps objects' colours over several
                pictures; a ``Visualizer`` must have been made with this picture.

        Returns:
            the predictions (see :meth:`~.predictor.Predictor.predict_batch`) and detectron2's ``VisImage``, whose
            ``get_image()`` is uint8 [H, W, 3] **RGB**.

        Raises:
            UserError: ``image`` is not such an array.
        """
        predictions = self._filter(self._predict_batch([image])[0])
        return predictions, self._draw(image, predictions, visualizer)

    def run_on_video(self, video: Any) -> Iterator[np.ndarray]:
        """Predict and draw the frames of a video, objects keeping their colours.

        Args:
            video: an opened ``cv2.VideoCapture``, a :class:`~.sources.FrameSource`, or any iterable of uint8
                [H, W, 3] BGR frames.

        Yields:
            uint8 [H, W, 3] BGR, one a frame, in order.
        """
        for _, drawn in self.iterate_video(video):
            yield drawn

    def iterate_video(self, video: Any, *, draw: bool = True) -> Iterator[tuple[Predictions, np.ndarray]]:
        """As :meth:`run_on_video`, with each frame's predictions: yields ``(predictions, frame_bgr)``.

        Args:
            video: see :meth:`run_on_video`.
            draw: False: the frames come as they are.
        """
        modes = (ColorMode.IMAGE, ColorMode.IMAGE_BW)
        mode = self.instance_mode if self.instance_mode in modes else ColorMode.IMAGE
        visualizer = VideoVisualizer(self.metadata, mode)
        tracker = self._tracker(video) if self.track else None
        frames = ((None, frame) for frame in _frames_of(video))
        for result in self._predict_all(frames):
            if isinstance(result, Exception):
                raise result
            _, frame, predictions = result
            if tracker is not None and "instances" in predictions:
                predictions["instances"] = tracker.update(predictions["instances"])
            predictions = self._filter(predictions)
            if draw:
                frame = _bgr(self._draw(frame, predictions, visualizer))
            yield predictions, frame

    def iterate_images(
        self, images: Iterable[tuple[Key, np.ndarray] | Exception], *, draw: bool = True
    ) -> Iterator[tuple[Key, Predictions, np.ndarray] | Exception]:
        """Predict and draw many pictures, in batches of equal sizes.

        Args:
            images: ``(key, uint8 [H, W, 3] BGR)``, the key being whatever tells them apart; or an exception in the
                place of a picture that there is not.
            draw: False: the pictures come as they are.

        Yields:
            ``(key, predictions, uint8 [H, W, 3] BGR)`` or the exception, in the order of ``images``.
        """
        for result in self._predict_all(images):
            if isinstance(result, Exception):
                yield result
                continue
            key, image, predictions = result
            predictions = self._filter(predictions)
            yield key, predictions, _bgr(self._draw(image, predictions, None)) if draw else image

    def _draw(
        self, image_bgr: np.ndarray, predictions: Predictions, visualizer: Visualizer | VideoVisualizer | None
    ) -> VisImage:
        ground = image_bgr[:, :, ::-1]
        if "heatmap" in predictions:
            ground = draw_heatmap(ground, predictions["heatmap"])
        return draw_predictions(ground, predictions, self.metadata, self.instance_mode, visualizer)

    def _filter(self, predictions: Predictions) -> Predictions:
        return predictions if self.score_threshold is None else filter_predictions(predictions, self.score_threshold)

    def _tracker(self, video: Any) -> Tracker2D:
        threshold = 0.0 if self.score_threshold is None else self.score_threshold
        return Tracker2D(getattr(video, "fps", _FPS), threshold)

    def _predict_all(
        self, images: Iterable[tuple[Key, np.ndarray] | Exception]
    ) -> Iterator[tuple[Key, np.ndarray, Predictions] | Exception]:
        size = self.batch_size
        if not self.parallel:
            return in_batches(map(_with_kind, images), self._predict, size)
        entries = read_ahead(map(_with_kind, images), 2 * size)
        return read_ahead(in_batches(entries, self._predict, size), size)

    def _predict(
        self, batch: Sequence[tuple[Key, np.ndarray]]
    ) -> list[tuple[Key, np.ndarray, Predictions] | Exception]:
        try:
            results = self._predict_batch([image for _, image in batch])
        except SourceError as error:
            if batch[0][0] is None:  # a frame: all of its video are alike
                raise
            if len(batch) == 1:
                return [SourceError(f"{batch[0][0]} cannot be used: {error}")]
            return [result for one in batch for result in self._predict([one])]  # the others are good
        return [(key, image, result) for (key, image), result in zip(batch, results, strict=True)]

    def _predict_batch(self, images: Sequence[np.ndarray]) -> list[Predictions]:
        try:
            results = self.predictor.predict_batch(images)
            if self.heatmap:
                for image, result in zip(images, results, strict=True):
                    result["heatmap"] = first_stage_heatmap(self.predictor, image)
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"the GPU has too little memory for {len(images)} at a time of {images[0].shape[1]} x "
                f"{images[0].shape[0]} pixels: a smaller --batch-size or INPUT.MIN_SIZE_TEST"
            ) from error
        return results


def _with_kind(entry: tuple[Key, np.ndarray] | Exception) -> Any:
    return entry if isinstance(entry, Exception) else (np.shape(entry[1])[:2], entry)


def _bgr(drawn: VisImage) -> np.ndarray:
    return np.ascontiguousarray(drawn.get_image()[:, :, ::-1])


def _frames_of(video: Any) -> Iterator[np.ndarray]:
    if isinstance(video, Iterable):
        yield from video
        return
    while True:  # a bare cv2.VideoCapture
        success, frame = video.read()
        if not success:
            return
        yield frame
