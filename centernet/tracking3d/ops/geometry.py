"""Cameras, angles, and boxes between picture, camera frame and world.

Frames: picture in continuous pixels (u right, v down); camera X right, Y down, Z forward; world Z up; metres and
radians. ``yaw`` in the camera frame turns about Y, and the length axis of a box points to ``(cos yaw, 0, -sin yaw)``;
in the world it is the angle of the length axis in the XY plane, from X to Y. ``alpha`` is the observation angle,
``yaw - atan2(x, z)``. Leading axes broadcast: a :class:`Camera` is one for all boxes, or one per box. Results have the
widest dtype of the arguments, so float64 poses (map coordinates) keep their precision.

Source: QD-3DT (arXiv 2103.07351) section 3.1; KITTI's definition of alpha (Geiger et al., CVPR 2012).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .mode import Mode

BEHIND = -1000.0
"""Both coordinates of a point at or behind the camera, as published."""


class Camera(NamedTuple):
    """A calibrated picture with its place in the world.

    Attributes:
        intrinsics: float ``[..., 3, 4]``, homogeneous projection of camera-frame points to pixels.
        rotation: float ``[..., 3, 3]``, camera to world.
        position: float ``[..., 3]``, of the camera in the world, metres.
    """

    intrinsics: Tensor
    rotation: Tensor
    position: Tensor


class LiftedBoxes(NamedTuple):
    """Boxes in the world.

    Attributes:
        box7: float ``[N, 7]``, ``[X, Y, Z, yaw, h, w, l]``.
        roll_pitch: float ``[N, 2]``, the tilt of each box; :func:`lower_boxes` wants it back.
    """

    box7: Tensor
    roll_pitch: Tensor


class CameraBoxes(NamedTuple):
    """Boxes seen by a camera.

    Attributes:
        xyz: float ``[N, 3]``, geometric centre in the camera frame, metres.
        depth: float ``[N]``, its Z.
        yaw: float ``[N]``, about the camera's Y axis, in [-pi, pi).
        alpha: float ``[N]``, observation angle, in [-pi, pi).
        center2d: float ``[N, 2]``, projected centre, pixels.
        dims: float ``[N, 3]``, h, w, l in metres.
    """

    xyz: Tensor
    depth: Tensor
    yaw: Tensor
    alpha: Tensor
    center2d: Tensor
    dims: Tensor


def wrap_angle(angle: Tensor) -> Tensor:
    """Angles modulo 2 pi in ``[-pi, pi)`` (pi as the dtype has it). Angles inside stay the same bits; gradient 1."""
    wrapped = angle - torch.floor((angle + math.pi) / (2 * math.pi)) * (2 * math.pi)
    # rounding of the quotient can leave it outside at either end, or move what was inside
    wrapped = torch.where(wrapped >= math.pi, wrapped - 2 * math.pi, wrapped).clamp(min=-math.pi)
    return torch.where((angle >= -math.pi) & (angle < math.pi), angle, wrapped)


def _widest(*tensors: Tensor) -> list[Tensor]:
    dtype = tensors[0].dtype
    for tensor in tensors[1:]:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return [tensor.to(dtype) for tensor in tensors]


def _apply(matrix: Tensor, vector: Tensor) -> Tensor:
    """``[..., A, B]`` times ``[..., B]``, broadcast."""
    matrix, vector = _widest(matrix, vector)
    return (matrix * vector.unsqueeze(-2)).sum(-1)  # exact in float32 on every device, where matmul may use TF32


def euler_to_matrix(euler: Tensor) -> Tensor:
    """Rotation of extrinsic angles about x, then y, then z: ``Rz @ Ry @ Rx``. ``[..., 3]`` -> ``[..., 3, 3]``."""
    (sx, sy, sz), (cx, cy, cz) = euler.sin().unbind(-1), euler.cos().unbind(-1)
    rows = (
        (cz * cy, cz * sy * sx - sz * cx, cz * sy * cx + sz * sx),
        (sz * cy, sz * sy * sx + cz * cx, sz * sy * cx - cz * sx),
        (-sy, cy * sx, cy * cx),
    )
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def matrix_to_quaternion(matrix: Tensor) -> Tensor:
    """Unit quaternion ``(w, x, y, z)`` of a rotation; the sign is that of its largest component, made positive.

    Args:
        matrix: float ``[..., 3, 3]``, orthonormal, determinant 1.

    Returns:
        float ``[..., 4]``.
    """
    (a, b, c), (d, e, f), (g, h, i) = (row.unbind(-1) for row in matrix.unbind(-2))
    # four times the outer product of the quaternion with itself: the row of the largest diagonal entry is well
    # conditioned for every rotation
    rows = (
        (1 + a + e + i, h - f, c - g, d - b),
        (h - f, 1 + a - e - i, b + d, c + g),
        (c - g, b + d, 1 - a + e - i, f + h),
        (d - b, c + g, f + h, 1 - a - e + i),
    )
    outer = torch.stack([torch.stack(row, -1) for row in rows], -2)
    best = outer.diagonal(dim1=-2, dim2=-1).argmax(-1)
    picked = outer.gather(-2, best[..., None, None].expand(*best.shape, 1, 4)).squeeze(-2)
    return picked / picked.norm(dim=-1, keepdim=True)


def quaternion_multiply(p: Tensor, q: Tensor) -> Tensor:
    """Hamilton product ``p q`` (``q`` turns first) of ``(w, x, y, z)``, ``[..., 4]`` each, broadcast."""
    p, q = _widest(p, q)
    (a, b, c, d), (w, x, y, z) = p.unbind(-1), q.unbind(-1)
    return torch.stack(
        (
            a * w - b * x - c * y - d * z,
            a * x + b * w + c * z - d * y,
            a * y - b * z + c * w + d * x,
            a * z + b * y - c * x + d * w,
        ),
        -1,
    )


def quaternion_to_euler(q: Tensor) -> Tensor:
    """``(roll, pitch, yaw)`` of unit quaternions, turning about Z, then Y, then X of the turning body.

    Args:
        q: float ``[..., 4]``, ``(w, x, y, z)``; the sign does not matter.

    Returns:
        float ``[..., 3]``; pitch in [-pi/2, pi/2].
    """
    w, x, y, z = q.unbind(-1)
    roll = torch.atan2(2 * (w * x + y * z), 1 - 2 * (x * x + y * y))
    pitch = torch.asin((2 * (w * y - z * x)).clamp(-1, 1))
    yaw = torch.atan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))
    return torch.stack((roll, pitch, yaw), -1)


def euler_to_quaternion(euler: Tensor) -> Tensor:
    """Unit quaternions ``(w, x, y, z)`` of ``(roll, pitch, yaw)``, ``[..., 3]`` -> ``[..., 4]``; the inverse of
    :func:`quaternion_to_euler`.
    """
    (sr, sp, sy), (cr, cp, cy) = (euler / 2).sin().unbind(-1), (euler / 2).cos().unbind(-1)
    return torch.stack(
        (
            cr * cp * cy + sr * sp * sy,
            sr * cp * cy - cr * sp * sy,
            cr * sp * cy + sr * cp * sy,
            cr * cp * sy - sr * sp * cy,
        ),
        -1,
    )


def unproject(uv: Tensor, depth: Tensor, intrinsics: Tensor, *, mode: Mode = "modern") -> Tensor:
    """Points of pixels at known depths.

    Args:
        uv: float ``[N, 2]``, pixels.
        depth: float ``[N]``, Z in the camera frame, metres.
        intrinsics: float ``[3, 4]`` or ``[N, 3, 4]``, third row ``[0, 0, 1, t]``.
        mode: ``"parity"`` ignores the fourth column (an offset of the camera, as in KITTI's P2, that :func:`project`
            does not ignore); ``"modern"`` inverts the whole matrix. They agree where that column is zero.

    Returns:
        float ``[N, 3]``, camera frame, metres.
    """
    uv, depth, intrinsics = _widest(uv, depth, intrinsics)
    inverse = torch.linalg.inv_ex(intrinsics[..., :3]).inverse
    ray = torch.cat((uv, torch.ones_like(uv[..., :1])), -1)
    if mode == "parity":
        return depth[..., None] * _apply(inverse, ray)
    offset = intrinsics[..., 3]
    return _apply(inverse, ray * (depth + offset[..., 2])[..., None] - offset)


def project(xyz: Tensor, intrinsics: Tensor, *, sentinel: bool = False) -> tuple[Tensor, Tensor]:
    """Pixels of points.

    Args:
        xyz: float ``[..., 3]``, camera frame, metres.
        intrinsics: float ``[3, 4]`` or ``[..., 3, 4]``; all four columns count.
        sentinel: :data:`BEHIND` for both coordinates of points that are not in front, as published.

    Returns:
        ``(uv, in_front)``: float ``[..., 2]`` and bool ``[...]``, the third homogeneous coordinate is positive. Without
        the sentinel, ``uv`` of points that are not in front is finite and means nothing.
    """
    intrinsics, xyz = _widest(intrinsics, xyz)
    u, v, scale = _apply(intrinsics, torch.cat((xyz, torch.ones_like(xyz[..., :1])), -1)).unbind(-1)
    in_front = scale > 0
    uv = torch.stack((u, v), -1) / torch.where(in_front, scale, torch.ones_like(scale))[..., None]
    if sentinel:
        uv = torch.where(in_front[..., None], uv, uv.new_tensor(BEHIND))
    return uv, in_front


def alpha_to_yaw(alpha: Tensor, xyz: Tensor) -> Tensor:
    """Yaw in [-pi, pi) from the observation angle ``[...]`` of a box centred at ``xyz [..., 3]`` (camera frame)."""
    return wrap_angle(alpha + torch.atan2(xyz[..., 0], xyz[..., 2]))


def yaw_to_alpha(yaw: Tensor, xyz: Tensor) -> Tensor:
    """Observation angle in [-pi, pi) from the yaw ``[...]`` of a box centred at ``xyz [..., 3]`` (camera frame)."""
    return wrap_angle(yaw - torch.atan2(xyz[..., 0], xyz[..., 2]))


def pixel_ray(u: Tensor, intrinsics: Tensor) -> Tensor:
    """Angle of the ray through column ``u [...]`` (pixels) from the optical axis to the right, radians.

    What the published programs use in place of ``atan2(x, z)`` of the 3D centre: nuScenes' training alpha takes the
    centre of the 2D box, result files take the principal point to be half the width. One ray of the 3D centre
    (:func:`yaw_to_alpha`) is the modern mode everywhere.
    """
    return torch.atan2(u - intrinsics[..., 0, 2], intrinsics[..., 0, 0].expand_as(u))


def flip_alpha(alpha: Tensor, *, mode: Mode = "modern", invalid: float = -10.0) -> Tensor:
    """Observation angle ``[...]`` after the picture was mirrored left to right.

    ``"modern"`` leaves angles at or below ``invalid`` (no angle is known) as they are; ``"parity"`` turns these too.
    """
    half_turn = torch.where(alpha > 0, alpha.new_tensor(math.pi), alpha.new_tensor(-math.pi))
    flipped = half_turn - alpha
    return flipped if mode == "parity" else torch.where(alpha <= invalid, alpha, flipped)


def box_corners(xyz: Tensor, yaw: Tensor, dims: Tensor) -> Tensor:
    """Corners of boxes that stand upright in the camera frame.

    Args:
        xyz: float ``[..., 3]``, geometric centres, camera frame, metres.
        yaw: float ``[...]``, about Y.
        dims: float ``[..., 3]``, h (along Y), w, l (along X at yaw 0).

    Returns:
        float ``[..., 8, 3]``: the bottom face (greatest Y) front left, front right, rear right, rear left, as seen by
        the box; then the top face in the same order.
    """
    xyz, yaw, dims = _widest(xyz, yaw, dims)
    half_h, half_w, half_l = (dims / 2).unbind(-1)
    ahead = torch.stack((yaw.cos(), torch.zeros_like(yaw), -yaw.sin()), -1) * half_l[..., None]
    right = torch.stack((-yaw.sin(), torch.zeros_like(yaw), -yaw.cos()), -1) * half_w[..., None]
    down = torch.stack((torch.zeros_like(half_h), half_h, torch.zeros_like(half_h)), -1)
    signs = ((1, -1, 1), (1, 1, 1), (-1, 1, 1), (-1, -1, 1), (1, -1, -1), (1, 1, -1), (-1, 1, -1), (-1, -1, -1))
    return torch.stack([xyz + a * ahead + r * right + d * down for a, r, d in signs], -2)


def lift_boxes(
    center2d: Tensor, depth: Tensor, alpha: Tensor, dims: Tensor, camera: Camera, *, mode: Mode = "modern"
) -> LiftedBoxes:
    """Detections of a picture into the world.

    Args:
        center2d: float ``[N, 2]``, projected 3D centre, pixels.
        depth: float ``[N]``, metres.
        alpha: float ``[N]``, observation angle.
        dims: float ``[N, 3]``, h, w, l, metres.
        camera: whose intrinsics speak of the same pixels.
        mode: see :func:`unproject`.
    """
    xyz = unproject(center2d, depth, camera.intrinsics, mode=mode)
    half_yaw = alpha_to_yaw(alpha, xyz) / 2
    zero = torch.zeros_like(half_yaw)
    about_y = torch.stack((half_yaw.cos(), zero, half_yaw.sin(), zero), -1)
    roll_pitch_yaw = quaternion_to_euler(quaternion_multiply(matrix_to_quaternion(camera.rotation), about_y))
    world = _apply(camera.rotation, xyz) + camera.position
    world, yaw, dims = _widest(world, wrap_angle(roll_pitch_yaw[..., 2:]), dims)
    return LiftedBoxes(torch.cat((world, yaw, dims), -1), roll_pitch_yaw[..., :2])


def lower_boxes(box7: Tensor, roll_pitch: Tensor, camera: Camera, *, mode: Mode = "modern") -> CameraBoxes:
    """Boxes of the world as a camera sees them; the inverse of :func:`lift_boxes`.

    Args:
        box7: float ``[N, 7]``.
        roll_pitch: float ``[N, 2]``, tilt of each box, from :class:`LiftedBoxes`.
        camera: any, not only the one that saw the box.
        mode: ``"parity"`` gives centres that are not in front the value :data:`BEHIND`.
    """
    xyz = _apply(camera.rotation.transpose(-1, -2), box7[..., :3] - camera.position)
    roll_pitch, yaw_world = _widest(roll_pitch, box7[..., 3:4])
    to_camera = matrix_to_quaternion(camera.rotation.transpose(-1, -2))
    turn = quaternion_multiply(to_camera, euler_to_quaternion(torch.cat((roll_pitch, yaw_world), -1)))
    w, x, y, z = turn.unbind(-1)
    # the length axis (1, 0, 0) after the turn: its Z and X
    yaw = wrap_angle(-torch.atan2(2 * (x * z - w * y), 1 - 2 * (y * y + z * z)))
    center2d, _ = project(xyz, camera.intrinsics, sentinel=mode == "parity")
    return CameraBoxes(xyz, xyz[..., 2], yaw, yaw_to_alpha(yaw, xyz), center2d, box7[..., 4:])


def lifting_intrinsics(
    intrinsics: Tensor, original_size: Sequence[int], resized_size: Sequence[int], scale: float, *, mode: Mode
) -> Tensor:
    """The matrix by which detections of a resized picture are lifted; their pixels are those of the original.

    Args:
        intrinsics: float ``[3, 4]``, of the original picture.
        original_size, resized_size: height and width, pixels.
        scale: the factor that the picture was resized by, before its size was rounded.
        mode: ``"modern"`` returns ``intrinsics``. ``"parity"`` returns, where the sizes differ,
            :func:`rescaled_intrinsics`, which do not speak of the pixels that they are used with: single boxes come
            back as they were, distances in the world are wrong.

    Returns:
        float ``[3, 4]``.
    """
    if mode == "modern" or tuple(original_size) == tuple(resized_size):
        return intrinsics
    return rescaled_intrinsics(intrinsics, resized_size, scale)


def rescaled_intrinsics(intrinsics: Tensor, resized_size: Sequence[int], scale: float) -> Tensor:
    """``[[f s, 0, W'/2, 0], [0, f s, H'/2, 0], [0, 0, 1, 0]]``: ``f`` is the horizontal focal length of
    ``intrinsics [3, 4]``, ``s`` the ``scale``, ``resized_size`` = (H', W') in pixels.
    """
    height, width = resized_size
    rescaled = torch.zeros_like(intrinsics)
    rescaled[0, 0] = rescaled[1, 1] = intrinsics[0, 0] * scale
    rescaled[0, 2], rescaled[1, 2], rescaled[2, 2] = width / 2, height / 2, 1.0
    return rescaled
