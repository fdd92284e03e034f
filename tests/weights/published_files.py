"""Files as they are published: names and containers of each source, made from a model's own tensors."""

import pickle
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Tensors = dict[str, Tensor]


class Detector(nn.Module):
    """What the loader sees of a detector with ImageNet weights: a backbone, and something beside it."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(2, 3)


def randomized(model: nn.Module, prefix: str) -> Tensors:
    """Random values for what is below ``prefix``, by the names below it."""
    draw = torch.Generator().manual_seed(0)
    state = {name: value for name, value in model.state_dict().items() if name.startswith(prefix)}
    return {
        name[len(prefix) :]: torch.rand(value.shape, generator=draw)
        for name, value in state.items()
        if value.is_floating_point()
    }


# ------------------------------------------------------------------------------------------------------ names

_CAFFE2_NORMS = {
    "blobs": {"weight": "s", "bias": "b", "running_mean": "rm", "running_var": "riv"},
    "converted": {
        "weight": "gamma",
        "bias": "beta",
        "running_mean": "running_mean",
        "running_var": "running_var",
    },
}
_BRANCHES = {"shortcut": "branch1", "conv1": "branch2a", "conv2": "branch2b", "conv3": "branch2c"}


def caffe2_name(name: str, norms: str) -> str:
    """``res2.0.conv1.norm.weight`` to ``res2_0_branch2a_bn_s``; ``norms`` is 'blobs' or 'converted'."""
    stem = re.fullmatch(r"stem\.conv1\.(norm\.)?(\w+)", name)
    if stem:
        return f"res_conv1_bn_{_CAFFE2_NORMS[norms][stem[2]]}" if stem[1] else "conv1_w"
    match = re.fullmatch(r"(res\d)\.(\d+)\.(\w+)\.(norm\.)?(\w+)", name)
    assert match, name
    end = f"bn_{_CAFFE2_NORMS[norms][match[5]]}" if match[4] else {"weight": "w"}[match[5]]
    return f"{match[1]}_{match[2]}_{_BRANCHES[match[3]]}_{end}"


def res2net_repository_name(name: str) -> str:
    """``res2.0.shortcut.1.norm.weight`` to ``layer1.0.downsample.2.weight``."""
    name = re.sub(r"^res(\d)\.", lambda match: f"layer{int(match[1]) - 1}.", name)
    name = name.replace(".shortcut.1.norm.", ".downsample.2.").replace(".shortcut.1.", ".downsample.1.")
    return re.sub(r"\.conv(\d)\.norm\.", r".bn\1.", name).removeprefix("stem.")


# ------------------------------------------------------------------------------------------------- containers


class _Python2Pickler(pickle._Pickler):
    """Writes texts and bytes alike as Python 2 wrote its ``str``."""

    dispatch = dict(pickle._Pickler.dispatch)

    def save_string(self, value: str | bytes) -> None:
        data = value.encode("latin1") if isinstance(value, str) else value
        self.write(pickle.BINSTRING + struct.pack("<i", len(data)) + data)
        self.memoize(value)

    dispatch[str] = dispatch[bytes] = save_string


def arrays(tensors: Tensors) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in tensors.items()}


def write_pickle(path: Path, content: Any, *, protocol: int = 2, numpy: int = 1, python: int = 3) -> Path:
    """A pickle with the module names of numpy 1 or 2, as Python 2 or 3 writes it."""
    with open(path, "wb") as file:
        if python == 2:
            _Python2Pickler(file, 2).dump(content)
        else:
            pickle.dump(content, file, protocol)
    data = path.read_bytes()
    if protocol < 4:  # names are lines of text there
        wanted = b"numpy.core." if numpy == 1 else b"numpy._core."
        data = re.sub(rb"numpy\._?core\.", wanted, data)
    path.write_bytes(data)
    return path


def write_torch(path: Path, content: Any, *, legacy: bool = False, protocol: int = 2) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=not legacy, pickle_protocol=protocol)
    return path


def write_safetensors(path: Path, content: Tensors, **metadata: str) -> Path:
    from safetensors.torch import save_file

    save_file(content, path, metadata)
    return path


Writer = Callable[[Path, Tensors], Path]

CONTAINERS: dict[str, Writer] = {
    "zip": lambda path, tensors: write_torch(path, {"model": tensors, "iteration": 7}),
    "legacy": lambda path, tensors: write_torch(path, {"model": tensors}, legacy=True),
    "pickle": lambda path, tensors: write_pickle(path, {"model": arrays(tensors), "__author__": "somebody"}),
    "safetensors": write_safetensors,
}
