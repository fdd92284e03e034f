"""Published checkpoints without their numbers: names and shapes of every tensor, and numbers by the recipe of the
reference data."""

import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

Shapes = dict[str, tuple[int, ...]]
NORM = ("weight", "bias", "running_mean", "running_var")
BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


def norm(name: str, channels: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield from ((f"{name}.{leaf}", (channels,)) for leaf in NORM)
    yield f"{name}.num_batches_tracked", ()


def layer(name: str, *shape: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", shape
    yield f"{name}.bias", shape[:1]


def resnet101() -> Iterator[tuple[str, tuple[int, ...]]]:
    yield "backbone.conv1.weight", (64, 3, 7, 7)
    yield from norm("backbone.bn1", 64)
    channels = 64
    for k, blocks in enumerate((3, 4, 23, 3), start=1):
        middle, out = 32 * 2**k, 128 * 2**k
        for i in range(blocks):
            block = f"backbone.layer{k}.{i}"
            shapes = ((middle, channels, 1, 1), (middle, middle, 3, 3), (out, middle, 1, 1))
            for j, shape in enumerate(shapes, start=1):
                yield f"{block}.conv{j}.weight", shape
                yield from norm(f"{block}.bn{j}", shape[0])
            if i == 0:
                yield f"{block}.downsample.0.weight", (out, channels, 1, 1)
                yield from norm(f"{block}.downsample.1", out)
            channels = out
    for i in range(4):
        yield from layer(f"neck.lateral_convs.{i}.conv", 256, 256 * 2**i, 1, 1)
        yield from layer(f"neck.fpn_convs.{i}.conv", 256, 256, 3, 3)


def _conv_norm(conv: str, bn: str, *shape: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{conv}.weight", shape
    yield from norm(bn, shape[0])


def _leaf_tree(name: str, channels: int, out: int, root: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    for tree, first in (("tree1", channels), ("tree2", out)):
        yield from _conv_norm(f"{name}.{tree}.conv1", f"{name}.{tree}.bn1", out, first, 3, 3)
        yield from _conv_norm(f"{name}.{tree}.conv2", f"{name}.{tree}.bn2", out, out, 3, 3)
    yield from _conv_norm(f"{name}.root.conv", f"{name}.root.bn", out, root, 1, 1)
    if channels != out:
        yield from _conv_norm(f"{name}.project.0", f"{name}.project.1", out, channels, 1, 1)


def dla34() -> Iterator[tuple[str, tuple[int, ...]]]:
    yield from _conv_norm("backbone.base_layer.0", "backbone.base_layer.1", 16, 3, 7, 7)
    yield from _conv_norm("backbone.level0.0", "backbone.level0.1", 16, 16, 3, 3)
    yield from _conv_norm("backbone.level1.0", "backbone.level1.1", 32, 16, 3, 3)
    yield from _leaf_tree("backbone.level2", 32, 64, 128)
    for k, root in ((3, 448), (4, 896)):
        channels, out = 8 * 2**k, 16 * 2**k
        yield from _leaf_tree(f"backbone.level{k}.tree1", channels, out, 2 * out)
        yield from _leaf_tree(f"backbone.level{k}.tree2", out, out, root)
        yield from _conv_norm(f"backbone.level{k}.project.0", f"backbone.level{k}.project.1", out, channels, 1, 1)
    yield from _leaf_tree("backbone.level5", 256, 512, 1280)
    yield from layer("neck.last_conv.conv", 256, 512, 1, 1)
    projections = {(0, 1): 512, (1, 0): 128, (2, 0): 64, (2, 1): 128}
    for (stage, i), channels in projections.items():
        yield from layer(f"neck.ida_{stage}.proj_{i}.conv", 256, channels, 1, 1)
    for stage in range(3):
        for i in range(1, stage + 2):
            yield f"neck.ida_{stage}.up_{i}.weight", (256, 1, 4, 4)
            yield from layer(f"neck.ida_{stage}.node_{i}.conv", 256, 512, 3, 3)


def heads(classes: int, anchors: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """``classes`` with the background."""
    yield from layer("rpn_head.rpn_conv", 256, 256, 3, 3)
    yield from layer("rpn_head.rpn_cls", anchors, 256, 1, 1)
    yield from layer("rpn_head.rpn_reg", 4 * anchors, 256, 1, 1)
    for i in range(4):
        yield from layer(f"bbox_head.shared_convs.{i}.conv", 256, 256, 3, 3)
    yield from layer("bbox_head.shared_fcs.0", 1024, 12544)
    yield from layer("bbox_head.shared_fcs.1", 1024, 1024)
    yield from layer("bbox_head.fc_cls", classes, 1024)
    yield from layer("bbox_head.fc_reg", 4 * classes, 1024)
    branches = [("shared", 2), ("dep", 4), ("dim", 4), ("rot", 4), ("cen_2d", 4)]
    for branch, count in branches:
        for i in range(count):
            yield from layer(f"bbox_3d_head.{branch}_convs.{i}.conv", 256, 256, 3, 3)
    for name, rows in (("dep", 1), ("dep_uncer", 1), ("dim", 3), ("rot", 8), ("2dc", 2)):
        yield from layer(f"bbox_3d_head.fc_{name}", rows * classes, 12544)
    for i in range(4):
        yield f"embed_head.convs.{i}.conv.weight", (256, 256, 3, 3)
        yield from layer(f"embed_head.convs.{i}.gn", 256)
    yield from layer("embed_head.fcs.0", 1024, 12544)
    yield from layer("embed_head.fc_embed", 256, 1024)
    yield from layer("embed_head.depth_embed", 1, 256)


def released_shapes(body: str, classes: int, anchors: int) -> Shapes:
    """All tensors of a published file by name; ``body`` is 'resnet101' or 'dla34'."""
    return dict((*(resnet101() if body == "resnet101" else dla34()), *heads(classes, anchors)))


def parameters(shapes: Shapes) -> int:
    """Numbers that train or could, statistics aside."""
    return sum(int(np.prod(shape)) for name, shape in shapes.items() if not name.endswith(BUFFERS))


# -------------------------------------------------------------------------------------------------- recipe

GAINS = {
    "rpn_head.rpn_cls.": 0.4,
    "rpn_head.rpn_reg.": 0.15,
    "bbox_head.fc_cls.": 1.2,
    "bbox_head.fc_reg.": 0.6,
    "bbox_3d_head.fc_dep.": 0.3,
    "bbox_3d_head.fc_dep_uncer.": 0.15,
    "bbox_3d_head.fc_dim.": 0.2,
    "bbox_3d_head.fc_rot.": 0.6,
    "bbox_3d_head.fc_2dc.": 0.3,
    "embed_head.fc_embed.": 0.4,
    "embed_head.depth_embed.": 0.4,
    "neck.": 1.0,
}
BIASES = {
    "bbox_3d_head.fc_dep.bias": (6.0, 0.3),
    "bbox_3d_head.fc_dim.bias": (1.4, 0.3),
    "bbox_3d_head.fc_dep_uncer.bias": (0.6, 0.1),
}


def normal(key: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    state = np.random.RandomState((zlib.crc32(key.encode()) + 7919 * seed) % 2**32)
    return np.asarray(state.standard_normal(shape)).astype(np.float32)


def recipe(key: str, shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """The tensor of a published name (section 1 of the reference data's description)."""
    if key.endswith("num_batches_tracked"):
        return torch.tensor(0)
    z = normal(key, shape, seed)
    if key.endswith("running_mean"):
        value = 0.05 * z
    elif key.endswith("running_var"):
        value = 1 + 0.1 * np.abs(z)
    elif ".up_" in key:
        t = np.array([0.25, 0.75, 0.75, 0.25], dtype=np.float32)
        value = np.outer(t, t) + 0.05 * z
    elif len(shape) >= 2:
        gain = next((gain for prefix, gain in GAINS.items() if key.startswith(prefix)), 2**0.5)
        value = z * np.float32(gain / np.prod(shape[1:]) ** 0.5)
    elif key.endswith("weight"):
        block_norm = key.startswith("backbone.layer") and ".bn" in key
        value = (0.5 if block_norm else 1.0) + 0.05 * z
    else:
        mean, spread = BIASES.get(key, (0.0, 0.05))
        value = mean + spread * z
    return torch.from_numpy(np.asarray(value, dtype=np.float32))


def recipe_picture(tag: str, height: int, width: int, seed: int = 0) -> Tensor:
    """The picture of section 2, float32 ``[3, height, width]``, normalised already."""
    rs = np.random.RandomState((zlib.crc32(tag.encode()) + 7919 * seed) % 2**32)
    a = rs.standard_normal((3, 12))
    fx, fy = rs.randint(0, 9, 12), rs.randint(0, 9, 12)
    phase = rs.uniform(0, 2 * np.pi, (3, 12))
    noise = rs.standard_normal((3, height, width))
    x, y = np.arange(width) / width, np.arange(height) / height
    angle = 2 * np.pi * (fx[:, None, None] * x + fy[:, None, None] * y[:, None])
    waves = np.cos(angle[None] + phase[:, :, None, None])
    picture = (a[:, :, None, None] / np.sqrt(6) * waves).sum(1) + 0.3 * noise
    return torch.from_numpy(picture.astype(np.float32))


CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "tracking3d"
LAYOUTS = {  # body, classes with the background, anchors a cell
    "QD3DT_R101_nuScenes": ("resnet101", 12, 10),
    "QD3DT_R101_Waymo": ("resnet101", 5, 10),
    "QD3DT_DLA34_KITTI": ("dla34", 7, 20),
    "QD3DT_DLA34_KITTI_subtrain": ("dla34", 7, 20),
}
