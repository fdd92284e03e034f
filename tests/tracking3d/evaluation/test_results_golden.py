"""Result records, text files and submissions as the published writers make them."""

import json

import pytest
import torch

from centernet.tracking3d.evaluation.kitti_text import detection_lines, tracking_lines
from centernet.tracking3d.evaluation.layouts import layout
from centernet.tracking3d.evaluation.nuscenes_submission import submission
from centernet.tracking3d.evaluation.records import TrackedFrame, TrackingResults

CAMERAS = {0: "CAM_FRONT", 150: "CAM_FRONT_RIGHT"}


@pytest.fixture(params=["some", "all"])
def reference(request, golden3d_json, tracking3d_json):
    return tracking3d_json("results_some.json") if request.param == "some" else golden3d_json("results.json")


def tracked(entry):
    def tensor(key, *shape):
        return torch.tensor(entry[key], dtype=torch.float64).reshape(len(entry[key]), *shape)

    boxes = tensor("boxes", 5)
    return TrackedFrame(
        boxes=boxes[:, :4] + torch.tensor([0.0, 0.0, 1.0, 1.0], dtype=torch.float64),  # published boxes are inclusive
        scores=boxes[:, 4],
        labels=torch.tensor(entry["labels"], dtype=torch.int64),
        ids=torch.tensor(entry["track_ids"], dtype=torch.int64),
        confidence=tensor("conf")[: len(boxes)],
        depth=tensor("depth"),
        dims=tensor("dim", 3),
        alpha=tensor("alpha"),
        center2d=tensor("cen", 2),
    )


def results(reference, name, mode="parity", **extra):
    collected = TrackingResults(layout(name), mode)
    of_image = {image["id"]: image for image in reference["records"]["images"]}
    for number, entry in enumerate(reference["inputs"]):
        image = of_image[number]
        frame = {
            "file_name": image["file_name"],
            "height": entry["height"],
            "width": entry["width"],
            "video_id": entry["video_id"],
            "video": entry["video_name"],
            "frame_index": entry["frame"] * (6 if name == "nuscenes" else 1),  # 12 Hz, key frames at 2 Hz
            "intrinsics": entry["cali"],
            "pose": entry["pose"],
            **{key: image[key] for key in ("is_key_frame", "key_frame_index") if key in image},
            **{key: make(entry) for key, make in extra.items()},
        }
        collected.add(frame, tracked(entry))
    return collected.as_dict()


def assert_same(ours, theirs, where=""):
    """Equal up to the last digits of float64; quaternions up to their sign."""
    if isinstance(theirs, dict):
        assert ours.keys() == theirs.keys(), where
        for key in theirs:
            if key == "rotation" and len(theirs[key]) == 4 and ours[key][0] * theirs[key][0] < 0:
                ours = ours | {key: [-value for value in ours[key]]}
            assert_same(ours[key], theirs[key], f"{where}.{key}")
    elif isinstance(theirs, list):
        assert len(ours) == len(theirs), where
        for number, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            assert_same(a, b, f"{where}[{number}]")
    elif isinstance(theirs, float):
        assert ours == pytest.approx(theirs, rel=1e-6, abs=1e-6), where
    else:
        assert ours == theirs, where


@pytest.mark.parametrize(("key", "name"), [("kitti", "kitti"), ("nusc", "nuscenes")])
def test_records(reference, key, name):
    ours = results(reference[key], name)
    for image in ours["images"]:
        assert image.pop("frame_index", image["index"]) in (image["index"], 6 * image["index"])
    assert_same(ours, reference[key]["records"])
    json.dumps(ours)


@pytest.mark.parametrize(("key", "name"), [("kitti", "kitti"), ("nusc", "nuscenes")])
def test_tracking_text(reference, key, name):
    lines = tracking_lines(results(reference[key], name), layout(name))
    expected = {file[:-4]: text for file, text in reference[key]["txt"].items() if file != "000123.txt"}
    assert lines == expected


def test_detection_text(reference):
    lines = detection_lines(results(reference["kitti"], "kitti"), layout("kitti"))
    assert lines[2] == reference["kitti"]["txt"]["000123.txt"]


@pytest.mark.parametrize(("task", "key"), [("detection", "submission_det"), ("tracking", "submission_mot")])
def test_submissions(reference, task, key):
    with_tokens = results(
        reference["nusc"],
        "nuscenes",
        sample_token=lambda entry: f"s{entry['frame']}",
        camera=lambda entry: CAMERAS[entry["video_id"]],
    )
    assert_same(submission(with_tokens, task, "parity"), reference["nusc"][key])
