"""pyarrow, which only runs over many pictures need."""

from typing import Any

from ...errors import UserError

__all__ = ["pyarrow"]


def pyarrow() -> tuple[Any, Any]:
    """The modules ``pyarrow`` and ``pyarrow.parquet``.

    Raises:
        UserError: not installed.
    """
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError as error:
        raise UserError("Parquet files need pyarrow: pip install -e '.[ray]'") from error
    return arrow, parquet
