"""A two-stage detector of R18 with trained batch norms, and a batch for it, small enough to be trained in a test."""

import sys
from pathlib import Path

import torch
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from centernet.config_file import load_config
from centernet.modeling.build import build_detector

sys.path.append(str(Path(__file__).resolve().parents[1] / "engine"))
from small_run import write_config


def small_config(folder, *opts):
    return load_config(write_config(folder), [str(word) for word in opts])


def small_detector(cfg):
    torch.manual_seed(0)
    return build_detector(cfg).train()


def batch(height=64, width=96):
    generator = torch.Generator().manual_seed(0)
    items = []
    for _ in range(2):
        objects = Instances((height, width))
        objects.gt_boxes = Boxes(torch.tensor([[4.0, 4, 30, 30], [20, 10, 60, 50]]))
        objects.gt_classes = torch.tensor([0, 1])
        image = torch.randint(0, 256, (3, height, width), generator=generator).float()
        items.append({"image": image, "instances": objects})
    return items


def train_steps(model, steps=2, items=None):
    """Losses of each step of SGD, as dicts of numbers."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.001)
    rows = []
    with EventStorage():
        for step in range(steps):
            torch.manual_seed(step)
            losses = model(items or batch())
            optimizer.zero_grad()
            sum(losses.values()).backward()
            optimizer.step()
            rows.append({name: loss.item() for name, loss in losses.items()})
    return rows
