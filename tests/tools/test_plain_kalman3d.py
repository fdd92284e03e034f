"""The rival of the 3D tracker is no straw man: it follows what moves steadily and leaves out what is seen once."""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))

from benchmarks.plain_kalman3d import PlainRules, plain_tracks


def test_steady_objects_keep_their_ids_and_ghosts_are_not_told_of():
    places, labels = [], []
    for frame in range(20):
        here = [[0.0, 0.0, 10.0 + frame], [8.0, 0.0, 40.0 - frame], [3.0, 0.0, 20.0]]
        if frame == 9:
            here.append([30.0, 0.0, 5.0])
        if frame in (12, 13):
            del here[1]  # out of sight for as long as a track lives
        places.append(np.array(here))
        labels.append(np.array([0, 0, 1, 0][: len(here)] if frame not in (12, 13) else [0, 1]))
    found = plain_tracks(places, labels, PlainRules(gate=4.0))
    assert len(set(found[0].tolist())) == 3
    assert all((ids[0], ids[-1]) == (found[0][0], found[0][2]) for ids in found if len(ids) == 3)
    assert [ids.tolist() for ids in found if len(ids) == 3] == [found[0].tolist()] * 17
    assert found[9].tolist() == [*found[0].tolist(), -1]
    assert found[19].tolist() == found[0].tolist()


def test_no_objects_at_all():
    empty = np.zeros((0, 3))
    assert [len(ids) for ids in plain_tracks([empty] * 3, [np.zeros(0, dtype=np.int64)] * 3, PlainRules())] == [0, 0, 0]
