"""KITTI's text files of tracks and detections, from a result file.

Source: the benchmark's development kit (Geiger et al., CVPR 2012); QD-3DT's writer.
"""

from pathlib import Path
from typing import Any

from ...errors import writing
from .layouts import ResultLayout
from .records import ResultFile


def tracking_lines(results: ResultFile, layout: ResultLayout) -> dict[str, list[str]]:
    """Lines of each video, by its name, in the file's order.

    A line is ``frame id type -1 -1 alpha x1 y1 x2 y2 h w l x y z roty score``: the type in lower case, the score that
    of the 2D box, ``y`` the bottom where the layout says so.
    """
    names = {category["id"]: category["name"].lower() for category in results["categories"]}
    videos = {video["id"]: video["name"] for video in results["videos"]}
    images = {image["id"]: image for image in results["images"]}
    lines: dict[str, list[str]] = {name: [] for name in videos.values()}
    for annotation in results["annotations"]:
        image = images[annotation["image_id"]]
        frame, name = image.get("frame_index", image["index"]), names[annotation["category_id"]]
        line = f"{frame} {annotation['instance_id']} {name} {_numbers(annotation, layout)}"
        lines[videos[image["video_id"]]].append(line)
    return lines


def detection_lines(results: ResultFile, layout: ResultLayout) -> dict[int, list[str]]:
    """Lines of each picture, by image id, for the object benchmark: no frame and id, types begin with a capital."""
    names = {category["id"]: category["name"].capitalize() for category in results["categories"]}
    lines: dict[int, list[str]] = {image["id"]: [] for image in results["images"]}
    for annotation in results["annotations"]:
        name = names[annotation["category_id"]]
        lines[annotation["image_id"]].append(f"{name} {_numbers(annotation, layout)}")
    return lines


def write_tracking_files(results: ResultFile, layout: ResultLayout, folder: str | Path) -> list[Path]:
    """``<video>.txt`` for each video, empty where nothing was tracked.

    Raises:
        UserError: the disk refuses.
    """
    return _write({f"{name}.txt": lines for name, lines in tracking_lines(results, layout).items()}, Path(folder))


def write_detection_files(results: ResultFile, layout: ResultLayout, folder: str | Path) -> list[Path]:
    """A file for each picture, with its name.

    Raises:
        UserError: the disk refuses.
    """
    names = {image["id"]: f"{Path(image['file_name']).stem}.txt" for image in results["images"]}
    return _write({names[key]: lines for key, lines in detection_lines(results, layout).items()}, Path(folder))


def _write(files: dict[str, list[str]], folder: Path) -> list[Path]:
    written = []
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name, lines in files.items():
            (folder / name).write_text("".join(f"{line}\n" for line in lines), "utf-8")
            written.append(folder / name)
    return written


def _numbers(annotation: dict[str, Any], layout: ResultLayout) -> str:
    x1, y1, width, height = annotation["bbox"]
    x, y, z = annotation["translation"]
    if layout.bottom_centre:
        y += annotation["dimension"][0] / 2
    values = (annotation["alpha"], x1, y1, x1 + width, y1 + height, *annotation["dimension"], x, y, z)
    return "-1 -1 " + " ".join(f"{value:.6f}" for value in (*values, annotation["roty"], annotation["score"]))
