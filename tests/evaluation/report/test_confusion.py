"""The confusion matrix and the score to choose for it."""

import numpy as np
import pytest
from hand_made import hand_made
from random_coco import random_detections, random_ground_truth

from centernet.evaluation.report.confusion import confusion, operating_point
from centernet.evaluation.report.matching import make_case, match

A, B, C = 0, 1, 2
BOX, FAR = (10, 10, 30, 30), (60, 60, 80, 80)
OBJECTS = [(0, A, BOX), (0, B, FAR), (1, A, BOX), (1, C, FAR)]
FOUND = [
    (0, A, BOX, 0.9),  # right
    (0, C, FAR, 0.8),  # B taken for C
    (0, C, BOX, 0.7),  # the object is taken: background for C
    (1, B, (70, 10, 90, 30), 0.6),  # background for B
    (1, C, FAR, 0.1),  # right, of low score
]


def test_counts_by_hand():
    matrix = confusion(hand_made(OBJECTS, FOUND), 0.5)
    background = missed = 3
    expected = np.zeros((4, 4), int)
    expected[A, A] = expected[B, C] = expected[background, C] = expected[background, B] = 1
    expected[A, missed] = expected[C, missed] = 1
    assert matrix.counts.tolist() == expected.tolist()
    assert matrix.worst(5) == [(B, C, 1)]
    below = confusion(hand_made(OBJECTS, FOUND), 0.05)
    assert (below.counts[C, C], below.counts[C, missed]) == (1, 0)


def test_the_own_class_goes_first():
    matrix = confusion(hand_made([(0, A, BOX)], [(0, B, BOX, 0.9), (0, A, BOX, 0.6)]), 0.5)
    assert matrix.counts[A, A] == 1
    assert matrix.counts[3, B] == 1


@pytest.mark.parametrize("seed", range(4))
def test_rows_and_columns_add_up(seed):
    rng = np.random.default_rng(seed)
    truth = random_ground_truth(rng)
    for annotation in truth["annotations"]:
        annotation["iscrowd"] = 0
    case = make_case(truth, random_detections(rng, truth))
    matrix = confusion(case, 0.3)
    assert matrix.counts[:-1].sum(axis=1).tolist() == case.counts.tolist()
    above = case.found.classes[case.found.scores >= 0.3]
    assert matrix.counts[:, :-1].sum(axis=0).tolist() == np.bincount(above, minlength=4).tolist()


def test_the_score_with_the_best_f1():
    objects = [(0, A, BOX), (0, B, FAR), (1, A, BOX), (1, C, FAR)]
    found = [(0, A, BOX, 0.9), (0, B, FAR, 0.8), (1, A, BOX, 0.7), (1, C, BOX, 0.7), (2, A, BOX, 0.6), (2, B, BOX, 0.5)]
    case = hand_made(objects, found)
    # at 0.7 both equals are in: 3 right of 4, of 4 objects
    assert operating_point(case, match(case)) == pytest.approx((0.7, 0.75, 0.75))
    empty = hand_made(objects, [])
    assert operating_point(empty, match(empty)) == (0, 0, 0)
