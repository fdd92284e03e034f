"""Poses of KITTI's vehicle from its GPS and inertial unit (OXTS).

Source: Geiger et al., "Vision meets Robotics: The KITTI Dataset" (IJRR 2013); UTM by Karney's series (2011).
"""

import math
from pathlib import Path

import torch
from torch import Tensor

from ...errors import UserError
from ..ops.geometry import euler_to_matrix
from ..ops.mode import Mode

IMU_TO_CAMERA_AXES = ((0.0, 0.0, 1.0), (-1.0, 0.0, 0.0), (0.0, -1.0, 0.0))
"""Columns are the camera's right, down and forward in the unit's axes (forward, left, up)."""

_EQUATOR, _FLATTENING = 6378137.0, 1 / 298.257223563  # WGS 84
_SCALE = 0.9996
_COLUMNS = 30


def read_oxts(path: str | Path) -> Tensor:
    """float64 ``[frames, 6]``: latitude and longitude (degrees), altitude (m), roll, pitch, yaw (radians, from east).

    Raises:
        UserError: the file is missing, or a line is not 30 finite numbers.
    """
    path = Path(path)
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}): put KITTI's oxts file there, or read the data without poses"
        ) from error
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            values = [float(word) for word in line.split()]
        except ValueError:
            values = []
        if len(values) != _COLUMNS or not all(map(math.isfinite, values)):
            raise UserError(f"line {number} of {path} is not {_COLUMNS} finite numbers: get the oxts file again")
        rows.append(values[:6])
    return torch.tensor(rows, dtype=torch.float64).reshape(-1, 6)


def camera_poses(oxts: Tensor, camera_from_imu: Tensor | None, mode: Mode) -> tuple[Tensor, Tensor]:
    """Poses of the (rectified) camera, world X east, Y north, Z up, metres.

    Args:
        oxts: ``[frames, 6]`` of :func:`read_oxts`.
        camera_from_imu: float64 ``[4, 4]``; only the modern mode uses it; None: as in parity.
        mode: parity: easting and northing of UTM, altitude above the first frame, the camera in the place of the unit
            with swapped axes. Modern: all positions begin at the first frame (float32 would lose the map's), and the
            unit's calibrated place and angles count.

    Returns:
        rotation ``[frames, 3, 3]`` camera to world, position ``[frames, 3]``.
    """
    # the zone of the first frame holds for all: another one would tear the world apart
    zone = utm_zone(float(oxts[0, 1])) if len(oxts) else 0
    position = torch.stack((*utm(oxts[:, 0], oxts[:, 1], zone), oxts[:, 2] - oxts[:1, 2]), 1)
    rotation = euler_to_matrix(oxts[:, 3:])
    if mode == "modern":
        position = position - position[:1]
    if mode == "parity" or camera_from_imu is None:
        return rotation @ rotation.new_tensor(IMU_TO_CAMERA_AXES), position
    imu_from_camera = torch.linalg.inv(camera_from_imu)
    position = position + rotation @ imu_from_camera[:3, 3]
    return rotation @ imu_from_camera[:3, :3], position


def utm_zone(longitude: float) -> int:
    """Number (1 ... 60) of the six-degree zone of a longitude in degrees; the exceptions of Norway are not made."""
    return int((longitude + 180) // 6) % 60 + 1


def utm(latitude: Tensor, longitude: Tensor, zone: int) -> tuple[Tensor, Tensor]:
    """Easting and northing ``[...]`` in metres, of the northern kind, from degrees."""
    n = _FLATTENING / (2 - _FLATTENING)
    radius = _EQUATOR / (1 + n) * (1 + n**2 / 4 + n**4 / 64)
    series = (
        n / 2 - 2 * n**2 / 3 + 5 * n**3 / 16,
        13 * n**2 / 48 - 3 * n**3 / 5,
        61 * n**3 / 240,
    )
    phi, lam = torch.deg2rad(latitude), torch.deg2rad(longitude - (6 * zone - 183))
    e = 2 * math.sqrt(n) / (1 + n)
    conformal = torch.sinh(torch.atanh(phi.sin()) - e * torch.atanh(e * phi.sin()))
    xi, eta = torch.atan2(conformal, lam.cos()), torch.atanh(lam.sin() / torch.sqrt(1 + conformal**2))
    north, east = xi.clone(), eta.clone()
    for order, a in enumerate(series, 1):
        north = north + a * torch.sin(2 * order * xi) * torch.cosh(2 * order * eta)
        east = east + a * torch.cos(2 * order * xi) * torch.sinh(2 * order * eta)
    return 500000 + _SCALE * radius * east, _SCALE * radius * north
