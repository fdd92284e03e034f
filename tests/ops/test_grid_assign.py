import torch

from centernet.ops.assign import Objects, assign_levels, center_cells, center_positives
from centernet.ops.grid import Pyramid, cell_centers, cells_in_regions, flatten_levels

SOI = ((0, 80), (64, 160), (128, 320), (256, 640), (512, 1e7))
STRIDES = (8, 16, 32, 64, 128)
SIZES = ((16, 32), (8, 16), (4, 8), (2, 4), (1, 2))  # 128 x 256 pixels
BOXES = torch.tensor([[20.0, 30, 120, 110], [100, 10, 140, 60], [5, 5, 250, 125], [200, 90, 216, 104]])
CLASSES = torch.tensor([1, 2, 1, 0])


def objects(boxes=BOXES, classes=CLASSES, images=None):
    return Objects(boxes, classes, torch.zeros(len(boxes), dtype=torch.int64) if images is None else images)


def test_cell_centers_published_corners():
    expected = [
        ((4, 4), (252, 124), 512),
        ((8, 8), (248, 120), 128),
        ((16, 16), (240, 112), 32),
        ((32, 32), (224, 96), 8),
        ((64, 64), (192, 64), 2),
    ]
    for size, stride, (first, last, count) in zip(SIZES, STRIDES, expected, strict=True):
        cells = cell_centers(size, stride)
        assert cells.shape == (count, 2)
        assert cells.dtype == torch.float32
        assert tuple(cells[0].tolist()) == first
        assert tuple(cells[-1].tolist()) == last
    assert cell_centers((2, 3), 8)[1].tolist() == [12, 4]  # x runs fastest


def test_flat_order_is_level_image_row():
    pyramid = Pyramid(((2, 3), (1, 2)), (8, 16), 2)
    maps = [torch.arange(2 * 6).view(2, 1, 2, 3), 100 + torch.arange(2 * 2).view(2, 1, 1, 2)]
    flat = flatten_levels(maps)[:, 0]
    assert flat.tolist() == [*range(12), 100, 101, 102, 103]
    starts = pyramid.image_starts(torch.tensor([0, 1]))
    assert starts.tolist() == [[0, 12], [6, 14]]
    assert pyramid.num_cells == len(flat)


def test_cells_in_regions_follow_the_flat_order():
    pyramid = Pyramid(((2, 3), (1, 2)), (8, 16), 3)
    regions = [torch.tensor([[0.0, 0, 12, 8], [12, 8, 20, 16]]), None, torch.zeros(0, 4)]  # centres at 4 12 20, 8 24
    found = cells_in_regions(pyramid, regions)
    assert found.nonzero().flatten().tolist() == [0, 4]
    other = [None, torch.tensor([[8.0, 8, 24, 9]]), torch.tensor([[0.0, 0, 24, 16]])]  # left and top are inside
    assert cells_in_regions(pyramid, other).nonzero().flatten().tolist() == [*range(12, 18), 20, 22]
    assert found.shape == (pyramid.num_cells,)


def test_published_positives():
    assigned = assign_levels(BOXES, SOI)
    assert torch.allclose(
        (BOXES[:, 2:] - BOXES[:, :2]).norm(dim=1) / 2, torch.tensor([64.0312, 32.0156, 136.4047, 10.6301]), atol=1e-4
    )
    cells, labels, _ = center_positives(objects(), assigned, Pyramid(SIZES, STRIDES, 1))
    assert cells.tolist() == [264, 580, 143, 583, 659, 410]
    assert labels.tolist() == [1, 1, 2, 1, 1, 0]


def test_level_ranges_include_both_ends():
    # half diagonals exactly 64 and 80 (3-4-5 triangles), then just outside
    def square_diagonal(d):
        return [0, 0, 2 * d * 0.6, 2 * d * 0.8]

    boxes = torch.tensor([square_diagonal(64), square_diagonal(80), square_diagonal(63.99), square_diagonal(80.01)])
    assert assign_levels(boxes, SOI)[:, :2].tolist() == [[True, True], [True, True], [True, False], [False, True]]


def test_centers_outside_the_map_are_clamped_to_it():
    pyramid = Pyramid(((4, 4),), (8,), 1)
    outside = objects(torch.tensor([[-100.0, 10, -20, 14], [30, 30, 90, 90]]), torch.tensor([3, 5]))
    assigned = torch.ones(2, 1, dtype=torch.bool)
    cells, labels, _ = center_positives(outside, assigned, pyramid)
    assert cells.tolist() == [4, 15]
    assert labels.tolist() == [3, 5]
    # as published: the index runs on into another row, or out of the batch (dropped)
    cells, labels, _ = center_positives(outside, assigned, pyramid, clamp=False)
    assert cells.tolist() == []
    one_too_far = objects(torch.tensor([[30.0, 8, 40, 12]]), torch.tensor([1]))
    assert center_positives(one_too_far, assigned[:1], pyramid, clamp=False)[0].tolist() == [8]
    assert center_positives(one_too_far, assigned[:1], pyramid)[0].tolist() == [7]


def test_image_sizes_clamp_centers_first():
    pyramid = Pyramid(((4, 4),), (8,), 1)
    wide = objects(torch.tensor([[10.0, 0, 50, 8]]), torch.tensor([0]))
    cells, *_ = center_positives(wide, torch.ones(1, 1, dtype=torch.bool), pyramid, image_sizes=[(32, 20)])
    assert cells.tolist() == [2]  # x = 30 moved to 19


def test_shared_cells_count_each_object_unless_unique():
    pyramid = Pyramid(((4, 4),), (8,), 1)
    twins = objects(torch.tensor([[8.0, 8, 16, 16], [9, 9, 15, 15], [8, 8, 16, 16]]), torch.tensor([1, 1, 2]))
    assigned = torch.ones(3, 1, dtype=torch.bool)
    assert center_positives(twins, assigned, pyramid)[0].tolist() == [5, 5, 5]
    cells, labels, _ = center_positives(twins, assigned, pyramid, unique=True)
    assert sorted(zip(cells.tolist(), labels.tolist(), strict=True)) == [(5, 1), (5, 2)]


def test_center_cells_mark_what_lies_outside():
    pyramid = Pyramid(((4, 4),), (8,), 1)
    corner = objects(torch.tensor([[0.0, 0, 8, 8]]), torch.tensor([0]))
    cells = center_cells(corner, pyramid)
    assert cells.inside[0, 0].tolist() == [False, False, False, False, True, True, False, True, True]
    assert cells.flat[0, 0].tolist() == [0, 0, 0, 0, 0, 1, 0, 4, 5]
    assert cells.ltrb[0, 0, 4].tolist() == [0.5, 0.5, 0.5, 0.5]
