"""What people write down as calibration: one clear sentence for what is broken."""

import math

import pytest
import torch

from centernet.errors import UserError
from centernet.tracking3d.ops.calibration import make_camera
from centernet.tracking3d.ops.geometry import lift_boxes
from centernet.tracking3d.ops.mode import checked_mode

MATRIX = [[700.0, 0, 600], [0, 710, 180], [0, 0, 1]]
TURN = [[0, 0, 1], [-1, 0, 0], [0, -1, 0]]
WHERE = "cam.json, frame 3"


def test_both_layouts_of_both_parts():
    wide = [[*row, 0.5] for row in MATRIX]
    assert make_camera(MATRIX, TURN, [1, 2, 3], WHERE).intrinsics[:, 3].tolist() == [0, 0, 0]
    assert make_camera(wide, TURN, [1, 2, 3], WHERE).intrinsics.tolist() == wide
    euler = make_camera(MATRIX, [-math.pi / 2, 0, -math.pi / 2], [1, 2, 3], WHERE)
    torch.testing.assert_close(euler.rotation, torch.tensor(TURN, dtype=torch.float64))
    assert euler.position.tolist() == [1, 2, 3]


def test_without_a_pose_the_world_is_the_camera_set_upright():
    camera = make_camera(torch.tensor(MATRIX), None, None, WHERE)
    ahead = lift_boxes(torch.tensor([[600.0, 250.0]]), torch.tensor([10.0]), torch.zeros(1), torch.ones(1, 3), camera)
    x, y, z, yaw = ahead.box7[0, :4].tolist()
    assert (x, y, yaw) == pytest.approx((0, 10, 0), abs=1e-6)
    assert z == pytest.approx(-10 * 70 / 710)


@pytest.mark.parametrize(
    ("intrinsics", "rotation", "position", "words"),
    [
        (MATRIX[:2], TURN, [0, 0, 0], "intrinsics of cam.json, frame 3 must be 3x3 or 3x4"),
        ([[1, 2], [3]], TURN, [0, 0, 0], "must be 3x3 or 3x4"),
        ("K", TURN, [0, 0, 0], "must be 3x3 or 3x4"),
        ([[math.nan, 0, 600], *MATRIX[1:]], TURN, [0, 0, 0], "NaN"),
        ([[-700, 0, 600], *MATRIX[1:]], TURN, [0, 0, 0], "focal lengths above 0"),
        ([[0, 0, 600], *MATRIX[1:]], TURN, [0, 0, 0], "focal lengths above 0"),
        ([*MATRIX[:2], [0, 0, 2]], TURN, [0, 0, 0], "no camera matrix"),
        (MATRIX, None, [0, 0, 0], "has no rotation"),
        (MATRIX, TURN, None, "has no position"),
        (MATRIX, [[2, 0, 0], [0, 1, 0], [0, 0, 1]], [0, 0, 0], "is no rotation"),
        (MATRIX, [[-1, 0, 0], [0, 1, 0], [0, 0, 1]], [0, 0, 0], "mirrors"),
        (MATRIX, [0, 0], [0, 0, 0], "must be 3 or 3x3"),
        (MATRIX, TURN, [0, 0, math.inf], "infinity"),
        (MATRIX, TURN, [0, 0], "must be 3 numbers"),
    ],
)
def test_broken_calibration_is_one_sentence(intrinsics, rotation, position, words):
    with pytest.raises(UserError, match=words) as error:
        make_camera(intrinsics, rotation, position, WHERE)
    assert WHERE in str(error.value)
    assert "\n" not in str(error.value)


def test_modes():
    assert checked_mode("parity") == "parity"
    with pytest.raises(UserError, match=r"MODEL\.TRACKING3D\.MODE is 'Modern'"):
        checked_mode("Modern")
