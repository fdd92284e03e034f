"""Batches of pictures that are padded alike, so that a result does not depend on its neighbours in the batch."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Generic, TypeVar

__all__ = ["in_batches"]

_WINDOWS = 4  # batches' worth of items that are read ahead of the first one without a result

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_batches(
    items: Iterable[tuple[Hashable, Item] | Exception],
    run: Callable[[Sequence[Item]], Sequence[Result]],
    batch_size: int,
) -> Iterator[Result | Exception]:
    """Results in the order of ``items``, which are taken as they are needed.

    Args:
        items: ``(kind, item)``: items of a kind may share a batch. An exception is passed on in its place.
        run: gives one result an item.
        batch_size: most items a batch. At most four times as many items are taken before the first one's result is
            given; with 1, each result comes before the next item is taken.

    An error that ``items`` itself raises comes after the results of what was taken before.
    """
    batches: _Batches[Item, Result] = _Batches(run, batch_size)
    failures: list[Exception] = []
    for position, entry in enumerate(_until_failure(items, failures)):
        if isinstance(entry, Exception):
            batches.finished[position] = entry
        else:
            batches.add(position, *entry)
        if position + 1 - batches.next >= _WINDOWS * batch_size:
            batches.run_oldest()
        yield from batches.take()
    while batches.waiting:
        batches.run_oldest()
        yield from batches.take()
    for failure in failures:
        raise failure


def _until_failure(items: Iterable[Item], failures: list[Exception]) -> Iterator[Item]:
    """``items`` up to an error, which goes into ``failures``."""
    try:
        yield from items
    except Exception as error:
        failures.append(error)


class _Batches(Generic[Item, Result]):
    def __init__(self, run: Callable[[Sequence[Item]], Sequence[Result]], batch_size: int) -> None:
        self._run, self._batch_size = run, batch_size
        self.waiting: dict[Hashable, list[tuple[int, Item]]] = {}  # oldest kind first
        self.finished: dict[int, Result | Exception] = {}
        self.next = 0

    def add(self, position: int, kind: Hashable, item: Item) -> None:
        self.waiting.setdefault(kind, []).append((position, item))
        if len(self.waiting[kind]) == self._batch_size:
            self._run_kind(kind)

    def run_oldest(self) -> None:
        if self.waiting:
            self._run_kind(next(iter(self.waiting)))

    def _run_kind(self, kind: Hashable) -> None:
        positions, items = zip(*self.waiting.pop(kind), strict=True)
        self.finished.update(zip(positions, self._run(items), strict=True))

    def take(self) -> Iterator[Result | Exception]:
        while self.next in self.finished:
            yield self.finished.pop(self.next)
            self.next += 1
