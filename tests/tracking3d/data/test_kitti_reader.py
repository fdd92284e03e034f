"""KITTI's labels, calibrations and poses."""

import gzip
import json
import shutil

import pytest
import torch

from centernet.errors import UserError
from centernet.tracking3d.data.kitti import SEQUENCES, read_kitti_object, read_kitti_tracking
from centernet.tracking3d.data.kitti_files import parse_labels, read_calibration
from centernet.tracking3d.data.oxts import camera_poses, read_oxts, utm, utm_zone
from centernet.tracking3d.data.records import box3d_bounds, boxes_of, camera_of
from centernet.tracking3d.ops.geometry import lift_boxes, wrap_angle, yaw_to_alpha
from centernet.tracking3d.ops.overlaps import iou_2d

LINE = "3 7 Car 0 1 -1.5 100 50 200 120 1.5 1.8 4.2 1.0 1.6 20.0 -1.45"


def test_a_line():
    nobody = "3 -1 DontCare -1 -1 -10 1 2 3 4 -1000 -1000 -1000 -10 -1 -1 -1"
    labels = parse_labels(f"{LINE}\n{nobody}\n", "x", tracking=True)
    boxes = labels.boxes
    assert boxes.xyz.tolist() == [[1.0, pytest.approx(1.6 - 0.75), 20.0]]  # the middle, not the bottom
    assert boxes.dims.tolist() == [[1.5, 1.8, 4.2]]
    assert boxes.classes.tolist() == [2]
    assert boxes.instances.tolist() == [7]
    assert labels.frames.tolist() == [3]
    assert labels.ignored.tolist() == [[1, 2, 3, 4]]


@pytest.mark.parametrize("line", ["3 7 Car 0 1", LINE.replace("20.0", "x"), LINE.replace("20.0", "nan"), "a b c"])
def test_a_broken_line(line):
    with pytest.raises(UserError, match=r"line 2 of 0001\.txt is no label of KITTI"):
        parse_labels(f"{LINE}\n{line}", "0001.txt", tracking=True)
    with pytest.raises(UserError, match="unknown type 'Boat'"):
        parse_labels(LINE.replace("Car", "Boat"), "x", tracking=True)


def test_all_label_files(kitti_mini):
    """3D boxes projected against the 2D boxes of all 21 sequences, with the camera of 0001 (others differ little)."""
    texts = json.loads(gzip.decompress((kitti_mini / "tracking/label_02_all.json.gz").read_bytes()))
    intrinsics = read_calibration(kitti_mini / "tracking/training/calib/0001.txt").intrinsics
    rows, overlaps, turns = 0, [], []
    for name, text in texts.items():
        labels = parse_labels(text, name, tracking=True)
        rows += len(labels.frames) + len(labels.ignored)
        boxes = labels.boxes
        bounds, seen = box3d_bounds(boxes.xyz, boxes.yaw, boxes.dims, intrinsics, (375, 1242))
        common = (torch.minimum(bounds[:, 2:], boxes.boxes[:, 2:]) - torch.maximum(bounds[:, :2], boxes.boxes[:, :2]))
        common = common.clamp(min=0).prod(1)
        areas = [(b[:, 2:] - b[:, :2]).prod(1) for b in (bounds, boxes.boxes)]
        overlaps.append((common / (areas[0] + areas[1] - common))[seen])
        turns.append(wrap_angle(yaw_to_alpha(boxes.yaw, boxes.xyz) - boxes.alpha).abs())
    assert len(texts) == 21
    assert rows == 65301
    overlap = torch.cat(overlaps)
    assert overlap.mean() > 0.75
    assert overlap.median() > 0.83
    assert torch.cat(turns).median() < 0.01


def test_boxes_of_the_pictures(kitti_mini):
    records = read_kitti_tracking(kitti_mini / "tracking", missing_pose="none")
    assert [(r["video"], r["frame_index"]) for r in records] == [
        ("0001", 0), ("0001", 1), ("0001", 10), ("0001", 15), ("0001", 20), ("0016", 2), ("0016", 7), ("0016", 12),
    ]  # fmt: skip
    assert sum(len(r["annotations"]) for r in records) == 80
    assert sum(len(r["ignore_regions"]) for r in records) == 46
    assert "pose" in records[0]
    assert "pose" not in records[-1]
    assert camera_of(records[-1]).position.tolist() == [0, 0, 0]
    ids: dict[str, set[int]] = {"0001": set(), "0016": set()}
    for record in records:
        ids[record["video"]] |= {a["instance_id"] for a in record["annotations"]}
    assert not ids["0001"] & ids["0016"]
    best = []
    for record in records:
        boxes = boxes_of(record)
        bounds, _ = box3d_bounds(
            boxes.xyz, boxes.yaw, boxes.dims, camera_of(record).intrinsics, (record["height"], record["width"])
        )
        best.append(iou_2d(bounds, boxes.boxes).diagonal())
    assert torch.cat(best).median() > 0.8
    assert all("ignore_regions" not in r for r in read_kitti_tracking(kitti_mini / "tracking", "mini", mode="parity"))


def test_still_pictures(kitti_mini):
    records = read_kitti_object(kitti_mini / "object")
    assert [len(r["annotations"]) for r in records] == [1, 3, 2]
    assert sum(len(r["ignore_regions"]) for r in records) == 4
    assert len({r["video_id"] for r in records}) == 3
    assert len({a["instance_id"] for r in records for a in r["annotations"]}) == 6
    assert read_kitti_object(kitti_mini / "object", numbers=[2])[0]["video"] == "object_000002"


def test_utm():
    def at(*values):
        return torch.tensor(values, dtype=torch.float64)

    east, north = utm(at(0.0, 45.0), at(0.0, 3.0), 31)  # 3 degrees from the meridian on the equator; on it at 45
    assert east.tolist() == pytest.approx([166021.4431, 500000.0], abs=1e-3)
    assert north.tolist() == pytest.approx([0.0, 4982950.4002], abs=1e-3)
    assert [utm_zone(v) for v in (-180, -0.1, 0.1, 8.44, 179.9)] == [1, 30, 31, 32, 60]


def test_poses_move_as_the_car_does(kitti_mini):
    folder = kitti_mini / "tracking/training"
    oxts = read_oxts(folder / "oxts/0001.txt")
    calibration = read_calibration(folder / "calib/0001.txt")
    speed = [float(line.split()[8]) for line in (folder / "oxts/0001.txt").read_text().splitlines()]
    for mode in ("parity", "modern"):
        rotation, position = camera_poses(oxts, calibration.camera_from_imu, mode)
        steps = (position[1:, :2] - position[:-1, :2]).norm(dim=1)
        assert (steps * 10 - torch.tensor(speed[1:], dtype=torch.float64)).abs().median() < 0.2
        forward = rotation[:-1, :, 2]  # the camera looks where it drives
        ahead = torch.nn.functional.normalize(position[1:] - position[:-1], dim=1)
        assert (forward * ahead).sum(1).median() > 0.999
        assert torch.allclose(rotation @ rotation.transpose(1, 2), torch.eye(3, dtype=torch.float64), atol=1e-4)
    assert position[0].norm() < 2  # modern: the unit of the first frame is the origin; the camera is a metre off
    assert camera_poses(oxts, None, "parity")[1][0, 1] > 5e6


def test_an_object_that_stands_stays_in_the_world(kitti_mini):
    spread = {}
    for mode in ("parity", "modern"):
        places: dict[int, list[torch.Tensor]] = {}
        for record in read_kitti_tracking(kitti_mini / "tracking", "mini", mode=mode):
            boxes, camera = boxes_of(record), camera_of(record)
            centres = torch.tensor([a["center2d"] for a in record["annotations"]], dtype=torch.float64)
            lifted = lift_boxes(centres, boxes.xyz[:, 2], boxes.alpha, boxes.dims, camera).box7
            for instance, box in zip(boxes.instances.tolist(), lifted, strict=True):
                places.setdefault(instance, []).append(box[:3])
        moved = [torch.stack(p).std(0).norm() for p in places.values() if len(p) > 2]
        spread[mode] = torch.stack(moved).median().item()
    assert max(spread.values()) < 0.2  # metres over up to two seconds; labels of far cars are no better


def test_missing_and_broken_files(kitti_mini, tmp_path):
    with pytest.raises(UserError, match=r"has no pictures of KITTI tracking 'train'"):
        read_kitti_tracking(tmp_path)
    with pytest.raises(UserError, match="no split 'val': take one of"):
        read_kitti_tracking(tmp_path, "val")
    with pytest.raises(UserError, match=r"oxts/0016.txt cannot be read .* without poses"):
        read_kitti_tracking(kitti_mini / "tracking", sequences=[16])
    folder = tmp_path / "training"
    for part in ("image_02/0001", "calib", "oxts", "label_02"):
        (folder / part).mkdir(parents=True)
    source = kitti_mini / "tracking/training"
    shutil.copyfile(source / "image_02/0001/000010.png", folder / "image_02/0001/000010.png")
    with pytest.raises(UserError, match=r"calib/0001.txt cannot be read"):
        read_kitti_tracking(tmp_path)
    for text in ("P0: 1 2 3", "P2: 1 2 x", "P2: " + "0 " * 12, "P2: " + "nan " * 12):
        (folder / "calib/0001.txt").write_text(text)
        with pytest.raises(UserError, match=r"P2.* get the calibration file again"):
            read_kitti_tracking(tmp_path)
    shutil.copyfile(source / "calib/0001.txt", folder / "calib/0001.txt")
    lines = (source / "oxts/0001.txt").read_text().splitlines()
    (folder / "oxts/0001.txt").write_text("\n".join(lines[:5]))
    with pytest.raises(UserError, match=r"ends after 5 frames, .*000010.png has no pose"):
        read_kitti_tracking(tmp_path)
    (folder / "oxts/0001.txt").write_text("\n".join([*lines[:5], "1 2 3"]))
    with pytest.raises(UserError, match="line 6 of .* is not 30 finite numbers"):
        read_kitti_tracking(tmp_path)
    (folder / "oxts/0001.txt").write_text("\n".join(lines))
    assert "annotations" not in read_kitti_tracking(tmp_path)[0]  # no labels: a test sequence
    (folder / "image_02/0001/000010.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"000010.png is no picture"):
        read_kitti_tracking(tmp_path)


def test_splits():
    assert sorted(SEQUENCES["subtrain"] + SEQUENCES["subval"]) == list(range(21))
