#!/usr/bin/env python3
"""Make the synthetic world of moving cuboids with known 3D, in the datasets folder.

    python tools/make_synthetic3d.py [--root datasets] [--train 120] [--val 10] [--frames 20] [--seed 0]
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from centernet.data.datasets import data_root
from centernet.errors import UserError, command_line


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--root", default=data_root(), help="datasets folder (default: $DETECTRON2_DATASETS or datasets)"
    )
    parser.add_argument("--train", type=int, default=120, help="training clips")
    parser.add_argument("--val", type=int, default=10, help="validation clips")
    parser.add_argument("--frames", type=int, default=20, help="of a clip")
    parser.add_argument("--seed", type=int, default=0, help="of the first clip; clips are seed, seed + 1, ...")
    return parser.parse_args(arguments)


@command_line
def main(arguments: list[str] | None = None) -> None:
    from centernet.tracking3d.data.synthetic import write_synthetic

    options = parse(arguments)
    if min(options.train, options.val, options.frames) < 1 or options.seed < 0:
        raise UserError("--train, --val and --frames must be 1 or more, --seed 0 or more")
    first = options.seed
    for split, count in (("train", options.train), ("val", options.val)):
        folder = Path(options.root) / "synthetic3d" / split
        written = write_synthetic(folder, range(first, first + count), options.frames)
        first += count
        print(f"{count} clips of {options.frames} frames: {written}")


if __name__ == "__main__":
    sys.exit(main())
