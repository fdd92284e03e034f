"""A config, and a small dataset on disk."""

import json

import numpy as np
import pytest
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from random_coco import random_ground_truth

from centernet.config import add_centernet_config


@pytest.fixture
def cfg(tmp_path):
    config = get_cfg()
    add_centernet_config(config)
    config.DATALOADER.NUM_WORKERS = 0
    config.OUTPUT_DIR = str(tmp_path / "output")
    return config


@pytest.fixture
def dataset(tmp_path):
    """The ``coco_json:`` name of a random dataset on disk, and its content; forgotten afterwards."""
    before = set(DatasetCatalog.list())
    truth = random_ground_truth(np.random.default_rng(0), images=6)
    for annotation in truth["annotations"]:
        del annotation["segmentation"], annotation["area"], annotation["iscrowd"]  # as in home-made files
        annotation["bbox"] = [v / 8 for v in annotation["bbox"]]
    for image in truth["images"]:
        image["width"] = image["height"] = 50
        Image.new("RGB", (50, 50)).save(tmp_path / image["file_name"])
    (tmp_path / "labels.json").write_text(json.dumps(truth))
    yield f"coco_json:{tmp_path / 'labels.json'}:{tmp_path}", truth
    for name in set(DatasetCatalog.list()) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
