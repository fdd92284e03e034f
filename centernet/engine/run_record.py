"""What a colleague wants to know of a run folder: ``run.json`` for programs and ``summary.md`` for people.

``run.json`` has a list ``starts``, one entry for each time the run was started or resumed: command, times, outcome,
iterations, processes, hardware, commit, versions. A start without ``outcome`` was killed or still runs. Names of the
machine and of its user are not written down.
"""

import contextlib
import hashlib
import json
import os
import platform
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm

from ..errors import UserError
from .atomic_file import write_text_atomically
from .manifest import code_version
from .process_group import is_lost_peer

__all__ = ["RUN_FILE", "RunRecord", "recorded_run"]

RUN_FILE, SUMMARY_FILE = "run.json", "summary.md"
_PACKAGES = ("torch", "torchvision", "detectron2", "timm", "numpy", "opencv-python")
_LONGEST_DIFF = 2**20  # characters


class RunRecord:
    """The entry of one start in ``run.json``.

    Attributes:
        outcome: how it ended, in a sentence; empty while it runs.
        figures: the last scores, and the best one, for the summary.
    """

    def __init__(self, folder: Path, cfg: CfgNode, *, first: int, end: int, seed: int) -> None:
        """
        Args:
            folder: of the run, which exists.
            first, end: the iterations are ``first`` to ``end - 1``.
            seed: of the run.
        """
        self.outcome = ""
        self.figures: list[str] = []
        self._folder, self._cfg = folder, cfg
        self._earlier = _earlier_starts(folder / RUN_FILE)
        self._entry: dict[str, Any] = {
            "command": shlex.join(_without_home(word) for word in sys.argv),
            "began": _now(),
            "iterations": [first, end],
            "seed": seed,
            "processes": comm.get_world_size(),
            "hardware": _hardware(cfg),
            "code": {**code_version(), **_local_changes(folder)},
            "versions": {"python": platform.python_version(), **_versions()},
        }
        self._write()

    def end(self) -> None:
        """Write down how it ended."""
        self._entry |= {"ended": _now(), "outcome": self.outcome}
        self._write()

    def _write(self) -> None:
        starts = [*self._earlier, self._entry]
        write_text_atomically(self._folder / RUN_FILE, json.dumps({"starts": starts}, indent=1) + "\n")
        write_text_atomically(self._folder / SUMMARY_FILE, self._summary(starts))

    def _summary(self, starts: list[dict[str, Any]]) -> str:
        config = f"{_without_home(str(self._folder))}/config.yaml"
        weights = f"{_without_home(str(self._folder))}/model_final.pth"
        rows = [
            f"| {start.get('began', '')} | {' to '.join(map(str, start.get('iterations', [])))} | "
            f"{start.get('outcome') or 'killed, or still running'} |"
            for start in starts
        ]
        lines = [
            f"# {self._folder.resolve().name}",
            "",
            f"{self._cfg.MODEL.META_ARCHITECTURE}, trained on {', '.join(self._cfg.DATASETS.TRAIN)}; "
            f"{self._entry['processes']} process(es), {self._entry['hardware']}.",
            *self.figures,
            "",
            "| started | iterations | outcome |",
            "|---|---|---|",
            *rows,
            "",
            "    " + starts[-1].get("command", ""),
            f"    python train_net.py {config} --resume                                  # go on",
            f"    python train_net.py {config} --eval-only MODEL.WEIGHTS {weights}       # score",
            f"    python tools/plot_metrics.py {_without_home(str(self._folder))}        # curves",
            "",
            "`config.yaml` all settings; `run.json` commands, commits, versions; `log.txt` the log, with environment "
            "and model; `metrics.json` figures, a row each 20 iterations; `model_*.pth` checkpoints, `model_best.pth` "
            "the best one if TEST.BEST_METRIC is set, `model_final.pth` the last; `bad_images.jsonl` images that were "
            "replaced; `bad_batches/` batches with a loss that is not finite; `inference_*` detections; `code-*.diff` "
            "what was changed since the commit.",
        ]
        return "\n".join(lines) + "\n"


@contextlib.contextmanager
def recorded_run(folder: Path, cfg: CfgNode, *, first: int, end: int, seed: int) -> Iterator[RunRecord | None]:
    """Keep a :class:`RunRecord` of what happens inside; None on processes other than the main one.

    Raises:
        UserError: the folder cannot be written.
    """
    if not comm.is_main_process():
        yield None
        return
    record = RunRecord(folder, cfg, first=first, end=end, seed=seed)
    try:
        yield record
    except BaseException as error:
        record.outcome = _outcome(error)
        with contextlib.suppress(UserError):  # a full disk has been complained of
            record.end()
        raise
    record.outcome = record.outcome or "finished"
    record.end()


def _outcome(error: BaseException) -> str:
    if isinstance(error, SystemExit) and isinstance(error.code, int) and error.code > 128:
        return f"stopped by {signal.Signals(error.code - 128).name}"
    if isinstance(error, UserError):
        return f"error: {error}"
    if is_lost_peer(error):  # whose words hold addresses of machines
        return "error: another process has gone"
    return f"error: {type(error).__name__}: {error}"


def _earlier_starts(file: Path) -> list[dict[str, Any]]:
    try:
        starts = json.loads(file.read_bytes())["starts"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [start for start in starts if isinstance(start, dict)] if isinstance(starts, list) else []


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _without_home(word: str) -> str:
    home = os.path.expanduser("~")
    return word.replace(home, "~") if len(home) > 1 else word


def _hardware(cfg: CfgNode) -> str:
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    if torch.device(cfg.MODEL.DEVICE).type != "cuda" or not torch.cuda.is_available():
        return f"{cfg.MODEL.DEVICE.upper()}, {machine}"
    return f"{comm.get_world_size()} x {torch.cuda.get_device_name()}, {machine}"


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def _local_changes(folder: Path) -> dict[str, str]:
    """Keep what was changed since the commit beside the results; the same changes are kept once."""
    if not code_version().get("modified"):
        return {}
    command = ["git", "-C", str(Path(__file__).resolve().parents[2]), "diff", "HEAD"]
    try:
        text = subprocess.run(command, capture_output=True, check=True, timeout=20).stdout.decode("utf-8", "replace")
    except (OSError, subprocess.SubprocessError):
        return {}
    name = f"code-{hashlib.sha256(text.encode()).hexdigest()[:8]}.diff"
    write_text_atomically(folder / name, text[:_LONGEST_DIFF])
    return {"diff": name}
