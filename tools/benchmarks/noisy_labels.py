#!/usr/bin/env python3
"""KITTI's labels as noisy detections: our tracker in both modes beside a plain Kalman filter, by trackeval.

    python tools/benchmarks/noisy_labels.py label_02_all.json.gz                 # the odd sequences: the table
    python tools/benchmarks/noisy_labels.py label_02_all.json.gz --half even     # those that constants were chosen on

Places are 0.5 m off (standard deviation), one detection in ten is missing, one in ten is invented. No appearance, no
pose of the camera; boxes in the picture are unspoilt and no tracker here looks at them.
"""

import argparse
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from benchmarks.plain_kalman3d import PlainRules, plain_tracks
from benchmarks.tables import markdown
from evaluate_tracking3d import read_labels

from centernet.errors import command_line
from centernet.tracking3d.data.constants import KITTI_CLASSES
from centernet.tracking3d.evaluation import official
from centernet.tracking3d.evaluation.label_replay import INTRINSICS, Noise, label_detections, replay, tracker_for_labels
from centernet.tracking3d.ops.geometry import unproject
from centernet.tracking3d.tracker.detections import Detections3D

Frames = Sequence[Detections3D]


def plain(rules: PlainRules) -> Callable[[Frames], str]:
    """The rival, as something that turns detections into KITTI's text."""

    def track(frames: Frames) -> str:
        intrinsics = torch.tensor(INTRINSICS, dtype=torch.float64)
        places = [unproject(found.center2d, found.depth, intrinsics).numpy() for found in frames]
        ids = plain_tracks(places, [found.labels.numpy() for found in frames], rules)
        written = []
        for frame, (found, here) in enumerate(zip(frames, ids, strict=True)):
            for box, label, track in zip(found.boxes.tolist(), found.labels.tolist(), here.tolist(), strict=True):
                if track >= 0 and KITTI_CLASSES[label] in ("car", "pedestrian"):
                    corners = " ".join(f"{value:.6f}" for value in box)
                    written.append(f"{frame} {track} {KITTI_CLASSES[label]} -1 -1 0 {corners} 1 1 1 0 0 0 0 1\n")
        return "".join(written)

    return track


CONTENDERS: dict[str, Callable[[Frames], str]] = {
    "modern": lambda frames: replay(tracker_for_labels("modern", confirm_sightings=2), frames),
    "parity": lambda frames: replay(tracker_for_labels("parity"), frames),
    "plain Kalman + Hungarian, 3 sightings, gate 4 m": plain(PlainRules(gate=4.0)),
    "plain Kalman + Hungarian, 2 sightings, gate 4 m": plain(PlainRules(gate=4.0, min_hits=2)),
    "plain Kalman + Hungarian, 3 sightings, gate 4 m, noise as modern": plain(
        PlainRules(4.0, 3, 2, first_velocity=0.5, place_noise=0.02, velocity_noise=0.005, measurement=0.3)
    ),
}


@command_line
def main(arguments: list[str] | None = None) -> None:
    """Track, score, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("labels", metavar="LABELS", help="folder of label files, or JSON {file name: text}")
    parser.add_argument("--half", choices=("odd", "even", "all"), default="odd", help="sequences (default %(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="of the noise (default %(default)s)")
    parser.add_argument("--noise", nargs=3, type=float, default=(0.5, 0.1, 0.1), metavar=("METRES", "DROPPED", "FALSE"))
    parser.add_argument("--python", default=sys.executable, help="that has trackeval")
    options = parser.parse_args(arguments)
    truth = read_labels(Path(options.labels))
    if options.half != "all":
        truth = {name: text for name, text in truth.items() if int(name) % 2 == (options.half == "odd")}
    lengths = {name: 1 + max(int(line.split()[0]) for line in text.splitlines()) for name, text in truth.items()}
    rows = []
    for name, track in CONTENDERS.items():
        found = []
        for seed in range(options.seeds):
            noise = Noise(*options.noise, seed=seed)
            told = {key: track(label_detections(text, lengths[key], noise)) for key, text in truth.items()}
            found.append(official.kitti_tracking(truth, told, lengths, options.python))
        for kind in official.KITTI_CLASSES:
            columns = {key: [scores[kind][key] for scores in found] for key in ("HOTA", "AssA", "DetA", "MOTA")}
            cells = [f"{statistics.mean(values):.4f}" for values in columns.values()]
            switches = [f"{scores[kind]['IDSW']:.0f}" for scores in found]
            rows.append([kind, name, *cells, " / ".join(switches)])
            print(*rows[-1], flush=True, file=sys.stderr)
    rows.sort(key=lambda row: row[0])
    print(markdown(["class", "tracker", "HOTA", "AssA", "DetA", "MOTA", "id switches by seed"], rows))


if __name__ == "__main__":
    sys.exit(main())
