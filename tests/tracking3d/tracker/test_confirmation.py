"""Tracks that are told of once they are confirmed, and the modern filter's noise."""

import pytest
import torch
from world import boxes_at, camera, look, three_cars

from centernet.tracking3d.motion.checkpoint import build_motion
from centernet.tracking3d.motion.kalman import PUBLISHED_NOISE, KalmanMotion, modern_noise
from centernet.tracking3d.tracker.rules import TrackerRules
from centernet.tracking3d.tracker.tracker import QuasiDenseTracker

RULES = TrackerRules(confirm_sightings=3)


def told(tracker, frames, seen):
    """``[(ids, sightings)]`` of frames in which the cars ``seen[frame]`` are detected."""
    start, velocity = three_cars()
    found = []
    for frame in frames:
        detections, cars = look(boxes_at(start, velocity, frame * 0.1), camera())
        keep = torch.tensor([int(car) in seen.get(frame, (0, 1)) for car in cars])
        tracks = tracker.step(detections.select(keep), camera(), frame)
        found.append((sorted(tracks.ids.tolist()), sorted(tracks.sightings.tolist())))
    return found


def test_a_track_is_told_of_from_its_third_sighting():
    found = told(QuasiDenseTracker(RULES, KalmanMotion()), range(8), {4: (0, 1, 2), 5: (0, 1, 2), 6: (0, 1, 2)})
    assert [ids for ids, _ in found] == [[0, 1]] * 6 + [[0, 1, 2], [0, 1]]
    assert found[2][1] == [3, 3]  # the first frames cannot have had more
    assert found[6][1] == [3, 7, 7]


def test_published_trackers_tell_at_once():
    found = told(QuasiDenseTracker(RULES, KalmanMotion(), "parity"), range(5), {4: (0, 1, 2)})
    assert found[4] == ([0, 1, 2], [1, 5, 5])


def test_a_saved_tracker_knows_its_moments():
    tracker = QuasiDenseTracker(RULES, KalmanMotion())
    told(tracker, range(2), {})
    again = QuasiDenseTracker(RULES, KalmanMotion())
    again.load_state_dict(tracker.state_dict())
    assert told(again, range(2, 4), {2: (0, 1, 2)}) == [([0, 1], [3, 3]), ([0, 1], [4, 4])]
    tracker.reset()
    assert told(tracker, range(10, 11), {}) == [([2, 3], [1, 1])]


def test_noise_of_the_modes():
    assert build_motion("Kalman", mode="parity").noise == PUBLISHED_NOISE == KalmanMotion().noise
    short, long = (build_motion("Kalman", step_seconds=step).noise for step in (0.1, 0.5))
    assert short == modern_noise(0.1)
    assert long.initial_velocity == pytest.approx(25 * short.initial_velocity)  # the same m/s in longer steps
    assert long.measurement == short.measurement


def test_a_first_look_is_not_taken_for_a_velocity():
    """Half a metre of noise between two sightings of a parked car says little of its speed."""
    box = torch.tensor([[10.0, 5, 1, 0, 1.6, 1.8, 4.2]])
    speeds = {}
    for mode in ("parity", "modern"):
        motion = build_motion("Kalman", mode=mode, step_seconds=0.1)
        state, _ = motion.predict(motion.create(box), torch.ones(1, dtype=torch.bool))
        state = motion.update(state, torch.zeros(1, dtype=torch.int64), box + torch.eye(7)[:1] * 0.5, torch.ones(1))
        speeds[mode] = motion.current(state)[0, 7].item()
    assert speeds["parity"] == pytest.approx(0.5, abs=0.01)
    assert 0.1 < speeds["modern"] < 0.3
