"""Tables of measurements: Markdown, medians with their spread, the machine they are of, and their place in a page."""

import importlib.metadata
import os
import platform
import re
import shlex
import statistics
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from centernet.engine.atomic_file import write_text_atomically
from centernet.errors import UserError

__all__ = ["Spread", "command", "fill_markers", "hardware", "markdown", "spread", "versions"]


class Spread(NamedTuple):
    """Median, 10th and 90th percentile of one quantity."""

    median: float
    low: float
    high: float

    def text(self, digits: int = 0) -> str:
        """``"12 (10-15)"``."""
        return f"{self.median:.{digits}f} ({self.low:.{digits}f}-{self.high:.{digits}f})"


def spread(values: Sequence[float]) -> Spread:
    """Of one value at least."""
    low, high = np.percentile(values, [10, 90])
    return Spread(statistics.median(values), float(low), float(high))


def markdown(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table; a row with fewer cells than there are columns is filled up with empty ones."""
    lines = [list(columns), ["---"] * len(columns)]
    lines += [[str(cell).replace("|", "/") for cell in row] + [""] * (len(columns) - len(row)) for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def fill_markers(path: str | Path, name: str, content: str) -> None:
    """Replace what stands between ``<!-- NAME: begin -->`` and ``<!-- NAME: end -->`` of a Markdown file; the rest of
    the file stays as it is.

    Raises:
        UserError: the file is missing, cannot be written, or does not have each marker once, in this order.
    """
    path = Path(path)
    begin, end = (f"<!-- {name}: {place} -->" for place in ("begin", "end"))
    if not path.is_file():
        raise UserError(f"there is no file {path}: create it with the lines {begin} and {end}")
    text = path.read_text("utf-8")
    before, found, rest = text.partition(begin)
    old, closed, after = rest.partition(end)
    if not (found and closed) or begin in rest or end in before + after:
        raise UserError(f"{path} must have the lines {begin} and {end} once each, in this order")
    write_text_atomically(path, f"{before}{begin}\n{content.strip()}\n{end}{after}")


def hardware(device: str) -> str:
    """The processor, its cores and memory, and the GPU if one is measured."""
    try:
        name = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        name = None
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    words = [f"{cores} cores of {name[1] if name else platform.processor()}, {memory:.0f} GB"]
    if device.startswith("cuda"):
        properties = torch.cuda.get_device_properties(device)
        words.insert(0, f"{properties.name}, {properties.total_memory / 2**30:.0f} GB")
    return "; ".join([*words, f"{torch.get_num_threads()} threads"])


def versions(packages: Sequence[str]) -> str:
    """``"Python 3.11.7, torch 2.11.0"``, without packages that are not installed."""
    words = [f"Python {platform.python_version()}"]
    for package in packages:
        try:
            words.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return ", ".join(words)


def command() -> str:
    """How this process was started."""
    return shlex.join(["python", os.path.relpath(sys.argv[0]), *sys.argv[1:]])
