"""Tables of measurements, their place in a page, and turns that alternate."""

import pytest
from benchmarks.rounds import Turn, covered, paired_ratio, take_turns
from benchmarks.tables import fill_markers, hardware, markdown, spread, versions

from centernet.errors import UserError


def test_a_table_fills_short_rows_and_keeps_its_columns():
    text = markdown(["a", "b", "c"], [["x|y", 1, 2.5], ["only"]])
    assert text.splitlines() == ["| a | b | c |", "| --- | --- | --- |", "| x/y | 1 | 2.5 |", "| only |  |  |"]


def test_spread_is_median_and_tenths():
    assert spread(range(11)) == (5, 1, 9)
    assert spread([3.0]).text(1) == "3.0 (3.0-3.0)"


def test_only_what_is_between_the_markers_changes(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# Top\n\n<!-- t: begin -->\nold\n<!-- t: end -->\n\n<!-- u: begin -->\nkept\n<!-- u: end -->\n")
    fill_markers(page, "t", "new\ntable\n")
    first = page.read_text()
    assert first == (
        "# Top\n\n<!-- t: begin -->\nnew\ntable\n<!-- t: end -->\n\n<!-- u: begin -->\nkept\n<!-- u: end -->\n"
    )
    fill_markers(page, "t", "new\ntable")
    assert page.read_text() == first


@pytest.mark.parametrize(
    "text",
    ["", "<!-- t: end --><!-- t: begin -->", "<!-- t: begin -->", 2 * "<!-- t: begin --> <!-- t: end -->"],
)
def test_markers_that_are_not_there_once_are_refused(tmp_path, text):
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises(UserError, match="once each, in this order"):
        fill_markers(page, "t", "new")
    assert page.read_text() == text
    with pytest.raises(UserError, match="there is no file"):
        fill_markers(tmp_path / "none.md", "t", "new")


def test_machine_and_versions_are_said():
    assert "cores of" in hardware("cpu")
    assert "threads" in hardware("cpu")
    assert "torch 2" in versions(["torch", "no-such-package"])
    assert "no-such" not in versions(["no-such-package"])


def test_calls_alternate_and_the_first_turns_are_not_counted():
    seen = []
    calls = [lambda: seen.append("a"), lambda: seen.append("b")]
    turns, interrupted = take_turns(calls, 2, 1, "cpu", "test")
    assert "".join(seen) == "ababab"
    assert [len(taken) for taken in turns] == [2, 2]
    assert not interrupted
    assert all(isinstance(turn, Turn) and turn.wall > 0 for taken in turns for turn in taken)


def test_an_interrupted_run_keeps_whole_turns():
    seen = []

    def second():
        seen.append("b")
        if len(seen) == 3:
            raise KeyboardInterrupt

    turns, interrupted = take_turns([lambda: None, second, lambda: None], 5, 0, "cpu", "test")
    assert interrupted
    assert [len(taken) for taken in turns] == [2, 2, 2]


def test_ratios_are_of_the_same_turn():
    assert paired_ratio([2, 30, 4], [1, 10, 4]) == 2


def test_overlapping_intervals_count_once():
    assert covered([(5, 6), (0, 2), (1, 3), (1.5, 2)]) == 4
    assert covered([]) == 0
