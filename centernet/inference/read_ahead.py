"""Work that runs beside the rest: an iterator in a thread of its own."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

__all__ = ["read_ahead"]

T = TypeVar("T")
_END: Any = object()


def read_ahead(items: Iterable[T], count: int) -> Iterator[T]:
    """Iterate over ``items`` in a thread, at most ``count`` items ahead of the one who takes them.

    Order is kept; an error of ``items`` comes out in its place. When the taker stops early, what is being made is
    finished and no more is begun.
    """
    iterator = iter(items)
    pool = ThreadPoolExecutor(max_workers=1)
    try:
        pending: deque[Future[T]] = deque(pool.submit(next, iterator, _END) for _ in range(count))
        while (item := pending.popleft().result()) is not _END:
            pending.append(pool.submit(next, iterator, _END))
            yield item
    finally:
        pool.shutdown(cancel_futures=True)
        close = getattr(iterator, "close", None)  # a generator with a thread or a file of its own
        if close is not None:
            close()
