"""The tracker that a config describes: ``MODEL.TRACKING3D.TRACKER``, ``MODE`` and ``DATA.FRAME_RATE``."""

from collections.abc import Callable
from typing import Any

from detectron2.config import CfgNode

from ...errors import UserError
from ..motion.base import MotionModel
from ..motion.checkpoint import MOTION_MODELS, TRACKABLE, TrainedNetwork, build_motion, load_network
from ..ops.mode import checked_mode
from ..tracker.rules import TrackerRules
from ..tracker.tracker import IdCounter, QuasiDenseTracker

__all__ = ["build_tracker", "tracker_builder", "tracker_rules"]

_NODE = "MODEL.TRACKING3D.TRACKER"


def tracker_rules(cfg: CfgNode, step_seconds: float | None = None, **changes: Any) -> TrackerRules:
    """Constants of the tracker.

    Args:
        cfg: ``MODEL.TRACKING3D`` is read.
        step_seconds: length of a step that the motion network was trained with; ``None``: a frame of
            ``DATA.FRAME_RATE``.
        changes: fields of :class:`..tracker.rules.TrackerRules` that the config has no keys for.

    Raises:
        UserError: a value is outside its range.
    """
    node = cfg.MODEL.TRACKING3D.TRACKER
    rate = cfg.MODEL.TRACKING3D.DATA.FRAME_RATE
    if not rate > 0:
        raise UserError(f"MODEL.TRACKING3D.DATA.FRAME_RATE is {rate}: give the frames a second, above 0")
    for key in ("INIT_SCORE", "CONTINUE_SCORE", "MATCH_AFFINITY", "DUPLICATE_IOU"):
        if not 0 <= node[key] <= 1:
            raise UserError(f"{_NODE}.{key} is {node[key]}: give a number from 0 to 1")
    if not node.LOST_SECONDS > 0:
        raise UserError(f"{_NODE}.LOST_SECONDS is {node.LOST_SECONDS}: give seconds above 0")
    fields: dict[str, Any] = {
        "init_score": node.INIT_SCORE,
        "continue_score": node.CONTINUE_SCORE,
        "match_affinity": node.MATCH_AFFINITY,
        "duplicate_iou": node.DUPLICATE_IOU,
        "lost_seconds": node.LOST_SECONDS,
        "depth_confidence": cfg.MODEL.TRACKING3D.USE_CONFIDENCE,
        "frame_seconds": step_seconds or 1.0 / rate,
    }
    return TrackerRules(**(fields | changes))


def tracker_builder(cfg: CfgNode, **changes: Any) -> Callable[[IdCounter | None], QuasiDenseTracker]:
    """What makes the config's tracker, again and again, each with motion states of its own.

    Args:
        cfg: ``MODEL.TRACKING3D`` and ``MODEL.DEVICE`` are read; the files it names are read now.
        changes: as for :func:`tracker_rules`.

    Raises:
        UserError: no such mode or motion model, a file that is not its weights, values outside their range.
    """
    mode = checked_mode(cfg.MODEL.TRACKING3D.MODE)
    motion, trained = _motion(cfg)
    step = trained.step_seconds if trained is not None and mode == "modern" else None
    rules = tracker_rules(cfg, step, **changes)
    if trained is None and mode == "modern":
        name = cfg.MODEL.TRACKING3D.TRACKER.MOTION or "Kalman"
        motion = build_motion(name, mode=mode, step_seconds=rules.frame_seconds)

    def build(ids: IdCounter | None = None) -> QuasiDenseTracker:
        return QuasiDenseTracker(rules, motion, mode, ids=ids)

    return build


def build_tracker(cfg: CfgNode, ids: IdCounter | None = None, **changes: Any) -> QuasiDenseTracker:
    """One tracker of :func:`tracker_builder`; ``ids``: counter to share with others."""
    return tracker_builder(cfg, **changes)(ids)


def _motion(cfg: CfgNode) -> tuple[MotionModel, TrainedNetwork | None]:
    """The motion model, and what its file says; the models keep no state of tracks, so trackers may share one."""
    node = cfg.MODEL.TRACKING3D.TRACKER
    name, weights = node.MOTION, node.MOTION_WEIGHTS
    mode = checked_mode(cfg.MODEL.TRACKING3D.MODE)
    if name and name not in MOTION_MODELS:
        raise UserError(f"{_NODE}.MOTION is '{name}': choose one of {', '.join(MOTION_MODELS)}, or '' for the default")
    if name in TRACKABLE and not weights:
        raise UserError(
            f"{_NODE}.MOTION is {name}, a network, and {_NODE}.MOTION_WEIGHTS is empty: name a file that "
            "tools/train_motion.py wrote, or set MOTION to Kalman, which needs none"
        )
    if weights and name and name not in TRACKABLE:
        raise UserError(
            f"{_NODE}.MOTION_WEIGHTS names {weights}, but MOTION is {name}, which has no weights: leave one of them out"
        )
    if not weights:
        return build_motion(name or "Kalman", mode=mode), None
    trained = load_network(weights)
    return build_motion(name or type(trained.network).__name__, weights, mode), trained
