"""Every constant and choice of the tracker, in one place."""

from dataclasses import dataclass, fields
from typing import Literal, get_args, get_type_hints

from ...errors import UserError

BoxCue = Literal["box3d", "box2d", "bev", "box2d_depth_aware", "none"]
DepthCue = Literal["motion", "centroid", "cosine", "pure_motion", "none"]
AppearanceCue = Literal["cycle_softmax", "softmax", "cosine", "none"]
Assignment = Literal["greedy", "hungarian"]


@dataclass(frozen=True)
class TrackerRules:
    """Defaults are the published ones for nuScenes, Waymo and GTA; names in brackets are the published keys.

    Attributes:
        init_score: a detection with a higher 2D score may begin a track (``init_score_thr``).
        continue_score: a detection with a higher score times depth confidence may carry a track on; at a lower 2D score
            it is held against ``low_score_iou`` (``obj_score_thr``).
        match_affinity: affinity above which a detection belongs to an entry of the memory (``match_score_thr``).
        discard_affinity: affinity above which a detection that is too weak to carry its track on is neither tracked nor
            remembered (``nms_conf_thr``).
        low_score_iou: 2D IoU above which a weak detection is a duplicate (``nms_backdrop_iou_thr``).
        duplicate_iou: the same for the others, over all classes (``nms_class_iou_thr``).
        lost_frames: frames after which a track that was not seen ends (``memo_tracklet_frames``), parity mode.
        backdrop_frames: frames that untracked detections are remembered for (``memo_backdrop_frames``).
        embedding_momentum: weight of a new embedding in the mean of a track (``memo_momentum``).
        box_cue, depth_cue, appearance_cue: parts of the affinity (``track_bbox_iou``, ``depth_match_metric``,
            ``match_metric``; ``"none"`` for ``with_bbox_iou``, ``with_depth_ordering`` or ``with_deep_feat`` false).
        same_class: only equal labels match (``with_cats``).
        depth_confidence: weigh scores with the confidence of the depth (``with_depth_uncertainty``); without, it is 1.
        assignment: ``match_algo``.
        pure_detections: no tracking, every detection gets an id of its own (``pure_det``).
        box_scale: metres (and radians) of distance at which box and centroid similarity fall to 1/e.
        displacement_scale: the same of the displacement's difference from the expected one, metres.
        frame_seconds: time between two frames where none is given, and length of a step of the motion model; modern
            mode.
        lost_seconds: time after which a track that was not seen ends, modern mode.
        yaw_scale: radians of difference at which the box similarity falls to 1/e, modern mode.
        size_scale: metres of difference in height, width and length for the same, modern mode.
        drift_scale: what ``box_scale`` and ``displacement_scale`` grow by with every second since the track was seen,
            m/s, modern mode.
        class_scales: factors of these three by label, modern mode; labels beyond the end have 1.
        confirm_sightings: sightings from which on a track is told of, or all there can be so early in a video, modern
            mode.
        same_object_metres: centres that different cameras see this close, of one class, are one object, modern mode.
    """

    init_score: float = 0.8
    continue_score: float = 0.5
    match_affinity: float = 0.5
    discard_affinity: float = 0.5
    low_score_iou: float = 0.3
    duplicate_iou: float = 0.7
    lost_frames: int = 10
    backdrop_frames: int = 1
    embedding_momentum: float = 0.8
    box_cue: BoxCue = "box3d"
    depth_cue: DepthCue = "motion"
    appearance_cue: AppearanceCue = "cycle_softmax"
    same_class: bool = True
    depth_confidence: bool = True
    assignment: Assignment = "greedy"
    pure_detections: bool = False
    box_scale: float = 10.0
    displacement_scale: float = 5.0
    frame_seconds: float = 0.1
    lost_seconds: float = 1.0
    yaw_scale: float = 1.5
    size_scale: float = 5.0
    drift_scale: float = 0.0
    class_scales: tuple[float, ...] = ()
    confirm_sightings: int = 1
    same_object_metres: float = 1.0

    def __post_init__(self) -> None:
        """
        Raises:
            UserError: a choice that does not exist, or a constant outside its range.
        """
        types = get_type_hints(type(self))
        for field in fields(self):
            value, allowed = getattr(self, field.name), get_args(types[field.name])
            if isinstance(value, str) and value not in allowed:
                raise UserError(f"the tracker's {field.name} is '{value}': choose one of {', '.join(allowed)}")
        for name in ("box_scale", "displacement_scale", "frame_seconds", "lost_seconds", "yaw_scale", "size_scale"):
            if not getattr(self, name) > 0:
                raise UserError(f"the tracker's {name} is {getattr(self, name)}: give a number above 0")
        if self.lost_frames < 1 or self.backdrop_frames < 0:
            raise UserError(
                f"the tracker's lost_frames is {self.lost_frames} and its backdrop_frames {self.backdrop_frames}: "
                "give at least 1 and 0"
            )


KITTI_RULES = TrackerRules(init_score=0.5, duplicate_iou=0.8, frame_seconds=0.1, lost_seconds=1.0)
WAYMO_RULES = TrackerRules(frame_seconds=0.1, lost_seconds=1.0)
NUSCENES_RULES = TrackerRules(frame_seconds=0.5, lost_seconds=3.0)
"""On key frames, which are half a second apart."""
