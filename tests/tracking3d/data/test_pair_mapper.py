"""Key and reference pairs, test frames, and the loaders that give them."""

import random

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg

from centernet.config import add_centernet_config
from centernet.data.mapper import seeded
from centernet.errors import UserError
from centernet.tracking3d.config import add_tracking3d_config
from centernet.tracking3d.data import (
    FrameMapper,
    PairMapper,
    boxes_of,
    build_pair_train_loader,
    build_video_test_loader,
    in_video_order,
    synthetic_records,
)
from centernet.tracking3d.data.mapper import resize_factor, resize_picture
from centernet.tracking3d.ops.geometry import flip_alpha


@pytest.fixture(scope="module")
def frames():
    return list(synthetic_records((3, 4), 6))


@pytest.fixture
def cfg():
    cfg = get_cfg()
    add_centernet_config(cfg)
    if "TRACKING3D" not in cfg.MODEL:
        add_tracking3d_config(cfg)
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (192,), 448
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 96, 224
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.SOLVER.IMS_PER_BATCH = 3
    cfg.SEED = 1
    return cfg


@pytest.mark.parametrize(
    ("size", "bounds", "wanted"),
    [
        ((900, 1600), (900, 1600), (900, 1600)),
        ((375, 1242), (448, 1485), (448, 1484)),
        ((1280, 1920), (854, 1280), (853, 1280)),
        ((886, 1920), (854, 1280), (591, 1280)),
        ((1080, 1920), (1088, 1920), (1080, 1920)),
    ],
)
@pytest.mark.parametrize("mode", ["parity", "modern"])
def test_published_sizes(size, bounds, wanted, mode):
    image = np.zeros((*size, 3), np.uint8)
    assert resize_picture(image, resize_factor(*size, *bounds), mode).shape[:2] == wanted


def pair(mapper, row=0, seed=0):
    with seeded(seed):
        return mapper(mapper.rows[row])


def test_a_pair(frames):
    mapper = PairMapper(frames, 192, 448, flip_probability=0.0)
    for seed in range(12):
        key = pair(mapper, 2, seed)
        reference = key["reference"]
        assert key["video_id"] == reference["video_id"]
        assert 1 <= abs(key["frame_index"] - reference["frame_index"]) <= 3
        match, ids = key["instances"].gt_match, reference["instances"].gt_instance
        assert (match >= 0).any()
        for own, row in zip(key["instances"].gt_instance.tolist(), match.tolist(), strict=True):
            assert (own == ids[row]) if row >= 0 else own not in ids.tolist()
        record = next(r for r in frames if r["file_name"] == key["file_name"])
        boxes = boxes_of(record)
        made = key["instances"]
        assert torch.allclose(made.gt_boxes.tensor, boxes.boxes.float())
        assert torch.allclose(made.gt_depth, boxes.xyz[:, 2].float())
        middle = (boxes.boxes[:, :2] + boxes.boxes[:, 2:]) / 2
        centre = torch.tensor([a["center2d"] for a in record["annotations"]])
        assert torch.allclose(made.gt_center_offset, centre - middle.float(), atol=1e-4)
        assert torch.equal(key["image"], torch.from_numpy(record["image"].transpose(2, 0, 1).copy()))


@pytest.mark.parametrize("mode", ["parity", "modern"])
def test_one_flip_for_both(frames, mode):
    plain = pair(PairMapper(frames, 96, 224, flip_probability=0.0, mode=mode), 1)
    flipped = pair(PairMapper(frames, 96, 224, flip_probability=1.0, mode=mode), 1)
    for a, b in ((plain, flipped), (plain["reference"], flipped["reference"])):
        assert a["file_name"] == b["file_name"]
        assert b["flipped"]
        assert torch.equal(a["image"].flip(2), b["image"])
        width = a["image"].shape[2]
        assert width == 224
        old, new = a["instances"].gt_boxes.tensor, b["instances"].gt_boxes.tensor
        assert torch.allclose(new[:, 0], width - old[:, 2])
        assert torch.equal(new[:, 1::2], old[:, 1::2])
        assert torch.allclose(b["instances"].gt_alpha, flip_alpha(a["instances"].gt_alpha), atol=1e-6)
        wanted = a["instances"].gt_center_offset * torch.tensor([-1.0, 1.0])
        assert torch.equal(b["instances"].gt_center_offset, wanted)
        for name in ("gt_dims", "gt_depth", "gt_classes"):
            assert torch.equal(a["instances"].get(name), b["instances"].get(name))


def test_half_of_the_pairs_are_flipped(frames):
    mapper = PairMapper(frames, 96, 224)
    flips = [pair(mapper, 1, seed) for seed in range(30)]
    assert 5 < sum(p["flipped"] for p in flips) < 25
    assert all(p["flipped"] == p["reference"]["flipped"] for p in flips)


def test_still_pictures_are_their_own_reference(frames):
    key = pair(PairMapper([frames[0]], 96, 224))
    assert key["file_name"] == key["reference"]["file_name"]
    assert key["instances"].gt_match.tolist() == list(range(len(key["instances"])))


def test_pairs_without_a_common_object_are_replaced(frames):
    """Clip 9's objects are renamed in every frame: its keys have no reference."""
    renamed = []
    for record in synthetic_records((9,), 4):
        first = 10**6 + 100 * record["frame_index"]
        own = [a | {"instance_id": first + i} for i, a in enumerate(record["annotations"])]
        renamed.append(record | {"annotations": own})
    mapper = PairMapper([*renamed, *frames], 96, 224)
    assert mapper.rows[0]["file_name"].startswith("clip_00009")
    assert {pair(mapper, 0, seed)["video_id"] for seed in range(8)} <= {3, 4}
    assert pair(PairMapper(renamed, 96, 224)) is None


def test_empty_frames_are_no_keys_and_nothing_at_all_is_told(frames):
    bare = [record | {"annotations": []} for record in frames]
    mapper = PairMapper([*bare[:6], *frames[6:]], 96, 224)
    assert len(mapper.rows) == 6
    with pytest.raises(UserError, match="none of the 12 frames has an annotated object"):
        PairMapper(bare, 96, 224)


def test_tiny_and_ignored_boxes_train_nothing(frames):
    first = frames[0]["annotations"]
    changed = [first[0] | {"bbox": [5, 5, 5.5, 50]}, first[1] | {"ignore": 1}, *first[2:]]
    key = pair(PairMapper([frames[0] | {"annotations": changed}], 192, 448, flip_probability=0))
    assert key["instances"].gt_instance.tolist() == [a["instance_id"] for a in first[2:]]


def test_ignore_regions_go_with_the_picture(frames):
    record = frames[0] | {"ignore_regions": [[10, 20, 30, 60]]}
    key = pair(PairMapper([record], 96, 224, flip_probability=1.0))
    assert key["ignore_regions"].tensor.tolist() == [[209, 10, 219, 30]]


def test_photometric_changes_each_picture_by_itself(frames):
    plain = pair(PairMapper([frames[0]], 96, 224, flip_probability=0))
    bright = pair(PairMapper([frames[0]], 96, 224, flip_probability=0, photometric=True))
    assert not torch.equal(plain["image"], bright["image"])
    assert not torch.equal(bright["image"], bright["reference"]["image"])


def test_bgr(frames):
    rgb, bgr = (pair(PairMapper(frames, 96, 224, channels=c, flip_probability=0)) for c in ("RGB", "BGR"))
    assert torch.equal(rgb["image"].flip(0), bgr["image"])


def test_a_test_frame(frames):
    made = FrameMapper(96, 224)(frames[0])
    assert made["image"].shape == (3, 96, 224)
    assert made["resize_factor"] == 0.5
    assert made["intrinsics"].shape == (3, 4)
    assert "annotations" not in made
    assert (made["height"], made["width"], made["frame_index"]) == (192, 448, 0)


def test_a_picture_of_another_size(frames):
    with pytest.raises(UserError, match="is 448x100 pixels, its record and camera matrix are of 448x192"):
        FrameMapper(96, 224)(frames[0] | {"image": frames[0]["image"][:100]})


def named(batch):
    return [(x["file_name"], x["reference"]["file_name"], x["flipped"]) for x in batch]


def test_training_batches_resume(cfg, frames):
    loader = build_pair_train_loader(cfg, frames)
    batches = [named(batch) for batch, _ in zip(loader, range(4), strict=False)]
    assert all(len(batch) == 3 for batch in batches)
    state = random.getstate()
    later = build_pair_train_loader(cfg, frames, start_iteration=3)
    again = next(iter(later))
    assert named(again) == batches[3]
    assert random.getstate() == state


def test_test_frames_come_video_by_video(cfg, frames):
    shuffled = list(frames)
    random.Random(0).shuffle(shuffled)
    loader = build_video_test_loader(cfg, "", records=shuffled)
    seen = [(x["video_id"], x["frame_index"]) for (x,) in loader]
    assert seen == [(r["video_id"], r["frame_index"]) for r in in_video_order(shuffled)]
    assert len(set(seen)) == 12


def test_missing_pictures(cfg, synthetic_folder, tmp_path, frames):
    lost = [r | {"image": None, "file_name": str(tmp_path / f"{i}.png")} for i, r in enumerate(frames)]
    with pytest.raises(UserError, match=r"cannot read image .*0.png: .*No such file"):
        list(build_video_test_loader(cfg, "", records=lost))
    # in training others take their place, up to a limit
    cfg.DATALOADER.BAD_IMAGE_LIMIT = 100
    loader = build_pair_train_loader(cfg, [*frames[:6], *lost[6:]])
    batches = [batch for batch, _ in zip(loader, range(4), strict=False)]
    assert {x["video_id"] for batch in batches for x in batch} == {3}
    assert len(loader.bad_images) > 0
    cfg.DATALOADER.BAD_IMAGE_LIMIT = 0
    with pytest.raises(UserError, match="cannot read image"):
        for _ in zip(build_pair_train_loader(cfg, lost), range(3), strict=False):
            pass
