"""``train_net.py --data PATH``: a user's data, in whatever format, become two COCO JSON files and a config.

The files are written once, into ``OUTPUT_DIR/data``, and named ``coco_json:...`` in ``DATASETS``, so that everything
after this (loading, evaluation, resuming) knows one format only.

    train.json, val.json   COCO JSON; ``file_name`` of the images is absolute
    split.json             seed, fraction and names of the images drawn for validation
    problems.txt           everything that was left out or noted, if anything was
    state.json             what was read (path, size and time of each file), to skip reading when nothing changed
"""

import json
import logging
import os
import re
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import CfgNode

from ..errors import UserError
from .joining import Joined, hold_out, join_sources
from .readers import Problems, Record, Source, expand_lists, read_sources

__all__ = ["BAD_DATA", "OwnData", "prepare_own_data", "use_data_of_run", "use_own_data"]

BAD_DATA = ("refuse", "skip")
_VERSION = 1  # raise it when the files' content changes: existing ones are then made anew
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class OwnData:
    """A user's data, ready to train on.

    Attributes:
        train, val: names for ``DATASETS.TRAIN`` and ``DATASETS.TEST``; ``val`` is '' without validation images.
        classes: names in the order of the model's outputs.
        summary: lines for the user: formats, images, boxes, classes, split.
    """

    train: str
    val: str
    classes: list[str]
    summary: list[str]


def use_own_data(
    cfg: CfgNode, paths: Sequence[str], *, val_fraction: float = 0.1, bad_data: str = "refuse", resume: bool = False
) -> OwnData:
    """Prepare ``paths`` in ``cfg.OUTPUT_DIR/data`` and set, in place, DATASETS and the numbers of classes.

    The split is drawn with ``cfg.SEED``, 0 if that is negative. For arguments and errors see
    :func:`prepare_own_data`.
    """
    folder = Path(cfg.OUTPUT_DIR) / "data"
    seed = max(0, cfg.SEED)
    data = prepare_own_data(paths, folder, val_fraction=val_fraction, seed=seed, bad_data=bad_data, resume=resume)
    _set_data(cfg, data)
    return data


def use_data_of_run(cfg: CfgNode) -> OwnData | None:
    """For a run that is resumed without ``--data``: if the run in ``cfg.OUTPUT_DIR`` was last started with it, set
    DATASETS and the numbers of classes, in place, to its data as they were written then; the sources are not read.

    Returns:
        The data; None if that run had no ``--data``.

    Raises:
        UserError: the files are gone or broken.
    """
    folder = Path(cfg.OUTPUT_DIR) / "data"
    if not _had_own_data(Path(cfg.OUTPUT_DIR) / "config.yaml"):
        return None
    state = _read(folder / "state.json")
    parts = ("train", "val") if state.get("val", True) else ("train",)
    if not isinstance(state.get("classes"), list) or any(not (folder / f"{part}.json").is_file() for part in parts):
        run = cfg.OUTPUT_DIR
        raise UserError(f"the run in {run} had --data, but {folder} is not whole any more: give --data again")
    summary = [f"Data: {folder}, as the run had them (give --data again to have changes read)"]
    summary.append(_class_line(state["classes"]))
    val = _name(folder, "val") if state["val"] else ""
    data = OwnData(_name(folder, "train"), val, state["classes"], summary)
    _set_data(cfg, data)
    return data


def _had_own_data(config: Path) -> bool:
    """By the config of the last run; the data folder may be that of a run before. The run may have been moved since."""
    try:
        names = yaml.safe_load(config.read_text("utf-8"))["DATASETS"]["TRAIN"]
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):  # none, or not one that a run wrote
        return False
    name = str(names[0]) if isinstance(names, list) and len(names) == 1 else ""
    return re.fullmatch(r"coco_json:(.*\bdata)/train\.json:\1", name) is not None


def _set_data(cfg: CfgNode, data: OwnData) -> None:
    cfg.DATASETS.TRAIN = (data.train,)
    cfg.DATASETS.TEST = (data.val,) if data.val else ()
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = len(data.classes)
    cfg.MODEL.CENTERNET.NUM_CLASSES = len(data.classes)


def prepare_own_data(
    paths: Sequence[str],
    folder: Path,
    *,
    val_fraction: float = 0.1,
    seed: int = 0,
    bad_data: str = "refuse",
    resume: bool = False,
) -> OwnData:
    """Read data sets, join them, split them if they are not split, write them as COCO JSON.

    Nothing is read when the files in ``folder`` were made from the same files with the same arguments.

    Args:
        paths: data sets in any format that :func:`~.readers.read_sources` reads, or lists of them.
        folder: where the result goes; it is made.
        val_fraction: part of the images to hold out if the data have no validation part, in [0, 1).
        seed: of this split.
        bad_data: 'refuse' data with broken parts, or 'skip' these parts (named in problems.txt).
        resume: keep the split and the classes of what ``folder`` holds, if it holds anything.

    Raises:
        UserError: the first thing that is wrong, before anything is written.
    """
    if not 0 <= val_fraction < 1:
        raise UserError(f"--val-fraction is {val_fraction:g}: it must be at least 0 and below 1")
    if bad_data not in BAD_DATA:
        raise UserError(f"--bad-data is '{bad_data}': it must be one of {', '.join(BAD_DATA)}")
    if ":" in str(folder):
        raise UserError(f"OUTPUT_DIR {folder.parent} has a ':' in it, which names of data sets cannot have: rename it")
    expanded = expand_lists(paths)
    request = {
        "version": _VERSION,
        "data": [_absolute(path) for path in expanded],
        "val_fraction": val_fraction,
        "seed": seed,
        "bad_data": bad_data,
    }
    if resume:
        request |= _earlier_draw(folder)
    known = _unchanged(folder, request, resume=resume)
    if known is not None:
        _logger.info("The data have not changed: %s is used as it is", folder)
        return known
    return _read_and_write(expanded, folder, request, resume=resume)


def _read_and_write(paths: list[str], folder: Path, request: dict[str, Any], *, resume: bool) -> OwnData:
    problems = Problems()
    sources = [source for path in paths for source in read_sources(path, problems)]
    files = set().union(*(source.files for source in sources))
    stamps = _stamps(files, sources)  # before anything else is done, so that a later change is seen
    earlier = _earlier_split(folder) if resume else None
    joined = join_sources(sources, problems)
    if request["bad_data"] == "refuse":
        problems.refuse(f"the data in {', '.join(paths)}")
    _check_enough(joined, paths)
    hold_out(joined, problems, fraction=request["val_fraction"], seed=request["seed"], earlier=earlier)
    _check_boxes(joined, paths)
    if resume:
        _check_same_classes(folder, joined.classes)
    summary = _summary(sources, joined, request, resumed=earlier is not None) + problems.lines()
    summary.append(f"Written to {folder}: train.json, val.json" + (", problems.txt" if problems.found else ""))
    data = _own_data(folder, joined, summary)
    _write_all(folder, joined, problems, request)
    state = {"request": request, "stamps": stamps, "val": bool(joined.val), "summary": data.summary}
    _write(folder / "state.json", {**state, "classes": joined.classes, "resumed": earlier is not None})
    return data


def _absolute(path: str) -> str:
    return path if path.startswith("coco_json:") else str(Path(path).expanduser().absolute())


def _own_data(folder: Path, joined: Joined, summary: list[str]) -> OwnData:
    return OwnData(_name(folder, "train"), _name(folder, "val") if joined.val else "", joined.classes, summary)


def _name(folder: Path, part: str) -> str:
    return f"coco_json:{folder / part}.json:{folder}"


def _check_enough(joined: Joined, paths: list[str]) -> None:
    if not joined.train and not joined.val:
        raise UserError(
            f"no image of {', '.join(paths)} can be used: see what was left out with tools/check_dataset.py --data"
        )


def _check_boxes(joined: Joined, paths: list[str]) -> None:
    where = ", ".join(paths)
    if not any(not entry["iscrowd"] for record in joined.train for entry in record["annotations"]):
        count = len(joined.train)
        raise UserError(f"{where} has no box to learn from in {count} training images: annotate some objects")


def _check_same_classes(folder: Path, classes: list[str]) -> None:
    known = _read(folder / "state.json").get("classes")
    if known is not None and known != classes:
        raise UserError(
            f"the run in {folder.parent} has the classes {', '.join(known)} but the data now have {', '.join(classes)}"
            ": start a run in another OUTPUT_DIR, without --resume"
        )


def _earlier_draw(folder: Path) -> dict[str, Any]:
    """Fraction and seed that the run to be resumed drew its validation images with."""
    split = _read(folder / "split.json")
    return {"val_fraction": split["fraction"], "seed": split["seed"]} if split else {}


def _earlier_split(folder: Path) -> list[str] | None:
    names = _read(folder / "split.json").get("validation")
    return names if isinstance(names, list) else None


# ------------------------------------------------------------------------------------------------- what is told


def _summary(sources: list[Source], joined: Joined, request: dict[str, Any], *, resumed: bool) -> list[str]:
    lines = []
    for source in sources:
        records = [record for part in source.parts.values() for record in part]
        lines.append(f"Data: {source.path} ({source.format}): {_counts(records)}")
    lines.append(_class_line(joined.classes))
    how = "as the data say"
    if joined.drawn is not None:
        how = f"drawn from all images: fraction {request['val_fraction']:g}, seed {request['seed']}"
        how = "drawn by the run that is resumed" if resumed else how
    lines.append(f"Training: {_counts(joined.train)}")
    lines.append(f"Validation: {_counts(joined.val)} ({how})")
    return lines


def _class_line(classes: list[str]) -> str:
    return f"Classes ({len(classes)}): {', '.join(classes[:20])}" + (", ..." if len(classes) > 20 else "")


def _counts(records: list[Record]) -> str:
    boxes = sum(len(record["annotations"]) for record in records)
    empty = sum(not record["annotations"] for record in records)
    return f"{len(records):,} images, {boxes:,} boxes" + (f", {empty:,} images without boxes" if empty else "")


# -------------------------------------------------------------------------------------------------------- files


def _write_all(folder: Path, joined: Joined, problems: Problems, request: dict[str, Any]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("state.json", "split.json", "problems.txt"):
            (folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror or error}") from None
    _write(folder / "train.json", coco_content(joined.train, joined.classes))
    _write(folder / "val.json", coco_content(joined.val, joined.classes))
    if joined.drawn is not None:
        split = {"seed": request["seed"], "fraction": request["val_fraction"], "validation": joined.drawn}
        _write(folder / "split.json", split)
    if problems.found:
        _write(folder / "problems.txt", problems.listing())


def coco_content(records: Iterable[Record], classes: Sequence[str]) -> dict[str, Any]:
    """Dataset dicts as the content of a COCO JSON file; category ids count from 1 in the order of ``classes``."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, record in enumerate(records, start=1):
        images.append({"id": number} | {key: record[key] for key in ("file_name", "height", "width", "name")})
        for entry in record["annotations"]:
            x0, y0, x1, y1 = entry["bbox"]
            made = {"id": len(annotations) + 1, "image_id": number, "category_id": entry["category_id"] + 1}
            made |= {"bbox": [x0, y0, x1 - x0, y1 - y0], "iscrowd": entry["iscrowd"]}
            made["area"] = entry.get("area", (x1 - x0) * (y1 - y0))
            if "segmentation" in entry:
                made["segmentation"] = entry["segmentation"]
            annotations.append(made)
    categories = [{"id": number, "name": name} for number, name in enumerate(classes, start=1)]
    return {"images": images, "annotations": annotations, "categories": categories}


def _stamps(files: Iterable[Path], sources: list[Source]) -> dict[str, list[int] | None]:
    """Size and time of each file; time of each folder on the way to it, which changes when a file comes or goes."""
    roots = {source.path if source.path.is_dir() else source.path.parent for source in sources}
    paths = {*files, *roots}
    for file in files:
        for folder in file.parents:
            if folder in paths or not any(folder.is_relative_to(root) for root in roots):
                break
            paths.add(folder)
    paths.update(file.parent for file in files)
    return {str(path): _stamp(path) for path in sorted(paths)}


def _stamp(path: Path) -> list[int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return [0 if path.is_dir() else status.st_size, status.st_mtime_ns]


def _unchanged(folder: Path, request: dict[str, Any], *, resume: bool) -> OwnData | None:
    """The earlier result if it was made from the same files in the same way.

    A fresh run does not take the result of a resumed one, whose split may be older than its data.
    """
    state = _read(folder / "state.json")
    if state.get("request") != request or not all((folder / f"{part}.json").is_file() for part in ("train", "val")):
        return None
    if state["resumed"] and not resume:
        return None
    if any(_stamp(Path(path)) != stamp for path, stamp in state["stamps"].items()):
        return None
    joined = Joined(state["classes"], [], [{}] if state["val"] else [], None)
    return _own_data(folder, joined, state["summary"])


def _read(path: Path) -> dict[str, Any]:
    """A JSON object that this module wrote, {} if there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _write(path: Path, content: Any) -> None:
    """A JSON value or a text, there all at once; several processes may write the same file."""
    text = content if isinstance(content, str) else json.dumps(content, allow_nan=False)
    try:
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", errors="backslashreplace", dir=path.parent, delete=False
        ) as file:
            file.write(text)
        os.chmod(file.name, 0o644)  # it is made private
        os.replace(file.name, path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from None
