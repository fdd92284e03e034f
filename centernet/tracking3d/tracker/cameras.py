"""All cameras of a vehicle: a tracker for each, or one for the world they share."""

from collections.abc import Callable, Mapping
from typing import Any

from ...errors import UserError
from ..ops.geometry import Camera
from .detections import Detections3D, Tracks3D
from .tracker import IdCounter, QuasiDenseTracker

_WORLD = ""


class CameraRig:
    """Tracks what several cameras see at the same moments. Ids are never used twice, over cameras and videos.

    A camera without a picture at a moment is left out of it. Nothing is concluded from its silence: its own tracker
    stands still meanwhile; with one tracker for all, its objects are lost until another camera sees them.

    Args:
        build: makes a tracker that takes its ids from the counter it is given.
        across: ``False``: each camera is a video of its own, as published; an object has one id in each. ``True``: one
            tracker in the world frame (or the vehicle's, if all poses are relative to it), an object keeps its id from
            camera to camera.
    """

    def __init__(self, build: Callable[[IdCounter], QuasiDenseTracker], across: bool) -> None:
        self.across = across
        self.id_counter = IdCounter()
        self._build = build
        self._trackers: dict[str, QuasiDenseTracker] = {}

    def reset(self) -> None:
        """Forget all tracks: the next moment is the first of a video. Ids go on."""
        for tracker in self._trackers.values():
            tracker.reset()

    def step(
        self, views: Mapping[str, tuple[Detections3D, Camera]], frame_index: int, seconds: float | None = None
    ) -> dict[str, Tracks3D]:
        """The next moment.

        Args:
            views: detections and camera by name, for the cameras that have a picture; none is fine.
            frame_index, seconds: as :meth:`.tracker.QuasiDenseTracker.step`; frame 0 begins a new video for all
                cameras, also for those that have no picture of it.

        Returns:
            tracks for each of ``views``.

        Raises:
            UserError: as :meth:`.tracker.QuasiDenseTracker.step`.
        """
        if frame_index == 0:
            self.reset()
        if self.across and views:
            tracks = self._tracker(_WORLD).step_cameras(list(views.values()), frame_index, seconds)
            return dict(zip(views, tracks, strict=True))
        return {
            name: self._tracker(name).step(detections, camera, frame_index, seconds)
            for name, (detections, camera) in views.items()
        }

    def _tracker(self, name: str) -> QuasiDenseTracker:
        if name not in self._trackers:
            self._trackers[name] = self._build(self.id_counter)
        return self._trackers[name]

    def state_dict(self) -> dict[str, Any]:
        """State of all trackers, see :meth:`.tracker.QuasiDenseTracker.state_dict`."""
        return {
            "across": self.across,
            "next_id": self.id_counter.next,
            "trackers": {name: tracker.state_dict() for name, tracker in self._trackers.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where the rig stood that ``state`` is of.

        Raises:
            UserError: it tracked the other way, in another mode or with another motion model.
        """
        if state.get("across") != self.across:
            raise UserError(
                f"the saved state of the cameras has across={state.get('across')}, and these have {self.across}: "
                "choose the same"
            )
        self._trackers = {}
        for name, saved in state["trackers"].items():
            self._tracker(name).load_state_dict(saved)
        self.id_counter.next = state["next_id"]
