"""Order, size and look-ahead of batches."""

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from centernet.inference.batching import in_batches


@settings(max_examples=200, deadline=None)
@given(kinds=st.lists(st.integers(0, 4), max_size=60), size=st.integers(1, 5))
def test_every_item_comes_once_in_order_and_with_its_kind(kinds: list[int], size: int) -> None:
    batches: list[tuple[int, ...]] = []
    taken = given_back = 0

    def items() -> Iterator[tuple[int, int] | Exception]:
        nonlocal taken
        for number, kind in enumerate(kinds):
            taken += 1
            yield ValueError(number) if kind == 4 else (kind, number)

    def run(batch: tuple[int, ...]) -> list[int]:
        batches.append(batch)
        return [10 * number for number in batch]

    for number, result in enumerate(in_batches(items(), run, size)):
        expected = str(number) if kinds[number] == 4 else str(10 * number)
        assert str(result) == expected
        given_back += 1
        assert taken - given_back < 4 * size
    assert given_back == len(kinds)
    for batch in batches:
        assert 1 <= len(batch) <= size
        assert len({kinds[number] for number in batch}) == 1


def test_full_batches_where_kinds_alternate() -> None:
    sizes: list[int] = []

    def run(batch: tuple[int, ...]) -> tuple[int, ...]:
        sizes.append(len(batch))
        return batch

    assert list(in_batches(((number % 2, number) for number in range(32)), run, 4)) == list(range(32))
    assert sizes == [4] * 8


def test_one_at_a_time_looks_at_nothing_ahead() -> None:
    taken: list[int] = []
    results = in_batches(((0, taken.append(number) or number) for number in range(3)), lambda batch: batch, 1)
    for number in range(3):
        assert next(results) == number
        assert taken == list(range(number + 1))


def test_an_error_of_the_items_comes_after_the_results_before_it() -> None:
    def camera() -> Iterator[tuple[int, int]]:
        yield from ((number % 3, number) for number in range(7))
        raise ConnectionError("the camera is gone")

    results = in_batches(camera(), lambda batch: batch, 4)
    assert [next(results) for _ in range(7)] == list(range(7))
    with pytest.raises(ConnectionError, match="the camera is gone"):
        next(results)
