"""Hand-made sequences whose scores are known."""

import numpy as np
import pytest

from centernet.tracking3d.evaluation.distance_metric import ScoredFrame, distance_scores


def frame(*rows):
    """Rows of (id, x, z) or (id, x, z, label, yaw, length)."""
    full = [(*row, *(0, 0.0, 4.0)[len(row) - 3 :]) for row in rows]
    table = np.array(full, dtype=np.float64).reshape(len(rows), 6)
    zero = np.zeros(len(rows))
    return ScoredFrame(
        ids=table[:, 0].astype(np.int64),
        labels=table[:, 3].astype(np.int64),
        xyz=np.stack((table[:, 1], zero, table[:, 2]), 1),
        yaw=table[:, 4],
        dims=np.stack((zero + 1.5, zero + 2.0, table[:, 5]), 1),
    )


def scores(video, mode="modern", names=("car", "pedestrian"), name="all", span="0-100"):
    return distance_scores([video], names, mode)[name][span]


def test_perfect():
    video = [(frame((1, t, 20), (2, 5 + t, 25)),) * 2 for t in range(10)]
    found = scores(video)
    assert (found["MOTA"], found["IDF1"], found["MT"], found["ML"]) == (1, 1, 1, 0)
    assert (found["FP"], found["FN"], found["IDSW"], found["Frag"]) == (0, 0, 0, 0)
    assert (found["MOTP-C"], found["MOTP-O"], found["MOTP-I"]) == (0, 0, 0)


def test_known_mistakes():
    """Of ten boxes: one missed, one false, one switch of id."""
    truth = [frame((1, 0, 20)) for _ in range(10)]
    tracks = [frame((7 if t < 5 else 8, 0.5, 20)) for t in range(10)]
    tracks[2] = frame()
    tracks[3] = frame((7, 0.5, 20), (9, 30, 20))
    found = scores(list(zip(truth, tracks, strict=True)))
    assert (found["FN"], found["FP"], found["IDSW"], found["Frag"]) == (1, 1, 1, 1)
    assert found["MOTA"] == pytest.approx(1 - 3 / 10)
    assert found["MOTP-C"] == pytest.approx(0.5)
    assert found["IDF1"] == pytest.approx(2 * 5 / (10 + 10))
    assert found["MT"] == 1


def test_two_metres_are_too_far():
    assert scores([(frame((1, 0, 20)), frame((1, 2.0, 20)))])["TP"] == 0
    assert scores([(frame((1, 0, 20)), frame((1, 1.99, 20)))])["TP"] == 1


def test_a_match_stays_while_it_can():
    """In the second frame another track is nearer."""
    video = [(frame((1, 0, 20)), frame((5, 0, 20))), (frame((1, 0, 20)), frame((5, 1.5, 20), (6, 0, 20)))]
    found = scores(video)
    assert (found["IDSW"], found["FP"], found["TP"]) == (0, 1, 2)


def test_a_gap_in_the_tracks_does_not_count_as_switch():
    truth = [frame((1, 0, 20))] * 3
    found = scores(list(zip(truth, [frame((5, 0, 20)), frame(), frame((5, 0, 20))], strict=True)))
    assert (found["IDSW"], found["Frag"], found["FN"]) == (0, 1, 1)


def test_classes_are_pooled_as_published_and_apart_in_modern_mode():
    video = [(frame((1, 0, 20, 0)), frame((1, 0, 20, 1)))]
    assert scores(video, "parity")["MOTA"] == 1
    assert scores(video, "modern")["MOTA"] == -1
    assert scores(video, "modern", name="car")["FN"] == 1
    assert scores(video, "modern", name="pedestrian")["FP"] == 1


def test_ranges_leave_their_ends_out():
    video = [(frame((1, 0, 30), (2, 0, 40)),) * 2]
    assert scores(video, span="0-30")["GT"] == 0
    assert scores(video, span="30-50")["GT"] == 1
    assert scores(video, span="0-50")["GT"] == 2
    assert np.isnan(scores(video, span="50-100")["MOTA"])


def test_heading_and_size():
    video = [(frame((1, 0, 20, 0, 3.1, 4.0)), frame((1, 0, 20, 0, -3.1, 2.0)))]
    found = scores(video)
    assert found["MOTP-O"] == pytest.approx(np.degrees(2 * np.pi - 6.2))
    assert found["MOTP-I"] == pytest.approx(0.5)


def test_empty():
    assert np.isnan(scores([])["MOTA"])
    assert scores([(frame(), frame((1, 0, 10)))])["FP"] == 1
