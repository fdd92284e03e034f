"""What every client project does: make a config, train a step, detect. All of it small."""

from pathlib import Path

import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from tiny import image, with_objects

from centernet.config import add_centernet_config

CONFIGS = Path(__file__).parents[2] / "configs"
SMALL = [
    *("MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "MODEL.BACKBONE.FREEZE_AT", 0, "MODEL.RESNETS.NORM", "BN"),
    *("MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64, "MODEL.FPN.OUT_CHANNELS", 64),
    *("MODEL.CENTERNET.NUM_BOX_CONVS", 1, "MODEL.CENTERNET.POST_NMS_TOPK_TRAIN", 100),
    *("MODEL.ROI_BOX_HEAD.FC_DIM", 64, "MODEL.ROI_HEADS.NUM_CLASSES", 5, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0),
]


def small_cfg(add_project_config, *overrides, base="CenterNet2_R50_1x"):
    """Our keys, then those of the project, then a file and its overrides: the order of every client's set-up."""
    cfg = get_cfg()
    add_centernet_config(cfg)
    add_project_config(cfg)
    cfg.merge_from_file(str(CONFIGS / f"{base}.yaml"))
    cfg.merge_from_list([*SMALL, *overrides])
    return cfg


def built(cfg, seed=0):
    torch.manual_seed(seed)
    return build_model(cfg).eval()


def batch(*counts):
    """An image for each number of objects."""
    return [with_objects(image(seed=seed), count, seed=seed) for seed, count in enumerate(counts, start=1)]


def train_a_step(model, inputs):
    """Losses of one SGD step, all finite, and all of them felt: the parameters that moved are in ``moved``."""
    model.train()
    torch.manual_seed(0)  # of the sampling of proposals
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with EventStorage():
        losses = model(inputs)
    sum(losses.values()).backward()
    optimizer.step()
    model.eval()
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert all(torch.isfinite(p).all() for p in model.parameters())
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    return {name: loss.item() for name, loss in losses.items()}, moved


def detect(model, inputs):
    with torch.no_grad():
        found = [output["instances"] for output in model(inputs)]
    for instances in found:
        assert len(instances)
        assert torch.isfinite(instances.pred_boxes.tensor).all()
        assert (instances.scores.diff() <= 0).all()
    return found
