#!/usr/bin/env python3
"""Make the embedded demonstration data, handwritten digits on photographs, in the datasets folder.

    python tools/make_demo_data.py [--root datasets] [--train 1500] [--val 200] [--seed 0]

Repeating it does nothing when the data is there, complete and made with the same numbers.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from centernet.data.datasets import data_root, generate_digits
from centernet.errors import UserError, command_line


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--root", default=data_root(), help="datasets folder (default: $DETECTRON2_DATASETS or datasets)"
    )
    parser.add_argument("--train", type=int, default=1500, help="training images")
    parser.add_argument("--val", type=int, default=200, help="validation images")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(arguments)


def show_progress(done: int, total: int) -> None:
    if sys.stderr.isatty() and (done % 20 == 0 or done == total):
        end = "\n" if done == total else ""
        sys.stderr.write(f"\rdrawing images {done}/{total}{end}")
        sys.stderr.flush()


@command_line
def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    if options.train < 1 or options.val < 1 or options.seed < 0:
        raise UserError("--train and --val must be at least 1 and --seed at least 0")
    folder = generate_digits(
        options.root, train=options.train, val=options.val, seed=options.seed, progress=show_progress
    )
    print(f"{options.train} training and {options.val} validation images are in {folder}")


if __name__ == "__main__":
    sys.exit(main())
