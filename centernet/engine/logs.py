"""Where log lines go during a run: the terminal, and ``log.txt`` of the run folder once there is one."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from logging.handlers import MemoryHandler
from pathlib import Path

from detectron2.utils import comm

from ..errors import UserError, writing
from ..progress import print_line

__all__ = ["RunLog", "run_log"]

_LOGGERS = ("centernet", "detectron2", "fvcore")
_METRIC_LINES = "detectron2.utils.events"
_FORMAT = logging.Formatter("[%(asctime)s] %(name)s %(levelname)s: %(message)s", datefmt="%m/%d %H:%M:%S")
_BRIEF_FORMAT = logging.Formatter("[%(asctime)s] %(message)s", datefmt="%m/%d %H:%M:%S")


class _Terminal(logging.Handler):
    """Lines on stdout, above a progress bar if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        print_line(self.format(record), sys.stdout)


class _File(logging.FileHandler):
    """log.txt. A disk that is full ends it with one line on the terminal; what matters more fails by itself."""

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif self.level <= logging.CRITICAL:
            self.setLevel(logging.CRITICAL + 1)
            reason = error.strerror or error
            sys.stderr.write(f"warning: {self.baseFilename} cannot be written: {reason}; it ends here\n")

    def close(self) -> None:
        with suppress(OSError):  # the rest that a full disk does not take
            super().close()


class RunLog:
    """Keeps the lines of a run from its start; :meth:`open_file` writes those so far and all later ones."""

    def __init__(self) -> None:
        self.memory = MemoryHandler(capacity=sys.maxsize, flushLevel=sys.maxsize, flushOnClose=False)
        self.file: logging.FileHandler | None = None

    def open_file(self, folder: Path) -> None:
        """Append to ``folder/log.txt``, or ``log.txt.rank<r>`` in another process than the main one."""
        rank = comm.get_rank()
        path = folder / (f"log.txt.rank{rank}" if rank else "log.txt")
        with writing(path):
            self.file = _File(path, encoding="utf-8")
        self.file.setFormatter(_FORMAT)
        self.memory.setTarget(self.file)
        self.memory.flush()
        self.memory.capacity = 1  # from now on every line goes through at once

    def to_file(self, level: int, text: str, error: BaseException | None) -> None:
        """A line, with the traceback of ``error`` if there is one, for the file alone."""
        details = (type(error), error, error.__traceback__) if error else None
        self.memory.handle(logging.LogRecord("centernet", level, "", 0, text, None, details))


@contextmanager
def run_log(*, metric_lines: bool) -> Iterator[RunLog]:
    """Send what this package, detectron2 and fvcore log to the terminal (main process only) and to a file.

    Args:
        metric_lines: show detectron2's line of losses every 20 iterations on the terminal too (a progress bar
                makes it superfluous there; the file has it always).

    What is logged at DEBUG level by this package goes to the file alone.
    """
    log = RunLog()
    handlers: list[logging.Handler] = [log.memory]
    if comm.is_main_process():
        terminal = _Terminal()
        terminal.setLevel(logging.INFO)
        terminal.setFormatter(_BRIEF_FORMAT)
        if not metric_lines:
            terminal.addFilter(lambda record: record.name != _METRIC_LINES)
        handlers.append(terminal)
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    before = [(logger, logger.level, logger.propagate, list(logger.handlers)) for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.DEBUG if logger.name == "centernet" else logging.INFO)
        logger.handlers, logger.propagate = list(handlers), False
    try:
        yield log
    except UserError as error:
        log.to_file(logging.ERROR, str(error), None)  # the command line says it on the terminal
        raise
    except Exception as error:
        log.to_file(logging.ERROR, "Stopped by an error", error)  # ... and Python this, with its traceback
        raise
    finally:
        for logger, level, propagate, old in before:
            logger.setLevel(level)
            logger.handlers, logger.propagate = old, propagate
        log.memory.close()
        if log.file is not None:
            log.file.close()
