"""Predict and draw in one call, pictures and videos: the original's ``predictor.VisualizationDemo``."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.utils.video_visualizer import VideoVisualizer
from detectron2.utils.visualizer import ColorMode, VisImage, Visualizer

from .predictor import Predictor
from .thresholds import filter_predictions
from .visualize import draw_predictions

__all__ = ["VisualizationDemo"]

_FRAMES_A_BATCH = 4

Predictions = dict[str, Any]


class VisualizationDemo:
    """A model and a pen.

    Args:
        cfg: a complete config; see :class:`~.predictor.Predictor` for what it may raise.
        instance_mode: how detectron2 colours instances. Videos know ``IMAGE`` and ``IMAGE_BW``; others become
            ``IMAGE`` there.
        parallel: for videos: frames are predicted four at a time on the one device of ``cfg``, in a thread,
            while the batch before is drawn. Frames come four later, which a webcam would show; results are
            those of ``parallel=False`` up to rounding.
        score_threshold: predictions below it are neither returned nor drawn; None: what the model gives. Call
            :func:`~.thresholds.set_score_threshold` on ``cfg`` first to have lower scores than the config's.
    """

    def __init__(
        self,
        cfg: CfgNode,
        instance_mode: ColorMode = ColorMode.IMAGE,
        parallel: bool = False,
        score_threshold: float | None = None,
    ) -> None:
        self.predictor = Predictor(cfg)
        self.metadata = self.predictor.metadata
        self.instance_mode = instance_mode
        self.parallel = parallel
        self.score_threshold = score_threshold

    def run_on_image(
        self, image: np.ndarray, visualizer: Visualizer | VideoVisualizer | None = None
    ) -> tuple[Predictions, VisImage]:
        """Predict and draw one picture.

        Args:
            image: uint8 [H, W, 3], BGR.
            visualizer: draws instead of a new one: a ``VideoVisualizer`` keeps objects' colours over several
                pictures; a ``Visualizer`` must have been made with this picture.

        Returns:
            the predictions (see :meth:`~.predictor.Predictor.__call__`) and detectron2's ``VisImage``, whose
            ``get_image()`` is uint8 [H, W, 3] **RGB**.

        Raises:
            UserError: ``image`` is not such an array.
        """
        predictions = self._filter(self.predictor(image))
        rgb = image[:, :, ::-1]
        return predictions, draw_predictions(rgb, predictions, self.metadata, self.instance_mode, visualizer)

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

    def iterate_video(self, video: Any) -> Iterator[tuple[Predictions, np.ndarray]]:
        """As :meth:`run_on_video`, with each frame's predictions: yields ``(predictions, frame_bgr)``."""
        modes = (ColorMode.IMAGE, ColorMode.IMAGE_BW)
        visualizer = VideoVisualizer(
            self.metadata, self.instance_mode if self.instance_mode in modes else ColorMode.IMAGE
        )
        for frame, raw in self._predict_frames(_frames_of(video)):
            predictions = self._filter(raw)
            drawn = draw_predictions(frame[:, :, ::-1], predictions, self.metadata, self.instance_mode, visualizer)
            yield predictions, np.ascontiguousarray(drawn.get_image()[:, :, ::-1])

    def _filter(self, predictions: Predictions) -> Predictions:
        return predictions if self.score_threshold is None else filter_predictions(predictions, self.score_threshold)

    def _predict_frames(self, frames: Iterator[np.ndarray]) -> Iterator[tuple[np.ndarray, Predictions]]:
        if not self.parallel:
            for frame in frames:
                yield frame, self.predictor(frame)
            return
        with ThreadPoolExecutor(max_workers=1) as pool:
            pending = pool.submit(self._next_batch, frames)
            while batch := pending.result():
                pending = pool.submit(self._next_batch, frames)
                yield from batch

    def _next_batch(self, frames: Iterator[np.ndarray]) -> list[tuple[np.ndarray, Predictions]]:
        batch = list(islice(frames, _FRAMES_A_BATCH))
        return list(zip(batch, self.predictor.predict_batch(batch), strict=True))


def _frames_of(video: Any) -> Iterator[np.ndarray]:
    if isinstance(video, Iterable):
        yield from video
        return
    while True:  # a bare cv2.VideoCapture
        success, frame = video.read()
        if not success:
            return
        yield frame
