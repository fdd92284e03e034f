"""Progress on a terminal: one bar for trainings, downloads and predictions, and nothing where there is no terminal.

What is logged while a bar is shown goes above it (:func:`print_line`).
"""

import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

__all__ = ["Bar", "print_line", "progress"]

_REDRAW = 0.1  # seconds
_shown: "Bar | None" = None


class Bar:
    """Progress of one piece of work; without a terminal it draws nothing."""

    def __init__(self, total: int | None, unit: str, done: int, drawn: "Progress | None") -> None:
        self._total, self._unit, self._done, self._drawn = total, unit, done, drawn
        self._process = os.getpid()
        self._first, self._start = done, time.monotonic()
        self._last_drawing = 0.0

    @property
    def is_due(self) -> bool:
        """Whether :meth:`advance` would draw now: notes for it need not be made otherwise."""
        return self._drawn is not None and (
            self._done + 1 == self._total or time.monotonic() - self._last_drawing >= _REDRAW
        )

    def advance(self, count: int = 1, *, rate: str = "", left: float | None = None, note: str = "") -> None:
        """Another ``count`` units are done.

        Args:
            rate: shown instead of units a second.
            left: seconds until the end, if the caller knows them better than the mean rate does.
            note: a line below the bar.
        """
        due, self._done = self.is_due, self._done + count
        if due or self._done == self._total:
            self.draw(rate=rate, left=left, note=note)

    def draw(self, *, rate: str = "", left: float | None = None, note: str = "") -> None:
        """Draw now."""
        if self._drawn is None:
            return
        self._last_drawing = time.monotonic()
        speed = (self._done - self._first) / max(self._last_drawing - self._start, 1e-9)
        if left is None and speed and self._total is not None:
            left = (self._total - self._done) / speed
        words = [self._count()]
        if rate or speed:
            words.append(rate or f"{self._quantity(speed)}/s")
        if left is not None:
            words.append(f"{timedelta(seconds=round(left))} left")
        self._drawn.update(self._drawn.task_ids[0], completed=self._done, words="  ".join(words), note=note)
        self._drawn.refresh()

    def _count(self) -> str:
        if self._unit == "B":
            return "/".join(_bytes(size) for size in (self._done, self._total) if size is not None)
        return f"{self._done:,}" + (f" {self._unit}s" if self._total is None else f"/{self._total:,}")

    def _quantity(self, number: float) -> str:
        return _bytes(number) if self._unit == "B" else f"{number:.3g} {self._unit}s"

    @property
    def console(self) -> "Console | None":
        """Where lines above the bar go; None in a forked process and where nothing is drawn."""
        return self._drawn.console if self._drawn and self._process == os.getpid() else None


@contextmanager
def progress(name: str, total: int | None, *, unit: str, done: int = 0, keep: bool = True) -> Iterator[Bar]:
    """A bar on stderr if that is a terminal; log lines of the root logger's handlers go above it meanwhile.

    Args:
        name: before the bar.
        total: units, None if they are not known.
        unit: one of what is counted, ``B`` for bytes.
        done: units that were done earlier.
        keep: leave the bar on the terminal at the end.
    """
    global _shown
    if _shown is not None or not sys.stderr.isatty():  # a download inside a training has no bar of its own
        yield Bar(total, unit, done, None)
        return
    drawn = _drawing(keep)
    drawn.add_task(name, total=total, completed=done, words="", note="")
    bar = _shown = Bar(total, unit, done, drawn)
    with _log_lines_above():
        drawn.start()
        bar.draw()
        drawn.console.show_cursor()  # rich hides it, and a kill would leave it hidden
        try:
            yield bar
        finally:
            _shown = None
            drawn.stop()


def _drawing(keep: bool) -> "Progress":
    """rich's bar with a line below it. It draws when it is told to: no thread that a fork could catch at work."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn
    from rich.text import Text

    class WithNote(Progress):
        def get_renderables(self) -> Iterator[Any]:
            yield self.make_tasks_table(self.tasks)
            for task in self.tasks:
                if task.fields["note"]:
                    yield Text(task.fields["note"], no_wrap=True, overflow="ellipsis")

    return WithNote(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[words]}", markup=False),
        console=Console(file=sys.stderr, force_jupyter=False, highlight=False),
        auto_refresh=False,
        transient=not keep,
        redirect_stdout=False,  # what is piped elsewhere shall arrive there
        expand=True,
    )


def print_line(text: str, stream: TextIO) -> None:
    """Write a line to ``stream``, above the bar if there is one and both are on a terminal."""
    console = _shown.console if _shown is not None and stream.isatty() else None
    if console is None:
        stream.write(text + "\n")
        stream.flush()
        return
    from rich.text import Text

    console.print(Text(text), soft_wrap=True)


class _Above:
    """Stands in for the stream of a log handler while a bar is shown."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> None:
        print_line(text.rstrip("\n"), self.stream)

    def flush(self) -> None:
        self.stream.flush()


@contextmanager
def _log_lines_above() -> Iterator[None]:
    handlers = [
        handler
        for handler in logging.getLogger().handlers
        if isinstance(handler, logging.StreamHandler) and handler.stream in (sys.stdout, sys.stderr)
    ]
    streams = [handler.setStream(_Above(handler.stream)) for handler in handlers]
    try:
        yield
    finally:
        for handler, stream in zip(handlers, streams, strict=True):
            if stream is not None:
                handler.setStream(stream)


def _bytes(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.2f} GB"
