"""The deterministic recipe behind the reference fingerprints: weights from the names of the state dict, one image.

Recipe and reference numbers: section 13.6 of the specification that this package was written from.
"""

import zlib

import numpy as np
import torch
from detectron2.structures import Boxes, Instances

BOXES = [[20.0, 30, 120, 110], [100, 10, 140, 60], [5, 5, 250, 125], [200, 90, 216, 104]]
CLASSES = [1, 2, 1, 0]


def fill_weights(model):
    """Every floating entry becomes a function of its key and shape."""
    state = model.state_dict()
    for key, value in state.items():
        if (
            key.startswith("pixel_")
            or "freq_weight" in key
            or key.endswith("cls_weights")
            or not value.is_floating_point()
        ):
            continue
        random = np.random.RandomState(zlib.crc32(key.encode()) & 0x7FFFFFFF)
        z = torch.from_numpy(random.standard_normal(tuple(value.shape)).astype(np.float32))
        if value.ndim >= 2:
            z = z / float(np.sqrt(np.prod(value.shape[1:])))
        elif key.endswith("running_var"):
            z = 1 + 0.1 * z.abs()
        elif key.endswith(("running_mean", "bias")):
            z = 0.1 * z
        else:
            z = 1 + 0.1 * z
        state[key] = z.reshape(value.shape)
    model.load_state_dict(state)


def normalised_image(model):
    """[1, 3, 128, 256], normalised with the model's constants and then by its own standard deviation."""
    image = torch.from_numpy(np.random.RandomState(0).uniform(0, 255, (3, 128, 256)).astype(np.float32))
    image = (image - model.pixel_mean) / model.pixel_std
    return (image / image.std())[None]


def targets():
    instances = Instances((128, 256))
    instances.gt_boxes = Boxes(torch.tensor(BOXES))
    instances.gt_classes = torch.tensor(CLASSES)
    return instances


def describe(tensor):
    flat = tensor.detach().float().flatten()
    return {
        "shape": list(tensor.shape),
        "mean": float(flat.mean()),
        "std": float(flat.std(correction=0)),
        "first": flat[:3].tolist(),
        "mid": float(flat[flat.numel() // 2]),
        "last": float(flat[-1]),
    }
