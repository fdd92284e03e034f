"""`benchmark.py tracking3d`: a step of the 3D tracker, by how many detections and tracks there are."""

import argparse
import statistics
from collections.abc import Callable
from dataclasses import replace

import torch

from centernet.tracking3d.motion.base import MotionModel
from centernet.tracking3d.motion.constant import ConstantPosition
from centernet.tracking3d.motion.kalman import KalmanMotion
from centernet.tracking3d.ops.geometry import Camera, lower_boxes
from centernet.tracking3d.tracker.detections import Detections3D
from centernet.tracking3d.tracker.rules import KITTI_RULES, TrackerRules
from centernet.tracking3d.tracker.tracker import QuasiDenseTracker

if __name__ == "__main__":
    import sys
    from pathlib import Path

    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.rounds import Turn, timed
from benchmarks.tables import markdown

__all__ = ["crowd", "measure_tracking3d", "step_times"]

SIZES = (25, 50, 100, 200, 400)
_WARM_UP = 5


def crowd(count: int, frame: int, device: str = "cpu", embedding: int = 256) -> tuple[Detections3D, Camera]:
    """``count`` cars ahead that move steadily and do not overlap in the picture, with a little noise."""
    fixed = torch.Generator().manual_seed(count)
    noise = torch.Generator().manual_seed(1000 * count + frame)
    place = torch.rand(count, 2, generator=fixed) * torch.tensor([80.0, 30.0]) + torch.tensor([10.0, -15.0])
    speed = torch.randn(count, 2, generator=fixed) * 0.5
    looks = torch.randn(count, embedding, generator=fixed)
    xy = place + speed * frame + 0.2 * torch.randn(count, 2, generator=noise)
    z_yaw = torch.stack((torch.ones(count), torch.atan2(speed[:, 1], speed[:, 0])), 1)
    box7 = torch.cat((xy, z_yaw, torch.tensor([1.6, 1.8, 4.2]).expand(count, 3)), 1)
    camera = Camera(
        torch.tensor([[700.0, 0.0, 600.0, 0.0], [0.0, 700.0, 350.0, 0.0], [0.0, 0.0, 1.0, 0.0]]),
        torch.tensor([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]]),
        torch.tensor([-20.0, 0.0, 1.5]),
    )
    seen = lower_boxes(box7, torch.tensor([[-torch.pi / 2, 0.0]]).expand(count, 2), camera)
    corner = torch.stack((torch.arange(count) % 20, torch.arange(count) // 20), 1) * 50.0
    detections = Detections3D(
        boxes=torch.cat((corner, corner + 40), 1),
        scores=0.85 + 0.15 * torch.rand(count, generator=noise),
        labels=torch.zeros(count, dtype=torch.int64),
        depth=seen.depth,
        confidence=0.8 + 0.2 * torch.rand(count, generator=noise),
        dims=seen.dims,
        alpha=seen.alpha,
        center2d=seen.center2d,
        embeddings=looks + 0.1 * torch.randn(count, embedding, generator=noise),
    )
    return Detections3D(*(value.to(device) for value in detections)), camera


def step_times(tracker: QuasiDenseTracker, count: int, repeats: int, device: str = "cpu") -> list[Turn]:
    """Steps with ``count`` detections and as many tracks, one after the other."""
    turns = []
    for frame in range(_WARM_UP + repeats):
        detections, camera = crowd(count, frame, device)

        def step(detections: Detections3D = detections, camera: Camera = camera, frame: int = frame) -> None:
            tracker.step(detections, camera, frame)

        turns.append(timed(step, device))
    if tracker.tracks is None or len(tracker.tracks) < count:
        raise AssertionError("fewer tracks than detections: the figures would be of something else")
    return turns[_WARM_UP:]


def _velo_lstm(device: str) -> MotionModel:
    from centernet.tracking3d.motion.velo_lstm import VeloLSTM, VeloLSTMMotion

    return VeloLSTMMotion(VeloLSTM().eval().to(device))


MOTIONS: dict[str, Callable[[str], MotionModel]] = {
    "Kalman": lambda device: KalmanMotion(),
    "constant": lambda device: ConstantPosition(),
    "VeloLSTM": _velo_lstm,
}


def _contenders() -> dict[str, tuple[str, TrackerRules, str]]:
    return {
        "Kalman": ("Kalman", KITTI_RULES, "modern"),
        "Kalman, Hungarian": ("Kalman", replace(KITTI_RULES, assignment="hungarian"), "modern"),
        "Kalman, parity": ("Kalman", KITTI_RULES, "parity"),
        "constant position": ("constant", KITTI_RULES, "modern"),
        "VeloLSTM": ("VeloLSTM", KITTI_RULES, "modern"),
    }


def measure_tracking3d(repeats: int, device: str = "cpu") -> None:
    """Milliseconds of the processor (all threads) for a step of N detections and N tracks (and wall time)."""
    rows = []
    for name, (motion, rules, mode) in _contenders().items():
        row: list[str] = [name]
        for count in SIZES:
            tracker = QuasiDenseTracker(rules, MOTIONS[motion](device), "parity" if mode == "parity" else "modern")
            turns = step_times(tracker, count, repeats, device)
            cpu, wall = (
                1e3 * statistics.median(values) for values in zip(*((t.cpu, t.wall) for t in turns), strict=True)
            )
            row.append(f"{cpu:.1f} ({wall:.1f})")
        rows.append(row)
    print(f"{device}, {torch.get_num_threads()} threads: CPU ms a step, median of {repeats} (wall ms)")
    print(markdown(["motion", *(f"{count} x {count}" for count in SIZES)], rows))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    measure_tracking3d(options.repeats, options.device)
