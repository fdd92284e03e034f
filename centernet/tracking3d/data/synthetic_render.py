"""Pictures of textured, shaded cuboids on a ground plane, by casting one ray a pixel; numpy only.

World frame: Z up, the ground is Z = 0, metres. Camera frame: X right, Y down, Z forward.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_SUN = np.array([0.4, 0.55, 0.73])
_FAR = 1e6


class Cuboid(NamedTuple):
    """A box that stands on the ground.

    Attributes:
        position: ``[3]``, centre of the bottom, world.
        yaw: radians, of the length axis in the XY plane.
        dims: h, w, l.
        colour: RGB in 0 ... 1.
        texture: number that the pattern of its sides follows.
    """

    position: Array
    yaw: float
    dims: tuple[float, float, float]
    colour: tuple[float, float, float]
    texture: int


class Rendering(NamedTuple):
    """A picture and what each of its pixels shows.

    Attributes:
        image: uint8 ``[H, W, 3]``, RGB.
        owner: int64 ``[H, W]``, index of the cuboid, -1 for ground and sky.
    """

    image: NDArray[np.uint8]
    owner: NDArray[np.int64]


class _Face(NamedTuple):
    corner: Array  # world
    along: Array  # edges from it
    across: Array
    normal: Array
    side: int  # 0 front, 1 rear, 2 and 3 sides, 4 top


def render(
    cuboids: list[Cuboid],
    intrinsics: Array,
    rotation: Array,
    position: Array,
    size: tuple[int, int],
    ground_seed: int = 0,
) -> Rendering:
    """Render a frame.

    Args:
        cuboids: none may hold the camera.
        intrinsics: ``[3, 3]``, pixels; the centre of pixel (row, column) is at ``(column + 0.5, row + 0.5)``.
        rotation: ``[3, 3]``, camera to world.
        position: ``[3]``, of the camera, above the ground.
        size: height and width.
        ground_seed: of the ground's pattern.
    """
    height, width = size
    u, v = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    (focal_u, _, centre_u), (_, focal_v, centre_v) = intrinsics[:2]
    local = np.stack(((u - centre_u) / focal_u, (v - centre_v) / focal_v, np.ones_like(u)))
    rays = np.einsum("ij,jhw->hwi", rotation, local)  # their length along the axis is 1: the parameter is the depth
    colour, depth = _background(rays, position, ground_seed)
    owner = np.full(size, -1, np.int64)
    for number, cuboid in enumerate(cuboids):
        for face in _faces(cuboid):
            if np.dot(face.normal, position - face.corner) > 0:
                window = _window(face, intrinsics, rotation, position, size)
                if window is not None:
                    _draw(face, cuboid, number, rays, position, window, colour, depth, owner)
    return Rendering((colour.clip(0, 1) * 255 + 0.5).astype(np.uint8), owner)


def _background(rays: Array, position: Array, seed: int) -> tuple[Array, Array]:
    down = rays[..., 2]
    ground = down < -1e-6
    depth = np.where(ground, -position[2] / np.where(ground, down, 1.0), _FAR)
    x, y = (position[axis] + np.where(ground, depth, 0) * rays[..., axis] for axis in (0, 1))
    # a pattern finer than the pixels would flicker: it fades with distance
    fade = np.exp(-depth / 40)
    stones = _noise(np.floor(x * 1.5), np.floor(y * 1.5), seed) - 0.5
    tiles = ((np.floor(x / 4) + np.floor(y / 4)) % 2) - 0.5
    lane = (np.abs((y / 3.5) % 1 - 0.5) > 0.47) & ((x / 6) % 1 < 0.5)
    grey = 0.42 + fade * (0.10 * stones + 0.05 * tiles + 0.35 * lane)
    up = np.clip(down * 2.0, 0, 1)[..., None]
    sky = (1 - up) * np.array([0.80, 0.85, 0.90]) + up * np.array([0.45, 0.62, 0.88])
    colour = np.where(ground[..., None], grey[..., None] * np.array([1.0, 0.98, 0.94]), sky)
    haze = np.where(ground, 1 - np.exp(-depth / 150), 0.0)[..., None]
    return colour * (1 - haze) + haze * np.array([0.80, 0.85, 0.90]), depth


def _faces(cuboid: Cuboid) -> list[_Face]:
    h, w, length = cuboid.dims
    ahead = np.array([np.cos(cuboid.yaw), np.sin(cuboid.yaw), 0.0])
    left = np.array([-np.sin(cuboid.yaw), np.cos(cuboid.yaw), 0.0])
    up = np.array([0.0, 0.0, 1.0])
    base = np.asarray(cuboid.position, np.float64)
    front, rear = base + ahead * length / 2, base - ahead * length / 2
    far, near = base + left * w / 2, base - left * w / 2
    return [
        _Face(front - left * w / 2, left * w, up * h, ahead, 0),
        _Face(rear - left * w / 2, left * w, up * h, -ahead, 1),
        _Face(far - ahead * length / 2, ahead * length, up * h, left, 2),
        _Face(near - ahead * length / 2, ahead * length, up * h, -left, 3),
        _Face(near - ahead * length / 2 + up * h, ahead * length, left * w, up, 4),
    ]


def _window(
    face: _Face, intrinsics: Array, rotation: Array, position: Array, size: tuple[int, int]
) -> tuple[slice, slice] | None:
    """Rows and columns that the face can meet."""
    corners = face.corner + np.array([[0, 0], [1, 0], [0, 1], [1, 1]]) @ np.stack((face.along, face.across))
    local = (corners - position) @ rotation
    if (local[:, 2] <= 0).all():
        return None
    if (local[:, 2] < 0.05).any():  # reaches behind the camera
        return slice(0, size[0]), slice(0, size[1])
    uv = local[:, :2] / local[:, 2:] * intrinsics[[0, 1], [0, 1]] + intrinsics[:2, 2]
    low, high = np.floor(uv.min(0)).astype(int), np.ceil(uv.max(0)).astype(int) + 1
    columns, rows = (slice(max(low[i], 0), min(high[i], size[1 - i])) for i in (0, 1))
    return (rows, columns) if rows.start < rows.stop and columns.start < columns.stop else None


def _draw(
    face: _Face,
    cuboid: Cuboid,
    number: int,
    rays: Array,
    position: Array,
    window: tuple[slice, slice],
    colour: Array,
    depth: Array,
    owner: NDArray[np.int64],
) -> None:
    part = rays[window]
    slope = part @ face.normal
    distance = np.dot(face.normal, face.corner - position) / np.where(np.abs(slope) < 1e-9, 1e-9, slope)
    point = position + distance[..., None] * part - face.corner
    s, t = point @ face.along / (face.along @ face.along), point @ face.across / (face.across @ face.across)
    hit = (distance > 0) & (distance < depth[window]) & (s >= 0) & (s <= 1) & (t >= 0) & (t <= 1)
    if not hit.any():
        return
    shade = 0.55 + 0.45 * max(float(face.normal @ _SUN), 0.0)
    painted = _paint(face.side, cuboid, s[hit], t[hit], distance[hit])
    colour[window][hit] = painted * shade
    depth[window][hit] = distance[hit]
    owner[window][hit] = number


def _paint(side: int, cuboid: Cuboid, s: Array, t: Array, distance: Array) -> Array:
    """Colours ``[P, 3]`` of points of a face: a pattern of the object's own, windows, lamps that tell the front."""
    fade = np.exp(-distance / 40)
    columns = 2 + cuboid.texture % 5
    pattern = _noise(np.floor(s * columns), np.floor(t * (2 + cuboid.texture % 3)), cuboid.texture) - 0.5
    colour = np.array(cuboid.colour) * (1 + 0.5 * fade * pattern)[:, None]
    if side < 4:
        glass = (t > 0.55) & (t < 0.9) & (np.abs(s - 0.5) < 0.4)
        colour[glass] = (0.12, 0.15, 0.2)
    if side < 2:
        lamps = (np.abs(t - 0.35) < 0.12) & (np.abs(np.abs(s - 0.5) - 0.35) < 0.1)
        colour[lamps] = (1.0, 0.97, 0.75) if side == 0 else (0.85, 0.05, 0.05)
    edge = (np.minimum(s, 1 - s) < 0.03) | (np.minimum(t, 1 - t) < 0.03)
    colour[edge] *= 0.5
    return colour


def _noise(x: Array, y: Array, seed: int) -> Array:
    """Values in [0, 1) of whole coordinates, the same for the same seed."""
    mixed = x.astype(np.int64) * 73856093 ^ y.astype(np.int64) * 19349663 ^ np.int64(seed + 1) * 83492791
    mixed = (mixed ^ (mixed >> 13)) * 1274126177 & 0x7FFFFFFF
    return (mixed ^ (mixed >> 16)) % 1024 / 1024.0
