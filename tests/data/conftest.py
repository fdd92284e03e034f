"""A small COCO-format dataset and a config for the loader's tests."""

import json

import numpy as np
import pytest
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from centernet.config import add_centernet_config
from centernet.data import ensure_registered


@pytest.fixture
def base_cfg():
    cfg = get_cfg()
    add_centernet_config(cfg)
    cfg.DATALOADER.NUM_WORKERS = 0
    return cfg


@pytest.fixture
def forget_datasets():
    """Unregister what a test registers."""
    before = set(DatasetCatalog.list())
    yield
    for name in set(DatasetCatalog.list()) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.fixture
def write_coco(tmp_path):
    """Function that writes a dataset of ``count`` images and returns its ``coco_json:`` name."""

    def write(folder="own", count=10, classes=("ant", "bee"), size=lambda k: (40, 30) if k % 3 else (30, 40)):
        root = tmp_path / folder
        (root / "images").mkdir(parents=True)
        images, annotations = [], []
        for number in range(count):
            width, height = size(number)
            pixels = np.random.RandomState(number).randint(0, 256, (height, width, 3), np.uint8)
            Image.fromarray(pixels).save(root / "images" / f"{number}.png")
            images.append({"id": number + 1, "file_name": f"{number}.png", "width": width, "height": height})
            annotations.append(
                {"id": number + 1, "image_id": number + 1, "category_id": number % len(classes) + 1}
                | {"bbox": [5, 6, 10, 12], "area": 120, "iscrowd": 0}
            )
        categories = [{"id": k + 1, "name": name} for k, name in enumerate(classes)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / "labels.json").write_text(json.dumps(content))
        return f"coco_json:{root / 'labels.json'}:{root / 'images'}"

    return write


@pytest.fixture
def small_cfg(base_cfg, write_coco, forget_datasets):
    """A config that trains and tests on the small dataset."""
    name = write_coco()
    ensure_registered([name])
    cfg = base_cfg
    cfg.DATASETS.TRAIN = (name,)
    cfg.DATASETS.TEST = (name,)
    cfg.INPUT.MIN_SIZE_TRAIN = (24, 32, 48)
    cfg.INPUT.MIN_SIZE_TEST = 32
    cfg.SOLVER.IMS_PER_BATCH = 3
    return cfg
