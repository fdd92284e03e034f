"""Which checkpoint a run goes on from: the newest one that is whole, whatever became of the others.

``last_checkpoint`` names the newest file, as in detectron2. Where it is missing, is garbage or names a damaged file,
the folder is searched. ``checkpoints.json`` keeps the name of the run, so that files which an earlier run left in the
same folder are not taken for its own.
"""

import json
import logging
import re
import secrets
from collections.abc import Sequence
from pathlib import Path

from detectron2.utils import comm

from ..errors import UserError
from .atomic_file import write_text_atomically
from .manifest import damage, read_manifest
from .processes import from_main_process

__all__ = [
    "LAST_CHECKPOINT",
    "begin_run",
    "has_checkpoint",
    "last_checkpoint",
    "name_run",
    "numbered_checkpoints",
    "run_of",
]

LAST_CHECKPOINT = "last_checkpoint"
_RUN_FILE = "checkpoints.json"
_NUMBERED = re.compile(r"model_(\d{7,})\.pth")
_logger = logging.getLogger(__name__)


def begin_run(folder: Path, *, resume: bool) -> str:
    """Name of the run in ``folder``, which is there: the one that goes on, or a new one.

    Raises:
        UserError: the folder cannot be written.
    """
    run = run_of(folder)
    if resume and run:
        return run
    run = secrets.token_hex(8)
    name_run(folder, run, earlier=[] if resume else [file.name for file in _listed(folder)])
    return run


def run_of(folder: Path) -> str:
    """Name of the run in ``folder``, '' if it has none."""
    return _read_run(folder)[0]


def name_run(folder: Path, run: str, earlier: Sequence[str] = ()) -> None:
    """Give the run in ``folder`` its name; ``earlier`` checkpoints there are of other runs.

    Raises:
        UserError: the folder cannot be written.
    """
    write_text_atomically(folder / _RUN_FILE, json.dumps({"run": run, "earlier": list(earlier)}) + "\n")


def has_checkpoint(folder: str | Path) -> bool:
    """Whether there is anything to resume from, whole or not."""
    return bool(_candidates(Path(folder)))


def last_checkpoint(folder: str | Path) -> Path | None:
    """The newest whole checkpoint of the run in ``folder``, None if it has none. Collective.

    Each one that is damaged is named in the log.

    Raises:
        UserError: there are checkpoints, and all of them are damaged; on every process.
    """
    found: Path | None = None
    reason = ""
    if comm.is_main_process():
        try:
            found = _first_whole(Path(folder))
        except UserError as error:
            reason = str(error)
    found, reason = from_main_process((found, reason))
    if reason:
        raise UserError(reason)
    return found


def numbered_checkpoints(folder: Path) -> list[Path]:
    """``model_<iteration>.pth`` of the run in ``folder``, the oldest iteration first."""
    return sorted((file for file in _of_this_run(folder) if _NUMBERED.fullmatch(file.name)), key=_iteration)


def _first_whole(folder: Path) -> Path | None:
    candidates = _candidates(folder)
    damaged: list[str] = []
    for file in candidates:
        reason = damage(file)
        if not reason:
            if damaged:
                _logger.warning("Going on from %s instead", file.name)
            return file
        damaged.append(f"{file.name}: {reason}")
        _logger.warning("The checkpoint %s cannot be used: %s", file, reason)
    if not damaged:
        return None
    raise UserError(
        f"no checkpoint in {folder} can be used ({'; '.join(damaged)}); bring back a whole one, or start again without "
        "--resume"
    )


def _candidates(folder: Path) -> list[Path]:
    """The file that ``last_checkpoint`` names, then all others of the run, the newest first."""
    final = [file for file in _of_this_run(folder) if file.name == "model_final.pth"]
    others = sorted([*numbered_checkpoints(folder), *final], key=_iteration, reverse=True)
    tag = folder / LAST_CHECKPOINT
    try:
        name = tag.read_text("utf-8").strip()
    except FileNotFoundError:
        return others
    except (OSError, UnicodeDecodeError):
        name = ""
    if not name or not name.isprintable() or len(name) > 255:
        _logger.warning("%s names no file: the checkpoints are looked for in the folder", tag)
        return others
    tagged = folder / name
    return [tagged, *(file for file in others if file != tagged)]


def _of_this_run(folder: Path) -> list[Path]:
    run, earlier = _read_run(folder)

    def belongs(file: Path) -> bool:
        manifest = read_manifest(file)
        return manifest.run == run if manifest and manifest.run else file.name not in earlier

    return [file for file in _listed(folder) if not run or belongs(file)]


def _iteration(checkpoint: Path) -> float:
    """The last iteration done in a checkpoint; infinity for one that does not tell."""
    manifest = read_manifest(checkpoint)
    if manifest is not None and manifest.iteration >= 0:
        return manifest.iteration
    numbered = _NUMBERED.fullmatch(checkpoint.name)
    return int(numbered[1]) if numbered else float("inf")


def _read_run(folder: Path) -> tuple[str, list[str]]:
    """Name of the run, '' if the folder has none, and checkpoints that were there before it."""
    try:
        content = json.loads((folder / _RUN_FILE).read_bytes())
        return str(content["run"]), [str(name) for name in content["earlier"]]
    except (OSError, ValueError, KeyError, TypeError):
        return "", []


def _listed(folder: Path) -> list[Path]:
    try:
        return [file for file in folder.iterdir() if file.suffix == ".pth"]
    except OSError:
        return []
