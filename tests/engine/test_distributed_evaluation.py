"""Scores do not depend on the number of processes, and all of them know the scores."""

import pytest
from process_runs import evaluate_oracle, in_processes
from small_run import write_dataset


@pytest.mark.slow
def test_scores_of_one_two_and_four_processes(tmp_path):
    # fewer images than processes, not a multiple of them, a multiple
    names = [write_dataset(tmp_path / str(count), count) for count in (3, 5, 8)]
    alone, found = in_processes(1, evaluate_oracle, tmp_path / "one", names)[0]
    assert [0 < score["bbox"]["AP"] < 100 for score in alone.values()] == [True] * 3
    for count in (2, 4):
        for results, files in in_processes(count, evaluate_oracle, tmp_path / f"{count} processes", names):
            assert str(results) == str(alone)  # as text: nan is nan
            assert files == found
