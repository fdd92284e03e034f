"""The one exception type that a user sees, and the command-line edge that prints it.

Everything that a user can cause (a misspelt key, a missing file, a class count that does not fit) is raised as
:class:`UserError` with ONE sentence that says what is wrong, where, and what to do. A command line wraps its ``main``
in :func:`command_line`, which prints that sentence without a traceback and exits with :data:`EXIT_USER_ERROR`. Any
other exception is a defect of ours and keeps its traceback.
"""

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator
from os import PathLike

EXIT_USER_ERROR = 2


class UserError(Exception):
    """Something the user can mend. ``str(error)`` is one sentence: what is wrong, where, and what to do."""


@contextlib.contextmanager
def writing(path: str | PathLike[str]) -> Iterator[None]:
    """What the operating system refuses inside becomes one sentence that names the file.

    Raises:
        UserError: instead of OSError.
    """
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{path} cannot be written: {error.strerror or error}; make room on the disk or give another place (what "
            "was saved before is whole)"
        ) from error


def command_line(main: Callable[..., int | None]) -> Callable[..., int]:
    """Wrap the ``main`` of a command line: a :class:`UserError` becomes one line on stderr and exit status 2."""

    @functools.wraps(main)
    def wrapped(*args: object, **kwargs: object) -> int:
        try:
            return main(*args, **kwargs) or 0
        except UserError as error:
            sys.stderr.write(f"error: {error}\n")
            return EXIT_USER_ERROR
        except KeyboardInterrupt:
            sys.stderr.write("interrupted\n")
            return 130

    return wrapped
