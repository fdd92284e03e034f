#!/usr/bin/env python3
"""Score 3D tracking with the benchmarks' own tools.

    python tools/evaluate_tracking3d.py labels label_02          # a folder, or label_02_all.json.gz
    python tools/evaluate_tracking3d.py labels label_02 --noise 0.5 0.1 0.1 --mode modern
    python tools/evaluate_tracking3d.py nuscenes detection.json --task detection --data nuscenes --split mini_val \\
        --python envs/nuscenes/bin/python

    python tools/evaluate_tracking3d.py nuscenes detections.json.gz --track --data nuscenes --split mini_val \\
        --lstm parity.pth modern.pth --python envs/nuscenes/bin/python

`labels` gives KITTI's labels to the tracker as its detections (perfect, or with --noise METRES DROPPED FALSE) and
scores the tracks with trackeval. `nuscenes` scores a submission with nuscenes-devkit; with --track, SUBMISSION holds
detections, which our tracker follows without appearance, in each mode and with each motion model, and a table is
printed. Both tools run in a process of their own; --python names the Python that has them.
"""

import argparse
import gzip
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from centernet.errors import UserError, command_line
from centernet.tracking3d.data.nuscenes import read_nuscenes
from centernet.tracking3d.evaluation import official
from centernet.tracking3d.evaluation.label_replay import Noise, label_detections, replay, tracker_for_labels
from centernet.tracking3d.evaluation.nuscenes_detections import read_nuscenes_detections
from centernet.tracking3d.evaluation.nuscenes_replay import nuscenes_contenders, nuscenes_tracker, replay_nuscenes
from centernet.tracking3d.evaluation.nuscenes_submission import save_submission, submission
from centernet.tracking3d.ops.mode import checked_mode
from centernet.tracking3d.tracker.cameras import CameraRig

COLUMNS = ("AMOTA", "AMOTA@0.2", "AMOTP", "RECALL", "MOTA", "IDS", "FRAG", "FP", "FN")
VERSIONS = {"mini_val": "v1.0-mini", "mini_train": "v1.0-mini", "test": "v1.0-test"}


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    labels = commands.add_parser("labels", help="KITTI's labels through the tracker")
    labels.add_argument("labels", metavar="LABELS", help="folder of label files, or JSON {file name: text}")
    labels.add_argument("--noise", nargs=3, type=float, metavar=("METRES", "DROPPED", "FALSE"), help="default none")
    labels.add_argument("--mode", default="modern", help="parity or modern (default %(default)s)")
    labels.add_argument("--seed", type=int, default=0, help="of the noise")
    nuscenes = commands.add_parser("nuscenes", help="a submission")
    nuscenes.add_argument("submission", metavar="SUBMISSION", help="JSON file")
    nuscenes.add_argument("--task", choices=("detection", "tracking"), default="tracking")
    nuscenes.add_argument("--data", required=True, metavar="DIR", help="folder with the tables")
    nuscenes.add_argument("--split", default="val", help="default %(default)s")
    nuscenes.add_argument("--track", action="store_true", help="track the detections first, and compare modes")
    nuscenes.add_argument(
        "--lstm", nargs=2, metavar=("PARITY", "MODERN"), help="motion networks of tools/train_motion.py by --mode"
    )
    for command in (labels, nuscenes):
        command.add_argument("--python", default=sys.executable, help="that has the benchmark's tool")
        command.add_argument("--output", metavar="JSON", help="write the scores there")
    return parser.parse_args(arguments)


def read_labels(path: Path) -> dict[str, str]:
    """Texts of label files by sequence."""
    try:
        if path.is_dir():
            return {file.stem: file.read_text("utf-8") for file in sorted(path.glob("*.txt"))}
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        return {Path(name).stem: text for name, text in sorted(json.loads(content).items())}
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{path} holds no label files ({error}): give KITTI's folder label_02") from error


def score_labels(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Scores by class."""
    truth = read_labels(Path(options.labels))
    if not truth:
        raise UserError(f"{options.labels} holds no label files: give KITTI's folder label_02")
    lengths = {
        name: 1 + max((int(line.split()[0]) for line in text.splitlines()), default=0) for name, text in truth.items()
    }
    noise = Noise(*options.noise, seed=options.seed) if options.noise else Noise(seed=options.seed)
    mode = checked_mode(options.mode, "--mode")
    tracked = {}
    for name, text in truth.items():
        detections = label_detections(text, lengths[name], noise)
        tracked[name] = replay(tracker_for_labels(mode), detections)
    return official.kitti_tracking(truth, tracked, lengths, options.python)


def version_of(split: str) -> str:
    """Of nuScenes' tables."""
    return VERSIONS.get(split, "v1.0-trainval")


def compare_trackers(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Scores of all trackers of the detections; the table is printed as it grows."""
    found = read_nuscenes_detections(options.submission, read_nuscenes(options.data, options.split))
    scores = {}
    print(f"| tracker | {' | '.join(COLUMNS)} |\n|{' --- |' * (len(COLUMNS) + 1)}")
    for name, (mode, motion, across) in nuscenes_contenders(options.lstm).items():
        rig = CameraRig(lambda ids, mode=mode, motion=motion: nuscenes_tracker(mode, *motion, ids), across)
        content = submission(replay_nuscenes(found, rig, mode).as_dict(), "tracking", mode)
        with tempfile.TemporaryDirectory(prefix="nuscenes_tracks_") as folder:
            file = Path(folder) / "tracks.json"
            save_submission(content, file)
            scores[name] = official.nuscenes_tracking(
                file, options.data, version_of(options.split), options.split, options.python
            )
        cells = (f"{scores[name][column]:.4g}" for column in COLUMNS)
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    return scores


@command_line
def main(arguments: list[str] | None = None) -> None:
    """Score, tell, write."""
    options = parse(arguments)
    if options.command == "labels":
        scores = score_labels(options)
    elif options.track:
        scores = compare_trackers(options)
    else:
        score = official.nuscenes_detection if options.task == "detection" else official.nuscenes_tracking
        scores = score(options.submission, options.data, version_of(options.split), options.split, options.python)
    text = json.dumps(scores, indent=1)
    print(text)
    if options.output:
        path = Path(options.output)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text + "\n", "utf-8")
        except OSError as error:
            raise UserError(f"{path} cannot be written: {error.strerror}") from error


if __name__ == "__main__":
    sys.exit(main())
