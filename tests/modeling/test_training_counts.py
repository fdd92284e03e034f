"""Where the federated loss takes its class frequencies from: file, LVIS table, training set, or nowhere."""

import json

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from tiny import tiny_cfg

from centernet.data.datasets.registration import JsonSource
from centernet.errors import UserError
from centernet.modeling.roi_heads.fed_loss import class_weights_of, count_images


@pytest.fixture
def forget():
    """Names to be forgotten."""
    names = []
    yield names
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.pop(name, None)


@pytest.fixture
def registered(forget):
    """Function that registers dataset dicts from the classes of each image; ``-c - 1`` is a crowd of class ``c``."""

    def register(name, *images):
        DatasetCatalog.register(name, lambda: [
            {"annotations": [{"category_id": c if c >= 0 else -c - 1, "iscrowd": int(c < 0)} for c in classes]}
            for classes in images
        ])  # fmt: skip
        forget.append(name)
        return name

    return register


def cfg_of(*train, path="none.json", classes=5):
    cfg = tiny_cfg("CenterNet2_R50_1x", "MODEL.ROI_BOX_HEAD.USE_FED_LOSS", True)
    cfg.DATASETS.TRAIN, cfg.MODEL.ROI_BOX_HEAD.CAT_FREQ_PATH = train, str(path)
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = classes
    return cfg


def test_images_not_objects_of_all_training_sets_are_counted(registered):
    one = registered("counts_one", [0, 0, 1], [0], [], [-3])
    two = registered("counts_two", [0, 3], [3, 3])
    assert count_images([one], 5).tolist() == [2, 1, 1, 1, 1]  # at least one each; the crowd of class 2 is no image
    assert count_images([one, two], 5).tolist() == [3, 1, 1, 2, 1]
    cfg = cfg_of(one, two)
    assert class_weights_of(cfg).tolist() == pytest.approx([3**0.5, 1, 1, 2**0.5, 1])
    cfg.MODEL.ROI_BOX_HEAD.FED_LOSS_FREQ_WEIGHT = 1.0
    assert class_weights_of(cfg).tolist() == [3, 1, 1, 2, 1]


@pytest.mark.parametrize("lvis", [False, True])
def test_a_json_file_is_counted_from_its_index_as_from_its_dicts(tmp_path, monkeypatch, forget, lvis):
    draw, classes = np.random.default_rng(0), 7
    image = {"file_name": "1.jpg", "coco_url": "a/b/1.jpg", "height": 9, "width": 9}
    images = [{"id": k} | image for k in range(40)]
    annotations = [
        {"id": k, "image_id": int(draw.integers(40)), "category_id": int(draw.integers(1, classes)), "area": 4.0}
        | {"bbox": [1, 1, 2, 2], "segmentation": [[1, 1, 3, 1, 3, 3]], "iscrowd": int(not lvis and draw.random() < 0.3)}
        for k in range(1, 120)
    ]
    content = {"images": images, "annotations": annotations}
    path = tmp_path / "set.json"
    path.write_text(json.dumps(content | {"categories": [{"id": k + 1, "name": f"c{k}"} for k in range(classes)]}))
    source = JsonSource("counts_json", str(path), str(tmp_path), lvis=lvis)
    monkeypatch.setattr("centernet.data.index.get_lvis_instances_meta", lambda name: {})
    monkeypatch.setattr("detectron2.data.datasets.lvis.get_lvis_instances_meta", lambda name: {})
    DatasetCatalog.register("counts_json", source)
    forget.append("counts_json")
    one_by_one = np.zeros(classes)
    for record in source():
        one_by_one[list({a["category_id"] for a in record["annotations"] if not a.get("iscrowd", 0)})] += 1
    monkeypatch.setattr(JsonSource, "__call__", lambda self: pytest.fail("the file was read again"))
    assert count_images(["counts_json"], classes).tolist() == np.maximum(one_by_one, 1).tolist()


def test_a_file_wins_over_the_training_set(registered, tmp_path):
    path = tmp_path / "counts.json"
    path.write_text(json.dumps([{"id": k + 1, "image_count": 4 * k} for k in range(5)]))
    cfg = cfg_of(registered("counts_unused", [0]), path=path)
    assert class_weights_of(cfg).tolist() == pytest.approx([(4 * k) ** 0.5 for k in range(5)])


def test_the_table_of_lvis_wins_over_the_training_set(registered):
    assert class_weights_of(cfg_of(registered("counts_lvis", [0]), classes=1203)).max() > 10


def test_a_model_without_its_training_data_is_built(caplog):
    assert class_weights_of(cfg_of("not_here_at_all")).tolist() == [1] * 5
    assert "same chance" in caplog.text
    assert "not_here_at_all" in caplog.text


def test_what_cannot_be_counted_is_said(registered):
    for names, words in [((), "TRAIN is empty"), (("not_here",), "'not_here' is not registered")]:
        with pytest.raises(UserError, match=words):
            count_images(names, 5)
    with pytest.raises(UserError, match="class number 7, but MODEL.ROI_HEADS.NUM_CLASSES is 5"):
        count_images([registered("counts_many", [7])], 5)
