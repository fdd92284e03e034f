"""A real detector, real images on disk and a config file: a training run that a test can afford."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
TRAIN_NET = ROOT / "train_net.py"

CONFIG = """
_BASE_: {base}
MODEL:
  WEIGHTS: ""
  DEVICE: cpu
  RESNETS:
    DEPTH: 18
    RES2_OUT_CHANNELS: 64
    NORM: BN
    OUT_FEATURES: ["res2", "res3"]
  FPN:
    IN_FEATURES: ["res2", "res3"]
    OUT_CHANNELS: 32
  BACKBONE:
    NAME: build_p35_resnet_fpn_backbone
    FREEZE_AT: 0
  CENTERNET:
    IN_FEATURES: ["p2", "p3"]
    FPN_STRIDES: [4, 8]
    SOI: [[0, 16], [12, 10000000]]
    NUM_BOX_CONVS: 1
    NUM_CLASSES: 2
    POST_NMS_TOPK_TRAIN: 60
    POST_NMS_TOPK_TEST: 20
  ROI_HEADS:
    IN_FEATURES: ["p2", "p3"]
    NUM_CLASSES: 2
    BATCH_SIZE_PER_IMAGE: 16
  ROI_BOX_HEAD:
    FC_DIM: 32
DATASETS:
  TRAIN: ("{train}",)
  TEST: ("{test}",)
DATALOADER:
  NUM_WORKERS: {workers}
INPUT:
  MIN_SIZE_TRAIN: (32, 40, 48)
  MIN_SIZE_TEST: 32
SOLVER:
  IMS_PER_BATCH: 2
  MAX_ITER: 12
  STEPS: (8,)
  WARMUP_ITERS: 4
  BASE_LR: 0.01
  CHECKPOINT_PERIOD: 5
OUTPUT_DIR: "{folder}/output/auto"
"""


def write_dataset(folder: Path, count: int, classes: tuple[str, ...] = ("ant", "bee")) -> str:
    """Write ``count`` small images with two boxes each; return the dataset's name."""
    folder.mkdir(parents=True)
    images, annotations = [], []
    for number in range(count):
        random = np.random.RandomState(number)
        pixels = random.randint(0, 256, (48, 64, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        images.append({"id": number + 1, "file_name": f"{number}.png", "width": 64, "height": 48})
        for k in range(2):
            x, y, width, height = (int(v) for v in random.randint(4, 24, 4))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number + 1,
                    "category_id": (number + k) % len(classes) + 1,
                }
                | {"bbox": [x, y, width, height], "area": width * height, "iscrowd": 0}
            )
    categories = [{"id": k + 1, "name": name} for k, name in enumerate(classes)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "labels.json").write_text(json.dumps(content))
    return f"coco_json:{folder / 'labels.json'}:{folder}"


def write_config(folder: Path, *, base: str = "CenterNet2_R50_1x", workers: int = 0) -> Path:
    """Datasets of 8 and 2 images and a config in ``folder``; results go to ``folder/output/small``."""
    train, test = write_dataset(folder / "train", 8), write_dataset(folder / "test", 2)
    path = folder / "small.yaml"
    base = str(ROOT / "configs" / f"{base}.yaml")
    path.write_text(CONFIG.format(base=base, train=train, test=test, workers=workers, folder=folder))
    return path


def metric_rows(folder: Path) -> list[dict[str, Any]]:
    """Rows of metrics.json, without what depends on the clock and the machine."""
    rows = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    clock = ("time", "data_time", "eta_seconds", "memory_gb")
    return [{key: value for key, value in row.items() if key not in clock} for row in rows]
