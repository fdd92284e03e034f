"""A tracker tested without pictures: the detections of a nuScenes file through the cameras' trackers."""

from collections.abc import Sequence
from dataclasses import replace

from ..data.records import camera_of
from ..motion.checkpoint import build_motion, load_network
from ..ops.mode import Mode
from ..tracker.cameras import CameraRig
from ..tracker.rules import NUSCENES_RULES
from ..tracker.tracker import IdCounter, QuasiDenseTracker
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


def nuscenes_contenders(networks: Sequence[str] | None = None) -> dict[str, tuple[Mode, tuple[str, str], bool]]:
    """What is compared on nuScenes: name -> mode, motion model with its weights, one tracker for all cameras.

    Args:
        networks: files of motion networks, of parity mode and of modern mode.
    """
    rows: dict[str, tuple[Mode, tuple[str, str], bool]] = {
        "parity, Kalman": ("parity", ("Kalman", ""), False),
        "modern, Kalman": ("modern", ("Kalman", ""), True),
        "modern, Kalman, each camera by itself": ("modern", ("Kalman", ""), False),
    }
    if networks:
        parity, modern = networks
        rows["parity, LSTM"] = ("parity", (type(load_network(parity).network).__name__, parity), False)
        rows["modern, LSTM"] = ("modern", (type(load_network(modern).network).__name__, modern), True)
    return rows


def nuscenes_tracker(mode: Mode, motion: str, weights: str = "", ids: IdCounter | None = None) -> QuasiDenseTracker:
    """A tracker of key frames that has no appearance to go by; constants and thresholds are the published ones."""
    rules = replace(NUSCENES_RULES, appearance_cue="none")
    return QuasiDenseTracker(rules, build_motion(motion, weights, mode, rules.frame_seconds), mode, ids=ids)
