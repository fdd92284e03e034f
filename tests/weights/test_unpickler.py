"""Pickles that would run code: refused by name, and nothing of them has run."""

import collections
import contextlib
import io
import pickle
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from published_files import write_pickle, write_torch

from centernet.errors import UserError
from centernet.weights import read_weights
from centernet.weights.unpickler import load_plain


class Calls:
    """A pickle of it calls ``function(*args)`` when it is read without care."""

    def __init__(self, function: Callable[..., Any], *args: Any, state: Any = None) -> None:
        self.result = (function, args) if state is None else (function, args, state)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.result

    def __call__(self) -> None:
        """Only so that it can stand for a function itself."""


def gadgets() -> dict[str, tuple[Callable[[str], object], str]]:
    """By name: what makes the object that creates a file of the given name, and what a refusal names."""
    import os
    import subprocess
    from functools import partial

    python = "open({!r}, 'w').close()".format
    return {
        "os.system": (lambda file: Calls(os.system, f"touch {file}"), r"posix\.system"),
        "eval": (lambda file: Calls(eval, python(file)), r"_*builtins?_*\.eval"),
        "exec": (lambda file: Calls(exec, python(file)), r"_*builtins?_*\.exec"),
        "getattr": (lambda file: Calls(Calls(getattr, Calls(__import__, "os"), "system"), f"touch {file}"), "."),
        "open": (lambda file: Calls(open, file, "w"), r"i?o\.open"),
        "subprocess": (lambda file: Calls(subprocess.check_call, ["touch", file]), r"\w+\.check_call"),
        "partial": (lambda file: Calls(partial(os.system, f"touch {file}")), r"functools\.partial"),
        "numpy's savetxt": (lambda file: Calls(np.savetxt, file, [1]), r"numpy\.savetxt"),
        "numpy's fromfunction": (lambda file: Calls(np.fromfunction, Touch(file), (1,)), "."),
        "torch.save": (lambda file: Calls(torch.save, 1, file), r"torch\.\w+\.save|torch\.save"),
        "a storage with a pickle inside": (
            lambda file: Calls(torch.storage._load_from_bytes, saved(Calls(os.system, f"touch {file}"))),
            ".",
        ),
        "a default factory": (lambda file: Calls(collections.defaultdict, Touch(file)), "."),
        "the state of an admitted class": (
            lambda file: Calls(collections.OrderedDict, state={"x": Calls(os.system, f"touch {file}")}),
            r"posix\.system",
        ),
        "an array of objects": (lambda file: np.array([Calls(os.system, f"touch {file}")], object), "."),
    }


class Touch(Calls):
    def __init__(self, file: str) -> None:
        import os

        super().__init__(os.mkdir, file)


def saved(content: object) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=False)
    return stream.getvalue()


WRITERS: dict[str, Callable[[Path, Any], Path]] = {
    "pickle 2": write_pickle,
    "pickle 5": lambda path, content: write_pickle(path, content, protocol=5),
    "zip": write_torch,
    "legacy": lambda path, content: write_torch(path, content, legacy=True),
    "zip 4": lambda path, content: write_torch(path, content, protocol=4),
}
PLACES: dict[str, Callable[[Any], Any]] = {
    "alone": lambda evil: evil,
    "among the weights": lambda evil: {"model": {"a": torch.zeros(1), "b": evil}},
    "beside the weights": lambda evil: {"model": {"a": torch.zeros(1)}, "optimizer": [{"x": evil}]},
}


@pytest.mark.parametrize("name", gadgets())
def test_no_code_runs(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # unsafe unless told otherwise, as before torch 2.6
    make, named = gadgets()[name]
    marker = tmp_path / "ran"
    for place in PLACES.values():
        for write in WRITERS.values():
            for ending in ("pth", "pkl"):
                file = write(tmp_path / f"a.{ending}", place(make(str(marker))))
                with pytest.raises(UserError, match=named) as error:
                    read_weights(file)
                assert "\n" not in str(error.value)
                assert not marker.exists()
    data = write_pickle(tmp_path / "a.pkl", make(str(marker))).read_bytes()
    with contextlib.suppress(TypeError):  # partly made objects; what matters is what ran on the way
        pickle.loads(data)
    assert marker.exists(), "this gadget is harmless: the test shows nothing"


def assembled(*parts: bytes) -> bytes:
    return b"\x80\x02" + b"".join(parts) + b"."


STATE = pickle.dumps({"_call": 1, "__code__": 2}, 2)[2:-1]


@pytest.mark.parametrize(
    "data",
    [
        # setting attributes of what is admitted: a function, a class, through a dict and through slots
        assembled(b"c_codecs\nencode\n", STATE, b"b"),
        assembled(b"c_codecs\nencode\n(N", STATE, b"tb"),
        assembled(b"ccollections\nOrderedDict\n", STATE, b"b"),
        assembled(b"cnumpy\ndtype\n(N", STATE, b"tb"),
        assembled(b"cnumpy\nndarray\n)R", STATE, b"b"),
        # appending to and filling a class
        assembled(b"ccollections\nOrderedDict\n(K\x01K\x02u"),
        assembled(b"cnumpy\nndarray\n(K\x01K\x02e"),
        # names that lead on: 'system' of the module 'os' inside torch
        assembled(b"\x8c\x05torch\x8c\x09os.system\x93"),
        assembled(b"\x8c\x0bcollections\x8c\x18OrderedDict.__subclasses__\x93)R"),
        # other ways to name things
        assembled(b"(ios\nsystem\n"),
        assembled(b"P1\n"),
        assembled(b"\x82\x01"),
        # arrays that are larger than their bytes, not made of bytes, without values
        assembled(b"cnumpy\nndarray\n)R"),
        assembled(b"cnumpy\ndtype\nU\x01O\x85R"),
        assembled(b"cnumpy.core.multiarray\nscalar\nK\x01\x85R"),
        assembled(b"cnumpy.core.multiarray\n_reconstruct\nK\x01K\x02K\x03\x87R"),
        # a name without a thing
        assembled(b"cnumpy.core.multiarray\n_reconstruct\n"),
        assembled(b"ccollections\nOrderedDict\n"),
        # itself inside itself
        assembled(b"]q\x00h\x00a"),
    ],
)
def test_pickles_written_by_hand(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.pkl").write_bytes(data)
    with pytest.raises(UserError, match=r"a\.pkl cannot be read: ") as error:
        read_weights(tmp_path / "a.pkl")
    assert "\n" not in str(error.value)


def test_a_program_in_the_place_of_a_storage(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch before 2.6 ran it, whatever ``weights_only`` said: ``torch.load`` must not see it."""
    program = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), program)
    monkeypatch.setattr(torch, "load", lambda *args, **kwargs: pytest.fail("torch.load was called"))
    with pytest.raises(pickle.UnpicklingError, match="no format of tensors"):
        load_plain(io.BytesIO(pickle.dumps(Calls(torch.storage._load_from_bytes, program.getvalue()))))


def test_a_few_bytes_cost_no_gigabytes() -> None:
    far = b"\x80\x02}r\xff\xff\xff\x0f."  # place 2 ** 28 of the memo: 4 GB in the C unpickler
    tracemalloc.start()
    assert load_plain(io.BytesIO(far)) == {}
    nested: list[Any] = []
    for _ in range(64):
        nested = [nested, nested]
    found = load_plain(io.BytesIO(pickle.dumps(nested, 2)))
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()
    assert found[0] is found[1]


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
def test_a_tensor_cannot_reach_outside_its_values(tmp_path: Path) -> None:
    storage = torch.zeros(4).storage()
    inside = Calls(torch._utils._rebuild_tensor_v2, storage, 0, (2, 2), (2, 1), False, collections.OrderedDict())
    assert load_plain(io.BytesIO(pickle.dumps(inside))).tolist() == [[0, 0], [0, 0]]
    end = (False, collections.OrderedDict())
    for offset, size, stride in ((1, (2, 2), (2, 1)), (0, (5,), (1,)), (-1, (2,), (1,)), (0, (2,), (-1,))):
        outside = Calls(torch._utils._rebuild_tensor_v2, storage, offset, size, stride, *end)
        with pytest.raises(pickle.UnpicklingError, match="larger than its values"):
            load_plain(io.BytesIO(pickle.dumps(outside)))


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.tuples(inner) | st.dictionaries(st.text(), inner),
)


@given(value=plain, protocol=st.integers(2, 5))
def test_plain_values(value: object, protocol: int) -> None:
    found = load_plain(io.BytesIO(pickle.dumps(value, protocol)))
    assert found == value
    assert repr(found) == repr(value)  # types, at every depth


def test_ordered_dicts_become_dicts() -> None:
    found = load_plain(io.BytesIO(pickle.dumps(collections.OrderedDict(b=1, a=2))))
    assert type(found) is dict
    assert list(found) == ["b", "a"]
