"""A batch comes back as it was, and a file that is no dump is a sentence."""

import numpy as np
import pytest
import torch
from detectron2.structures import BitMasks, Boxes, Instances, Keypoints, PolygonMasks

from centernet.engine.batch_dump import read_batch_dump, write_batch_dump
from centernet.errors import UserError


def batch():
    objects = Instances((20, 30))
    objects.gt_boxes = Boxes(torch.rand(2, 4))
    objects.gt_classes = torch.tensor([1, 0])
    objects.gt_scores = torch.rand(2)
    objects.gt_masks = PolygonMasks([[np.random.rand(6)], [np.random.rand(8), np.random.rand(6)]])
    objects.gt_keypoints = Keypoints(torch.rand(2, 3, 3))
    image = torch.randint(0, 256, (3, 20, 30), dtype=torch.uint8)
    return [{"image": image, "file_name": "a.png", "height": np.int64(40), "instances": objects, "x": None, "l": [1]}]


def test_round_trip(tmp_path):
    sample = batch()[0]
    write_batch_dump(tmp_path / "a.pth", [sample], iteration=3)
    content = read_batch_dump(tmp_path / "a.pth")
    assert content["iteration"] == 3
    (again,) = content["batch"]
    assert {k: v for k, v in again.items() if k in ("file_name", "height", "x", "l")} == {
        "file_name": "a.png", "height": 40, "x": None, "l": [1],
    }  # fmt: skip
    assert torch.equal(again["image"], sample["image"])
    one, other = sample["instances"], again["instances"]
    assert other.image_size == (20, 30)
    assert torch.equal(one.gt_boxes.tensor, other.gt_boxes.tensor)
    assert torch.equal(one.gt_classes, other.gt_classes)
    assert torch.equal(one.gt_scores, other.gt_scores)
    assert torch.equal(one.gt_keypoints.tensor, other.gt_keypoints.tensor)
    for a, b in zip(one.gt_masks.polygons, other.gt_masks.polygons, strict=True):
        assert all((x == y).all() for x, y in zip(a, b, strict=True))


def test_bit_masks_and_what_is_unknown(tmp_path, caplog):
    objects = Instances((4, 4), gt_masks=BitMasks(torch.rand(2, 4, 4) > 0.5))
    write_batch_dump(tmp_path / "a.pth", [{"instances": objects, "odd": object()}])
    (again,) = read_batch_dump(tmp_path / "a.pth")["batch"]
    assert torch.equal(again["instances"].gt_masks.tensor, objects.gt_masks.tensor)
    assert again["odd"] is None
    assert "object in the batch is not kept" in caplog.text


@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_bytes(b"no dump"),
        lambda path: torch.save({"model": {}}, path),
        lambda path: torch.save({"format": 1, "batch": [Instances((1, 1))]}, path),  # would run code
        lambda path: torch.save({"format": 1, "batch": [{"kind of structure": "os.system"}]}, path),
        lambda path: None,
        lambda path: torch.save({"format": 2, "batch": []}, path),
    ],
)
def test_files_that_are_none(tmp_path, write):
    write(tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"there is no file|is not a whole dump|is a dump of format 2") as error:
        read_batch_dump(tmp_path / "a.pth")
    assert "\n" not in str(error.value)
