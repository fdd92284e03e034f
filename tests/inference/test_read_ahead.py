import threading
import time
from collections.abc import Iterator

import pytest

from centernet.inference.read_ahead import read_ahead


@pytest.mark.parametrize("count", [1, 3, 20])
def test_everything_comes_in_order(count: int) -> None:
    assert list(read_ahead(range(9), count)) == list(range(9))
    assert list(read_ahead([], count)) == []


def test_no_more_than_count_items_are_read_ahead() -> None:
    read: list[int] = []

    def items() -> Iterator[int]:
        for number in range(20):
            read.append(number)
            yield number

    ahead = read_ahead(items(), 3)
    assert next(ahead) == 0
    deadline = time.monotonic() + 5
    while len(read) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert read == [0, 1, 2, 3]
    ahead.close()


def test_an_error_comes_in_its_place() -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise KeyError("three")

    ahead = read_ahead(items(), 5)
    assert [next(ahead), next(ahead)] == [1, 2]
    with pytest.raises(KeyError, match="three"):
        next(ahead)


def test_one_who_stops_early_closes_the_source_and_leaves_no_thread() -> None:
    closed = []

    def items() -> Iterator[int]:
        try:
            yield from range(100)
        finally:
            closed.append(True)

    before = threading.active_count()
    ahead = read_ahead(read_ahead(items(), 4), 2)
    assert next(ahead) == 0
    ahead.close()
    assert closed == [True]
    assert threading.active_count() == before
