"""Frames come in order."""

import math

from ...errors import UserError
from ..ops.mode import Mode


class Clock:
    """When the last frame was.

    Args:
        frame_seconds: time between frames where none is given.
        mode: ``"parity"`` does not look at seconds.

    Attributes:
        frame: index of the last frame, -1 before the first.
        seconds: its time.
    """

    def __init__(self, frame_seconds: float, mode: Mode) -> None:
        self.frame_seconds = frame_seconds
        self.mode = mode
        self.reset()

    def reset(self) -> None:
        self.frame, self.seconds = -1, 0.0

    def tick(self, frame: int, seconds: float | None) -> float:
        """Note the next frame.

        Returns:
            seconds since the last one; for the first one ``frame_seconds``.

        Raises:
            UserError: it is not later than the last one.
        """
        if frame < 0 or frame <= self.frame:
            raise UserError(
                f"frame {frame} came after frame {self.frame} of the same video: hand frames over in order, begin a "
                "new video with frame 0 or call reset() between videos"
            )
        if seconds is None or self.mode == "parity":
            seconds = frame * self.frame_seconds
        first = self.frame < 0
        if not math.isfinite(seconds) or (not first and seconds <= self.seconds):
            raise UserError(
                f"frame {frame} is of second {seconds}, and frame {self.frame} before it of second {self.seconds}: "
                "give times that grow from frame to frame, or none"
            )
        elapsed = self.frame_seconds if first else seconds - self.seconds
        self.frame, self.seconds = frame, seconds
        return elapsed
