"""Replays the published tracker's scripted scenes; run on their folder, it prints a table of differences."""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from centernet.tracking3d.motion.constant import ConstantPosition
from centernet.tracking3d.motion.kalman import KalmanMotion
from centernet.tracking3d.ops.geometry import Camera, euler_to_matrix
from centernet.tracking3d.tracker.detections import Detections3D
from centernet.tracking3d.tracker.rules import KITTI_RULES, NUSCENES_RULES, TrackerRules
from centernet.tracking3d.tracker.tracker import QuasiDenseTracker

SCENES = ("gap", "cross", "videos", "crowd", "lowconf", "turn")
CHANGES = {
    "box2d": {"box_cue": "box2d"},
    "bev": {"box_cue": "bev"},
    "box2d_depth_aware": {"box_cue": "box2d_depth_aware"},
    "centroid": {"depth_cue": "centroid"},
    "cosine": {"depth_cue": "cosine"},
    "pure_motion": {"depth_cue": "pure_motion"},
    "softmax": {"appearance_cue": "softmax"},
    "embcosine": {"appearance_cue": "cosine"},
    "nofeat": {"appearance_cue": "none"},
    "nobox": {"box_cue": "none"},
    "nodepthorder": {"depth_cue": "none"},
    "nocats": {"same_class": False},
    "noconf": {"depth_confidence": False},
}
Scene = Mapping[str, np.ndarray]


def rules_of(scene: Scene, variant: str) -> TrackerRules:
    base = KITTI_RULES if str(scene["constants"]) == "kitti" else NUSCENES_RULES
    _, assignment, *change = variant.split("_", 2)
    changed = CHANGES[change[0]] if change else {}
    return replace(base, assignment="hungarian" if assignment.startswith("hung") else "greedy", **changed)


def motion_of(variant: str):
    """The motion model; None where it is not there."""
    name = variant.split("_")[0]
    if name == "lstm":
        try:
            from velo_lstm_recipe import published_test_model
        except ImportError:
            return None
        return published_test_model()
    return {"kf": KalmanMotion(), "dummy": ConstantPosition("parity")}[name]


def frames(scene: Scene, dtype: torch.dtype = torch.float32) -> Iterator[tuple[Detections3D, Camera, int]]:
    """Detections, camera and index of each frame; boxes from the published inclusive ones."""
    calibration = torch.from_numpy(scene["calib"])
    for number, frame in enumerate(scene["frame_index"].tolist()):
        rows = slice(*scene["in_offsets"][number : number + 2])
        fields = {
            name: torch.from_numpy(scene[f"in_{name}"][rows])
            for name in ("boxes", "labels", "depth", "conf", "dims", "alpha", "cen2d", "embeds")
        }
        detections = Detections3D(
            boxes=fields["boxes"][:, :4] + torch.tensor([0.0, 0.0, 1.0, 1.0]),
            scores=fields["boxes"][:, 4],
            labels=fields["labels"],
            depth=fields["depth"].flatten(),
            confidence=fields["conf"].flatten(),
            dims=fields["dims"],
            alpha=fields["alpha"].flatten(),
            center2d=fields["cen2d"],
            embeddings=fields["embeds"],
        )
        rotation = euler_to_matrix(torch.from_numpy(scene["pose_rotation"][number]))
        camera = Camera(calibration, rotation, torch.from_numpy(scene["pose_position"][number]))
        yield detections, Camera(*(value.to(dtype) for value in camera)), frame


def _ragged(scene: Scene, variant: str, name: str, offsets: str, number: int) -> np.ndarray | None:
    if f"{variant}/{name}" not in scene:
        return None
    start, end = scene[f"{variant}/{offsets}"][number : number + 2]
    return scene[f"{variant}/{name}"][start:end]


class Comparison(NamedTuple):
    """Attributes: ``differences``, one line each, beyond the tolerances (ids and orders exact, boxes and outputs 1e-3,
    affinities 1e-4); ``arrays``, how many were compared; ``worst``, largest difference of floats by kind of array."""

    differences: list[str]
    arrays: int
    worst: dict[str, float]


def compared(scene: Scene, variant: str, motion, device: str = "cpu") -> Comparison:
    """Our run of a variant beside the published one."""
    found: list[str] = []
    worst: dict[str, float] = {}
    arrays = 0
    tracker = QuasiDenseTracker(rules_of(scene, variant), motion, "parity")

    def compare(
        where: str, ours: torch.Tensor, theirs: np.ndarray | None, tolerance: float = 0.0, angle: bool = False
    ) -> None:
        nonlocal arrays
        if theirs is None:
            return
        arrays += 1
        values = ours.cpu().numpy()
        if values.shape != theirs.shape:
            found.append(f"{where}: shape {values.shape}, published {theirs.shape}")
            return
        apart = np.abs(values.astype(np.float64) - theirs)
        if angle:
            apart = np.minimum(apart, np.abs(apart - 2 * np.pi))
        if apart.size and tolerance:
            kind = where.split()[-1]
            worst[kind] = max(worst.get(kind, 0.0), float(apart.max()))
        if apart.size and not apart.max() <= tolerance:
            found.append(f"{where}: {apart.max():.2e}")

    for number, (detections, camera, frame) in enumerate(frames(scene)):
        detections = Detections3D(*(value.to(device) for value in detections))
        where = f"{variant} frame {number}"
        matched = tracker.match([(detections, camera)], frame)
        tracks = tracker.seen_from(matched, camera)
        box7 = _ragged(scene, variant, "box7_out", "offsets", number)
        compare(f"{where} order", matched.seen.index, _ragged(scene, variant, "order", "offsets", number))
        compare(f"{where} ids", matched.ids, _ragged(scene, variant, "ids", "offsets", number))
        if box7 is not None:
            compare(f"{where} box7", matched.box7[:, [0, 1, 2, 4, 5, 6]], box7[:, [0, 1, 2, 4, 5, 6]], 1e-3)
            compare(f"{where} yaw", matched.box7[:, 3], box7[:, 3], 1e-3, angle=True)
        compare(f"{where} alive", tracker.tracks.ids, _ragged(scene, variant, "alive", "alive_offsets", number))
        outputs = {"trk_ids": "ids", "depth": "depth", "dims": "dims", "alpha": "alpha", "cen2d": "center2d"}
        for name, field in outputs.items():
            theirs = _ragged(scene, variant, name, "trk_offsets", number)
            tolerance = 0.0 if name == "trk_ids" else 1e-3
            compare(f"{where} {name}", getattr(tracks, field), theirs, tolerance, angle=name == "alpha")
        memory = f"{variant}/affinity_f{number}"
        compare(f"{where} S", matched.affinity, scene.get(f"{memory}_S"), 1e-4)
        compare(f"{where} memory ids", matched.entries.ids if matched.entries else None, scene.get(f"{memory}_mem_ids"))
        held = {"labels": "labels", "embeds": "embeddings", "box7": "box7", "vel": "velocity"}
        for name, field in held.items():
            theirs = scene.get(f"{memory}_mem_{name}")
            compare(f"{where} memory {name}", getattr(matched.entries, field, None), theirs, 1e-3)
    return Comparison(found, arrays, worst)


def pure_detections(scene: Scene) -> list[str]:
    """What differs in the mode that tracks nothing."""
    rules = replace(rules_of(scene, "kf_greedy"), pure_detections=True)
    tracker = QuasiDenseTracker(rules, KalmanMotion(), "parity")
    found = []
    for number, (detections, camera, frame) in enumerate(frames(scene)):
        tracks = tracker.step(detections, camera, frame)
        for name, ours in (("order", tracks.index), ("ids", tracks.ids)):
            if not np.array_equal(ours.numpy(), _ragged(scene, "pure_det", name, "offsets", number)):
                found.append(f"frame {number} {name}")
    return found


def table(folder: Path) -> Iterator[str]:
    """Scenes by variants as Markdown: largest difference of a refined box and of an affinity, where decisions agree."""
    for scene_name in SCENES:
        scene = dict(np.load(folder / f"tracker_{scene_name}.npz"))
        yield f"\n{scene_name}, {scene['n_frames']} frames, {len(scene['in_labels'])} detections\n"
        yield "| variant | arrays | differences | box, m or rad | affinity |\n| --- | --- | --- | --- | --- |"
        for variant in scene["variants"].tolist():
            motion = motion_of(variant)
            if motion is None:
                yield f"| {variant} | no such motion model | | | |"
                continue
            outcome = compared(scene, variant, motion)
            box, affinity = (f"{outcome.worst[kind]:.0e}" if kind in outcome.worst else "" for kind in ("box7", "S"))
            yield f"| {variant} | {outcome.arrays} | {len(outcome.differences)} | {box} | {affinity} |"
        yield f"| pure detections | {2 * scene['n_frames']} | {len(pure_detections(scene))} | | |"


if __name__ == "__main__":
    for line in table(Path(sys.argv[1])):
        print(line)
