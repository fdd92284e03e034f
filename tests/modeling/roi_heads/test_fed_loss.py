import json
import logging
import sys
from types import SimpleNamespace

import pytest
import torch
from detectron2.data.datasets.lvis_v0_5_categories import LVIS_CATEGORIES as LVIS_V0_5
from detectron2.data.datasets.lvis_v1_categories import LVIS_CATEGORIES as LVIS_V1
from hypothesis import given
from hypothesis import strategies as st

from centernet.errors import UserError
from centernet.modeling.roi_heads.fed_loss import get_fed_loss_inds, load_class_freq

COUNTS = "detectron2.data.datasets.lvis_v1_category_image_count"


@pytest.fixture
def nowhere(tmp_path):
    return str(tmp_path / "none.json")


@pytest.fixture
def without_table(monkeypatch):
    monkeypatch.setitem(sys.modules, COUNTS, None)  # as in detectron2 v0.6


@pytest.fixture
def with_table(monkeypatch):
    """detectron2 main has this module; its ids are taken in any order."""
    table = [{"id": i, "image_count": i % 7} for i in range(1203, 0, -1)]
    monkeypatch.setitem(sys.modules, COUNTS, SimpleNamespace(LVIS_CATEGORY_IMAGE_COUNT=table))


def test_table_of_detectron2_stands_in(nowhere, with_table, caplog):
    with caplog.at_level(logging.INFO):
        weight = load_class_freq(nowhere, 1.0, 1203)
    assert weight.shape == (1203,)
    assert weight[:8].tolist() == [1, 2, 3, 4, 5, 6, 0, 1]
    assert load_class_freq(nowhere, 0.5, 1203)[3] == 2
    (said,) = caplog.messages  # once, though a cascade asks three times
    assert "detectron2's image counts" in said
    assert nowhere in said


def test_real_table_of_detectron2(nowhere):
    pytest.importorskip(COUNTS)
    assert load_class_freq(nowhere, 1.0, 1203)[:2].tolist() == [64, 364]


@pytest.mark.parametrize(("num_classes", "categories"), [(1203, LVIS_V1), (1230, LVIS_V0_5)])
def test_groups_stand_in_without_the_table(num_classes, categories, nowhere, without_table, caplog):
    weight = load_class_freq(nowhere, 1.0, num_classes)
    assert weight.shape == (num_classes,)
    group = [c["frequency"] for c in sorted(categories, key=lambda c: c["id"])]
    assert {g: round(float(w), 1) for g, w in zip(group, weight, strict=True)} == {"r": 4.4, "c": 39.0, "f": 843.1}
    assert len(set(zip(group, weight.tolist(), strict=True))) == 3
    assert "mean count of rare, common and frequent" in caplog.text
    assert "CAT_FREQ_PATH" in caplog.text


def test_a_file_wins_over_the_table(tmp_path, with_table):
    path = tmp_path / "counts.json"
    path.write_text(json.dumps([{"id": i, "image_count": 9} for i in range(1, 1204)]))
    assert load_class_freq(str(path), 0.5, 1203).unique().tolist() == [3]


@pytest.mark.parametrize("num_classes", [None, 80, 1202, 1204])
def test_other_numbers_of_classes_need_the_file(num_classes, nowhere, with_table):
    with pytest.raises(UserError, match=f"{nowhere}.*CAT_FREQ_PATH"):
        load_class_freq(nowhere, 0.5, num_classes)


def test_published_draw_under_the_published_name():
    weight = torch.arange(1.0, 21).sqrt()
    torch.manual_seed(0)
    drawn = get_fed_loss_inds(torch.tensor([3, 3, 7, 20]), num_sample_cats=6, C=20, weight=weight)
    assert drawn.tolist() == [3, 7, 20, 17, 11, 6]
    assert get_fed_loss_inds(torch.arange(20), num_sample_cats=6, C=20, weight=weight).tolist() == list(range(20))


@given(st.lists(st.integers(0, 30), max_size=40), st.integers(1, 40), st.integers(-1, 30), st.integers(0, 2**31))
def test_present_first_then_distinct_allowed_classes(labels, wanted, limit, seed):
    torch.manual_seed(seed)
    drawn = get_fed_loss_inds(torch.tensor(labels, dtype=torch.int64), wanted, 30, None, limit).tolist()
    present = sorted(set(labels))
    assert drawn[: len(present)] == present
    extra = drawn[len(present) :]
    allowed = set(range(limit if limit > 0 else 30)) - set(present)
    assert set(extra) <= allowed
    assert len(extra) == len(set(extra)) == min(max(wanted - len(present), 0), len(allowed))


def test_defaults_are_those_of_lvis():
    assert len(get_fed_loss_inds(torch.tensor([1203]))) == 50
