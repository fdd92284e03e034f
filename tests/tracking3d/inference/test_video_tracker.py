"""The loop over videos: config to tracker, frames to tracks, several videos and cameras."""

import copy

import pytest
import torch
from detectron2.structures import Instances

from centernet.errors import UserError
from centernet.tracking3d.data import FrameMapper, synthetic_records
from centernet.tracking3d.inference import VideoTracker, build_tracker, detections_of
from centernet.tracking3d.inference.video_tracker import moments
from centernet.tracking3d.motion.constant import ConstantPosition
from centernet.tracking3d.motion.kalman import KalmanMotion
from centernet.tracking3d.motion.velo_lstm import VeloLSTM, VeloLSTMMotion

TRACKER = "MODEL.TRACKING3D.TRACKER"


def identities(tracker, records):
    """Annotated instance of each tracked id, and the other way round, over a video."""
    pairs = set()
    for record, frame in tracker.track_video(records):
        for row, number in enumerate(frame.ids.tolist()):
            x1, y1, x2, y2 = frame.boxes[row].tolist()
            same = [
                a["instance_id"] for a in record["annotations"] if abs(a["bbox"][0] - x1) + abs(a["bbox"][3] - y2) < 1
            ]
            pairs.add((number, same[0]))
    return pairs


def test_the_config_names_the_tracker(config3d):
    tracker = build_tracker(config3d(f"{TRACKER}.INIT_SCORE", 0.6, f"{TRACKER}.LOST_SECONDS", 2.0))
    assert tracker.mode == "modern"
    assert isinstance(tracker.motion, KalmanMotion)
    assert (tracker.rules.init_score, tracker.rules.duplicate_iou, tracker.rules.lost_seconds) == (0.6, 0.8, 2.0)
    assert tracker.rules.frame_seconds == pytest.approx(0.1)
    assert isinstance(build_tracker(config3d(f"{TRACKER}.MOTION", "Constant")).motion, ConstantPosition)
    assert build_tracker(config3d("MODEL.TRACKING3D.MODE", "parity")).mode == "parity"


def test_weights_name_the_motion_model(config3d, tmp_path):
    path = tmp_path / "motion.pth"
    torch.save({"model": VeloLSTM().state_dict()}, path)
    tracker = build_tracker(config3d(f"{TRACKER}.MOTION_WEIGHTS", str(path)))
    assert isinstance(tracker.motion, VeloLSTMMotion)
    with pytest.raises(UserError, match="holds a VeloLSTM"):
        build_tracker(config3d(f"{TRACKER}.MOTION_WEIGHTS", str(path), f"{TRACKER}.MOTION", "LSTM"))
    with pytest.raises(UserError, match="Kalman, which has no weights"):
        build_tracker(config3d(f"{TRACKER}.MOTION_WEIGHTS", str(path), f"{TRACKER}.MOTION", "Kalman"))


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        (f"{TRACKER}.MOTION", "Kalmann", "choose one of"),
        (f"{TRACKER}.MOTION", "VeloLSTM", "MOTION_WEIGHTS is empty"),
        (f"{TRACKER}.INIT_SCORE", 1.5, "from 0 to 1"),
        (f"{TRACKER}.LOST_SECONDS", 0.0, "above 0"),
        ("MODEL.TRACKING3D.DATA.FRAME_RATE", 0.0, "frames a second"),
        ("MODEL.TRACKING3D.MODE", "old", "parity"),
        ("MODEL.META_ARCHITECTURE", "GeneralizedRCNN", "no 3D boxes"),
    ],
)
def test_wrong_values_are_told_in_one_sentence(config3d, key, value, sentence):
    with pytest.raises(UserError, match=sentence) as caught:
        VideoTracker(config3d(key, value), torch.nn.Identity())
    assert "\n" not in str(caught.value)


def test_the_published_configs_ask_for_their_motion_model(config3d):
    with pytest.raises(UserError, match="tools/train_motion.py"):
        build_tracker(config3d(f"{TRACKER}.MOTION", "VeloLSTM"))


def test_labels_as_detections_are_tracked_without_mistake(config3d, clip, label_model):
    records = clip(3, 10)
    pairs = identities(VideoTracker(config3d(), label_model(records)), records)
    assert len(pairs) >= 3
    assert len({number for number, _ in pairs}) == len({instance for _, instance in pairs}) == len(pairs)


def test_tracks_are_where_the_labels_are(config3d, clip, label_model):
    records = clip(3, 3)
    tracker = VideoTracker(config3d(), label_model(records))
    frame = tracker.step(records[0])
    truth = torch.tensor([a["translation"] for a in records[0]["annotations"]], dtype=torch.float64)
    distance = torch.cdist(frame.xyz.double(), truth)
    assert distance.amin(1).max() < 1e-3
    assert frame.confidence.tolist() == pytest.approx([0.9] * len(frame.ids))


def test_a_new_video_begins_anew_and_ids_go_on(config3d, clip, label_model):
    first, second = clip(3, 4), clip(4, 4)
    late = [record | {"frame_index": record["frame_index"] + 7} for record in second]  # does not begin with frame 0
    tracker = VideoTracker(config3d(), label_model([*first, *late]))
    before = {number for record in first for number in tracker.step(record).ids.tolist()}
    after = {number for record in late for number in tracker.step(record).ids.tolist()}
    assert before
    assert after
    assert not before & after
    with pytest.raises(UserError, match="in order"):
        tracker.step(late[0])
    tracker.reset()
    tracker.step(late[0])


def test_cameras_side_by_side_are_videos_of_their_own(config3d, clip, label_model):
    front = [record | {"camera": "front", "video_id": "f"} for record in clip(3, 5)]
    back = [record | {"camera": "back", "video_id": "b"} for record in clip(4, 5)]
    model = label_model([*front, *back])
    mixed = [record for pair in zip(front, back, strict=True) for record in pair]
    together, alone = VideoTracker(config3d(), model), VideoTracker(config3d(), model)
    found = [frame for record, frame in together.track_video(mixed) if record["camera"] == "front"]
    for mine, other in zip(found, [alone.step(record) for record in front], strict=True):
        torch.testing.assert_close(mine.xyz, other.xyz)


def twice(records, name):
    """The same pictures as those of a second camera."""
    return [copy.copy(record) | {"camera": name} for record in records]


def test_across_cameras_an_object_has_one_id(config3d, clip, label_model):
    left, right = twice(clip(3, 5), "left"), twice(clip(3, 5), "right")
    model = label_model([*left, *right])
    mixed = [record for pair in zip(left, right, strict=True) for record in pair]
    owner = {}
    for record, frame in VideoTracker(config3d(), model, across=True).track_video(mixed):
        for box, number in zip(frame.boxes.tolist(), frame.ids.tolist(), strict=True):
            owner.setdefault((record["frame_index"], tuple(round(x) for x in box)), number)
    assert len(set(owner.values())) < len(owner)
    seen = list(owner.values())
    own = VideoTracker(config3d(), model)
    per_camera = {number for _, frame in own.track_video(mixed) for number in frame.ids.tolist()}
    assert len(set(seen)) <= len(per_camera) / 2


def test_across_cameras_one_may_drop_out(config3d, clip, label_model):
    left, right = twice(clip(3, 6), "left"), twice(clip(3, 6), "right")
    tracker = VideoTracker(config3d(), label_model([*left, *right]), across=True)
    mixed = [record for number, pair in enumerate(zip(left, right, strict=True)) for record in pair[number % 2 :]]
    results = list(tracker.track_video(mixed))
    assert [record["camera"] for record, _ in results] == [record["camera"] for record in mixed]
    with pytest.raises(UserError, match="step_cameras"):
        tracker.step(left[0])
    with pytest.raises(UserError, match="one of each"):
        tracker.step_cameras([left[0], left[1]])


def test_moments_are_cut_by_camera_time_and_scene():
    def frame(camera, time, scene="s"):
        return {"camera": camera, "timestamp": time, "scene": scene, "frame_index": 0}

    frames = [
        frame("a", 0.0),
        frame("b", 0.01),
        frame("a", 0.1),
        frame("b", 0.2),
        frame("a", 0.21),
        frame("b", 0.21, "t"),
    ]
    assert [len(moment) for moment in moments(frames, 0.05)] == [2, 1, 2, 1]
    assert list(moments([], 0.05)) == []


def test_times_are_made_from_the_frame_rate(config3d, clip, label_model):
    records = [{key: value for key, value in record.items() if key != "timestamp"} for record in clip(3, 4)]
    timed = [record | {"timestamp": record["frame_index"] / 5} for record in records]
    config = config3d("MODEL.TRACKING3D.DATA.FRAME_RATE", 5.0)
    without = [VideoTracker(config, label_model(records)).track_video(records)]
    with_times = [VideoTracker(config, label_model(records)).track_video(timed)]
    for (_, mine), (_, other) in zip(*without, *with_times, strict=True):
        torch.testing.assert_close(mine.velocity, other.velocity)


def test_no_intrinsics_no_frame(config3d, clip, label_model):
    record = clip(3, 1)[0]
    tracker = VideoTracker(config3d(), label_model([record]))
    with pytest.raises(UserError, match="has no intrinsics"):
        tracker.step({key: value for key, value in record.items() if key != "intrinsics"})
    with pytest.raises(UserError, match="3D boxes"):
        detections_of(Instances((4, 4)))


def test_a_real_model_takes_records_and_loader_inputs(config3d):
    few = ["MODEL.RPN.POST_NMS_TOPK_TEST", 20, "INPUT.MIN_SIZE_TEST", 64]
    any_score = ["MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0, f"{TRACKER}.INIT_SCORE", 0.0]
    config = config3d(*any_score, *few, name="QD3DT_R18_synthetic.yaml")
    torch.manual_seed(0)
    tracker = VideoTracker(config)
    records = list(synthetic_records([5], 2))
    frames = [frame for _, frame in tracker.track_video(records)]
    tracker.reset()
    mapper = FrameMapper(64, 448)
    inputs = [tracker.step(mapper(record)) for record in records]
    assert len(frames[0].ids) > 0
    for mine, other in zip(frames, inputs, strict=True):
        torch.testing.assert_close(mine.boxes, other.boxes)


def test_poses_for_all_frames_or_none(config3d, clip, label_model):
    records = clip(3, 3)
    still = [{key: value for key, value in record.items() if key != "pose"} for record in records]
    model = label_model(records)
    tracker = VideoTracker(config3d(), model)
    tracker.step(records[0])
    with pytest.raises(UserError, match="has no pose, and the frames of its video before it have one"):
        tracker.step(still[1])
    tracker = VideoTracker(config3d(), model)
    for record in still:
        assert len(tracker.step(record).ids)
