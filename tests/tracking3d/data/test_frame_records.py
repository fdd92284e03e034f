"""Records, their order, the JSON with videos, plain folders and videos, the sampler, and names in the catalogs."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from centernet.data.datasets import open_dataset
from centernet.errors import UserError
from centernet.tracking3d.data import (
    SHEETS,
    VideoSampler,
    camera_of,
    in_video_order,
    iterate_source,
    load_frames,
    read_coco_vid,
    read_folder,
    read_intrinsics,
    read_poses,
    sheet,
    synthetic_clip,
    write_coco_vid,
)
from centernet.tracking3d.data.records import unoccluded, visible_boxes

K = [[500.0, 0, 160], [0, 500, 96], [0, 0, 1]]


def frame(video=0, index=0, **more):
    return {"file_name": f"{video}/{index}.png", "video_id": video, "frame_index": index, **more}


def test_frames_out_of_order_are_sorted():
    records = in_video_order([frame(5, 2), frame(1, 1), frame(5, 0), frame(1, 0)])
    assert [(r["video_id"], r["frame_index"]) for r in records] == [(5, 0), (5, 2), (1, 0), (1, 1)]


def test_frames_that_contradict_each_other():
    with pytest.raises(UserError, match=r"video 0 has frame 3 twice \(0/3.png, 0/3.png\)"):
        in_video_order([frame(index=3), frame(index=3)])
    with pytest.raises(UserError, match=r"frame 1 of video 0 is not later .* \(1.0+ s after 2.0+ s\)"):
        in_video_order([frame(index=0, timestamp=2.0), frame(index=1, timestamp=1.0)])


def test_broken_cameras():
    good = {"rotation": np.eye(3).tolist(), "position": [0, 0, 0]}
    with pytest.raises(UserError, match="0/0.png has no intrinsics"):
        camera_of(frame())
    for matrix in ([[1, 2], [3, 4]], [[0.0, 0, 1], [0, 1, 1], [0, 0, 1]], [[float("nan")] * 3] * 3):
        with pytest.raises(UserError, match="the intrinsics of 0/0.png"):
            camera_of(frame(intrinsics=matrix))
    with pytest.raises(UserError, match="pose of 0/0.png has no position"):
        camera_of(frame(intrinsics=K, pose={"rotation": np.eye(3).tolist()}))
    with pytest.raises(UserError, match="is no rotation"):
        camera_of(frame(intrinsics=K, pose=good | {"rotation": [[2.0, 0, 0], [0, 1, 0], [0, 0, 1]]}))
    # no pose at all: the world is the camera's
    assert camera_of(frame(intrinsics=K)).position.tolist() == [0, 0, 0]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(*[st.floats(-30, 30)] * 2, st.floats(0.5, 40)), min_size=8, max_size=8))
def test_the_visible_part_lies_in_the_picture_and_in_the_bounds(points):
    corners = torch.tensor([points], dtype=torch.float64)
    intrinsics = torch.tensor([row + [0] for row in K], dtype=torch.float64)
    boxes, visible = visible_boxes(corners, intrinsics, (192, 320))
    if visible.item():
        x1, y1, x2, y2 = boxes[0].tolist()
        uv = corners[0, :, :2] / corners[0, :, 2:] * 500 + torch.tensor([160.0, 96])
        assert 0 <= x1 <= x2 <= 320
        assert 0 <= y1 <= y2 <= 192
        low, high = uv.amin(0).tolist(), uv.amax(0).tolist()
        assert x1 >= low[0] - 1e-6
        assert y2 <= high[1] + 1e-6
        # corners in the picture are in the box
        for u, v in uv.tolist():
            if 0 <= u <= 320 and 0 <= v <= 192:
                assert x1 - 1e-6 <= u <= x2 + 1e-6
                assert y1 - 1e-6 <= v <= y2 + 1e-6


def test_hidden_boxes():
    boxes = torch.tensor([[0.0, 0, 100, 100], [10, 10, 50, 50], [10, 10, 50, 50], [0, 20, 50, 50]])
    dims = torch.full((4, 3), 2.0)
    assert unoccluded(boxes, torch.tensor([10.0, 20, 11, 20]), dims).tolist() == [True, False, True, True]


def test_the_json_goes_round(tmp_path):
    records = [r | {"file_name": str(tmp_path / r["file_name"])} for _, r in synthetic_clip(2, 4)]
    records[2]["annotations"] = []
    write_coco_vid(records, SHEETS["synthetic3d"].classes, tmp_path / "a" / "x.json", tmp_path)
    content = json.loads((tmp_path / "a" / "x.json").read_text())
    assert [image["id"] for image in content["images"]] == [0, 1, 2, 3]
    assert content["videos"] == [{"id": 0, "name": "clip_00002", "n_frames": 4}]
    note = content["annotations"][0]
    assert {"alpha", "roty", "dimension", "translation", "center_2d", "delta_2d", "instance_id", "area"} <= note.keys()
    back = read_coco_vid(tmp_path / "a" / "x.json", tmp_path)
    for a, b in zip(records, back, strict=True):
        assert a["file_name"] == b["file_name"]
        assert np.allclose(a["pose"]["rotation"], b["pose"]["rotation"])
        assert len(a["annotations"]) == len(b["annotations"])
        for x, y in zip(a["annotations"], b["annotations"], strict=True):
            assert x["bbox"] == pytest.approx(y["bbox"])
            assert {k: v for k, v in x.items() if k != "bbox"} == {k: v for k, v in y.items() if k != "bbox"}
    only = read_coco_vid(tmp_path / "a" / "x.json", classes=["car"])
    assert {a["category_id"] for r in only for a in r["annotations"]} <= {0}


def published(**more):
    """As the published converters write it: ids from 1, poses as Euler angles, an image without annotations."""
    note = {
        "id": 1, "image_id": 0, "category_id": 3, "instance_id": 4, "bbox": [10, 20, 30, 40], "area": 1200,
        "alpha": 0.1, "roty": 0.2, "dimension": [1.5, 1.8, 4], "translation": [0, 1, 20],
        "center_2d": [25, 40], "delta_2d": [0, 0], "iscrowd": False, "ignore": 0,
    }  # fmt: skip
    image = {
        "file_name": "a.png", "cali": [row + [0] for row in K],
        "pose": {"rotation": [-1.5707963, 0, 0.3], "position": [1, 2, 3]},
        "height": 192, "width": 320, "id": 0, "video_id": 0, "index": 0,
    }  # fmt: skip
    ignored = [note | {"id": 2, "ignore": 1}, note | {"id": 3, "bbox": [0, 0, 0.5, 9]}]
    content = {
        "categories": [{"id": 3, "name": "car"}, {"id": 1, "name": "pedestrian"}],
        "videos": [{"id": 0, "name": "v"}],
        "images": [image, image | {"id": 7, "index": 1}],
        "annotations": [note, *ignored],
    }
    return content | more


def test_published_files(tmp_path):
    path = tmp_path / "p.json"
    path.write_text(json.dumps(published()))
    first, second = read_coco_vid(path, "pictures")
    assert Path(first["file_name"]) == Path("pictures/a.png")
    (note,) = first["annotations"]
    assert note["bbox"] == [10, 20, 40, 60]
    assert note["category_id"] == 1  # contiguous by id
    assert second["annotations"] == []
    assert camera_of(first).rotation[:, 2].tolist() == pytest.approx([-np.sin(0.3), np.cos(0.3), 0], abs=1e-6)
    for text in ("{", "[]", json.dumps(published(images=[{"id": 0}])), json.dumps(published(annotations=[{}]))):
        path.write_text(text)
        with pytest.raises(UserError, match=r"p.json is no COCO file with videos"):
            read_coco_vid(path)
    with pytest.raises(UserError, match=r"none.json cannot be read"):
        read_coco_vid(tmp_path / "none.json")


def test_intrinsics_files(tmp_path):
    wanted = torch.tensor([row + [0] for row in K], dtype=torch.float64)
    np.save(tmp_path / "k.npy", np.array(K))
    texts = {
        "k.txt": "500 0 160\n0 500 96\n0 0 1\n",
        "c.txt": "500, 0, 160, 0, 500, 96, 0, 0, 1",
        "calib.txt": "P0: 1 2\nP2: 500 0 160 0 0 500 96 0 0 0 1 0\n",
        "k.json": json.dumps(K),
        "i.json": json.dumps({"intrinsics": K}),
        "f.json": json.dumps({"fx": 500, "fy": 500, "cx": 160, "cy": 96}),
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    for name in ("k.npy", *texts):
        assert torch.equal(read_intrinsics(tmp_path / name), wanted), name
    broken = {"a.txt": "1 2 3", "b.txt": "x", "c.json": "{}", "d.json": "[", "e.npy": "x", "f.txt": "0 " * 9}
    for name, text in broken.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(UserError, match=rf"intrinsics (file|of) .*{name}"):
            read_intrinsics(tmp_path / name)
    with pytest.raises(UserError, match="none.txt cannot be read"):
        read_intrinsics(tmp_path / "none.txt")


def test_poses(tmp_path):
    rows = np.concatenate((np.eye(3), [[1], [2], [3]]), 1)
    np.savetxt(tmp_path / "p.txt", np.tile(rows.flatten(), (2, 1)))
    np.save(tmp_path / "p.npy", np.stack([np.vstack((rows, [0, 0, 0, 1]))] * 2))
    (tmp_path / "p.json").write_text(json.dumps([{"rotation": [0, 0, 0], "position": [1, 2, 3]}] * 2))
    for name in ("p.txt", "p.npy", "p.json"):
        poses = read_poses(tmp_path / name)
        assert len(poses) == 2
        assert poses[1] == {"rotation": np.eye(3).tolist(), "position": [1, 2, 3]}
    pose = {"rotation": [0, 0, 0], "position": [1, 2, 3]}
    (tmp_path / "p.json").write_text(json.dumps([pose, {"rotation": [0, 0, 0]}]))
    with pytest.raises(UserError, match="pose 1 of .* is missing or half"):
        read_poses(tmp_path / "p.json")
    for name, text in {"p.json": "[", "p.txt": "1 2 3", "q.txt": "x"}.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(UserError, match="holds no poses"):
            read_poses(tmp_path / name)


def test_a_folder(tmp_path):
    with pytest.raises(UserError, match="holds no pictures"):
        read_folder(tmp_path, K)
    for index in range(3):
        Image.new("RGB", (32, 20), (index * 50, 0, 0)).save(tmp_path / f"{index}.png")
    np.savetxt(tmp_path / "poses.txt", np.tile(np.eye(4)[:3].flatten(), (2, 1)))
    records = read_folder(tmp_path, K)
    assert [(r["frame_index"], r["timestamp"], r["height"], r["width"]) for r in records] == [
        (0, 0.0, 20, 32), (1, 0.1, 20, 32), (2, 0.2, 20, 32),
    ]  # fmt: skip
    assert camera_of(records[2]).rotation[:, 2].tolist() == [0, 1, 0]  # looks ahead, Z is up
    assert [int(r["image"][0, 0, 0]) for r in iterate_source(tmp_path, K)] == [0, 50, 100]
    with pytest.raises(UserError, match=r"poses.txt holds 2 poses for 3 pictures"):
        read_folder(tmp_path, K, tmp_path / "poses.txt")
    (tmp_path / "1.png").write_bytes(b"x")
    with pytest.raises(UserError, match=r"1.png is no picture"):
        read_folder(tmp_path, K)


def test_a_video(tmp_path):
    import cv2

    writer = cv2.VideoWriter(str(tmp_path / "v.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 20.0, (64, 48))
    for index in range(4):
        writer.write(np.full((48, 64, 3), (0, 0, 60 * index), np.uint8))  # red, in BGR
    writer.release()
    records = list(iterate_source(tmp_path / "v.avi", K))
    assert [r["timestamp"] for r in records] == pytest.approx([0, 0.05, 0.1, 0.15])
    assert records[3]["image"][0, 0].tolist() == pytest.approx([180, 0, 0], abs=6)
    assert (records[0]["height"], records[0]["width"]) == (48, 64)
    np.savetxt(tmp_path / "poses.txt", np.tile(np.eye(4)[:3].flatten(), (2, 1)))
    with pytest.raises(UserError, match="holds 2 poses, .* has more frames"):
        list(iterate_source(tmp_path / "v.avi", K, tmp_path / "poses.txt"))
    (tmp_path / "v.avi").write_bytes(b"x")
    with pytest.raises(UserError, match="no video that OpenCV can open"):
        list(iterate_source(tmp_path / "v.avi", K))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(1, 5))
def test_videos_are_dealt_whole(lengths, processes):
    records = [frame(video, index) for video, length in enumerate(lengths) for index in range(length)][::-1]
    shares = [list(VideoSampler(records, rank=rank, world_size=processes)) for rank in range(processes)]
    assert sorted(i for share in shares for i in share) == list(range(len(records)))
    for share in shares:
        videos = [records[i]["video_id"] for i in share]
        assert len(list(dict.fromkeys(videos))) == sum(a != b for a, b in zip(videos, [None, *videos], strict=False))
        for video in set(videos):
            own = [records[i]["frame_index"] for i in share if records[i]["video_id"] == video]
            assert own == list(range(lengths[video]))
    assert max(map(len, shares)) - min(map(len, shares)) <= max(lengths)


def test_cameras_of_a_scene_stay_together():
    records = [frame(camera, index, scene="s", timestamp=index + camera / 10) for camera in (1, 0) for index in (0, 1)]
    seen = [(records[i]["frame_index"], records[i]["video_id"]) for i in VideoSampler(records, group_by="scene")]
    assert seen == [(0, 0), (0, 1), (1, 0), (1, 1)]
    with pytest.raises(UserError, match="has no 'scene'"):
        VideoSampler([frame()], group_by="scene")


def test_names_in_the_catalogs(monkeypatch, synthetic_folder, tmp_path):
    names = set(DatasetCatalog.list())
    assert {"nuscenes_mini_train", "nuscenes_val_full_frames", "kitti_tracking_train", "kitti_tracking_subval"} <= names
    assert {"kitti_object_train", "waymo_val", "synthetic3d_train", "synthetic3d_val"} <= names
    assert MetadataCatalog.get("kitti_tracking_train").thing_classes == list(SHEETS["kitti"].classes)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(synthetic_folder.parents[1]))
    assert len(open_dataset("synthetic3d_train")) == 10
    assert len(load_frames(["synthetic3d_train"])) == 10
    for name, sentence in {
        "synthetic3d_val": "run `python tools/make_synthetic3d.py`",
        "nuscenes_mini_train": "set DETECTRON2_DATASETS",
        "kitti_tracking_train": "has no pictures of KITTI tracking",
        "kitti_object_train": "has no pictures of KITTI's object benchmark",
        "waymo_train": "holds no .tfrecord files",
    }.items():
        with pytest.raises(UserError, match=sentence):
            load_frames(name)


def test_sheets():
    assert {name: len(row.classes) + 1 for name, row in SHEETS.items()} == {
        "nuscenes": 12, "waymo": 5, "kitti": 7, "gta_r101": 7, "gta_dla34": 7, "synthetic3d": 5,
    }  # fmt: skip
    assert (sheet("kitti").init_score_threshold, sheet("kitti").duplicate_iou) == (0.5, 0.8)
    with pytest.raises(UserError, match="no data set sheet 'argoverse': take one of nuscenes, waymo"):
        sheet("argoverse")
