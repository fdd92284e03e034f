"""Which box of this frame is which of the frame before: ids from ByteTrack of the package ``trackers``."""

from typing import Any

import numpy as np
import torch
from detectron2.structures import Instances
from torchvision.ops import nms

from ..errors import UserError

__all__ = ["NO_TRACK", "Tracker2D", "lowest_tracked_score"]

NO_TRACK = -1
_SAME_OBJECT = 0.7  # IoU
_REMEMBERED = 1.0  # seconds that an object may be out of sight


def lowest_tracked_score(threshold: float) -> float:
    """The smallest score that a tracker of things shown from ``threshold`` on can use: it carries a track on, but
    begins none."""
    return threshold / 2


class Tracker2D:
    """Gives the boxes of consecutive frames ids, 1, 2, ..., by motion and overlap (ByteTrack, arXiv:2110.06864).

    An object gets its id in the second consecutive frame that it is seen in, so that a flicker gets none, and keeps it
    while it is missing for less than a second. An object whose class wavers keeps its id: of boxes of different classes
    that lie on each other, only the best is an object. One tracker for one video.

    Args:
        fps: frames a second of the video.
        threshold: detections with at least this score may begin a track; lower ones only carry one on.

    Raises:
        UserError: the package ``trackers`` is not installed.
    """

    def __init__(self, fps: float, threshold: float) -> None:
        check_tracking()
        from trackers import ByteTrackTracker

        self._tracker = ByteTrackTracker(
            lost_track_buffer=round(30 * _REMEMBERED),  # in frames of 1/30 s, whatever fps is
            frame_rate=fps,
            track_activation_threshold=threshold,
            high_conf_det_threshold=threshold,
        )

    def update(self, instances: Instances) -> Instances:
        """Tell the tracker what the next frame shows.

        Args:
            instances: ``pred_boxes`` (x1, y1, x2, y2, pixels) and ``scores`` of every frame, also of one that shows
                nothing.

        Returns:
            the same instances in the same order, without those that lie on a better one, with ``track_ids``: int64 [N]
            on the CPU, :data:`NO_TRACK` where there is none (yet).
        """
        import supervision

        kept = nms(instances.pred_boxes.tensor.float(), instances.scores.float(), _SAME_OBJECT).sort().values
        instances = instances[kept]
        count = len(instances)
        found = supervision.Detections(
            xyxy=instances.pred_boxes.tensor.cpu().numpy().astype(np.float32).reshape(count, 4),
            confidence=instances.scores.cpu().numpy().astype(np.float32),
            class_id=np.arange(count),  # the tracker reorders: this is the way back
        )
        tracked: Any = self._tracker.update(found)
        ids = np.full(count, NO_TRACK, dtype=np.int64)
        if len(tracked):
            given = tracked.tracker_id
            ids[tracked.class_id] = np.where(given >= 0, given + 1, NO_TRACK)
        result = Instances(instances.image_size, **instances.get_fields())
        result.track_ids = torch.from_numpy(ids)
        return result


def check_tracking() -> None:
    """Make sure that videos can be tracked here.

    Raises:
        UserError: the package ``trackers`` is not installed.
    """
    try:
        import trackers  # noqa: F401
    except ImportError as error:
        raise UserError(
            "--track needs the package trackers, which is not installed: pip install -e '.[video]'"
        ) from error
