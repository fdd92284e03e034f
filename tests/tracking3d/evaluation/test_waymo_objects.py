"""Waymo's result file: what is written is read back, and two cameras report an object once."""

import math

import pytest

from centernet.errors import UserError
from centernet.tracking3d.data.constants import WAYMO_CLASSES
from centernet.tracking3d.evaluation.waymo_objects import objects_message, read_objects, save_objects, score_objects

# our camera frame (right, down, forward) to the vehicle's (forward, left, up), 1.5 m up and 2 m ahead
AHEAD = [[0.0, 0.0, 1.0, 2.0], [-1.0, 0.0, 0.0, 0.0], [0.0, -1.0, 0.0, 1.5], [0.0, 0.0, 0.0, 1.0]]


def image(number, camera, seconds=1.5, **changes):
    base = {"id": number, "file_name": f"{camera}.jpg", "camera": camera, "scene": "segment", "timestamp": seconds}
    return base | {"car_from_cam": AHEAD} | changes


def seen(picture, kind, track, x, z=20.0, score=0.8, yaw=0.0):
    return {
        "image_id": picture, "category_id": WAYMO_CLASSES.index(kind) + 1, "instance_id": track, "score": score,
        "uncertainty": 0.5, "translation": [x, 0.5, z], "roty": yaw, "dimension": [1.6, 1.9, 4.5],
    }  # fmt: skip


def written(tmp_path, images, annotations, mode="modern"):
    categories = [{"id": number, "name": name} for number, name in enumerate(WAYMO_CLASSES, 1)]
    content = objects_message({"categories": categories, "images": images, "annotations": annotations}, mode)
    save_objects(content, tmp_path / "out" / "result_3D.bin")
    return read_objects(tmp_path / "out" / "result_3D.bin")


def test_what_is_written_is_read_back(tmp_path):
    annotations = [seen(0, "car", 300, 3.0, yaw=-math.pi / 2), seen(0, "dontcare", 4, 0.0), seen(1, "cyclist", 5, 1.0)]
    car, cyclist = written(tmp_path, [image(0, "FRONT"), image(1, "FRONT", 1.6)], annotations)
    assert (car.context, car.micros, car.kind, car.track) == ("segment", 1_500_000, 1, "300")
    assert car.box == pytest.approx((22.0, -3.0, 1.0, 1.9, 4.5, 1.6, 0.0))  # looks away from the camera: straight ahead
    assert car.score == pytest.approx(0.4)
    assert (cyclist.kind, cyclist.micros) == (4, 1_600_000)
    assert cyclist.box[6] == pytest.approx(-math.pi / 2)  # the camera's right is the vehicle's right


def test_two_cameras_report_an_object_once(tmp_path):
    images = [image(0, "FRONT"), image(1, "FRONT_LEFT")]
    cars = [seen(0, "car", 1, 0.0, score=0.5), seen(1, "car", 2, 1.5, score=0.9)]
    people = [seen(0, "pedestrian", 3, 5.0), seen(1, "pedestrian", 4, 6.5), seen(0, "pedestrian", 5, 5.2)]
    assert {box.track for box in written(tmp_path, images, cars + people)} == {"2", "3", "4", "5"}
    # published: the radius of pedestrians is that of vehicles, and the first camera stays
    assert {box.track for box in written(tmp_path, images, cars + people, "parity")} == {"1", "2", "3", "5"}
    twice = [seen(0, "car", 7, 0.0), seen(1, "car", 7, 9.0, score=0.9)]
    (only,) = written(tmp_path, images, twice)
    assert only.score == pytest.approx(0.45)


def test_what_is_missing_is_said(tmp_path):
    with pytest.raises(UserError, match="FRONT.jpg has no car_from_cam .*read_waymo"):
        written(tmp_path, [image(0, "FRONT", car_from_cam=None)], [])
    (tmp_path / "broken.bin").write_bytes(b"\x0a\xff")
    with pytest.raises(UserError, match="broken.bin is no file of Waymo objects"):
        read_objects(tmp_path / "broken.bin")


def test_scores_of_waymos_program(tmp_path):
    with pytest.raises(UserError, match="Waymo's metrics cannot be run .*build compute_tracking_metrics_main"):
        score_objects("a.bin", "b.bin", tmp_path / "compute_tracking_metrics_main")
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\necho 'OBJECT_TYPE_TYPE_VEHICLE_1_LEVEL_2: [MOTA 0.25] [MOTP 0.125]'\n")
    program.chmod(0o755)
    scores = score_objects("a.bin", "b.bin", program)
    assert scores == {"OBJECT_TYPE_TYPE_VEHICLE_1_LEVEL_2": {"MOTA": 0.25, "MOTP": 0.125}}
    program.write_text("#!/bin/sh\necho 'no such file' >&2\nexit 1\n")
    with pytest.raises(UserError, match="gave no scores .no such file.: check a.bin and b.bin"):
        score_objects("a.bin", "b.bin", program)
