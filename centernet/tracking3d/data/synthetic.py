"""A small made-up world with known 3D: cuboids of four classes move on a plane and a moving camera sees them.

Everything follows from the seed. Boxes are exact: 2D boxes are the bounds of the projected cuboids within the picture,
sizes, headings and places those that were drawn. Annotated are objects whose centre is in the picture and that are
large, near and visible enough; what is seen of the others is in ``ignore_regions``.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ...errors import UserError, writing
from ..ops.geometry import Camera, LiftedBoxes, lower_boxes
from .coco_vid import write_coco_vid
from .constants import SYNTHETIC_CLASSES
from .records import Boxes3D, Record, annotations_of, box3d_bounds, pose_record
from .synthetic_render import Cuboid, render

Array = NDArray[np.float64]

ANNOTATIONS = "annotations.json"
_KINDS = {
    # typical h, w, l in metres; speed in m/s
    "pedestrian": ((1.75, 0.65, 0.7), 1.4),
    "cyclist": ((1.75, 0.65, 1.8), 4.0),
    "car": ((1.5, 1.8, 4.2), 7.0),
    "truck": ((3.0, 2.5, 7.0), 6.0),
}
_PALETTES = {
    # every class has a hue of its own, every object a tint
    "pedestrian": (0.85, 0.55, 0.25),
    "cyclist": (0.25, 0.75, 0.35),
    "car": (0.25, 0.4, 0.85),
    "truck": (0.75, 0.3, 0.7),
}
# of h, w, l within a class; one camera tells depth from height, so 5 % of it are errors of 1.3 m at 26 m, and tracks
# begin to be wrong at 2 m
_SPREAD = (0.05, 0.12, 0.12)
_CAMERA_HEIGHT = 1.6
_TRIES = 40


@dataclass(frozen=True)
class SyntheticOptions:
    """What the world is like.

    Attributes:
        height, width: of the pictures, pixels.
        focal: focal length, pixels.
        frames_per_second: of the clips.
        objects: tried for a clip; those that would hit others or the camera are left out.
        near, far: bounds of an object's depth when it is put into view, metres.
        farthest: depth up to which objects are annotated, metres.
        min_visible: share of an object's pixels that must not be hidden for it to be annotated.
        min_height: of an annotated 2D box, pixels.
    """

    height: int = 192
    width: int = 448
    focal: float = 364.0
    frames_per_second: float = 10.0
    objects: int = 8
    near: float = 8.0
    far: float = 24.0
    farthest: float = 28.0
    min_visible: float = 0.25
    min_height: float = 11.0


class _Track(NamedTuple):
    kind: str
    dims: tuple[float, float, float]
    colour: tuple[float, float, float]
    texture: int
    path: Array  # [frames, 3]: X, Y, yaw


def synthetic_clip(
    seed: int, frames: int = 20, options: SyntheticOptions | None = None
) -> list[tuple[NDArray[np.uint8], Record]]:
    """Pictures (uint8 RGB) and frame records of a clip.

    Args:
        seed: of the clip; also its ``video_id``. Instances of a clip are numbered from ``1000 * seed``.
        frames: its length.
        options: of the world.

    Returns:
        ``frames`` pairs; ``file_name`` is what :func:`write_synthetic` would call the picture in its folder.
    """
    options = options or SyntheticOptions()
    generator = np.random.default_rng([7, seed])
    times = np.arange(frames) / options.frames_per_second
    camera = _drive(
        times, np.zeros(2), generator.uniform(-0.3, 0.3), generator.uniform(1, 6), generator.uniform(-0.12, 0.12)
    )
    tracks = _populate(generator, times, camera, options)
    return [_frame(seed, index, times[index], camera[index], tracks, options) for index in range(frames)]


def _drive(times: Array, start: Array, yaw: float, speed: float, turn: float, at: float = 0.0) -> Array:
    """``[T, 3]`` X, Y, yaw at constant speed and turn rate, through ``start`` at time ``at``."""
    elapsed = times - at
    angle = yaw + turn * elapsed
    if abs(turn) < 1e-6:
        steps = speed * elapsed[:, None] * np.array([np.cos(yaw), np.sin(yaw)])
    else:
        steps = speed / turn * np.stack((np.sin(angle) - np.sin(yaw), np.cos(yaw) - np.cos(angle)), 1)
    return np.concatenate((start + steps, angle[:, None]), 1)


def _populate(generator: np.random.Generator, times: Array, camera: Array, options: SyntheticOptions) -> list[_Track]:
    tracks: list[_Track] = []
    for _ in range(options.objects):
        for _ in range(_TRIES):
            track = _draw_track(generator, times, camera, options)
            radius = np.hypot(*track.dims[1:]) / 2
            clear = np.hypot(*(track.path - camera)[:, :2].T).min() > radius + 3.0
            for other in tracks:
                gap = np.hypot(*(track.path - other.path)[:, :2].T).min()
                clear = clear and gap > radius + np.hypot(*other.dims[1:]) / 2
            if clear:
                tracks.append(track)
                break
    return tracks


def _draw_track(generator: np.random.Generator, times: Array, camera: Array, options: SyntheticOptions) -> _Track:
    kind = str(generator.choice(SYNTHETIC_CLASSES, p=(0.25, 0.2, 0.4, 0.15)))
    typical, speed = _KINDS[kind]
    h, w, length = (
        float(side * generator.uniform(1 - spread, 1 + spread)) for side, spread in zip(typical, _SPREAD, strict=True)
    )
    # in view of the camera at one moment of the clip
    frame = int(generator.integers(len(times)))
    x, y, heading = camera[frame]
    depth = generator.uniform(options.near, options.far)
    across = depth * generator.uniform(-0.8, 0.8) * options.width / 2 / options.focal
    place = np.array(
        [x + depth * np.cos(heading) + across * np.sin(heading), y + depth * np.sin(heading) - across * np.cos(heading)]
    )
    yaw = float(heading + generator.choice([0.0, np.pi, np.pi / 2, -np.pi / 2]) + generator.uniform(-0.5, 0.5))
    moving = 0.0 if generator.random() < 0.2 else speed * generator.uniform(0.5, 1.3)
    turn = generator.uniform(-0.4, 0.4) if moving else 0.0
    tint = generator.uniform(0.65, 1.3, 3)
    red, green, blue = np.clip(np.array(_PALETTES[kind]) * tint, 0.05, 0.95).tolist()
    path = _drive(times, place, yaw, moving, turn, at=float(times[frame]))
    return _Track(kind, (h, w, length), (red, green, blue), int(generator.integers(1 << 20)), path)


def _frame(
    seed: int, index: int, time: float, state: Array, tracks: Sequence[_Track], options: SyntheticOptions
) -> tuple[NDArray[np.uint8], Record]:
    x, y, heading = state
    rotation = np.array(
        [[np.sin(heading), 0.0, np.cos(heading)], [-np.cos(heading), 0.0, np.sin(heading)], [0.0, -1.0, 0.0]]
    )
    position = np.array([x, y, _CAMERA_HEIGHT])
    size = options.height, options.width
    intrinsics = np.array(
        [[options.focal, 0, options.width / 2, 0], [0, options.focal, options.height * 0.45, 0], [0, 0, 1.0, 0]]
    )
    cuboids = [
        Cuboid(np.array([*track.path[index, :2], 0.0]), track.path[index, 2], track.dims, track.colour, track.texture)
        for track in tracks
    ]
    rendering = render(cuboids, intrinsics[:, :3], rotation, position, size, seed)
    record: Record = {
        "file_name": f"clip_{seed:05d}/{index:06d}.png",
        "height": options.height,
        "width": options.width,
        "image_id": seed * 1000 + index,
        "video_id": seed,
        "video": f"clip_{seed:05d}",
        "frame_index": index,
        "camera": "camera",
        "intrinsics": intrinsics.tolist(),
        "pose": pose_record(torch.from_numpy(rotation), torch.from_numpy(position)),
        "timestamp": float(time),
    }
    seen = _annotate(seed, index, tracks, rendering.owner, rotation, position, intrinsics, options)
    record["annotations"], record["ignore_regions"] = seen
    return rendering.image, record


def _annotate(
    seed: int,
    index: int,
    tracks: Sequence[_Track],
    owner: NDArray[np.int64],
    rotation: Array,
    position: Array,
    intrinsics: Array,
    options: SyntheticOptions,
) -> tuple[list[Record], list[list[float]]]:
    """Annotations, and bounds (continuous xyxy pixels) of what is seen of the other objects."""
    if not tracks:
        return [], []
    box7 = np.array([[*t.path[index, :2], t.dims[0] / 2, t.path[index, 2], *t.dims] for t in tracks])
    camera = Camera(torch.from_numpy(intrinsics), torch.from_numpy(rotation), torch.from_numpy(position))
    lifted = LiftedBoxes(torch.from_numpy(box7), torch.tensor([[-np.pi / 2, 0.0]] * len(tracks), dtype=torch.float64))
    seen = lower_boxes(*lifted, camera)
    size = options.height, options.width
    bounds, visible = box3d_bounds(seen.xyz, seen.yaw, seen.dims, camera.intrinsics, size)
    pixels = np.bincount(owner[owner >= 0], minlength=len(tracks))
    # a cuboid fills most of its bounds; its own silhouette alone would need a picture of it alone
    area = ((bounds[:, 2:] - bounds[:, :2]).prod(1) * 0.8).clamp(min=1.0)
    keep = visible & (torch.from_numpy(pixels) / area > options.min_visible)
    keep &= bounds[:, 3] - bounds[:, 1] >= options.min_height
    # what leaves the picture by more than half of it has too little left to be measured
    u, v = seen.center2d.unbind(1)
    keep &= (u >= 0) & (u < options.width) & (v >= 0) & (v < options.height) & (seen.depth <= options.farthest)
    boxes = Boxes3D(
        bounds,
        torch.tensor([SYNTHETIC_CLASSES.index(track.kind) for track in tracks]),
        1000 * seed + torch.arange(len(tracks)),
        seen.xyz,
        seen.yaw,
        seen.dims,
        seen.alpha,
    )
    others = [(owner == track).nonzero() for track in (~keep).nonzero().flatten().tolist() if pixels[track]]
    regions = [[float(x.min()), float(y.min()), float(x.max() + 1), float(y.max() + 1)] for y, x in others]
    return annotations_of(boxes.select(keep), camera.intrinsics), regions


def synthetic_records(
    clips: Sequence[int], frames: int = 20, options: SyntheticOptions | None = None
) -> Iterator[Record]:
    """Records of clips with their pictures under "image" (uint8 RGB), without files."""
    for seed in clips:
        for image, record in synthetic_clip(seed, frames, options):
            yield record | {"image": image}


def write_synthetic(
    folder: str | Path, clips: Sequence[int], frames: int = 20, options: SyntheticOptions | None = None
) -> Path:
    """Write clips as PNG files and one COCO-with-videos JSON, which is written last.

    Beside the pictures of each clip are ``intrinsics.txt`` and ``poses.txt``, for :func:`.folder.iterate_source`.

    Args:
        folder: made if it is not there.
        clips: seeds, each a clip.
        frames: of each clip.
        options: of the world.

    Returns:
        The JSON file.

    Raises:
        UserError: no clips, or the disk refuses.
    """
    from PIL import Image

    if not clips or frames < 1:
        raise UserError(f"{len(clips)} clips of {frames} frames make no data set: ask for at least one of each")
    folder = Path(folder)
    records = []
    for seed in clips:
        clip = synthetic_clip(seed, frames, options)
        for image, record in clip:
            path = folder / record["file_name"]
            with writing(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image).save(path)
            records.append(record | {"file_name": str(path)})
        _write_camera(path.parent, [record for _, record in clip])
    write_coco_vid(records, SYNTHETIC_CLASSES, folder / ANNOTATIONS, folder)
    return folder / ANNOTATIONS


def _write_camera(folder: Path, records: Sequence[Record]) -> None:
    poses = [np.column_stack((r["pose"]["rotation"], r["pose"]["position"])).reshape(-1) for r in records]
    with writing(folder):
        np.savetxt(folder / "intrinsics.txt", np.array(records[0]["intrinsics"])[:, :3], "%g")
        np.savetxt(folder / "poses.txt", poses, "%.9f")
