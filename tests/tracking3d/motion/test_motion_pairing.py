"""Tracks from files: who is paired with whom, where it was seen, and one sentence for what cannot be read."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from video_files import annotation, content, drive, write

from centernet.errors import UserError
from centernet.tracking3d.motion.pairing import _best_first, read_tracks
from centernet.tracking3d.motion.tracks import all_windows, long_enough, random_windows


def tracks_of(tmp_path, truth, detections, mode, **options):
    options = {"frame_seconds": 0.5} | options
    return read_tracks(
        write(tmp_path / "det.json", detections), write(tmp_path / "gt.json", truth), mode=mode, **options
    )


@pytest.mark.parametrize("mode", ["parity", "modern"])
def test_a_car_is_paired_and_lifted(mode, tmp_path):
    (track,) = tracks_of(tmp_path, *drive(), mode)
    z = 15.0 + torch.arange(14, dtype=torch.float64)
    world = torch.stack((100 + z, torch.full_like(z, 50 - 2), torch.full_like(z, 0.5)), 1)
    torch.testing.assert_close(track.truth[:, :3], world, atol=1e-5, rtol=0)
    torch.testing.assert_close(track.truth[:, 4:], torch.tensor([[1.5, 1.8, 4.2]]).double().expand(14, -1))
    torch.testing.assert_close(track.truth[:, 3], torch.zeros(14).double(), atol=1e-6, rtol=0)
    # one metre further along the ray of the true centre, or of the detected one
    u = 700 * 2 / z + (3 if mode == "modern" else 0)
    torch.testing.assert_close(track.observed[:, 0], 101 + z, atol=1e-5, rtol=0)
    torch.testing.assert_close(track.observed[:, 1], 50 - u / 700 * (z + 1), atol=1e-5, rtol=0)
    assert track.confidence.tolist() == [0.7] * 14
    assert track.seconds.tolist() == [0.5 * k for k in range(14)]
    assert track.camera[3].tolist() == [100, 50, 1.5]
    assert track.seen.all()


def test_parity_pairs_small_boxes_that_do_not_touch_and_modern_does_not(tmp_path):
    truth, detections = content(1), content(1)
    truth["annotations"] = [annotation(0, 0, 1, (0.0, 0.0, 70.0), width=20)]
    far = annotation(0, 0, 5, (2.5, 0.0, 70.0), width=20, category=2, uncertainty=0.3, score=1.0, depth=60.0)
    detections["annotations"] = [far]
    (parity,) = tracks_of(tmp_path, truth, detections, "parity")
    (modern,) = tracks_of(tmp_path, truth, detections, "modern")
    assert parity.confidence.tolist() == [0.3]
    assert parity.observed[0, 0] == pytest.approx(160, abs=1e-4)
    assert modern.seen.tolist() == [False]
    assert torch.equal(modern.observed, modern.truth)


def test_what_was_not_detected(tmp_path):
    truth, detections = drive()
    detections["annotations"] = detections["annotations"][:5]
    (parity,), (modern,) = (tracks_of(tmp_path, truth, detections, mode) for mode in ("parity", "modern"))
    assert parity.seen.all()
    assert parity.confidence[5:].tolist() == [0.95] * 9
    assert torch.equal(parity.observed[5:], parity.truth[5:])
    assert modern.seen.tolist() == [True] * 5 + [False] * 9


def test_one_detection_serves_several_objects_in_parity_alone(tmp_path):
    truth, detections = content(1), content(1)
    truth["annotations"] = [annotation(k, 0, k, (0.02 * k, 0.0, 20.0)) for k in (0, 1)]
    detections["annotations"] = [annotation(0, 0, 9, (0.02, 0.0, 20.0), uncertainty=0.4, depth=20.0)]
    modern = tracks_of(tmp_path, truth, detections, "modern")
    assert [track.seen.tolist() for track in modern] == [[False], [True]]
    parity = tracks_of(tmp_path, truth, detections, "parity")
    assert [track.confidence.tolist() for track in parity] == [[0.4], [0.4]]


@given(st.lists(st.lists(st.floats(0, 1), min_size=3, max_size=3), min_size=1, max_size=4))
@settings(max_examples=30, deadline=None)
def test_pairs_are_one_to_one_and_none_better_is_left(overlap):
    overlap = torch.tensor(overlap, dtype=torch.float64).numpy()
    pairs = _best_first(overlap, 0.5)
    rows, columns = [r for r, _ in pairs], [c for _, c in pairs]
    assert len(set(rows)) == len(rows)
    assert len(set(columns)) == len(columns)
    assert all(overlap[pair] >= 0.5 for pair in pairs)
    for row in range(len(overlap)):
        for column in range(3):
            if overlap[row, column] >= 0.5:
                assert any((r == row or c == column) and overlap[r, c] >= overlap[row, column] for r, c in pairs)


def test_categories_videos_and_times(tmp_path):
    truth, detections = drive(4, videos=2, timestamps=[1_600_000_000_000_000 + 100_000 * k for k in range(4)])
    truth["annotations"].append(annotation(99, 0, 8, (0.0, 0, 30), category=2))
    tracks = tracks_of(tmp_path, truth, detections, "modern")
    assert sorted(len(track.seconds) for track in tracks) == [1, 4, 4]  # an object of a second video is another track
    assert tracks[0].seconds.diff().tolist() == pytest.approx([0.1] * 3, abs=1e-6)
    assert len(tracks_of(tmp_path, truth, detections, "modern", categories=["car"])) == 2
    with pytest.raises(UserError, match="no annotations of the chosen categories"):
        tracks_of(tmp_path, truth, detections, "modern", categories=["tram"])


def test_frames_without_the_object_are_skipped_and_count_as_time(tmp_path):
    truth, detections = drive(14)
    del truth["annotations"][4:7]
    (track,) = tracks_of(tmp_path, truth, detections, "modern")
    windows = all_windows([track], 10, 0.5)
    assert windows.steps[0].tolist() == [0, 1, 1, 1, 4, 1, 1, 1, 1, 1]
    assert windows.truth[0, 0, :3].tolist() == pytest.approx([15, -2, -1], abs=1e-4)  # beside the camera


def test_windows_are_padded_and_begin_where_they_may(tmp_path):
    (track,) = tracks_of(tmp_path, *drive(14), "modern")
    short = type(track)(*(column[:6] for column in track))
    windows = all_windows([track, short], 10, 0.5)
    assert windows.valid[1].tolist() == [1] * 6 + [0] * 4
    assert not windows.truth[1, 6:].any()
    assert windows.seen[1].tolist() == [True] * 6 + [False] * 4
    generator = torch.Generator().manual_seed(0)
    starts = {random_windows([track], 10, 0.5, "parity", generator).truth[0, 0, 0].item() for _ in range(60)}
    assert sorted(starts) == pytest.approx([15, 16, 17, 18], abs=1e-4)  # 0 to L - 10, the end left out, as published
    hidden = track._replace(seen=torch.tensor([False, False, True, False] + [True] * 10))
    starts = {random_windows([hidden], 10, 0.5, "modern", generator).truth[0, 0, 0].item() for _ in range(9)}
    assert list(starts) == pytest.approx([17], abs=1e-4)
    assert long_enough([track, short], 6) == [track]


@pytest.mark.parametrize(
    "change, sentence",
    [
        (lambda c: c.pop("videos"), "is no file of 3D boxes in videos"),
        (lambda c: c["images"][0].pop("pose"), "needs categories, videos, images with cali and pose"),
        (lambda c: c["annotations"][0].update(alpha=math.nan), "not finite"),
        (lambda c: c["annotations"][0].update(image_id=77), "KeyError: 77"),
        (lambda c: c["images"][0].update(cali=[1, 2]), "is no file of 3D boxes"),
        (lambda c: c["videos"].append({"id": 9, "name": "more"}), "have different videos"),
    ],
)
def test_broken_files(change, sentence, tmp_path):
    truth, detections = drive(3)
    change(detections)
    with pytest.raises(UserError, match=sentence) as caught:
        tracks_of(tmp_path, truth, detections, "modern")
    assert "\n" not in str(caught.value)


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(UserError, match=r"gone.json cannot be read: No such file"):
        read_tracks(tmp_path / "gone.json", tmp_path / "gone.json", mode="modern", frame_seconds=0.1)
    (tmp_path / "cut.json").write_text('{"images": [')
    with pytest.raises(UserError, match=r"cut.json is no file"):
        read_tracks(tmp_path / "cut.json", tmp_path / "cut.json", mode="modern", frame_seconds=0.1)
