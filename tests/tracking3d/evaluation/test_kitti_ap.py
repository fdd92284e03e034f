"""Average precision over 40 recall positions where it can be told by hand."""

import math

import pytest

from centernet.errors import UserError
from centernet.tracking3d.evaluation.kitti_ap import average_precision, kitti_scores, parse_objects

LINE = "{kind} 0.0 {occluded} 0.0 100 100 200 {bottom} 1.5 1.6 4.0 {x} 1.6 {z} 0.3 {score}"


def objects(*rows):
    """Rows of changes to a car 20 m ahead."""
    plain = {"kind": "Car", "occluded": 0, "bottom": 180, "x": 0.0, "z": 20.0, "score": ""}
    return parse_objects("\n".join(LINE.format(**(plain | row)) for row in rows))


def test_perfect():
    truth = [objects({})] * 50
    scores = kitti_scores(truth, [objects({"score": 0.9 - number / 1000}) for number in range(50)])
    assert scores["car/3d/0.7"] == scores["car/bev/0.5"] == scores["car/bbox/0.7"] == (1, 1, 1)
    assert all(math.isnan(value) for value in scores["pedestrian/3d/0.5"])


def test_half_of_the_objects_found():
    """Precision is 1 up to a recall of one half: 20 of the 40 positions."""
    found = [objects({"score": 0.9 - number / 1000}) for number in range(50)] + [objects()] * 50
    assert average_precision([objects({})] * 100, found, "car", "3d", 0.7)[0] == pytest.approx(0.5, abs=0.026)


def test_a_false_detection_beside_each():
    """As good a score as the true one: precision is one half everywhere."""
    found = [objects({"score": 0.9 - n / 1000}, {"x": 30.0, "score": 0.9 - n / 1000}) for n in range(100)]
    assert average_precision([objects({})] * 100, found, "car", "3d", 0.7)[0] == pytest.approx(0.5)


def test_three_metres_off_in_depth_is_no_volume_but_a_box():
    found = [objects({"z": 23.0, "score": 0.9 - n / 1000}) for n in range(100)]
    assert average_precision([objects({})] * 100, found, "car", "3d", 0.5) == (0, 0, 0)
    assert average_precision([objects({})] * 100, found, "car", "bbox", 0.7) == (1, 1, 1)


def test_occluded_objects_count_for_the_hard_level_only_and_vans_never():
    truth = [objects({"occluded": 2}, {"kind": "Van", "x": 9.0})] * 100
    found = [objects({"score": 0.9 - n / 1000}, {"x": 9.0, "score": 0.95}) for n in range(100)]
    easy, moderate, hard = average_precision(truth, found, "car", "3d", 0.7)
    assert math.isnan(easy)
    assert math.isnan(moderate)
    assert hard == 1


def test_broken_file():
    with pytest.raises(UserError, match="line 2 of x.txt is no object of KITTI"):
        parse_objects("\nCar 0 0 zero\n", "x.txt")
