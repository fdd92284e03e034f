#!/usr/bin/env python3
"""Look for everything in a data set that is known to spoil a training.

    python tools/check_dataset.py --data my/pictures              what train_net.py --data would read
    python tools/check_dataset.py digits_train digits_val         registered names, or coco_json:JSON:IMAGE_FOLDER
    python tools/check_dataset.py --data my --config-file configs/demo/CenterNet2_R18_bccd.yaml

Unreadable, repeated and nearly repeated images, boxes and class numbers that are wrong, images without boxes, pictures
that are in training and in validation, how many boxes each class has, how large the objects are for the model.
The report is a page (report.html), a JSON file and a sheet of pictures with their boxes.
Exit status: 0 fine, 1 something would spoil the training, 2 the data cannot be read at all.
"""

import argparse
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from centernet.config_file import load_config
from centernet.data.doctor import examine_data, examine_registered
from centernet.data.doctor_report import summary_lines, write_report
from centernet.errors import UserError, command_line
from centernet.model_zoo import resolve_config_file

EXIT_ERRORS = 1


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("names", nargs="*", metavar="NAME", help="registered data sets; 'val' or 'test' in a name: validation")
    add("--data", nargs="+", action="extend", metavar="PATH", help="folders and files, as for train_net.py --data")
    add("--config-file", default="", metavar="FILE", help="its INPUT and MODEL.CENTERNET.SOI judge the sizes")
    add("--output", default="output/check_dataset", metavar="FOLDER", help="of the report (default %(default)s)")
    add("--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE", help="config settings, last")
    return parser.parse_args(arguments)


def show_progress(done: int, total: int) -> None:
    """A counter on a terminal."""
    if sys.stderr.isatty() and (done % 50 == 0 or done == total):
        sys.stderr.write(f"\rdecoding images {done}/{total}" + ("\n" if done == total else ""))
        sys.stderr.flush()


@contextmanager
def only_errors_logged() -> Iterator[None]:
    logger = logging.getLogger("centernet")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


@command_line
def main(arguments: list[str] | None = None) -> int:
    """Examine, tell, write; returns the exit status."""
    options = parse(arguments)
    if bool(options.names) == bool(options.data):
        raise UserError("name the data, either --data PATH or registered names such as digits_train digits_val")
    with only_errors_logged():  # the report says the rest
        cfg = load_config(resolve_config_file(options.config_file), options.opts)
        if options.data:
            report = examine_data(options.data, cfg, progress=show_progress)
        else:
            report = examine_registered(options.names, cfg, progress=show_progress)
    print("\n".join(summary_lines(report)))
    for path in write_report(report, Path(options.output)):
        print(f"written: {path}")
    return EXIT_ERRORS if report.count("error") else 0


if __name__ == "__main__":
    sys.exit(main())
