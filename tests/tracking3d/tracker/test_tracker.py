"""Life of tracks in both modes, broken input, several cameras, saved states."""

import io
import logging
import math
from dataclasses import replace

import pytest
import torch
from world import boxes_at, camera, look, three_cars

from centernet.errors import UserError
from centernet.tracking3d.motion.constant import ConstantPosition
from centernet.tracking3d.motion.kalman import KalmanMotion
from centernet.tracking3d.tracker.cameras import CameraRig
from centernet.tracking3d.tracker.detections import Detections3D
from centernet.tracking3d.tracker.rules import TrackerRules
from centernet.tracking3d.tracker.tracker import QuasiDenseTracker

RULES = TrackerRules()
BOTH = pytest.mark.parametrize("mode", ["parity", "modern"])


def new(mode="modern", **changes):
    return QuasiDenseTracker(replace(RULES, **changes), KalmanMotion(), mode)


def nothing(size=16):
    here, _ = look(three_cars()[0], camera(), size)
    return here.select(torch.zeros(len(here.boxes), dtype=torch.bool))


def drive(tracker, frames, hidden=(), per=0.1):
    """``{frame: {car: id}}`` of three cars; all are ``hidden`` in some frames."""
    start, velocity = three_cars()
    found = {}
    for frame in frames:
        detections, cars = look(boxes_at(start, velocity, frame * per), camera())
        if frame in hidden:
            detections, cars = nothing(), cars[:0]
        tracks = tracker.step(detections, camera(), frame, frame * per)
        found[frame] = dict(zip(cars[tracks.index].tolist(), tracks.ids.tolist(), strict=True))
    return found


@BOTH
def test_objects_keep_their_ids(mode):
    found = drive(new(mode), range(20))
    assert all(found[frame] == found[0] for frame in range(20))
    assert sorted(found[0].values()) == [0, 1, 2]


@BOTH
@pytest.mark.parametrize(("gap", "kept"), [(8, True), (10, False)])
def test_lost_tracks_live_for_ten_frames_or_a_second(mode, gap, kept):
    """Last seen in frame 9, then ``gap`` frames without anything."""
    tracker = new(mode, match_affinity=0.3)
    found = drive(tracker, range(9 + gap + 2), hidden=range(10, 10 + gap))
    assert (found[10 + gap] == found[9]) == kept
    assert sorted(found[10 + gap].values()) == ([0, 1, 2] if kept else [3, 4, 5])


@BOTH
def test_empty_frames(mode):
    tracker = new(mode)
    for frame in range(3):
        tracks = tracker.step(nothing(), camera(), frame)
        assert tracks.ids.shape == (0,)
        assert tracks.box7.shape == (0, 7)
        assert tracks.center2d.shape == (0, 2)
    assert sorted(drive(tracker, range(3, 6))[3].values()) == [0, 1, 2]
    without_width = nothing()._replace(embeddings=torch.zeros(0, 0))
    assert len(tracker.step(without_width, camera(), 6).ids) == 0
    assert sorted(drive(tracker, range(7, 9))[7].values()) == [0, 1, 2]


def test_lost_tracks_are_predicted_twice_in_parity_mode_alone():
    start, velocity = three_cars()
    ages, affinities = {}, {}
    for mode in ("parity", "modern"):
        tracker = new(mode, appearance_cue="none")
        drive(tracker, range(5))
        for frame in range(5, 8):
            detections, _ = look(boxes_at(start, velocity, frame * 0.1)[:1], camera())
            tracker.step(detections, camera(), frame)
        ages[mode] = dict(zip(tracker.tracks.ids.tolist(), tracker.tracks.motion.age.tolist(), strict=True))
        again, _ = look(boxes_at(start, velocity, 0.8), camera())
        affinities[mode] = tracker.match([(again, camera())], 8).affinity.max(1).values.sort().values
    assert affinities["modern"].min() > 0.95
    assert (affinities["parity"] < 0.8).sum() == 2  # and its displacement is counted once more for matching
    assert sorted(ages["modern"].values()) == [7, 7, 7]
    assert sorted(ages["parity"].values()) == [7, 10, 10]


def test_modern_velocity_is_per_second_whatever_the_frame_rate():
    for per in (0.1, 0.5):
        tracker = new(frame_seconds=per)
        drive(tracker, range(4), per=per)
        start, velocity = three_cars()
        detections, cars = look(boxes_at(start, velocity, 4 * per), camera())
        tracks = tracker.step(detections, camera(), 4, 4 * per)
        torch.testing.assert_close(tracks.velocity.float(), velocity[cars[tracks.index]], atol=0.4, rtol=0)
    parity = new("parity")
    drive(parity, range(4))
    detections, cars = look(boxes_at(start, velocity, 0.4), camera())
    tracks = parity.step(detections, camera(), 4)
    torch.testing.assert_close(tracks.velocity.float(), velocity[cars[tracks.index]] / 10, atol=0.04, rtol=0)


def test_missing_frames_are_bridged_by_time():
    """Modern mode: 0.6 s without pictures and without frame numbers; 10 m of motion for two cars."""
    found = drive(new(), [*range(8), 14, 15])
    assert found[14] == found[15] == found[7]


def test_mean_velocity_across_the_jump_of_yaw():
    start, velocity = three_cars()
    heading = torch.tensor([3.1, -3.1, 3.1])
    speeds = {}
    for mode in ("parity", "modern"):
        tracker = QuasiDenseTracker(RULES, ConstantPosition("modern"), mode)
        for frame, yaw in enumerate(heading):
            boxes = start[:1].clone()
            boxes[:, 3] = yaw
            tracker.step(look(boxes, camera())[0], camera(), frame)
        speeds[mode] = tracker.tracks.velocity[0, 3].abs().item()
    assert speeds["modern"] < 1  # per second: 0.08 there and back in 0.2 s
    tracker = QuasiDenseTracker(RULES, ConstantPosition("modern"), "parity")
    for frame, yaw in enumerate(heading[:2]):
        boxes = start[:1].clone()
        boxes[:, 3] = yaw
        tracker.step(look(boxes, camera())[0], camera(), frame)
    assert tracker.tracks.velocity[0, 3].abs() > 6  # nearly a whole turn in one frame, as published


def test_confidence_stays_with_its_track():
    start, velocity = three_cars()
    detections, cars = look(start, camera())
    confidence = torch.tensor([0.6, 0.99, 0.8])
    detections = detections._replace(confidence=confidence)
    tracks = new().step(detections, camera(), 0)
    assert tracks.index.tolist() == [1, 2, 0]  # best first
    torch.testing.assert_close(tracks.depth.float(), detections.depth[tracks.index])


@pytest.mark.parametrize("name", ["boxes", "scores", "depth", "confidence", "dims", "alpha", "center2d", "embeddings"])
@BOTH
def test_values_that_are_not_finite_are_left_out(name, mode, caplog):
    tracker = new(mode)
    drive(tracker, range(3))
    detections, cars = look(boxes_at(*three_cars(), 0.3), camera())
    broken = getattr(detections, name).clone()
    broken[1] = math.nan if name != "depth" else math.inf
    with caplog.at_level(logging.WARNING):
        tracks = tracker.step(detections._replace(**{name: broken}), camera(), 3)
        tracker.step(detections._replace(**{name: broken}), camera(), 4)
    assert sorted(tracks.index.tolist()) == [0, 2]
    assert all(value.isfinite().all() for value in tracks)
    assert [record.message for record in caplog.records] == [
        "frame 3: 1 detections hold values that are not finite and are left out (said once a video)"
    ]
    assert len(drive(tracker, [5])[5]) == 3


@BOTH
@pytest.mark.parametrize("frame", [3, 2, -1])
def test_frames_out_of_order(frame, mode):
    tracker = new(mode)
    drive(tracker, range(4))
    with pytest.raises(UserError, match=f"^frame {frame} came after frame 3 of the same video: hand frames over in"):
        tracker.step(nothing(), camera(), frame)
    assert len(drive(tracker, [4])[4]) == 3  # nothing is broken


@pytest.mark.parametrize("seconds", [0.3, 0.1, math.nan])
def test_seconds_out_of_order(seconds):
    tracker = new()
    drive(tracker, range(4))
    with pytest.raises(UserError, match="^frame 4 is of second .*: give times that grow"):
        tracker.step(nothing(), camera(), 4, seconds)
    new("parity").step(nothing(), camera(), 4, seconds)


@BOTH
def test_frame_0_begins_a_video_and_ids_go_on(mode):
    tracker = new(mode)
    first, second = drive(tracker, range(3)), drive(tracker, range(3))
    assert {car: number + 3 for car, number in first[0].items()} == second[0]
    tracker.reset()
    assert sorted(drive(tracker, range(7, 9))[7].values()) == [6, 7, 8]


BROKEN = {
    "has no position": {"position": None},
    "holds values that are not finite": {"rotation": torch.full((3, 3), math.nan)},
    "cannot be inverted": {"intrinsics": torch.zeros(3, 4)},
    "rotation is none": {"rotation": torch.diag(torch.tensor([1.0, 1.0, -1.0]))},
    r"shape \(3, 3\): give \(3, 4\)": {"intrinsics": torch.eye(3)},
}


@pytest.mark.parametrize("message", BROKEN)
def test_broken_calibration_or_pose(message):
    detections, _ = look(three_cars()[0], camera())
    with pytest.raises(UserError, match=f"^frame 5.*{message}") as raised:
        new().step(detections, camera()._replace(**BROKEN[message]), 5)
    assert str(raised.value).count(". ") == 0


@BOTH
@pytest.mark.parametrize("motion", [KalmanMotion(), ConstantPosition()], ids=lambda motion: type(motion).__name__)
def test_saved_states_go_on_exactly(mode, motion):
    whole = QuasiDenseTracker(RULES, motion, mode)
    drive(whole, range(5))
    buffer = io.BytesIO()
    torch.save(whole.state_dict(), buffer)
    buffer.seek(0)
    restored = QuasiDenseTracker(RULES, motion, mode)
    restored.load_state_dict(torch.load(buffer, weights_only=True))
    assert drive(whole, range(5, 9), hidden=[6]) == drive(restored, range(5, 9), hidden=[6])
    assert torch.equal(whole.tracks.box7, restored.tracks.box7)
    assert whole.id_counter.next == restored.id_counter.next


def test_saved_states_of_something_else_are_refused():
    tracker = new()
    drive(tracker, range(2))
    with pytest.raises(UserError, match="in mode 'modern', this one is in mode 'parity'"):
        new("parity").load_state_dict(tracker.state_dict())
    with pytest.raises(UserError, match="build the tracker with the motion model"):
        QuasiDenseTracker(RULES, ConstantPosition(), "modern").load_state_dict(tracker.state_dict())
    with pytest.raises(UserError, match="build the tracker with the motion model"):
        new().load_state_dict({})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"assignment": "best"}, "assignment is 'best': choose one of greedy, hungarian"),
        ({"frame_seconds": 0.0}, "frame_seconds is 0.0"),
        ({"lost_frames": 0}, "lost_frames is 0"),
    ],
)
def test_rules_that_cannot_be(changes, message):
    with pytest.raises(UserError, match=message):
        TrackerRules(**changes)


@BOTH
def test_weak_detections_carry_on_but_do_not_begin(mode):
    start, velocity = three_cars()
    tracker = new(mode)
    weak, _ = look(start, camera(), score=0.6)
    assert len(tracker.step(weak, camera(), 0).ids) == 0
    found = drive(tracker, range(1, 4))
    weak, cars = look(boxes_at(start, velocity, 0.4), camera(), score=0.6)
    tracks = tracker.step(weak, camera(), 4)
    assert dict(zip(cars[tracks.index].tolist(), tracks.ids.tolist(), strict=True)) == found[3]
    weaker, _ = look(boxes_at(start, velocity, 0.5), camera(), score=0.5)
    assert tracker.match([(weaker, camera())], 5).ids.tolist() == [-2, -2, -2]


def test_duplicates():
    """Three boxes in a row: the second overlaps the first, the third the second alone."""
    detections, _ = look(three_cars()[0], camera())
    boxes = torch.tensor([[0.0, 0, 100, 100], [12, 0, 112, 100], [24, 0, 124, 100]])
    detections = detections._replace(boxes=boxes, scores=torch.tensor([0.99, 0.98, 0.97]))
    for mode, kept in (("parity", [0]), ("modern", [0, 2])):
        matched = new(mode).match([(detections, camera())], 0)
        assert matched.seen.index.tolist() == kept


def around(across):
    def build(ids):
        return QuasiDenseTracker(RULES, KalmanMotion(), "modern", ids=ids)

    return CameraRig(build, across)


def passing(rig, frames, off=lambda name, frame: False):
    """A car drives past on the left: ids by camera and frame."""
    start = torch.tensor([[20.0, 8.0, 0.8, 0.0, 1.6, 1.8, 4.2]])
    velocity = torch.tensor([[-24.0, 0.0, 0.0]])
    cameras = {"front": camera(0.0), "left": camera(1.2), "rear": camera(2.4)}
    found = []
    for frame in frames:
        box7 = boxes_at(start, velocity, frame * 0.1)
        views = {name: (look(box7, here)[0], here) for name, here in cameras.items() if not off(name, frame)}
        tracks = rig.step(views, frame)
        found.append({name: result.ids.tolist() for name, result in tracks.items() if len(result.ids)})
    return found


def test_one_tracker_for_all_cameras_keeps_the_id():
    found = passing(around(True), range(18))
    assert {name for moment in found for name in moment} == {"front", "left", "rear"}
    assert {number for moment in found for ids in moment.values() for number in ids} == {0}
    assert all(len(moment) == 1 for moment in found)  # seen by two, it is still one object
    views = [len(ids) for moment in passing(around(False), range(18)) for ids in moment.values()]
    assert sum(views) > 18  # two cameras did see it at times


def test_a_tracker_for_each_camera_gives_an_id_for_each():
    found = passing(around(False), range(18))
    by_camera = {name: {i for moment in found for i in moment.get(name, [])} for name in ("front", "left", "rear")}
    assert all(len(ids) == 1 for ids in by_camera.values())
    assert set().union(*by_camera.values()) == {0, 1, 2}


@pytest.mark.parametrize("across", [False, True])
def test_a_camera_drops_out(across):
    whole = passing(around(across), range(8))
    found = passing(around(across), range(8), off=lambda name, frame: name == "front" and frame == 2)
    assert "front" not in found[2]
    assert found[3]["front"] == whole[0]["front"]
    assert found[:2] + found[3:] == whole[:2] + whole[3:]
    assert passing(around(across), range(3), off=lambda name, frame: True) == [{}, {}, {}]


@pytest.mark.parametrize("across", [False, True])
def test_frame_0_begins_a_video_for_cameras_that_miss_it(across):
    rig = around(across)
    passing(rig, range(5))
    second = passing(rig, range(5), off=lambda name, frame: name == "front" and frame == 0)
    assert min(i for moment in second for ids in moment.values() for i in ids) >= 1
    assert second[1]


@pytest.mark.parametrize("across", [False, True])
def test_saved_rigs_go_on(across):
    whole, restored = around(across), around(across)
    passing(whole, range(8))
    restored.load_state_dict(whole.state_dict())
    assert passing(whole, range(8, 14)) == passing(restored, range(8, 14))
    with pytest.raises(UserError, match="choose the same"):
        around(not across).load_state_dict(whole.state_dict())


def test_float32_is_enough_near_the_origin():
    exact, fast = new(), QuasiDenseTracker(RULES, KalmanMotion(), "modern", dtype=torch.float32)
    assert drive(exact, range(6)) == drive(fast, range(6))
    assert fast.tracks.box7.dtype == torch.float32
    torch.testing.assert_close(exact.tracks.box7.float(), fast.tracks.box7, atol=1e-2, rtol=0)


def test_order_of_detections_does_not_matter():
    start, velocity = three_cars()
    results = []
    for order in ([0, 1, 2], [2, 0, 1]):
        tracker = new()
        for frame in range(5):
            detections, cars = look(boxes_at(start, velocity, frame * 0.1), camera())
            detections = detections._replace(scores=torch.tensor([0.99, 0.97, 0.95]))
            index = torch.tensor(order)
            tracks = tracker.step(detections.select(index), camera(), frame)
        results.append(dict(zip(cars[index[tracks.index]].tolist(), tracks.ids.tolist(), strict=True)))
    assert results[0] == results[1]


def test_detections_are_not_changed():
    detections, _ = look(three_cars()[0], camera())
    before = Detections3D(*(value.clone() for value in detections))
    tracker = new("parity")
    for frame in range(3):
        tracker.step(detections, camera(), frame)
    assert all(torch.equal(*pair) for pair in zip(detections, before, strict=True))
