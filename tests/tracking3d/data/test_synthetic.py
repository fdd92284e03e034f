"""The synthetic world: its boxes are where its pixels are."""

import time

import numpy as np
import pytest
import torch

from centernet.errors import UserError
from centernet.tracking3d.data.coco_vid import read_coco_vid
from centernet.tracking3d.data.constants import SYNTHETIC_CLASSES
from centernet.tracking3d.data.records import box3d_bounds, boxes_of, camera_of
from centernet.tracking3d.data.synthetic import SyntheticOptions, synthetic_clip, synthetic_records, write_synthetic
from centernet.tracking3d.data.synthetic_render import Cuboid, render
from centernet.tracking3d.ops.geometry import lift_boxes, wrap_angle

ROTATION = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])  # looks along X
K = np.array([[260.0, 0, 160], [0, 260, 86], [0, 0, 1]])


def cuboid(x, y, yaw=0.0):
    return Cuboid(np.array([x, y, 0.0]), yaw, (1.5, 1.8, 4.2), (0.2, 0.3, 0.9), 5)


def test_pixels_fill_the_projected_box():


    for x, y, yaw in ((12, 2, 0.4), (20, -5, 2.0), (7, 0, -1.0)):
        owner = render([cuboid(x, y, yaw)], K, ROTATION, np.array([0, 0, 1.6]), (192, 320)).owner
        rows, columns = np.nonzero(owner == 0)
        xyz = torch.tensor([[-y, 1.6 - 0.75, x]], dtype=torch.float64)
        bounds, visible = box3d_bounds(
            xyz,
            torch.tensor([-np.pi / 2 - yaw], dtype=torch.float64),
            torch.tensor([[1.5, 1.8, 4.2]]).double(),
            torch.from_numpy(np.c_[K, np.zeros(3)]),
            (192, 320),
        )
        assert visible.item()
        seen = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        # pixels count when their centres are inside
        assert bounds[0].tolist() == pytest.approx(seen, abs=1.0)


def test_the_nearer_one_hides_the_other():
    both = render([cuboid(20, 0), cuboid(10, 0)], K, ROTATION, np.array([0, 0, 1.6]), (192, 320)).owner
    again = render([cuboid(10, 0), cuboid(20, 0)], K, ROTATION, np.array([0, 0, 1.6]), (192, 320)).owner
    assert (both == 1).sum() > 4 * (both == 0).sum()
    assert ((both == 1) == (again == 0)).all()


def test_a_clip_is_a_function_of_its_seed_and_fast():
    begin = time.perf_counter()
    clip = synthetic_clip(5, 20)
    elapsed = time.perf_counter() - begin
    assert elapsed < 8  # about 0.7 s on a free core
    again = synthetic_clip(5, 20)
    for (image, made), (image2, made2) in zip(clip, again, strict=True):
        assert np.array_equal(image, image2)
        assert made == made2
    assert not np.array_equal(clip[0][0], synthetic_clip(6, 1)[0][0])


def test_annotations_are_the_same_objects_in_the_world():
    """Lifted boxes have constant sizes and move smoothly; the 2D box holds the projected centre."""
    places = {}
    classes = set()
    for seed in range(4):
        for image, made in synthetic_clip(seed, 10):
            assert image.shape == (192, 448, 3)
            boxes = boxes_of(made)
            classes |= set(boxes.classes.tolist())
            centre = torch.tensor([a["center2d"] for a in made["annotations"]], dtype=torch.float64).reshape(-1, 2)
            lifted = lift_boxes(centre, boxes.xyz[:, 2], boxes.alpha, boxes.dims, camera_of(made)).box7
            assert torch.allclose(lifted[:, 2], boxes.dims[:, 0] / 2)  # stands on the ground
            limit = torch.tensor([448.0, 192, 448, 192], dtype=torch.float64)
            assert (boxes.boxes >= 0).all()
            assert (boxes.boxes <= limit).all()
            for instance, box in zip(boxes.instances.tolist(), lifted, strict=True):
                places.setdefault(instance, []).append((made["timestamp"], box))
    assert classes == set(range(len(SYNTHETIC_CLASSES)))
    assert len(places) > 12
    for track in places.values():
        for (t0, a), (t1, b) in zip(track, track[1:], strict=False):
            assert torch.allclose(a[4:], b[4:])
            assert (b[:3] - a[:3]).norm() < 10 * (t1 - t0)
            assert wrap_angle(b[3] - a[3]).abs() < 0.5 * (t1 - t0)


def test_an_empty_world():
    (image, made), = synthetic_clip(1, 1, SyntheticOptions(objects=0))
    assert made["annotations"] == []
    assert image.std() > 10  # ground and sky are there


def test_written_and_read(synthetic_folder):
    records = read_coco_vid(synthetic_folder / "annotations.json", synthetic_folder, SYNTHETIC_CLASSES)
    made = list(synthetic_records((3, 4), 5))
    assert [r["video"] for r in records] == ["clip_00003"] * 5 + ["clip_00004"] * 5
    for a, b in zip(records, made, strict=True):
        assert a["file_name"] == str(synthetic_folder / b["file_name"])
        assert torch.allclose(boxes_of(a).boxes, boxes_of(b).boxes)
        assert torch.allclose(camera_of(a).rotation, camera_of(b).rotation, atol=1e-9)
    with pytest.raises(UserError, match="0 clips of 20 frames"):
        write_synthetic(synthetic_folder, ())
