"""The benchmarks' own tools score our files."""

import pytest
import torch

from centernet.errors import UserError
from centernet.tracking3d.data.nuscenes import read_nuscenes
from centernet.tracking3d.evaluation import official
from centernet.tracking3d.evaluation.layouts import layout
from centernet.tracking3d.evaluation.nuscenes_detections import read_nuscenes_detections
from centernet.tracking3d.evaluation.nuscenes_replay import nuscenes_tracker, replay_nuscenes
from centernet.tracking3d.evaluation.nuscenes_submission import save_submission, submission
from centernet.tracking3d.evaluation.records import TrackedFrame, TrackingResults
from centernet.tracking3d.tracker.cameras import CameraRig

CAR = "{frame} {track} {kind} 0 0 0.0 {x} 100.0 {end} 200.0 1.5 1.6 4.0 1.0 1.6 20.0 0.0"


def lines(tracks, score=""):
    """A car of 100 px in each of the given frames, beginning at x = 200 times its track's row."""
    return "".join(
        CAR.format(frame=frame, track=track, kind="Car", x=200.0 * row, end=200.0 * row + 100) + f"{score}\n"
        for row, ids in enumerate(tracks)
        for frame, track in enumerate(ids)
        if track is not None
    )


def test_trackeval_on_a_known_sequence(kitti_python):
    truth = lines([[0] * 10, [1] * 10])
    # the second car: missed in frame 3, another id from frame 5 on
    tracked = lines([[7] * 10, [8, 8, 8, None, 8, 9, 9, 9, 9, 9]], " 0.9").replace("Car", "car")
    scores = official.kitti_tracking({"0000": truth}, {"0000": tracked}, {"0000": 10}, kitti_python, ["car"])["car"]
    assert scores["CLR_TP"] == 19
    assert scores["CLR_FN"] == 1
    assert scores["IDSW"] == 1
    assert scores["MOTA"] == pytest.approx(1 - 2 / 20)
    assert 0.7 < scores["HOTA"] < 0.95


def test_a_python_without_the_package(tmp_path):
    with pytest.raises(UserError, match="cannot be run"):
        official.nuscenes_detection(tmp_path / "a.json", tmp_path, "v1.0-mini", "mini_val", tmp_path / "python")
    script = tmp_path / "python"
    script.write_text(f"#!/bin/sh\necho 'No module named nuscenes' >&2\nexit {official.MISSING}\n")
    script.chmod(0o755)
    with pytest.raises(UserError, match="cannot import what nuscenes-devkit needs .*install nuscenes-devkit"):
        official.nuscenes_detection(tmp_path / "a.json", tmp_path, "v1.0-mini", "mini_val", script)


def test_the_devkit_refuses(tmp_path):
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\necho 'AssertionError: no such split' >&2\nexit 1\n")
    script.chmod(0o755)
    with pytest.raises(UserError, match="gave no scores .AssertionError: no such split."):
        official.kitti_tracking({"0000": ""}, {}, {"0000": 1}, script)


@pytest.mark.slow
def test_supplied_detections_score_as_their_file_says(tmp_path, shared_data, nuscenes_python):
    root = shared_data("nuscenes_mini")
    frames = read_nuscenes(root, "mini_val")
    collected, count = TrackingResults(layout("nuscenes")), 0
    for seen in read_nuscenes_detections(root / "detections" / "cc_3dt_pure_det_mini_val.json.gz", frames):
        found = seen.detections
        ids = torch.arange(count, count + len(found.scores))
        count += len(ids)
        fields = {name: value for name, value in found._asdict().items() if name != "embeddings"}
        tracked = TrackedFrame(
            **fields, ids=ids, xyz=seen.xyz, yaw=seen.yaw, velocity=seen.velocity, attributes=seen.attributes
        )
        collected.add(seen.frame, tracked)
    assert count == 10335
    path = tmp_path / "submission.json"
    save_submission(submission(collected.as_dict(), "detection", merge=False), path)
    scores = official.nuscenes_detection(path, root, "v1.0-mini", "mini_val", nuscenes_python)
    assert scores["mAP"] == pytest.approx(0.2183, abs=5e-5)
    assert scores["NDS"] == pytest.approx(0.2688, abs=5e-5)


@pytest.mark.slow
def test_modern_tracking_of_the_supplied_detections_is_not_below_parity(tmp_path, shared_data, nuscenes_python):
    root = shared_data("nuscenes_mini")
    frames = read_nuscenes(root, "mini_val")
    found = read_nuscenes_detections(root / "detections" / "cc_3dt_pure_det_mini_val.json.gz", frames)
    rig = CameraRig(lambda ids: nuscenes_tracker("modern", "Kalman", ids=ids), across=True)
    save_submission(submission(replay_nuscenes(found, rig, "modern").as_dict(), "tracking"), tmp_path / "tracks.json")
    scores = official.nuscenes_tracking(tmp_path / "tracks.json", root, "v1.0-mini", "mini_val", nuscenes_python)
    assert scores["AMOTA"] > 0.33  # parity has 0.1925; docs/BENCHMARKS.md
    assert scores["AMOTA@0.2"] > 0.45
    assert scores["IDS"] < 100
