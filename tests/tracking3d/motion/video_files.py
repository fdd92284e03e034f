"""Two files of the intermediate layout: cars that drive before a camera, and what a detector saw of them."""

import json
import math

INTRINSICS = [[700.0, 0, 600, 0], [0, 700.0, 200, 0], [0, 0, 1, 0]]
POSE = {"rotation": [-math.pi / 2, 0, -math.pi / 2], "position": [100.0, 50, 1.5]}  # looks along the world's X


def annotation(number, image, instance, place, *, category=1, width=None, shift=0.0, depth=None, **more):
    """A car at ``place`` (x, y, z in the camera's frame) with yaw -pi / 2; ``shift`` moves box and centre."""
    x, y, z = place
    u, v = 600 + 700 * x / z + shift, 200 + 700 * y / z
    side = width or 700 * 2 / z
    return {
        "id": number, "image_id": image, "category_id": category, "instance_id": instance,
        "bbox": [u - side / 2, v - side / 2, side, side], "area": side * side, "alpha": -math.pi / 2 - math.atan2(x, z),
        "roty": -math.pi / 2, "dimension": [1.5, 1.8, 4.2], "translation": list(place), "center_2d": [u, v],
        "iscrowd": 0, "ignore": 0, **({} if depth is None else {"depth": [depth]}), **more,
    }  # fmt: skip


def content(frames=14, videos=1, timestamps=None):
    """Everything but the annotations."""
    images = [
        {"id": video * frames + index, "video_id": video, "index": index, "file_name": f"{video}/{index}.png",
         "cali": INTRINSICS, "pose": POSE, "height": 400, "width": 1200}
        for video in range(videos) for index in range(frames)
    ]  # fmt: skip
    for image in images if timestamps else []:
        image["timestamp"] = timestamps[image["index"]]
    return {
        "categories": [{"id": 1, "name": "Car"}, {"id": 2, "name": "Pedestrian"}],
        "videos": [{"id": video, "name": f"v{video}"} for video in range(videos)],
        "images": images,
        "annotations": [],
    }


def write(path, value):
    path.write_text(json.dumps(value))
    return path


def drive(frames=14, **options):
    """``(truth, detections)`` of one car; the detector is right but for 1 m of depth and 3 pixels."""
    truth, detections = content(frames, **options), content(frames, **options)
    for k in range(len(truth["images"])):
        z = 15.0 + truth["images"][k]["index"]
        truth["annotations"].append(annotation(k, k, 7, (2.0, 1.0, z)))
        seen = annotation(k, k, k, (2.0, 1.0, z), shift=3.0, depth=z + 1, score=0.9, uncertainty=0.7)
        detections["annotations"].append(seen)
    return truth, detections
