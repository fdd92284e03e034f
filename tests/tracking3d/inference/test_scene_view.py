"""Wireframes, labels and the view from above."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from centernet.tracking3d.evaluation.records import TrackedFrame
from centernet.tracking3d.inference.birdseye import BirdsEyeView
from centernet.tracking3d.inference.drawing import draw_boxes, id_colour, seen_boxes, write_label
from centernet.tracking3d.inference.scene_view import SceneView

K = [[100.0, 0, 80, 0], [0, 100, 60, 0], [0, 0, 1, 0]]
NAMES = ["car"]


def frame_of(xyz, yaw=0.0, dims=(1.5, 1.8, 4.0), number=3):
    """One tracked box."""
    xyz = torch.tensor([xyz], dtype=torch.float64)
    one = torch.ones(1, dtype=torch.float64)
    return TrackedFrame(
        boxes=torch.zeros(1, 4),
        scores=one,
        labels=torch.zeros(1, dtype=torch.int64),
        ids=torch.tensor([number]),
        confidence=one,
        depth=xyz[:, 2],
        dims=torch.tensor([dims], dtype=torch.float64),
        alpha=one * 0,
        center2d=torch.zeros(1, 2),
        xyz=xyz,
        yaw=one * yaw,
    )


def record(index=0, video=0, **more):
    image = np.zeros((120, 160, 3), np.uint8)
    base = {"file_name": "f", "image": image, "height": 120, "width": 160, "intrinsics": K, "video_id": video}
    return base | {"frame_index": index, "timestamp": index / 10} | more


def drawn(frame):
    image = np.zeros((120, 160, 3), np.uint8)
    draw_boxes(image, seen_boxes(record(), frame, "modern"), np.array(K), NAMES)
    return image


def test_a_box_is_drawn_where_it_is_projected():
    lit = drawn(frame_of((0.0, 0.0, 10.0))).any(2)
    lit[:56] = False  # its label
    rows, columns = lit.nonzero()
    # the near side is at 10 - 0.9 metres, 4 long and 1.5 high
    assert columns.min() == pytest.approx(80 - 200 / 9.1, abs=2)
    assert columns.max() == pytest.approx(80 + 200 / 9.1, abs=2)
    assert rows.max() == pytest.approx(60 + 75 / 9.1, abs=2)


def test_the_front_face_is_filled():
    near = drawn(frame_of((0.0, 0.0, 10.0), yaw=np.pi / 2))  # its front looks at the camera, at 8 metres
    away = drawn(frame_of((0.0, 0.0, 10.0), yaw=-np.pi / 2))  # at 12 metres
    assert near[61, 82].any()
    assert away[61, 82].any()
    assert near[61, 89].any()
    assert not away[61, 89].any()  # beside the far face, inside the near one


def test_what_is_behind_the_camera_is_not_drawn():
    assert not drawn(frame_of((0.0, 0.0, -10.0))).any()
    assert drawn(frame_of((1.0, 0.5, 0.5), yaw=np.pi / 2)).any()  # half of it is before the camera


@settings(max_examples=30, deadline=None)
@given(
    st.tuples(*[st.floats(-30, 30)] * 3),
    st.floats(-4, 4),
    st.tuples(*[st.floats(0.01, 20)] * 3),
)
def test_any_box_can_be_drawn(xyz, yaw, dims):
    picture = SceneView(NAMES).draw(record(), frame_of(xyz, yaw, dims))
    assert picture.shape == (480, 640 + 432, 3)


def test_parity_frames_have_no_place_of_their_own():
    frame = frame_of((0.0, 0.0, 10.0))._replace(xyz=None, yaw=None, center2d=torch.tensor([[80.0, 60.0]]))
    boxes = seen_boxes(record(), frame, "modern")
    np.testing.assert_allclose(boxes.xyz, [[0, 0, 10]], atol=1e-9)


def test_labels_give_way():
    image, taken = np.zeros((60, 120, 3), np.uint8), []
    for _ in range(6):
        write_label(image, "car 1", (10, 55), (255, 255, 255), taken)
    assert len(taken) == len(set(taken)) == 3  # as many as find a place


def test_colours_differ_between_neighbours():
    colours = np.array([id_colour(number) for number in range(40)])
    assert np.abs(colours[1:] - colours[:-1]).sum(1).min() > 80


def from_above(view, place, index=0, **more):
    entry = record(index, **more)
    return view.draw(entry, seen_boxes(entry, frame_of(place), "modern"), (400, 300), entry["timestamp"])


def test_above_the_camera_is_below_and_right_is_right():
    empty = from_above(BirdsEyeView(), (0, 0, -500.0))
    left, right = (from_above(BirdsEyeView(), (x, 0, 20.0)) for x in (-8.0, 8.0))
    rows, columns = (right != empty).any(2).nonzero()
    assert 150 < columns.mean() < 300
    assert rows.mean() == pytest.approx(400 - 16 - 20 * 376 / 40, abs=12)
    assert (left != empty).any(2).nonzero()[1].mean() < 150


def test_the_scale_grows_at_once_and_shrinks_late():
    view = BirdsEyeView()
    assert view.range == 40
    from_above(view, (0, 0, 55.0), 0)
    assert view.range == 60
    from_above(view, (0, 0, 10.0), 1)
    assert view.range == 60
    from_above(view, (0, 0, 1000.0), 2)
    assert view.range == view.most_range
    from_above(view, (0, 0, 10.0), 40)
    assert view.range == view.most_range
    from_above(view, (0, 0, 10.0), 60)
    assert view.range == view.least_range


def test_trails_stand_still_in_the_world_and_end():
    view = BirdsEyeView(trail_seconds=0.5)
    upright = [[1.0, 0, 0], [0, 0, 1], [0, -1, 0]]
    for index in range(4):  # the camera drives ahead by a metre a frame, towards an object that stands
        from_above(view, (0, 0, 20.0 - index), index, pose={"rotation": upright, "position": [0.0, index, 0.0]})
    places = np.array([place for _, place in view._trails[3]])
    np.testing.assert_allclose(places, np.tile([0, 20, 0], (4, 1)), atol=1e-9)
    view.draw(record(20), seen_boxes(record(), frame_of((0, 0, 9.0), number=8), "modern"), (100, 80), 2.0)
    assert list(view._trails) == [8]


def test_a_new_video_forgets_trails():
    view = SceneView(NAMES)
    view.draw(record(0, video=1), frame_of((0, 0, 10.0), number=1))
    view.draw(record(0, video=2), frame_of((0, 0, 10.0), number=2))
    assert list(view.birdseye._trails) == [2]


def test_a_picture_keeps_its_pixels_and_is_not_written_into():
    entry = record(image=np.full((600, 801, 3), 7, np.uint8), height=600, width=801)
    picture = SceneView(NAMES).draw(entry, frame_of((0, 0, 10.0)))
    assert picture.shape[0] % 2 == picture.shape[1] % 2 == 0
    assert (entry["image"] == 7).all()
