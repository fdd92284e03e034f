#!/usr/bin/env python3
"""Which public data sets are complete, and what is missing where.

    python tools/prepare_datasets.py                            all that are registered
    python tools/prepare_datasets.py coco_2017_train coco_2017_val
    python tools/prepare_datasets.py lvis_v1_val --read         also read the JSON file: is every image there?

Nothing is downloaded. A difference from a number of images that is not certain is a note and changes nothing else.
Exit status: 0 if the named sets are complete (always 0 without names), 1 if not.
"""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from detectron2.data import MetadataCatalog

from centernet.data import ensure_registered
from centernet.data.datasets import data_root
from centernet.errors import UserError, command_line

COCO = "https://cocodataset.org/#download"
LVIS = "https://www.lvisdataset.org/dataset, on the images of COCO 2017"
OBJECTS365 = "https://www.objects365.org/download.html"
NUIMAGES = "https://www.nuscenes.org/nuimages; the JSON files by python tools/convert_nuimages.py"
DIGITS = "python tools/make_demo_data.py"


class Known(NamedTuple):
    """A registered set: ``listed`` images in its JSON file, files in its image folders (None: not known), origin.

    ``checked``: the numbers were found published elsewhere. Where they were not, or differ from place to place (version
    2 of Objects365: 1,742,289 or 1,742,292), a difference is only told.
    """

    listed: int | None
    folders: dict[str, int | None]
    origin: str
    checked: bool = True


KNOWN = {
    "coco_2014_train": Known(82_783, {"coco/train2014": 82_783}, COCO),
    "coco_2014_val": Known(40_504, {"coco/val2014": 40_504}, COCO),
    "coco_2017_train": Known(118_287, {"coco/train2017": 118_287}, COCO),
    "coco_2017_val": Known(5_000, {"coco/val2017": 5_000}, COCO),
    "coco_2017_test": Known(40_670, {"coco/test2017": 40_670}, COCO),
    "coco_2017_test-dev": Known(20_288, {"coco/test2017": 40_670}, COCO),
    "coco_2017_unlabeled": Known(123_403, {"coco/unlabeled2017": 123_403}, COCO),
    "coco_un_yolov4_55_0.5": Known(None, {"coco/unlabeled2017": 123_403}, f"{COCO}; pseudo labels: make your own"),
    "lvis_v1_train": Known(100_170, {"coco/train2017": 118_287, "coco/val2017": 5_000}, LVIS),
    "lvis_v1_val": Known(19_809, {"coco/train2017": 118_287, "coco/val2017": 5_000}, LVIS),
    "lvis_v1_test_dev": Known(19_822, {"coco/test2017": 40_670}, LVIS),
    "lvis_v1_test_challenge": Known(19_822, {"coco/test2017": 40_670}, LVIS),
    "lvis_v0.5_train": Known(None, {"coco/train2017": 118_287}, LVIS),
    "lvis_v0.5_val": Known(5_000, {"coco/val2017": 5_000}, LVIS, False),
    "lvis_v0.5_test": Known(None, {"coco/test2017": 40_670}, LVIS),
    "objects365_train": Known(608_606, {"objects365/train": 608_606}, OBJECTS365, False),
    "objects365_val": Known(30_000, {"objects365/val": 30_000}, OBJECTS365, False),
    "objects365_v2_train": Known(1_742_292, {"objects365_v2/train": None}, OBJECTS365, False),
    "objects365_v2_val": Known(80_000, {"objects365_v2/val": 80_000}, OBJECTS365),
    "nuimages_train": Known(67_279, {"nuimages/samples": None}, NUIMAGES),
    "nuimages_val": Known(16_445, {"nuimages/samples": None}, NUIMAGES),
    "nuimages_mini": Known(50, {"nuimages/samples": None}, NUIMAGES, False),
    "digits_train": Known(1_500, {"digits/train": 1_500}, DIGITS),
    "digits_val": Known(200, {"digits/val": 200}, DIGITS),
}


class Findings:
    """Sentences about one set: ``gaps``, what it lacks; ``notes``, what may be right all the same."""

    def __init__(self, name: str) -> None:
        self.name, self.known = name, KNOWN[name]
        self.gaps: list[str] = []
        self.notes: list[str] = []

    def add_count(self, sentence: str) -> None:
        """A number that is not the published one."""
        (self.gaps if self.known.checked else self.notes).append(sentence)

    def line(self) -> str:
        """What is told."""
        text = f"{self.name}: {'; '.join(self.gaps) or 'complete'}"
        if self.gaps:
            text += f" (from {self.known.origin})"
        return text + "".join(f"; note: {note}, a number that is not certain" for note in self.notes)


def examine(name: str, *, read: bool) -> Findings:
    """Look for the files of one set; with ``read`` its JSON file is gone through."""
    findings = Findings(name)
    json_file = Path(MetadataCatalog.get(name).json_file)
    if not json_file.is_file():
        findings.gaps.append(f"no file {json_file}")
    for folder, expected in findings.known.folders.items():
        path = Path(data_root()) / folder
        if not path.is_dir():
            findings.gaps.append(f"no folder {path}")
        elif expected is not None and (found := count_images(path)) < expected:
            findings.add_count(f"{path} has {found:,} of {expected:,} images")
    if read and json_file.is_file():
        examine_json(json_file, findings)
    return findings


def count_images(folder: Path) -> int:
    """Image files below a folder."""
    endings = (".jpg", ".jpeg", ".png")
    return sum(file.lower().endswith(endings) for _, _, files in os.walk(folder) for file in files)


def examine_json(json_file: Path, findings: Findings) -> None:
    """What the JSON file lists against what is expected, and against the files."""
    try:
        images = json.loads(json_file.read_bytes())["images"]
        names = [image.get("file_name") or "/".join(image["coco_url"].split("/")[-2:]) for image in images]
    except (ValueError, KeyError, TypeError, AttributeError):
        findings.gaps.append(f"{json_file} is not a COCO annotation file, or is cut off")
        return
    listed = findings.known.listed
    if listed is not None and len(names) != listed:
        findings.add_count(f"{json_file} lists {len(names):,} images, not {listed:,}")
    root = Path(MetadataCatalog.get(findings.name).image_root)
    missing = [file for file in names if not (root / file).is_file()]
    if missing:
        findings.gaps.append(
            f"{len(missing):,} of the images that {json_file} lists are not in {root}, such as {missing[0]}"
        )


@command_line
def main(arguments: list[str] | None = None) -> int:
    """Tell about each set; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(KNOWN)}")
    parser.add_argument("--read", action="store_true", help="read the JSON files too (minutes for large ones)")
    options = parser.parse_args(arguments)
    ensure_registered(options.names)
    unknown = [name for name in options.names if name not in KNOWN]
    if unknown:
        raise UserError(f"what belongs to {unknown[0]} is not known here: look at it with tools/check_dataset.py")
    incomplete = 0
    for name in options.names or KNOWN:
        findings = examine(name, read=options.read)
        incomplete += bool(findings.gaps)
        print(findings.line())
    return int(bool(options.names and incomplete))


if __name__ == "__main__":
    sys.exit(main())
