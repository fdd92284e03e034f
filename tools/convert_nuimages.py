#!/usr/bin/env python3
"""Turn the tables of nuImages into the COCO JSON files that nuimages_train, nuimages_val and nuimages_mini read.

    python tools/convert_nuimages.py                    every part that lies in datasets/nuimages
    python tools/convert_nuimages.py v1.0-mini --root /data/sets/nuimages

Reads ROOT/v1.0-{train,val,mini}/*.json (nuimages-v1.0-all-metadata, nuimages-v1.0-mini), writes
ROOT/annotations/nuimages_v1.0-{train,val,mini}.json. A file that is newer than its tables stays; a stopped run leaves
no part of a file. Exit status: 0 done, 2 something to mend (one line says what).
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from centernet.data.datasets import data_root
from centernet.data.datasets.nuimages_tables import Converted, convert_tables
from centernet.engine.atomic_file import write_text_atomically
from centernet.errors import UserError, command_line

PARTS = ("v1.0-train", "v1.0-val", "v1.0-mini")
TABLES = ("category.json", "sample.json", "sample_data.json", "object_ann.json")


def is_current(target: Path, folder: Path) -> bool:
    """Whether the file is there and newer than every table."""
    tables = [folder / name for name in TABLES]
    return all(path.is_file() for path in (target, *tables)) and all(
        path.stat().st_mtime_ns < target.stat().st_mtime_ns for path in tables
    )


def summary(converted: Converted) -> str:
    """Counts, and what was left out."""
    content = converted.content
    text = f"{len(content['images']):,} images, {len(content['annotations']):,} objects"
    if converted.left_out:
        kinds = ", ".join(f"{name} {count:,}" for name, count in converted.left_out.most_common())
        text += f"; of none of the ten classes, left out: {kinds}"
    if converted.no_area:
        text += f"; left out for a box without area: {converted.no_area:,}"
    if converted.no_mask:
        text += f"; without a mask, which their box replaces: {converted.no_mask:,}"
    return text


@command_line
def main(arguments: list[str] | None = None) -> int:
    """Convert each part; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)} (default: all that are there)")
    parser.add_argument("--root", metavar="FOLDER", help="of nuImages (default: nuimages below the datasets' folder)")
    parser.add_argument("--force", action="store_true", help="write files anew that are newer than their tables")
    options = parser.parse_args(arguments)
    root = Path(options.root or Path(data_root()) / "nuimages")
    wrong = [part for part in options.parts if part not in PARTS]
    if wrong:
        raise UserError(f"nuImages has no part {wrong[0]} with objects: name some of {', '.join(PARTS)}")
    parts = options.parts or [part for part in PARTS if (root / part).is_dir()]
    if not parts:
        raise UserError(f"{root} has no folder {', '.join(PARTS)}: unpack nuimages-v1.0-all-metadata there")
    for part in parts:
        target = root / "annotations" / f"nuimages_{part}.json"
        if is_current(target, root / part) and not options.force:
            print(f"{part}: {target} is newer than the tables and stays")
            continue
        converted = convert_tables(root / part)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{target.parent} cannot be made: {error.strerror or error}") from None
        write_text_atomically(target, json.dumps(converted.content))
        print(f"{part}: {summary(converted)}\nwritten: {target}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
