"""Data of the wing: readers of frame records, a synthetic world, mappers of pairs, samplers, names in the catalogs.

Importing this package registers the names; no file is read before a set is used.
"""

from .coco_vid import read_coco_vid, write_coco_vid
from .constants import SHEETS, DatasetSheet, sheet
from .folder import iterate_source, read_folder, read_intrinsics, read_poses
from .kitti import read_kitti_object, read_kitti_tracking
from .loader import build_pair_mapper, build_pair_train_loader, build_video_test_loader, load_frames
from .mapper import FrameMapper, PairMapper
from .nuscenes import read_nuscenes
from .records import Boxes3D, Record, annotations_of, boxes_of, camera_of, in_video_order
from .registration import register_all, register_coco_vid, register_frames
from .samplers import VideoSampler
from .synthetic import SyntheticOptions, synthetic_clip, synthetic_records, write_synthetic
from .waymo import read_waymo

register_all()

__all__ = [
    "SHEETS",
    "Boxes3D",
    "DatasetSheet",
    "FrameMapper",
    "PairMapper",
    "Record",
    "SyntheticOptions",
    "VideoSampler",
    "annotations_of",
    "boxes_of",
    "build_pair_mapper",
    "build_pair_train_loader",
    "build_video_test_loader",
    "camera_of",
    "in_video_order",
    "iterate_source",
    "load_frames",
    "read_coco_vid",
    "read_folder",
    "read_intrinsics",
    "read_kitti_object",
    "read_kitti_tracking",
    "read_nuscenes",
    "read_poses",
    "read_waymo",
    "register_all",
    "register_coco_vid",
    "register_frames",
    "sheet",
    "synthetic_clip",
    "synthetic_records",
    "write_coco_vid",
    "write_synthetic",
]
