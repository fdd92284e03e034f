"""A frame as people look at it: its picture with boxes, and the view from above beside it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ..data.records import Record
from ..evaluation.records import TrackedFrame
from ..ops.mode import Mode
from .birdseye import BirdsEyeView
from .drawing import Picture, draw_boxes, seen_boxes

__all__ = ["SceneView"]

_LEAST_HEIGHT = 480  # smaller pictures are enlarged, so that text can be read
_ASPECT = 0.9  # width of the view from above / its height


class SceneView:
    """Draws the frames of videos, one after the other; a new ``video_id`` forgets the trails."""

    def __init__(self, names: Sequence[str], mode: Mode = "modern") -> None:
        """
        Args:
            names: of the classes, by label.
            mode: in which the frames were tracked.
        """
        self.names = names
        self.mode = mode
        self.birdseye = BirdsEyeView()
        self._video: Any = None

    def draw(self, record: Record, frame: TrackedFrame) -> Picture:
        """
        Args:
            record: the frame, with "image" (uint8 RGB ``[H, W, 3]``) and its camera.
            frame: its tracks.

        Returns:
            uint8 RGB with even sides: the picture (enlarged to 480 rows where it has fewer), right of it the view from
            above.
        """
        import cv2

        if record.get("video_id") != self._video:
            self._video = record.get("video_id")
            self.birdseye.reset()
        image = record["image"]
        height, width = image.shape[:2]
        factor = max(1.0, _LEAST_HEIGHT / height)
        size = (round(height * factor / 2) * 2, round(width * factor / 2) * 2)
        picture: Picture = np.ascontiguousarray(
            image if size == (height, width) else cv2.resize(image, size[::-1], interpolation=cv2.INTER_CUBIC)
        )
        if picture is image:
            picture = image.copy()
        boxes = seen_boxes(record, frame, self.mode)
        intrinsics = torch.as_tensor(record["intrinsics"], dtype=torch.float64).cpu().numpy()
        scale = np.array([[size[1] / width], [size[0] / height], [1.0]])
        draw_boxes(picture, boxes, intrinsics * scale, self.names, max(1, round(size[0] / 400)))
        seconds = record.get("timestamp")
        beside = self.birdseye.draw(
            record,
            boxes,
            (size[0], round(size[0] * _ASPECT / 2) * 2),
            record["frame_index"] / 10 if seconds is None else seconds,
        )
        return np.concatenate((picture, beside), 1)
