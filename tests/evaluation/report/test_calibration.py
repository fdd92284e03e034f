"""Calibration of synthetic scores whose truth is known, and what counts as right for a proposal."""

import numpy as np
import pytest
from hand_made import hand_made
from hypothesis import given
from hypothesis import strategies as st

from centernet.evaluation.report.calibration import case_of_proposals, covers, reliability
from centernet.evaluation.report.wording import bias_words

BOX = (10, 10, 30, 30)


def test_perfect_scores_have_no_error():
    rng = np.random.default_rng(0)
    stated = rng.random(200_000)
    curve = reliability(stated, rng.random(200_000) < stated)
    assert curve.error < 0.01
    assert abs(curve.bias) < 0.01
    assert bias_words(curve) == "right on average"
    assert (curve.low <= curve.frequency).all()
    assert (curve.frequency <= curve.high).all()
    assert ((curve.low <= curve.confidence) & (curve.confidence <= curve.high)).sum() >= 8


@pytest.mark.parametrize("shift", [0.2, -0.2])
def test_shifted_scores_have_the_shift_for_error(shift):
    rng = np.random.default_rng(1)
    truth = rng.uniform(0.2, 0.8, 200_000)
    curve = reliability(truth + shift, rng.random(200_000) < truth)
    assert curve.error == pytest.approx(0.2, abs=0.01)
    assert curve.bias == pytest.approx(shift, abs=0.01)
    assert bias_words(curve) == ("too sure" if shift > 0 else "too modest")


def test_a_case_by_hand():
    curve = reliability(np.array([0.05, 0.05, 0.65, 0.95, 1.0]), np.array([False, True, True, True, False]))
    assert curve.counts.tolist() == [2, 0, 0, 0, 0, 0, 1, 0, 0, 2]
    assert curve.frequency[[0, 6, 9]].tolist() == [0.5, 1.0, 0.5]
    assert np.isnan(curve.frequency[1])
    assert curve.error == pytest.approx((2 * 0.45 + 0.35 + 2 * 0.475) / 5)
    assert curve.upper_error == pytest.approx((0.35 + 2 * 0.475) / 3)
    assert curve.bias == pytest.approx(0.54 - 0.6)


def test_nothing_to_judge():
    curve = reliability(np.zeros(0), np.zeros(0, bool))
    assert np.isnan(curve.error)
    assert bias_words(curve) == "nothing to judge"


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=50), st.integers(1, 20))
def test_the_error_is_at_least_the_bias(entries, bins):
    stated, right = (np.array(column) for column in zip(*entries, strict=True))
    curve = reliability(stated, right, bins)
    assert curve.counts.sum() == len(entries)
    assert abs(curve.bias) - 1e-9 <= curve.error <= 1


def test_readings_of_a_proposal():
    objects = [(0, 0, BOX), (0, 1, (50, 50, 70, 70)), (1, 0, (0, 0, 90, 90))]
    case = hand_made(objects, [], crowds=[2])
    boxes = np.array([(10, 10, 30, 29), BOX, (12, 12, 30, 30), (80, 80, 90, 90), (5, 5, 25, 25)], np.float32)
    images = np.array([1, 1, 1, 1, 2])
    stated = np.array([0.5, 0.9, 0.2, 0.4, 0.3], np.float32)
    proposals = case_of_proposals(case, np.append(images, 99), np.vstack([boxes, boxes[:1]]), np.append(stated, 0.1))
    assert proposals.found.scores == pytest.approx([0.9, 0.5, 0.4, 0.2, 0.3])  # image 99 is not of these data
    any_object, best, ignored = covers(proposals)
    assert any_object.tolist() == [True, True, False, True, False]
    assert best.tolist() == [True, False, False, False, False]
    assert ignored.tolist() == [False, False, False, False, True]
