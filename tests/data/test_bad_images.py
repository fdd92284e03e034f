"""Unreadable training images: replaced in the same way always, counted, named once, and too many are one sentence."""

import itertools
import json
import logging
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog
from PIL import Image
from test_loader import read

from centernet.data import BadImages, build_train_loader
from centernet.data.bad_images import BadImage
from centernet.errors import UserError


def damage(cfg, *numbers):
    """Cut off images of the training set; returns their paths."""
    records = DatasetCatalog.get(cfg.DATASETS.TRAIN[0])
    files = [Path(records[number]["file_name"]) for number in numbers]
    for file in files:
        file.write_bytes(file.read_bytes()[:60])
    return files


@pytest.mark.parametrize("grouping", [True, False])
def test_replacements_do_not_depend_on_workers_and_resume(small_cfg, grouping):
    small_cfg.DATALOADER.ASPECT_RATIO_GROUPING = grouping
    sound = read(build_train_loader(small_cfg, seed=7), 10)
    damage(small_cfg, 4, 5)
    replaced = read(build_train_loader(small_cfg, seed=7), 10)
    assert not {5, 6} & {image_id for batch in replaced for image_id, *_ in batch}
    for was, now in zip(itertools.chain(*sound), itertools.chain(*replaced), strict=True):
        assert was[0] in (5, 6) or was == now  # nothing else changed
    assert read(build_train_loader(small_cfg, seed=7, start_iteration=6), 4) == replaced[6:]
    small_cfg.DATALOADER.NUM_WORKERS = 2
    assert read(build_train_loader(small_cfg, seed=7), 10) == replaced


def test_each_is_named_once_and_kept_on_file(small_cfg, tmp_path, caplog):
    cut, other = damage(small_cfg, 4, 5)
    Image.new("RGB", (7, 7)).save(other)  # can be read, but is not of the size that its annotation says
    bad = BadImages(2)
    with caplog.at_level(logging.WARNING):
        read(build_train_loader(small_cfg, seed=7, bad_images=bad), 12)
    assert len(bad) == 2
    assert sum(str(cut) in message for message in caplog.messages) == 1
    assert any("Mismatched image shape" in message and str(other) in message for message in caplog.messages)
    bad.open(tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "bad_images.jsonl").read_text().splitlines()]
    assert {row["file"] for row in rows} == {str(cut), str(other)}
    assert all(row["reason"] for row in rows)


def test_counts_survive_and_the_file_follows(tmp_path):
    bad = BadImages(5)
    bad.open(tmp_path)
    assert not (tmp_path / "bad_images.jsonl").exists()
    bad.add(BadImage("a", "x"))
    state = bad.state_dict()
    bad.add(BadImage("b", "y"))
    assert (tmp_path / "bad_images.jsonl").read_text().count("\n") == 2
    again = BadImages(5)
    again.load_state_dict(state)
    again.open(tmp_path)  # from the checkpoint on: 'b' will be met again
    assert (tmp_path / "bad_images.jsonl").read_text() == '{"file": "a", "reason": "x"}\n'
    again.add(BadImage("a", "x"))
    assert (tmp_path / "bad_images.jsonl").read_text().count("\n") == 1
    again.add(BadImage("b", "y"))
    assert len(again) == 2


def test_too_many_are_one_sentence(small_cfg):
    damage(small_cfg, 2, 4, 5)
    small_cfg.DATALOADER.BAD_IMAGE_LIMIT = 2
    with pytest.raises(UserError, match=r"3 training images cannot be read, the last one .*BAD_IMAGE_LIMIT is 2; mend"):
        read(build_train_loader(small_cfg, seed=0), 30)
    small_cfg.DATALOADER.BAD_IMAGE_LIMIT = 3
    read(build_train_loader(small_cfg, seed=0), 30)


def test_limit_counts_what_was_met_before_the_checkpoint(small_cfg):
    damage(small_cfg, 4)
    bad = BadImages(1)
    bad.load_state_dict({"reasons": {"other.png": "gone"}})
    with pytest.raises(UserError, match="2 training images cannot be read"):
        read(build_train_loader(small_cfg, seed=0, bad_images=bad), 12)


def test_none_can_be_read(small_cfg):
    damage(small_cfg, *range(10))
    with pytest.raises(UserError, match=r"cannot read image .*\.png: "):
        read(build_train_loader(small_cfg, seed=0), 1)


def test_decoder_that_raises_something_rare(small_cfg, monkeypatch):
    file = Path(DatasetCatalog.get(small_cfg.DATASETS.TRAIN[0])[4]["file_name"])
    Image.new("1", (300, 300)).save(file)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)  # DecompressionBombError, which is no OSError
    bad = BadImages(1)
    read(build_train_loader(small_cfg, seed=0, bad_images=bad), 12)
    assert list(bad.state_dict()["reasons"]) == [str(file)]


def test_a_defect_of_the_mapper_is_no_bad_image(small_cfg):
    def defective(record):
        raise ValueError("a defect")

    with pytest.raises(ValueError, match="a defect"):
        read(build_train_loader(small_cfg, defective, seed=0), 1)


def test_list_that_cannot_be_written(tmp_path):
    bad = BadImages(5)
    bad.open(tmp_path)
    (tmp_path / "bad_images.jsonl").symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"bad_images\.jsonl cannot be written: No space left on device"):
        bad.add(BadImage("a", "x"))
