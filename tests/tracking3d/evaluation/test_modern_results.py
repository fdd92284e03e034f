"""What the modern mode mends in result files."""

import math

import pytest
import torch

from centernet.errors import UserError
from centernet.tracking3d.evaluation.label_replay import label_detections, replay, tracker_for_labels
from centernet.tracking3d.evaluation.layouts import layout
from centernet.tracking3d.evaluation.nuscenes_submission import submission
from centernet.tracking3d.evaluation.records import TrackedFrame, TrackingResults, tracked_frame
from centernet.tracking3d.tracker.detections import Detections3D, Tracks3D

AHEAD = {"rotation": [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]], "position": [100.0, 200.0, 1.5]}
CAR = 4  # label in nuScenes


def frame(index, camera, **more):
    return {
        "file_name": f"{camera}/{index}.jpg",
        "height": 900,
        "width": 1600,
        "video_id": camera,
        "frame_index": index,
        "camera": camera,
        "intrinsics": [[1000.0, 0, 800, 0], [0, 1000.0, 450, 0], [0, 0, 1, 0]],
        "pose": AHEAD,
        "sample_token": f"s{index}",
        "timestamp": 0.5 * index,
    } | more


def cars(*rows, velocity=None, sightings=None):
    """Rows of (id, x, z, score)."""
    table = torch.tensor(rows, dtype=torch.float64).reshape(len(rows), 4)
    ids, x, z, score = table.unbind(1)
    one = torch.ones_like(x)
    return TrackedFrame(
        boxes=torch.stack((0 * x, 0 * x, 50 * one, 40 * one), 1),
        scores=score,
        labels=torch.full((len(rows),), CAR),
        ids=ids.long(),
        confidence=one,
        depth=z,
        dims=torch.tensor([1.5, 1.8, 4.0], dtype=torch.float64).expand(len(rows), 3),
        alpha=0 * x,
        center2d=torch.stack((800 + 1000 * x / z, 450 + 0 * x), 1),
        velocity=velocity,
        sightings=sightings,
    )


def collected(*pairs, mode="modern"):
    results = TrackingResults(layout("nuscenes"), mode)
    for record, tracked in pairs:
        results.add(record, tracked)
    return results.as_dict()


def test_confidence_belongs_to_the_track():
    n = 3
    confidence = torch.tensor([0.1, 0.2, 0.3])
    zero, one = torch.zeros(n), torch.ones(n, 1)
    detections = Detections3D(
        torch.zeros(n, 4), zero, zero.long(), zero, confidence, torch.zeros(n, 3), zero, torch.zeros(n, 2), one
    )
    index, two = torch.tensor([2, 0]), torch.zeros(2)
    three = torch.zeros(2, 3)
    tracks = Tracks3D(index, index, torch.zeros(2, 7), three, two, two, two, torch.zeros(2, 2), three, three)
    assert tracked_frame(detections, tracks, "modern").confidence.tolist() == pytest.approx([0.3, 0.1])
    assert tracked_frame(detections, tracks, "parity").confidence.tolist() == pytest.approx([0.1, 0.2])


def test_boxes_are_continuous_and_inclusive():
    (box,) = collected((frame(0, "CAM_FRONT"), cars((1, 0, 20, 0.9))))["annotations"]
    assert box["bbox"] == [0, 0, 50, 40]
    (box,) = collected((frame(0, "CAM_FRONT"), cars((1, 0, 20, 0.9))), mode="parity")["annotations"]
    assert box["bbox"] == [0, 0, 49, 39]


def test_the_better_camera_wins():
    pairs = (frame(0, "CAM_FRONT"), cars((1, 0, 20, 0.5))), (frame(0, "CAM_BACK"), cars((2, 1, 20, 0.8)))
    for mode, winner in (("modern", "2"), ("parity", "1")):
        (box,) = submission(collected(*pairs, mode=mode), "tracking", mode)["results"]["s0"]
        assert box["tracking_id"] == winner
    assert len(submission(collected(*pairs), "tracking", merge=False)["results"]["s0"]) == 2


def test_neighbours_of_one_camera_stay_and_an_id_is_there_once():
    near = (frame(0, "CAM_FRONT"), cars((1, 0, 20, 0.5), (2, 1, 20, 0.8)))
    assert len(submission(collected(near), "detection")["results"]["s0"]) == 2
    twice = near, (frame(0, "CAM_BACK"), cars((1, 30, 20, 0.9)))
    boxes = submission(collected(*twice), "tracking")["results"]["s0"]
    assert sorted((box["tracking_id"], box["tracking_score"]) for box in boxes) == [("1", 0.9), ("2", 0.8)]


def test_tracks_that_were_seen_more_often_score_higher():
    seen = collected((frame(0, "CAM_FRONT"), cars((1, 0, 20, 0.8), (2, 9, 20, 0.8), sightings=torch.tensor([1, 4]))))
    assert [annotation["sightings"] for annotation in seen["annotations"]] == [1, 4]
    boxes = submission(seen, "tracking")["results"]["s0"]
    assert {box["tracking_id"]: round(box["tracking_score"], 9) for box in boxes} == {"1": 0.4, "2": 0.64}
    assert {box["detection_score"] for box in submission(seen, "detection")["results"]["s0"]} == {0.8}


def test_velocity_is_per_second():
    pairs = [(frame(t, "CAM_FRONT"), cars((1, 2.0 * t, 20, 0.9))) for t in range(2)]
    expected = {("modern", "detection"): 4, ("modern", "tracking"): 4, ("parity", "detection"): 2}
    for (mode, task), speed in (expected | {("parity", "tracking"): 0}).items():
        box = submission(collected(*pairs, mode=mode), task, mode)["results"]["s1"][0]
        assert box["velocity"] == pytest.approx([speed, 0])
    known = cars((1, 0, 20, 0.9), velocity=torch.tensor([[7.0, 8.0, 0.0]]))
    box = submission(collected((frame(0, "CAM_FRONT"), known)), "tracking")["results"]["s0"][0]
    assert box["velocity"] == [7, 8]


def test_place_and_heading_in_the_world():
    box = submission(collected((frame(0, "CAM_FRONT"), cars((1, 2, 20, 0.9)))), "detection")["results"]["s0"][0]
    assert box["translation"] == pytest.approx([102, 220, 1.5])
    assert box["size"] == [1.8, 4.0, 1.5]
    w, x, y, z = box["rotation"]
    assert (x, y) == (0, 0)
    assert 2 * math.atan2(z, w) == pytest.approx(-math.atan2(2, 20))  # alpha 0: turned away by the ray


def test_sample_token_is_needed():
    record = frame(0, "CAM_FRONT")
    del record["sample_token"]
    with pytest.raises(UserError, match="has no sample token in the result file"):
        submission(collected((record, cars((1, 0, 20, 0.9)))), "detection")


def test_frames_between_key_frames_are_left_out():
    keys = [{"is_key_frame": t % 2 == 0, "key_frame_index": t // 2} for t in range(3)]
    pairs = [(frame(t, "CAM_FRONT", **key), cars((1, 0, 20, 0.9))) for t, key in enumerate(keys)]
    images = collected(*pairs)["images"]
    assert [(image["index"], image.get("frame_index")) for image in images] == [(0, None), (1, 2)]


@pytest.mark.parametrize("mode", ["parity", "modern"])
def test_labels_through_the_tracker(mode):
    """Two cars that pass each other keep their ids."""
    line = "{t} {i} Car 0 0 0 {x} 150 {end} 200 1.5 1.7 4.0 {place} 1.6 {z} 1.57\n"
    text = "".join(
        line.format(t=t, i=i, x=300 + 20 * t * sign, end=380 + 20 * t * sign, place=3 * i, z=20 + sign * 0.5 * t)
        for t in range(10)
        for i, sign in ((0, 1), (1, -1))
    )
    rows = [line.split() for line in replay(tracker_for_labels(mode), label_detections(text, 10)).splitlines()]
    assert len(rows) == 20
    assert {row[1] for row in rows} == {"0", "1"}
    truth = [line.split() for line in text.splitlines()]
    place = {(row[0], round(float(row[13]))): row[1] for row in truth}
    pairs = {(place[row[0], round(float(row[13]))], row[1]) for row in rows}
    assert len(pairs) == 2
