#!/usr/bin/env python3
"""Train the motion model of the 3D tracker (VeloLSTM) from detections and annotated tracks.

    python tools/train_motion.py --detections det_train.json --truth train.json --output output/motion
    python tools/train_motion.py --detections det_train.json det2.json --truth train.json train2.json \\
        --validation det_val.json val.json --categories car pedestrian cyclist --frame-seconds 0.1
    python tools/train_motion.py --synthetic 1000 --passes 20        tracks along bends, without any data

DETECTIONS and TRUTH are the intermediate JSON of QD-3DT (COCO with videos: categories, videos, images with cali and
pose, annotations with bbox, alpha, dimension, center_2d, translation), TRUTH as the readers of the data write it,
DETECTIONS as the detector writes it without tracking (TEST with pure detections), with uncertainty, for the same
videos. Several files go in pairs. Categories: the published models take car, pedestrian and cyclist (KITTI, Waymo), car
(GTA), or all ten of nuScenes. --frame-seconds is the time between two frames of the files where these have no
timestamp in microseconds (nuScenes' key frames 0.5, KITTI and Waymo 0.1).

--mode parity trains as published, flaws included: objects are paired by an overlap that small boxes reach without
touching, seen at their true centre in the picture, and what was not detected is seen as it is. --mode modern pairs one
class by IoU 0.5, counts time in steps of --step-seconds, so that weights hold at other frame rates, wraps yaw, and
learns with what the detector missed. The tracker must run in the mode of the weights.

Written to --output: motion.pth after every pass, which the tracker loads (MODEL.TRACKING3D.TRACKER.MOTION_WEIGHTS) and
from which the same command goes on after a kill, as if it had not been stopped; metrics.json, one line a pass.
Published: batch 128 (KITTI 8), 101 passes.

Exit status: 0 done, 2 something to mend (one line says what).
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from centernet.engine.atomic_file import write_atomically
from centernet.errors import UserError, command_line, writing
from centernet.progress import progress
from centernet.tracking3d.motion.checkpoint import TRACKABLE
from centernet.tracking3d.motion.kalman import KalmanMotion
from centernet.tracking3d.motion.pairing import read_tracks
from centernet.tracking3d.motion.synthetic import curved_tracks
from centernet.tracking3d.motion.tracks import Track
from centernet.tracking3d.motion.training import MotionTrainer, TrainingRules, prediction_errors
from centernet.tracking3d.motion.velo_lstm import VeloLSTMMotion
from centernet.weights import read_weights

NAME = "motion.pth"


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--detections", nargs="+", default=[], metavar="JSON", help="of the detector on the training videos")
    add("--truth", nargs="+", default=[], metavar="JSON", help="annotations of the same videos, in the same order")
    add("--validation", nargs=2, metavar=("DETECTIONS", "TRUTH"), help="two files of other videos")
    add("--synthetic", type=int, metavar="N", help="train on N generated tracks, without files")
    add("--output", type=Path, default=Path("output/motion"), metavar="DIR", help="(default %(default)s)")
    add("--categories", nargs="+", metavar="NAME", help="objects to take (default: all in the files)")
    add("--mode", choices=("modern", "parity"), default="modern", help="(default %(default)s)")
    add("--network", choices=TRACKABLE, default="VeloLSTM", help="(default %(default)s)")
    add("--frame-seconds", type=float, default=0.5, metavar="S", help="between frames (default %(default)s)")
    add("--step-seconds", type=float, metavar="S", help="of the model, modern mode (default: --frame-seconds)")
    add("--passes", type=int, default=101, metavar="N", help="over all tracks (default %(default)s)")
    add("--batch", type=int, default=128, metavar="N", help="windows (default %(default)s)")
    add("--window", type=int, default=10, metavar="N", help="moments of a window (default %(default)s)")
    add("--least-moments", type=int, default=10, metavar="N", help="tracks have more (default %(default)s)")
    add("--learning-rate", type=float, default=5e-3, metavar="X", help="of Adam (default %(default)s)")
    add("--halve-every", type=int, default=20, metavar="N", help="passes (default %(default)s)")
    add("--seed", type=int, default=100, metavar="N", help="(default %(default)s)")
    add("--device", default="cpu", help="cpu or cuda (default %(default)s)")
    return parser.parse_args(arguments)


@command_line
def main(arguments: list[str] | None = None) -> None:
    """Read, train, tell."""
    options = parse(arguments)
    if not options.frame_seconds > 0:
        raise UserError(f"--frame-seconds is {options.frame_seconds}: give the time between frames, such as 0.1")
    rules = TrainingRules(
        network=options.network,
        mode=options.mode,
        passes=options.passes,
        batch=options.batch,
        window=options.window,
        least_moments=options.least_moments,
        learning_rate=options.learning_rate,
        halve_every=options.halve_every,
        step_seconds=options.step_seconds or options.frame_seconds,
        seed=options.seed,
    )
    tracks, held_out = load(options)
    trainer = MotionTrainer(rules, tracks, device_of(options.device))
    print(f"{len(trainer.tracks)} tracks of {len(tracks)} have more than {rules.least_moments} moments")
    with writing(options.output):
        options.output.mkdir(parents=True, exist_ok=True)
    file = options.output / NAME
    if file.exists():
        saved = read_weights(file)
        trainer.resume(saved.tensors, saved.training, str(file))
        print(f"going on after pass {trainer.finished} of {rules.passes}")
    train(trainer, held_out, options.output)
    for name, errors in compare(trainer, held_out or trainer.tracks).items():
        print(f"{name:10} predicted {errors['predicted']:.3f} m, refined {errors['refined']:.3f} m from the truth")
    print(f"written: {file}")


def load(options: argparse.Namespace) -> tuple[list[Track], list[Track]]:
    """Tracks for training and for validation."""
    if options.synthetic is not None:
        if options.detections or options.truth:
            raise UserError("--synthetic needs no files: leave out --detections and --truth, or --synthetic")
        if options.synthetic < 1:
            raise UserError(f"--synthetic is {options.synthetic}: give a number of tracks, such as 1000")
        step = options.frame_seconds
        count = max(options.synthetic // 4, 1)
        return (
            curved_tracks(options.synthetic, seed=options.seed, step_seconds=step),
            curved_tracks(count, seed=options.seed + 1, step_seconds=step),
        )
    if not options.detections or len(options.detections) != len(options.truth):
        raise UserError(
            f"there are {len(options.detections)} files of --detections and {len(options.truth)} of --truth: give one "
            "of each for every set of videos, or --synthetic 1000"
        )

    def read(detections: str, truth: str) -> list[Track]:
        return read_tracks(
            detections,
            truth,
            mode=options.mode,
            frame_seconds=options.frame_seconds,
            categories=options.categories,
        )

    tracks = [track for pair in zip(options.detections, options.truth, strict=True) for track in read(*pair)]
    return tracks, read(*options.validation) if options.validation else []


def device_of(name: str) -> torch.device:
    """The device, if it is there."""
    if name != "cpu" and not torch.cuda.is_available():
        raise UserError(f"--device is {name}, and there is no GPU that PyTorch can use: leave it out")
    try:
        return torch.device(name)
    except RuntimeError:
        raise UserError(f"--device is {name}: give cpu or cuda") from None


def train(trainer: MotionTrainer, held_out: list[Track], output: Path) -> None:
    """The passes that are left; a file after each."""
    rules = trainer.rules
    with progress("motion", rules.passes, unit="pass", done=trainer.finished) as bar:
        while trainer.finished < rules.passes:
            losses = trainer.train_pass()
            row = {"pass": trainer.finished, **{f"{name}_loss": float(x) for name, x in losses._asdict().items()}}
            validation = trainer.validate(held_out)
            if validation is not None:
                row["validation_total_loss"] = float(validation.total)
            write_atomically(output / NAME, lambda file: torch.save(trainer.state(), file))
            with writing(output / "metrics.json"), open(output / "metrics.json", "a", encoding="utf-8") as rows:
                rows.write(json.dumps(row) + "\n")
            bar.advance(note=f"loss {row['total_loss']:.4f}")


def compare(trainer: MotionTrainer, tracks: list[Track]) -> dict[str, dict[str, float]]:
    """Errors of the trained network and of the Kalman filter, which needs no training."""
    step = trainer.rules.step_seconds
    trained = VeloLSTMMotion(trainer.network.cpu().eval(), trainer.rules.mode)
    return {
        trainer.rules.network: prediction_errors(trained, tracks, step),
        "Kalman": prediction_errors(KalmanMotion(), tracks, step),
    }


if __name__ == "__main__":
    sys.exit(main())
