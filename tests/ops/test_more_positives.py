import numpy as np
import torch
from test_grid_assign import SIZES, SOI, STRIDES, objects

from centernet.ops.assign import Objects
from centernet.ops.grid import Pyramid
from centernet.ops.more_positives import MorePositiveRules, more_positives
from centernet.ops.targets import TargetRules

ONE_LEVEL = Pyramid(((32, 64),), (4,), 1)
EVERY_SIZE = TargetRules(((0, 1e6),))


def test_published_single_level_positives():
    predicted = torch.from_numpy(np.random.RandomState(7).uniform(0, 12, (2048, 4)).astype(np.float32))
    cells, labels, _ = more_positives(objects(), predicted, ONE_LEVEL, EVERY_SIZE, MorePositiveRules())
    assert cells.tolist() == [1105, 542, 1055, 1588]
    assert labels.tolist() == [1, 2, 1, 0]


def _perfect_predictions(pyramid, box):
    maps = []
    for (height, width), stride in zip(pyramid.sizes, pyramid.strides, strict=True):
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        x, y = x * stride + stride // 2, y * stride + stride // 2
        maps.append(torch.stack((x - box[0], y - box[1], box[2] - x, box[3] - y), dim=-1).view(-1, 4) / stride)
    return torch.cat(maps)


def test_good_neighbours_become_positive_up_to_the_rank():
    box = torch.tensor([[100.0, 40, 160, 100]])
    predicted = _perfect_predictions(ONE_LEVEL, box[0])
    predicted[:] = predicted + torch.arange(len(predicted))[:, None] * 1e-5  # no exact ties
    one = Objects(box, torch.tensor([2]), torch.tensor([0]))
    cells, labels, _ = more_positives(one, predicted, ONE_LEVEL, EVERY_SIZE, MorePositiveRules())
    assert len(cells) == 8  # strictly below the ninth of nine
    center = (70 // 4) * 64 + 130 // 4
    assert center in cells.tolist()
    assert set(labels.tolist()) == {2}
    few, *_ = more_positives(one, predicted, ONE_LEVEL, EVERY_SIZE, MorePositiveRules(topk=3))
    assert len(few) == 2


def test_bad_neighbours_stay_negative_and_the_center_stays_positive():
    box = torch.tensor([[100.0, 40, 160, 100]])
    one = Objects(box, torch.tensor([2]), torch.tensor([0]))
    cells, *_ = more_positives(one, torch.zeros(2048, 4), ONE_LEVEL, EVERY_SIZE, MorePositiveRules())
    assert cells.tolist() == [(70 // 4) * 64 + 130 // 4]


def test_nine_perfect_candidates_do_not_lose_the_object():
    box = torch.tensor([[100.0, 40, 160, 100]])
    one = Objects(box, torch.tensor([2]), torch.tensor([0]))
    cells, *_ = more_positives(one, _perfect_predictions(ONE_LEVEL, box[0]), ONE_LEVEL, EVERY_SIZE, MorePositiveRules())
    assert (70 // 4) * 64 + 130 // 4 in cells.tolist()


def test_candidates_of_unassigned_levels_take_part():
    pyramid = Pyramid(SIZES, STRIDES, 1)
    box = torch.tensor([[60.0, 30, 130, 100]])  # half diagonal 49: level 0 only
    one = Objects(box, torch.tensor([0]), torch.tensor([0]))
    predicted = _perfect_predictions(pyramid, box[0]).clamp(min=0) + 0.01
    predicted += torch.arange(len(predicted))[:, None] * 1e-5  # no exact ties
    predicted[:512] = 0  # level 0 predicts nothing useful
    cells, *_ = more_positives(one, predicted, pyramid, TargetRules(SOI), MorePositiveRules())
    assert any(c >= 512 for c in cells.tolist())
    assert (65 // 8) * 32 + 95 // 8 in cells.tolist()


def test_no_objects():
    none = Objects(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64))
    cells, labels, _ = more_positives(none, torch.zeros(2048, 4), ONE_LEVEL, EVERY_SIZE, MorePositiveRules())
    assert len(cells) == len(labels) == 0
    assert cells.dtype == torch.int64
