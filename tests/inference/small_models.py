"""Small random models and made-up predictions for the tests of inference."""

from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.structures import Boxes, Instances

from centernet.config_file import load_config

CONFIGS = Path(__file__).resolve().parents[2] / "configs"

# ResNet-18 with thin heads, four classes; FrozenBN of random weights would blow up
SMALL = [
    *("MODEL.WEIGHTS", "", "MODEL.DEVICE", "cpu"),
    *("MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64, "MODEL.RESNETS.NORM", "BN"),
    *("MODEL.FPN.OUT_CHANNELS", 64, "MODEL.CENTERNET.NUM_CLASSES", 4, "MODEL.ROI_HEADS.NUM_CLASSES", 4),
    *(
        "MODEL.CENTERNET.NUM_CLS_CONVS",
        1,
        "MODEL.CENTERNET.NUM_BOX_CONVS",
        1,
        "MODEL.ROI_BOX_HEAD.FC_DIM",
        32,
    ),
    *("INPUT.MIN_SIZE_TEST", 96, "INPUT.MAX_SIZE_TEST", 160, "DATASETS.TRAIN", "()", "DATASETS.TEST", "()"),
]
# random heads that are sure enough to find something
EAGER = ["MODEL.CENTERNET.PRIOR_PROB", 0.3, "MODEL.CENTERNET.POST_NMS_TOPK_TEST", 1000]


def small_cfg(config: str, *overrides: object) -> CfgNode:
    """A published config with a backbone and heads that a test can afford."""
    return load_config(CONFIGS / f"{config}.yaml", [str(word) for word in (*SMALL, *overrides)])


def instances(boxes: list[list[float]], scores: list[float], classes: list[int]) -> Instances:
    """Predictions on a picture of 90 x 120 pixels."""
    result = Instances((90, 120))
    result.pred_boxes = Boxes(torch.tensor(boxes).reshape(-1, 4))
    result.scores = torch.tensor(scores)
    result.pred_classes = torch.tensor(classes, dtype=torch.int64)
    return result
