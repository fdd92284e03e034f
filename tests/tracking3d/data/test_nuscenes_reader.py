"""nuScenes from its tables."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from centernet.errors import UserError
from centernet.tracking3d.data.constants import NUSCENES_CLASSES
from centernet.tracking3d.data.nuscenes import read_nuscenes
from centernet.tracking3d.data.nuscenes_tables import MINI_VAL, VAL, quaternion_to_matrix
from centernet.tracking3d.data.records import boxes_of, camera_of
from centernet.tracking3d.ops.geometry import matrix_to_quaternion, pixel_ray, project, wrap_angle, yaw_to_alpha


@pytest.mark.parametrize(("split", "part", "boxes"), [("mini_train", "train", 84), ("mini_val", "val", 59)])
def test_boxes_equal_the_annotation_file(nuscenes_mini, nuscenes_mini_val, split, part, boxes):
    if split == "mini_val":
        everything = nuscenes_mini_val
    else:
        everything = read_nuscenes(nuscenes_mini, split, occlusion_filter=False, require_pictures=True)
    records = [record for record in everything if Path(record["file_name"]).is_file()]
    truth = json.loads((nuscenes_mini / "annotations" / f"mono3d_mini_{part}.json").read_text())
    names = {c["id"]: c["name"] for c in truth["categories"]}
    of_picture = {record["sample_data_token"]: record for record in records}
    assert len(records) == len(truth["images"])
    assert sum(len(record["annotations"]) for record in records) == len(truth["annotations"]) == boxes
    for picture in truth["images"]:
        record = of_picture[picture["sample_data_token"]]
        camera = camera_of(record)
        world = torch.tensor(picture["cam_to_global"], dtype=torch.float64)
        assert torch.allclose(camera.rotation, world[:3, :3], atol=1e-9)
        assert torch.allclose(camera.position, world[:3, 3], atol=1e-6)
        wanted = [a for a in truth["annotations"] if a["image_id"] == picture["id"]]
        for a in wanted:
            centre = torch.tensor(a["center_cam"], dtype=torch.float64)
            (own,) = [b for b in record["annotations"] if (centre - torch.tensor(b["translation"])).abs().max() < 1e-3]
            x, y, w, h = a["bbox"]
            assert own["bbox"] == pytest.approx([x, y, x + w, y + h], abs=0.1)
            turn = wrap_angle(torch.tensor(own["yaw"] - a["rot_y"])).item()
            assert abs(turn) < 1e-4
            width, length, height = a["size_wlh"]
            assert own["dims"] == pytest.approx([height, width, length])
            assert NUSCENES_CLASSES[own["category_id"]] == names[a["category_id"]]


def test_videos_and_angles(nuscenes_mini_val):
    records = nuscenes_mini_val
    assert len(records) == 81 * 6
    assert [record["image_id"] for record in records] == list(range(len(records)))
    videos = list(dict.fromkeys((record["video_id"], record["video"]) for record in records))
    assert videos == [(i, f"{858 + i % 2:05d}_{1 + i // 2}") for i in range(12)]
    assert [r["frame_index"] for r in records if r["video_id"] == 0] == list(range(40))
    times = [r["timestamp"] for r in records if r["video_id"] == 0]
    assert all(0.4 < b - a < 0.7 for a, b in zip(times, times[1:], strict=False))
    # an object has one number in all cameras and frames
    assert len({a["instance_id"] for r in records for a in r["annotations"]}) < 300
    record = next(r for r in records if len(r["annotations"]) > 5)
    boxes, camera = boxes_of(record), camera_of(record)
    assert torch.allclose(boxes.alpha, yaw_to_alpha(boxes.yaw, boxes.xyz))
    centres = torch.tensor([a["center2d"] for a in record["annotations"]], dtype=torch.float64)
    assert torch.allclose(centres, project(boxes.xyz, camera.intrinsics)[0])


def test_parity_takes_alpha_from_the_2d_box(nuscenes_mini):
    modern = read_nuscenes(nuscenes_mini, "mini_train")
    parity = read_nuscenes(nuscenes_mini, "mini_train", mode="parity")
    cut = 0
    for new, old in zip(modern, parity, strict=True):
        a, b = boxes_of(new), boxes_of(old)
        assert torch.equal(a.boxes, b.boxes)
        ray = pixel_ray((a.boxes[:, 0] + a.boxes[:, 2]) / 2, camera_of(new).intrinsics)
        assert torch.allclose(wrap_angle(b.alpha + ray - a.yaw), torch.zeros(()).double(), atol=1e-9)
        cut += int((wrap_angle(a.alpha - b.alpha).abs() > 0.05).sum())
    assert cut > 0  # boxes at the border differ


def test_full_frames_have_no_annotations(nuscenes_mini):
    records = read_nuscenes(nuscenes_mini, "mini_train", keyframes_only=False)
    assert all("annotations" not in record and record["key_frame_index"] == 0 for record in records)


def test_the_split_is_the_official_one():
    assert len(set(VAL)) == 150
    assert set(MINI_VAL) <= set(VAL)


def test_quaternions_turn_as_the_other_way():
    q = torch.nn.functional.normalize(torch.randn(50, 4, dtype=torch.float64, generator=torch.manual_seed(0)), dim=1)
    back = matrix_to_quaternion(quaternion_to_matrix(q))
    assert torch.allclose((q * back).sum(1).abs(), torch.ones(50, dtype=torch.float64))


def test_what_is_missing_or_broken(nuscenes_mini, tmp_path):
    with pytest.raises(UserError, match="no split 'valid': take one of train, val"):
        read_nuscenes(nuscenes_mini, "valid")
    with pytest.raises(UserError, match=r"sample\.json cannot be read .* set DETECTRON2_DATASETS"):
        read_nuscenes(tmp_path, "mini_val")
    shutil.copytree(nuscenes_mini / "v1.0-mini", tmp_path / "v1.0-mini")
    for path in (tmp_path / "v1.0-mini").iterdir():
        path.chmod(0o644)
    (tmp_path / "v1.0-mini").chmod(0o755)
    table = tmp_path / "v1.0-mini" / "calibrated_sensor.json"
    rows = json.loads(table.read_text())
    for row in rows:
        row["camera_intrinsic"] = [[0.0] * 3] * 3
    table.write_text(json.dumps(rows))
    with pytest.raises(UserError, match=r"calibration of samples/CAM_FRONT.* is no 3x3 camera matrix"):
        read_nuscenes(tmp_path, "mini_train")
    shutil.copyfile(nuscenes_mini / "v1.0-mini" / "calibrated_sensor.json", table)
    (tmp_path / "v1.0-mini" / "ego_pose.json").write_text("[]")
    with pytest.raises(UserError, match="do not fit together: ego_pose_token of samples"):
        read_nuscenes(tmp_path, "mini_train")
    (tmp_path / "v1.0-mini" / "ego_pose.json").write_text("[")
    with pytest.raises(UserError, match=r"ego_pose.json is no JSON"):
        read_nuscenes(tmp_path, "mini_train")
