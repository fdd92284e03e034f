"""From pictures to tracks in 3D and to what people look at: the loop over a video, drawing, files.

Importing this package is light: OpenCV comes with the first picture that is drawn.
"""

from .tracker_config import build_tracker, tracker_rules
from .video_tracker import VideoTracker, detections_of

__all__ = ["VideoTracker", "build_tracker", "detections_of", "tracker_rules"]
