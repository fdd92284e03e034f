"""Calibration and pose as somebody wrote them down, checked, as a :class:`~.geometry.Camera`."""

import math

import torch
from torch import Tensor

from ...errors import UserError
from .geometry import Camera, euler_to_matrix

Numbers = Tensor | list | tuple
"""Nested lists as in a JSON file, or a tensor."""

_UPRIGHT = ((1.0, 0.0, 0.0), (0.0, 0.0, 1.0), (0.0, -1.0, 0.0))  # X right, Y ahead, Z up
_ORTHOGONAL = 1e-3  # largest deviation of R R^T from the identity that rounding in text files explains


def make_camera(intrinsics: Numbers, rotation: Numbers | None, position: Numbers | None, where: str) -> Camera:
    """A camera in float64 on the CPU.

    Args:
        intrinsics: 3x3 or 3x4, third row ``[0, 0, 1]`` (and any fourth element).
        rotation: 3x3 matrix or three extrinsic xyz Euler angles in radians, camera to world; None with ``position``
            None: the world is the camera's with X right, Y ahead and Z up.
        position: of the camera in the world, three metres.
        where: file, frame and camera, for the message.

    Raises:
        UserError: a shape, a number or a rotation is broken, or only one half of the pose is there.
    """
    matrix = _array(intrinsics, f"the intrinsics of {where}", ((3, 3), (3, 4)))
    if matrix.shape[1] == 3:
        matrix = torch.cat((matrix, matrix.new_zeros(3, 1)), 1)
    if matrix[2, :3].tolist() != [0.0, 0.0, 1.0] or min(matrix[0, 0].item(), matrix[1, 1].item()) <= 0:
        raise UserError(
            f"the intrinsics of {where} are no camera matrix: write rows [fx, 0, cx], [0, fy, cy], [0, 0, 1] with "
            "focal lengths above 0 in pixels"
        )
    if rotation is None and position is None:
        return Camera(matrix, matrix.new_tensor(_UPRIGHT), matrix.new_zeros(3))
    if rotation is None or position is None:
        missing = "rotation" if rotation is None else "position"
        raise UserError(
            f"the pose of {where} has no {missing}: give rotation and position (camera to world), or neither"
        )
    turn = _array(rotation, f"the rotation of {where}", ((3,), (3, 3)))
    turn = euler_to_matrix(turn) if turn.dim() == 1 else turn
    deviation = (turn @ turn.T - torch.eye(3, dtype=turn.dtype)).abs().max().item()
    if deviation > _ORTHOGONAL or torch.linalg.det(turn) < 0:
        raise UserError(
            f"the rotation of {where} is no rotation (R R^T is {deviation:.2g} off the identity, or it mirrors): give "
            "a 3x3 orthonormal matrix with determinant 1, camera to world"
        )
    return Camera(matrix, turn, _array(position, f"the position of {where}", ((3,),)))


def _array(value: Numbers, what: str, shapes: tuple[tuple[int, ...], ...]) -> Tensor:
    try:
        array = torch.as_tensor(value, dtype=torch.float64, device="cpu")
    except (TypeError, ValueError, RuntimeError):
        array = torch.full((0,), math.nan, dtype=torch.float64)
    wanted = " or ".join("x".join(map(str, shape)) for shape in shapes)
    if tuple(array.shape) not in shapes:
        raise UserError(f"{what} must be {wanted} numbers; write them so")
    if not array.isfinite().all():
        raise UserError(f"{what} hold NaN or infinity: give {wanted} finite numbers")
    return array
