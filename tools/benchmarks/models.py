"""`benchmark.py models`: inference and a training step, alternating with detectron2's Faster R-CNN R50-FPN.

Weights are random (seeded), so no download is needed.
"""

from pathlib import Path
from statistics import median

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.solver import build_optimizer
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from .detectors import BASELINE, config_of
from .random_boxes import random_boxes
from .rounds import paired_ratio, timed
from .tables import markdown

__all__ = ["measure_models"]


class Contender:
    """A model with random weights, its optimiser, and the two things that are timed."""

    def __init__(self, cfg: CfgNode, size: tuple[int, int]):
        cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS, cfg.SOLVER.BASE_LR = "cpu", "", 1e-5
        torch.manual_seed(0)
        self.model = build_model(cfg)
        self.optimizer = build_optimizer(cfg, self.model)
        height, width = size
        image = torch.from_numpy(np.random.RandomState(0).randint(0, 255, (3, height, width)).astype(np.uint8))
        instances = Instances(size)
        instances.gt_boxes = Boxes(random_boxes(20, height, width))
        instances.gt_classes = torch.arange(20)
        self.batch = [{"image": image, "height": height, "width": width, "instances": instances}]

    def infer(self) -> None:
        self.model.eval()
        with torch.no_grad():
            self.model(self.batch)

    def step(self) -> None:
        self.model.train()
        with EventStorage():
            loss = sum(self.model(self.batch).values())
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


def measure_models(config: str, size: tuple[int, int], repeats: int) -> None:
    """Inference and one training step (20 objects) at batch 1."""
    rival, ours = Contender(config_of(BASELINE, "cpu"), size), Contender(config_of(config, "cpu"), size)
    rows = []
    for name, count in (("infer", repeats), ("step", max(3, repeats // 2))):
        pairs = []
        for turn in range(count + 1):  # the first turn warms up
            pair = timed(getattr(rival, name), "cpu").wall, timed(getattr(ours, name), "cpu").wall
            pairs += [pair] if turn else []
        theirs, mine = zip(*pairs, strict=True)
        figures = f"{median(theirs):.3f}", f"{median(mine):.3f}", f"{median(mine) / median(theirs):.2f}"
        rows.append([name, *figures, f"{paired_ratio(mine, theirs):.2f}"])
    columns = [f"{size[0]} x {size[1]}, batch 1", "Faster R-CNN s", f"{Path(config).stem} s"]
    print(markdown([*columns, "ratio of medians", "median ratio"], rows))
