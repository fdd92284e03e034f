"""Objects that programs leave in their checkpoints: plain ones are left out, nothing of them runs, all others are
refused.
"""

import argparse
import collections
import datetime
import logging
import os
import pathlib
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from published_files import write_pickle, write_torch
from test_unpickler import WRITERS, Calls

from centernet.errors import UserError
from centernet.weights import read_weights

WEIGHTS = {"a": torch.arange(3.0)}


def objects() -> dict[str, Any]:
    """By the name that the log gives."""
    from detectron2.config import get_cfg
    from yacs.config import CfgNode

    return {
        "argparse.Namespace": argparse.Namespace(lr=0.1, folder=pathlib.Path("x")),
        "types.SimpleNamespace": types.SimpleNamespace(a=1),
        "pathlib": pathlib.PurePosixPath("/tmp/x"),
        "collections.defaultdict": collections.defaultdict(list, {"a": [1]}),
        "collections.deque": collections.deque([1, 2], 5),
        "datetime.datetime": datetime.datetime(2024, 1, 2, tzinfo=datetime.timezone.utc),
        "datetime.timedelta": datetime.timedelta(3),
        "yacs.config.CfgNode": CfgNode({"A": {"B": [1, 2]}}),
        "detectron2.config.config.CfgNode": get_cfg().SOLVER,
        "numpy.random": np.random.RandomState(3),
        "numpy.random._pickle": np.random.default_rng(3),
        "set": {1, 2},
        "torch.float16": torch.float16,
        "device": torch.device("cpu"),
    }


@pytest.mark.parametrize("name", objects())
@pytest.mark.parametrize("writer", WRITERS)
def test_plain_objects_are_left_out(tmp_path: Path, name: str, writer: str, caplog: pytest.LogCaptureFixture) -> None:
    content = {"model": WEIGHTS, "iteration": 7, "args": {"deep": [objects()[name]]}, "epoch": 3}
    with caplog.at_level(logging.INFO, logger="centernet"):
        file = read_weights(WRITERS[writer](tmp_path / "a.bin", content))
    assert torch.equal(file.tensors["a"], WEIGHTS["a"])
    assert file.training == {"iteration": 7, "epoch": 3}
    lines = [record.getMessage() for record in caplog.records if "left out what is not plain" in record.getMessage()]
    assert len(lines) == 1
    said = lines[0].rpartition("args (")[2]  # by PyTorch's own reader, or by ours
    assert said.startswith(
        {"torch.float16": ("torch.f", "dtype"), "set": ("builtins.set", "__builtin__.set", "set")}.get(
            name, (name, "torch." + name)
        )
    )


@pytest.mark.parametrize("name", ["argparse.Namespace", "pathlib", "yacs.config.CfgNode", "set"])
@pytest.mark.parametrize("writer", WRITERS)
def test_among_the_weights_they_are_refused(tmp_path: Path, name: str, writer: str) -> None:
    for content in ({"model": {**WEIGHTS, "b": objects()[name]}}, {**WEIGHTS, "b": objects()[name]}):
        with pytest.raises(UserError, match=r"holds under b a \S+, not a tensor; give a file of weights by name"):
            read_weights(WRITERS[writer](tmp_path / "a.bin", content))


class OfNobody:
    """A class that no list knows."""


@pytest.mark.parametrize("writer", WRITERS)
def test_a_class_that_is_not_listed_is_refused_by_name(tmp_path: Path, writer: str) -> None:
    file = WRITERS[writer](tmp_path / "a.bin", {"model": WEIGHTS, "args": OfNobody()})
    with pytest.raises(UserError, match=r"test_objects_beside_weights\.OfNobody"):
        read_weights(file)


@pytest.mark.parametrize("writer", WRITERS)
def test_nothing_runs_beside_and_inside_them(tmp_path: Path, writer: str) -> None:
    marker = tmp_path / "ran"
    call = Calls(os.system, f"touch {marker}")
    inside = argparse.Namespace(lr=call)
    as_state = Calls(argparse.Namespace, state={"lr": call})
    as_argument = Calls(pathlib.PurePosixPath, call)
    for evil in (call, inside, as_state, as_argument, [argparse.Namespace(), call]):
        file = WRITERS[writer](tmp_path / "a.bin", {"model": WEIGHTS, "args": evil})
        with pytest.raises(UserError, match=r"posix\.system"):
            read_weights(file)
        assert not marker.exists()


@pytest.mark.parametrize(
    "program",
    [
        b"cargparse\nNamespace\n(X\x04\0\0\0nameK\x01db",  # the state of a class
        b"cargparse\nNamespace\n)\x81(NX\x04\0\0\0nameK\x01\x85tb",  # a state in slots
        b"cargparse\nNamespace\n)\x81X\x01\0\0\0aK\x01s",  # an entry
        b"ccopyreg\n_reconstructor\n(ccopyreg\n_reconstructor\ncbuiltins\nobject\nNtR",
        b"(iargparse\nNamespace\n",
        b"cbuiltins\nobject\n)\x81",
    ],
)
def test_stand_ins_cannot_be_changed(tmp_path: Path, program: bytes) -> None:
    """A Namespace read after the attempt is the same as one read before."""
    (tmp_path / "a.pkl").write_bytes(b"\x80\x02" + program + b".")
    with pytest.raises(UserError):
        read_weights(tmp_path / "a.pkl")
    file = read_weights(write_pickle(tmp_path / "b.pkl", {"model": WEIGHTS, "args": argparse.Namespace(a=1)}))
    assert torch.equal(file.tensors["a"], WEIGHTS["a"])


def test_parameters_are_tensors(tmp_path: Path) -> None:
    file = write_torch(tmp_path / "a.pth", {"model": {"a": torch.nn.Parameter(torch.ones(2))}})
    found = read_weights(file).tensors["a"]
    assert type(found) is torch.Tensor
    assert not found.requires_grad
