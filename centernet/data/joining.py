"""Several sources become one data set: one list of classes, one training and one validation part.

The choice of validation images is a pure function of a seed and the names of the files.
"""

import hashlib
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError
from .readers import Problems, Record, Source

__all__ = ["Joined", "hold_out", "join_sources", "validation_names"]


_FORMAT_FOLDERS = {"images", "jpegimages", "train"}


@dataclass
class Joined:
    """Training and validation part of a user's data.

    Attributes:
        classes: names; ``category_id`` of the records is an index into them.
        train, val: dataset dicts (see :mod:`.readers.source`).
        drawn: names of the images that were drawn for validation, sorted; None if the data have a validation part.
    """

    classes: list[str]
    train: list[Record]
    val: list[Record]
    drawn: list[str] | None


def validation_names(names: Iterable[str], fraction: float, seed: int) -> set[str]:
    """Names to validate on: ``fraction`` of them, at least one and never all, those with the smallest SHA-256 of
    seed and name. Neither the order of the names nor the folder that they lie in matters.

    Raises:
        UserError: fewer than two names.
    """
    unique = sorted(set(names))
    if not fraction:
        return set()
    if len(unique) < 2:
        raise UserError("there is one image only, so none can be held out: give a second one, or --val-fraction 0")
    count = min(max(1, round(len(unique) * fraction)), len(unique) - 1)
    return set(sorted(unique, key=lambda name: hashlib.sha256(_bytes(f"{seed}\0{name}")).digest())[:count])


def _name_to_draw(record: Record) -> str:
    """The name without the folders that belong to a format, so that a data set is split the same way in each."""
    *folders, file = record["name"].split("/")
    return "/".join([*(folder for folder in folders if folder.lower() not in _FORMAT_FOLDERS), file])


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogateescape")  # file names need not be UTF-8


def join_sources(sources: list[Source], problems: Problems) -> Joined:
    """Join sources; what is wrong between them goes to ``problems``.

    Validation parts stay what they are (see :func:`hold_out` for data without), test parts are left alone. Classes are
    those of the first source, in its order, then those that later ones add.
    """
    classes = _join_classes(sources, problems)
    parts: dict[str, list[Record]] = {"train": [], "val": [], "test": [], "all": []}
    for source in sources:
        index = [classes.index(name) for name in source.classes]
        for part, records in source.parts.items():
            for record in records:
                for entry in record["annotations"]:
                    entry["category_id"] = index[entry["category_id"]]
            parts[part] += records
    train, val, test = parts["train"] + parts["all"], parts["val"], parts["test"]
    if not train:  # a validation or a test file on its own is just a data set
        train, val, test = (val, [], test) if val else (test, [], [])
    if test:
        problems.add("part-unused", f"{len(test)} images in all")
    train, val = _without_repeats(train, val, problems)
    return Joined(classes, train, val, None)


def hold_out(
    joined: Joined, problems: Problems, *, fraction: float, seed: int, earlier: Collection[str] | None = None
) -> None:
    """Move a part of the training images to validation, in place, if there are no validation images.

    Then the classes that one of the parts lacks are noted in ``problems``.

    Args:
        fraction: part of the images, in [0, 1).
        seed: of the draw, see :func:`validation_names`.
        earlier: what an earlier run drew, to be used again; images that are not in it are trained on.

    Raises:
        UserError: there is one image only.
    """
    if not joined.val:
        names = [_name_to_draw(record) for record in joined.train]
        chosen = set(earlier) if earlier is not None else validation_names(names, fraction, seed)
        records = list(zip(names, joined.train, strict=True))
        joined.val = [record for name, record in records if name in chosen]
        joined.train = [record for name, record in records if name not in chosen]
        joined.drawn = sorted(chosen)
    _check_classes_used(joined.classes, joined.train, joined.val, problems)


def _join_classes(sources: list[Source], problems: Problems) -> list[str]:
    classes = list(dict.fromkeys(name for source in sources for name in source.classes))
    reference = next((source for source in sources if source.declared), None)
    for source in sources:
        if reference is None or source is reference:
            continue
        besides = [name for name in source.classes if name not in reference.classes]
        lacking = [name for name in reference.classes if name not in source.classes] if source.declared else []
        if besides or lacking:
            words = [f"has {_few(besides)} besides"] * bool(besides) + [f"lacks {_few(lacking)}"] * bool(lacking)
            problems.add("classes-differ", f"{source.path} {' and '.join(words)}, compared with {reference.path}")
        elif source.declared and source.classes != reference.classes:
            problems.add("classes-reordered", f"{source.path}, compared with {reference.path}")
    alike: dict[str, list[str]] = {}
    for name in classes:
        alike.setdefault(re.sub(r"[\s_-]+", "", name).casefold(), []).append(name)
    for names in alike.values():
        if len(names) > 1:
            problems.add("classes-alike", " and ".join(f"'{name}'" for name in names))
    return classes


def _few(names: list[str]) -> str:
    return ", ".join(f"'{name}'" for name in names[:5]) + (", ..." if len(names) > 5 else "")


def _without_repeats(train: list[Record], val: list[Record], problems: Problems) -> tuple[list[Record], list[Record]]:
    """An image file counts once; one in both parts is for validation."""
    files: dict[Path, Any] = {}
    kept: dict[str, list[Record]] = {"val": [], "train": []}
    for part, records in (("val", val), ("train", train)):
        for record in records:
            real = Path(record["file_name"]).resolve()
            if real in files:
                kind = "image-file-twice" if files[real] == part else "image-in-both-parts"
                problems.add(kind, record["file_name"])
            else:
                files[real] = part
                kept[part].append(record)
    return kept["train"], kept["val"]


def _check_classes_used(classes: list[str], train: list[Record], val: list[Record], problems: Problems) -> None:
    used = [
        {entry["category_id"] for record in records for entry in record["annotations"] if not entry["iscrowd"]}
        for records in (train, val)
    ]
    for index, name in enumerate(classes):
        if index not in used[0]:
            problems.add("class-not-in-training" if index in used[1] else "class-without-box", name)
