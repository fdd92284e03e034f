"""The scene from above: the camera at the bottom, what it sees ahead, where objects came from."""

import math
from collections import deque

import numpy as np
from numpy.typing import NDArray

from ..data.records import Record, camera_of
from .drawing import Picture, SeenBoxes, id_colour, write_label

__all__ = ["BirdsEyeView"]

_BACKGROUND = (22, 24, 28)
_GRID = (52, 55, 60)
_VIEW = (88, 92, 98)
_WORDS = (150, 155, 160)
_CAMERA = (235, 235, 235)
_STEP = 10  # metres between lines of the grid
_ROUND = 20  # the range ahead is a multiple, metres
_MARGIN = 3.0  # metres around the centre of an object
_CALM = 5.0  # seconds in which less was needed, before the scale changes
_SCALE = 0.4  # of OpenCV's font


class BirdsEyeView:
    """Draws frame after frame of one video at a time; remembers trails and scale.

    The axes are the camera's: X to the right, Z up the picture. A moving camera moves the trails, which stand still in
    the world.
    """

    def __init__(self, least_range: float = 40.0, most_range: float = 120.0, trail_seconds: float = 3.0) -> None:
        """
        Args:
            least_range, most_range: metres ahead that are shown; in between it is what the objects of the last seconds
                need.
            trail_seconds: age of the oldest point of a trail.
        """
        self.least_range = least_range
        self.most_range = most_range
        self.trail_seconds = trail_seconds
        self.reset()

    def reset(self) -> None:
        """Forget trails and scale."""
        self.range = self.least_range
        self._ranges: list[tuple[float, float]] = []  # time, and what was needed then
        self._trails: dict[int, deque[tuple[float, NDArray[np.float64]]]] = {}

    def draw(self, record: Record, boxes: SeenBoxes, size: tuple[int, int], seconds: float) -> Picture:
        """
        Args:
            record: of the frame, with its camera.
            boxes: tracks of it.
            size: (height, width) of the result, pixels.
            seconds: time of the frame.

        Returns:
            uint8 RGB.
        """
        camera = camera_of(record)
        rotation, position = camera.rotation.numpy(), camera.position.numpy()
        for number, place in zip(boxes.ids.tolist(), boxes.xyz @ rotation.T + position, strict=True):
            self._trails.setdefault(number, deque()).append((seconds, place))
        self._forget(seconds)
        if len(boxes.xyz):
            aside, ahead = np.abs(boxes.xyz[:, 0]).max() + _MARGIN, boxes.xyz[:, 2].max() + _MARGIN
            needed = math.ceil(max(ahead, aside * 2 * size[0] / size[1]) / _ROUND) * _ROUND
            self._ranges.append((seconds, min(needed, self.most_range)))
        self._ranges = [(time, metres) for time, metres in self._ranges if seconds - time <= _CALM]
        self.range = max([self.least_range, *(metres for _, metres in self._ranges)])
        canvas = _Canvas(size, self.range)
        canvas.draw_ground(camera.intrinsics.numpy(), record["width"])
        for number, trail in self._trails.items():
            places = (np.array([place for _, place in trail]) - position) @ rotation
            canvas.draw_trail(places, number, seen=trail[-1][0] == seconds)
        taken: list[tuple[int, int, int, int]] = []
        for row in np.argsort(-boxes.xyz[:, 2], kind="stable"):
            canvas.draw_box(boxes.corners[row][:4, ::2], int(boxes.ids[row]))
        for row in np.argsort(boxes.xyz[:, 2], kind="stable"):
            right, top = canvas.pixel(boxes.corners[row][:4, ::2]).max(0)[0], canvas.pixel(boxes.xyz[row, ::2])[1]
            number = int(boxes.ids[row])
            if 0 <= right < size[1] and 0 <= top < size[0]:
                place = int(right) + 8, int(top) + 6
                write_label(canvas.image, str(number), place, id_colour(number), taken, _SCALE)
        return canvas.image

    def _forget(self, seconds: float) -> None:
        for number, trail in list(self._trails.items()):
            while trail and seconds - trail[0][0] > self.trail_seconds:
                trail.popleft()
            if not trail:
                del self._trails[number]


class _Canvas:
    """A picture of the ground; the camera is at the middle of its lower edge, a little above."""

    def __init__(self, size: tuple[int, int], metres: float) -> None:
        height, width = size
        self.image: Picture = np.full((height, width, 3), _BACKGROUND, np.uint8)
        self.per_metre = (height - 24) / metres
        self.metres = metres

    def pixel(self, ground: NDArray[np.float64]) -> NDArray[np.float64]:
        """X and Z in metres ``[..., 2]`` to x and y."""
        height, width = self.image.shape[:2]
        signs = np.array([self.per_metre, -self.per_metre])
        return np.asarray(ground * signs + np.array([width / 2, height - 16]))

    def line(self, ground: NDArray[np.float64], colour: tuple[int, int, int], thickness: int = 1) -> None:
        """Through points ``[K, 2]``."""
        import cv2

        points = (self.pixel(ground).clip(-8000, 8000) * 16).round().astype(np.int32)
        cv2.polylines(self.image, [points], False, colour, thickness, cv2.LINE_AA, 4)

    def draw_ground(self, intrinsics: NDArray[np.float64], width: int) -> None:
        """Grid, what the camera sees, the camera."""
        import cv2

        half = self.image.shape[1] / 2 / self.per_metre
        for ahead in range(0, int(self.metres) + 1, _STEP):
            self.line(np.array([[-half, ahead], [half, ahead]]), _GRID)
        for aside in range(-int(half // _STEP) * _STEP, int(half) + 1, _STEP):
            self.line(np.array([[aside, -2.0], [aside, self.metres]]), _GRID)
        for u in (0.0, float(width)):
            ray = (u - intrinsics[0, 2]) / intrinsics[0, 0]
            self.line(np.array([[0.0, 0.0], [ray * self.metres, self.metres]]), _VIEW)
        for ahead in range(_STEP, int(self.metres), _STEP if self.metres <= 60 else 2 * _STEP):
            x, y = self.pixel(np.array([-half, float(ahead)])).round().astype(int).tolist()
            cv2.putText(
                self.image, f"{ahead} m", (x + 4, y - 3), cv2.FONT_HERSHEY_SIMPLEX, _SCALE, _WORDS, 1, cv2.LINE_AA
            )
        middle = self.pixel(np.zeros(2))
        wedge = (middle + np.array([[0, -9], [6, 7], [-6, 7]])).round().astype(np.int32)
        cv2.fillPoly(self.image, [wedge], _CAMERA, cv2.LINE_AA)

    def draw_trail(self, places: NDArray[np.float64], number: int, seen: bool) -> None:
        """``places [K, 3]``, camera frame, the oldest first and the darkest; fainter of what is not ``seen`` now."""
        colour = np.array(id_colour(number))
        for step in range(1, len(places)):
            shade = (0.3 + 0.6 * step / len(places)) * (1.0 if seen else 0.5)
            red, green, blue = (colour * shade + np.array(_BACKGROUND) * (1 - shade)).round().astype(int).tolist()
            self.line(places[step - 1 : step + 1, ::2], (red, green, blue), 2 if seen else 1)

    def draw_box(self, corners: NDArray[np.float64], number: int) -> None:
        """``corners [4, 2]``, the front two first; the front is a thick line, with a short one ahead."""
        import cv2

        colour = id_colour(number)
        points = (self.pixel(corners).clip(-8000, 8000) * 16).round().astype(np.int32)
        dark = [round(0.35 * part + 0.65 * behind) for part, behind in zip(colour, _BACKGROUND, strict=True)]
        cv2.fillPoly(self.image, [points], dark, cv2.LINE_AA, 4)
        cv2.polylines(self.image, [points], True, colour, 1, cv2.LINE_AA, 4)
        self.line(corners[:2], colour, 3)
        front, centre = corners[:2].mean(0), corners.mean(0)
        reach = max(1.0, 8.0 / self.per_metre) / max(float(np.hypot(*(front - centre))), 1e-6)
        self.line(np.stack((front, front + (front - centre) * reach)), colour, 2)
