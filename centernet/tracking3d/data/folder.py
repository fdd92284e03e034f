"""Plain video, or a folder of pictures, with nothing but a 3x3 camera matrix; poses if there are any."""

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ...errors import UserError
from ..ops.calibration import make_camera
from .kitti import picture_size
from .records import Record, pose_record

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
_FRAMES_PER_SECOND = 10.0


def read_intrinsics(path: str | Path) -> Tensor:
    """Camera matrix float64 ``[3, 4]`` of a file.

    Args:
        path: ``.json`` (a matrix, ``{"intrinsics": matrix}``, or fx, fy, cx, cy), ``.npy``, or text: 9 or 12 numbers,
            row by row, or KITTI's calibration with a line ``P2:``.

    Raises:
        UserError: missing, or no 3x3 or 3x4 camera matrix in pixels.
    """
    path = Path(path)
    try:
        if path.suffix == ".npy":
            value = np.load(path, allow_pickle=False).tolist()
        elif path.suffix == ".json":
            value = _from_json(json.loads(path.read_text()))
        else:
            value = _from_text(path.read_text())
    except OSError as error:
        raise UserError(
            f"the intrinsics file {path} cannot be read ({error.strerror or error}): write the 3x3 matrix into it"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"the intrinsics file {path} holds no camera matrix ({error}): write 3 rows of 3 numbers, fx 0 cx, "
            "0 fy cy, 0 0 1, in pixels"
        ) from error
    return make_camera(value, None, None, str(path)).intrinsics


def _from_json(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    if "intrinsics" in value:
        return value["intrinsics"]
    return [[value["fx"], 0.0, value["cx"]], [0.0, value["fy"], value["cy"]], [0.0, 0.0, 1.0]]


def _from_text(text: str) -> list[list[float]]:
    of_kitti = [line for line in text.splitlines() if line.startswith("P2:")]
    numbers = [float(word) for word in (of_kitti[0][3:] if of_kitti else text).replace(",", " ").split()]
    if len(numbers) not in (9, 12):
        raise ValueError(f"{len(numbers)} numbers")
    return np.array(numbers).reshape(3, -1).tolist()


def read_poses(path: str | Path) -> list[dict[str, Any]]:
    """Poses of consecutive frames, camera to world, for ``pose`` of frame records.

    Args:
        path: ``.json`` (a list of ``{"rotation": 3x3 or three Euler angles, "position": [3]}``), ``.npy``
            (``[frames, 3 or 4, 4]``), or text with 12 numbers a line (KITTI odometry).

    Raises:
        UserError: missing, or a pose is broken; the sentence says which.
    """
    path = Path(path)
    try:
        if path.suffix == ".json":
            pairs = [(pose.get("rotation"), pose.get("position")) for pose in json.loads(path.read_text())]
        else:
            rows = np.load(path, allow_pickle=False) if path.suffix == ".npy" else np.loadtxt(path, ndmin=2)
            rows = rows.reshape(len(rows), -1, 4)
            pairs = [(row[:3, :3].tolist(), row[:3, 3].tolist()) for row in rows]
    except OSError as error:
        raise UserError(f"the pose file {path} cannot be read ({error.strerror or error})") from error
    except (ValueError, TypeError, AttributeError, IndexError) as error:
        raise UserError(
            f"the pose file {path} holds no poses ({error}): write one of 3x4 numbers a frame, camera to world, metres"
        ) from error
    poses = []
    for number, (rotation, position) in enumerate(pairs):
        if rotation is None or position is None:
            raise UserError(f"pose {number} of {path} is missing or half: give rotation and position of every frame")
        camera = make_camera(np.eye(3).tolist(), rotation, position, f"pose {number} of {path}")
        poses.append(pose_record(camera.rotation, camera.position))
    return poses


def read_folder(
    source: str | Path,
    intrinsics: str | Path | Sequence[Sequence[float]] | Tensor,
    poses: str | Path | None = None,
    *,
    frames_per_second: float = _FRAMES_PER_SECOND,
) -> list[Record]:
    """Frame records of a folder of pictures, in the order of their names.

    Args:
        source: the folder.
        intrinsics: a file of :func:`read_intrinsics`, or the matrix.
        poses: a file of :func:`read_poses`, one pose a picture; without, the camera is taken to stand still.
        frames_per_second: of the timestamps.

    Raises:
        UserError: no pictures, fewer poses than pictures, or a broken file.
    """
    paths, matrix, known = _open_folder(Path(source), intrinsics, poses)
    records = []
    for index, path in enumerate(paths):
        width, height = picture_size(path)
        name = Path(source).name
        records.append(_record(str(path), (height, width), index, name, matrix, known, frames_per_second))
    return records


def _open_folder(folder: Path, intrinsics: Any, poses: Any) -> tuple[list[Path], Tensor, list[dict[str, Any]] | None]:
    paths = sorted(path for path in folder.glob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise UserError(f"{folder} holds no pictures ({', '.join(IMAGE_SUFFIXES)}): give another folder, or a video")
    matrix = _matrix(intrinsics)
    known = None if poses is None else read_poses(poses)
    if known is not None and len(known) < len(paths):
        raise UserError(f"{poses} holds {len(known)} poses for {len(paths)} pictures in {folder}: give one for each")
    return paths, matrix, known


def iterate_source(
    source: str | Path,
    intrinsics: str | Path | Sequence[Sequence[float]] | Tensor,
    poses: str | Path | None = None,
    *,
    frames_per_second: float | None = None,
    on_error: Callable[[UserError], None] | None = None,
) -> Iterator[Record]:
    """Frame records with their pictures under "image" (uint8 RGB ``[H, W, 3]``), of a folder or of a video file.

    Args:
        source, intrinsics, poses: as in :func:`read_folder`; ``source`` may be a video file.
        frames_per_second: of the timestamps; default: what the video says, 10 for a folder.
        on_error: gets the error of a picture that cannot be read, which is left out (its ``frame_index`` is missing
            then); ``None``: it is raised. Wrong calibration and poses are always raised.

    Raises:
        UserError: as :func:`read_folder`; a video that does not open, or has more frames than there are poses.
    """
    if Path(source).is_dir():
        paths, matrix, known = _open_folder(Path(source), intrinsics, poses)
        for index, path in enumerate(paths):
            try:
                image = read_rgb(path)
            except UserError as error:
                if on_error is None:
                    raise
                on_error(error)
                continue
            size, rate = (image.shape[0], image.shape[1]), frames_per_second or _FRAMES_PER_SECOND
            yield _record(str(path), size, index, Path(source).name, matrix, known, rate) | {"image": image}
        return
    matrix = _matrix(intrinsics)
    known = None if poses is None else read_poses(poses)
    rate, frames = _open_video(Path(source))
    for index, frame in enumerate(frames):
        if known is not None and index >= len(known):
            raise UserError(f"{poses} holds {len(known)} poses, {source} has more frames: give one for each")
        size = frame.shape[0], frame.shape[1]
        record = _record(
            f"{source}#{index}", size, index, Path(source).stem, matrix, known, frames_per_second or rate
        )
        yield record | {"image": frame}


def _open_video(path: Path) -> tuple[float, Iterator[np.ndarray]]:
    """Frames a second (10 where the file does not say) and the RGB frames of a video file."""
    import cv2

    capture = cv2.VideoCapture(str(path)) if path.is_file() else None
    first: Any = None
    success = False
    if capture is not None:
        success, first = capture.read()
    if capture is None or not success:
        raise UserError(f"{path} is no folder, and no video that OpenCV can open: give a folder of pictures or a video")
    rate = float(capture.get(cv2.CAP_PROP_FPS))

    def frames() -> Iterator[np.ndarray]:
        frame, more, count = first, True, 0
        declared = capture.get(cv2.CAP_PROP_FRAME_COUNT)
        while more:
            yield np.ascontiguousarray(frame[..., ::-1])
            more, frame = capture.read()
            count += 1
        capture.release()
        # OpenCV does not tell a broken file from its end; counts are a little off even in good files
        if count < 0.9 * declared:
            logger.warning("%s ended after %d of %d frames: it may be damaged", path, count, declared)

    return (rate if 0.1 <= rate <= 1000 else _FRAMES_PER_SECOND), frames()


def read_rgb(path: str | Path) -> np.ndarray:
    """Picture uint8 RGB ``[H, W, 3]``, turned as its EXIF says.

    Raises:
        UserError: missing or no picture.
    """
    from detectron2.data.detection_utils import read_image

    try:
        return read_image(str(path), format="RGB")
    except (OSError, SyntaxError) as error:
        raise UserError(f"{path} is no picture that can be read ({error}): get the file again") from error


def _matrix(intrinsics: str | Path | Sequence[Sequence[float]] | Tensor) -> Tensor:
    if isinstance(intrinsics, str | Path):
        return read_intrinsics(intrinsics)
    value = intrinsics if isinstance(intrinsics, Tensor) else [list(row) for row in intrinsics]
    return make_camera(value, None, None, "the camera").intrinsics


def _record(
    name: str,
    size: Sequence[int],
    index: int,
    video: str,
    intrinsics: Tensor,
    poses: list[dict[str, Any]] | None,
    rate: float,
) -> Record:
    still = make_camera(intrinsics, None, None, name)
    return {
        "file_name": name,
        "height": int(size[0]),
        "width": int(size[1]),
        "image_id": index,
        "video_id": 0,
        "video": video,
        "frame_index": index,
        "camera": "camera",
        "intrinsics": intrinsics.tolist(),
        "pose": pose_record(still.rotation, still.position) if poses is None else poses[index],
        "timestamp": index / rate,
    }
