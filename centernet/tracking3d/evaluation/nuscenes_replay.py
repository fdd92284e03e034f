"""A tracker tested without pictures: the detections of a nuScenes file through the cameras' trackers."""

from collections.abc import Sequence

from ..data.records import camera_of
from ..ops.mode import Mode
from ..tracker.cameras import CameraRig
from .layouts import layout
from .nuscenes_detections import CameraDetections
from .records import TrackingResults, tracked_frame


def replay_nuscenes(found: Sequence[CameraDetections], rig: CameraRig, mode: Mode) -> TrackingResults:
    """Track all scenes, moment by moment.

    Args:
        found: of :func:`.nuscenes_detections.read_nuscenes_detections`, in any order.
        rig: trackers in ``mode``, with rules for detections without appearance.
        mode: ``"parity"`` writes what the published driver writes.

    Raises:
        UserError: as :meth:`..tracker.cameras.CameraRig.step`.
    """
    moments: dict[tuple[str, int], list[CameraDetections]] = {}
    for seen in found:
        moments.setdefault((seen.frame["scene_token"], seen.frame["frame_index"]), []).append(seen)
    results = TrackingResults(layout("nuscenes"), mode)
    for (_, index), views in sorted(moments.items(), key=lambda moment: moment[0]):
        given = {seen.frame["camera"]: (seen.detections, camera_of(seen.frame)) for seen in views}
        seconds = max(seen.frame["timestamp"] for seen in views)
        tracks = rig.step(given, index, seconds)
        for seen in views:
            shown = tracked_frame(seen.detections, tracks[seen.frame["camera"]], mode)
            results.add(seen.frame, shown)
    return results
