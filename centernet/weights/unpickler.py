"""A reader of pickles that builds arrays, tensors and plain containers and nothing else: no code of a file runs.

A pickle is a program that may name any function of the installation and call it. Here a name is looked up in one
short table and nothing is imported. What the table holds are stand-ins of this module. Where they call numpy or torch:

``numpy.dtype``, ``frombuffer``
    see the name of a type that matches a pattern, bytes, and a shape of ints that are not negative
``torch._utils._rebuild_tensor``
    sees a storage that ``torch.load`` has made, and an offset, sizes and strides that stay inside it; a stride may be
    0, so a tensor may have more elements than its storage (the reader of weights looks at that)
``torch.load(..., weights_only=True)``
    sees the bytes of a storage inside a pickle (``torch.storage._load_from_bytes``) as they are, if they begin like
    the older format; PyTorch's own restricted unpickler reads them

Plain data that programs leave beside weights (``argparse.Namespace``, paths, dates, configs, random states; the list is
``_INERT``) becomes an :class:`Inert`, which knows its name and nothing else. All other names are refused: among the
weights, beside them, anywhere. The names are those of Python 2 and 3 and of numpy 1 and 2.

The module itself can be handed to ``torch.load`` as its ``pickle_module``; ``torch.load`` then makes the storages, from
sizes and types of the file.
"""

import io
import pickle
import re
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np
import torch

__all__ = ["Inert", "RefusedContent", "RefusedGlobal", "Unpickler", "inert_names", "load", "load_plain"]


class RefusedContent(pickle.UnpicklingError):
    """The pickle holds what no file of weights needs; it may be undamaged."""


class RefusedGlobal(RefusedContent):
    """The pickle names something that is not in the table; ``name`` is dotted, such as ``os.system``."""

    def __init__(self, module: str, name: str) -> None:
        super().__init__(f"{module}.{name} is refused")
        self.name = f"{module}.{name}"


class Inert:
    """In the place of an object that is neither a tensor nor plain; ``name`` is that of its class, for messages.

    Whatever a pickle does with it is forgotten.
    """

    __slots__ = ()
    name = ""

    def __new__(cls, *_: object, **__: object) -> "Inert":
        return object.__new__(cls)

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __setattr__(self, name: str, value: object) -> None:
        raise RefusedContent(f"the pickle sets the attribute {name} of a stand-in")

    def __setstate__(self, state: object) -> None:
        pass

    def __setitem__(self, key: object, value: object) -> None:
        pass

    def append(self, item: object) -> None:
        pass

    def extend(self, items: object) -> None:
        pass

    def add(self, item: object) -> None:
        pass


class Unpickler(pickle._Unpickler):  # in C the memo is an array: a file of 9 bytes can ask for gigabytes of it
    """Python's unpickler with one table of names instead of imports. Results still hold stand-ins."""

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for a name.

        Raises:
            RefusedGlobal: it is not in the table.
        """
        if (module, name) in _ADMITTED:
            return _ADMITTED[module, name]
        if name in _INERT.get(module, ()):
            return _inert_class(f"{module}.{name}")
        raise RefusedGlobal(module, name)


def load(file: BinaryIO, **options: Any) -> Any:
    """``pickle.load`` with :class:`Unpickler`."""
    return Unpickler(file, **options).load()


def load_plain(file: BinaryIO) -> Any:
    """Read one pickle. Strings of Python 2 are read as Latin-1, as numpy needs it.

    Returns:
        dict, list, tuple, str, bytes, numbers, bool, None, ``numpy.ndarray`` and ``torch.Tensor``, nested, and
        :class:`Inert`; an OrderedDict becomes a dict.

    Raises:
        RefusedGlobal: the pickle names anything else; nothing of it has run.
        Exception: what ``pickle`` raises for a damaged file (UnpicklingError, EOFError, ValueError, ...).
    """
    return without_stand_ins(load(file, encoding="latin1"))


def without_stand_ins(value: Any) -> Any:
    """``value`` with arrays and plain dicts in the place of this module's stand-ins. Cycles raise RecursionError."""
    return _plain(value, {})


def _plain(value: Any, done: dict[int, Any]) -> Any:
    """``done`` has the containers met before, by id: a few bytes can nest a list ten to the tenth times in itself."""
    if isinstance(value, dict | list | tuple):
        if id(value) not in done:
            done[id(value)] = _plain_container(value, done)
        return done[id(value)]
    if isinstance(value, _Array):
        return value.finished()
    if isinstance(value, _Dtype):
        return str(value.dtype)
    if value is None or type(value) in (str, bytes, bytearray, int, float, bool):
        return value
    if type(value) in (torch.Tensor, torch.nn.Parameter):
        return value.detach()
    if isinstance(value, Inert):
        return value
    if isinstance(value, type) and issubclass(value, Inert):
        return value()
    if isinstance(value, _PLAIN_OBJECTS):
        return _inert_class(type(value).__name__)()
    raise RefusedContent(f"the pickle holds a {type(value).__name__}, which is no plain value")


def _plain_container(value: dict[Any, Any] | list[Any] | tuple[Any, ...], done: dict[int, Any]) -> Any:
    if isinstance(value, dict):
        return {_plain(key, done): _plain(item, done) for key, item in value.items()}
    items = [_plain(item, done) for item in value]
    return tuple(items) if isinstance(value, tuple) else items


def inert_names(value: Any) -> set[str]:
    """Names of the objects somewhere in ``value`` that an :class:`Inert` stands for."""
    names: set[str] = set()
    done: set[int] = set()
    rest = [value]
    while rest:
        item = rest.pop()
        if isinstance(item, Inert):
            names.add(item.name)
        elif isinstance(item, dict | list | tuple) and id(item) not in done:
            done.add(id(item))
            rest += [*item.keys(), *item.values()] if isinstance(item, dict) else item
    return names


# -------------------------------------------------------------------------------------------------- stand-ins


class _Function:
    """A function that a pickle can call and cannot change."""

    __slots__ = ("_call",)
    _call: Callable[..., Any]

    def __init__(self, call: Callable[..., Any]) -> None:
        object.__setattr__(self, "_call", call)

    def __call__(self, *args: Any) -> Any:
        return self._call(*args)

    def __setattr__(self, name: str, value: object) -> None:
        raise RefusedContent(f"the pickle sets the attribute {name} of a function")

    def __setstate__(self, state: object) -> None:
        raise RefusedContent("the pickle changes a function")


class _Mapping(dict[Any, Any]):
    """OrderedDict and Counter; attributes, such as PyTorch's ``_metadata``, are dropped."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        pass


class _Dtype:
    """numpy.dtype: booleans, integers, floats and complex numbers of either byte order."""

    __slots__ = ("dtype",)

    def __init__(self, code: str, align: bool = False, copy: bool = False) -> None:
        if not isinstance(code, str) or not re.fullmatch(r"[<>=|]?(b1|[iu][1248]|f[248]|c8|c16)", code):
            raise RefusedContent(f"the pickle holds an array of the type {str(code)[:40]!r}")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """numpy.ndarray: made empty, filled by ``__setstate__``."""

    __slots__ = ("_value",)

    def __init__(self) -> None:
        self._value: np.ndarray | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        shape, dtype, is_fortran, data = state[-4:]
        self._value = _array(data, dtype, shape, "F" if is_fortran else "C")

    def finished(self) -> np.ndarray:
        if self._value is None:
            raise RefusedContent("the pickle holds an array without values")
        return self._value


def _array(data: Any, dtype: Any, shape: Any, order: Any = "C") -> np.ndarray:
    data = data.encode("latin1") if isinstance(data, str) else data
    if not isinstance(data, bytes | bytearray) or not isinstance(dtype, _Dtype) or not isinstance(shape, tuple):
        raise RefusedContent("the pickle holds an array that is not made of bytes")
    if not all(type(size) is int and size >= 0 for size in shape):
        raise RefusedContent("the pickle holds an array without a shape")
    flat = np.frombuffer(data, dtype.dtype) if data else np.empty(0, dtype.dtype)
    return flat.reshape(shape, order="F" if order == "F" else "C").copy()


def _empty_array(kind: object, shape: object, code: object) -> _Array:
    if kind is not _Array:
        raise RefusedContent("the pickle holds a subclass of numpy's array")
    return _Array()


def _frombuffer(data: Any, dtype: Any, shape: Any, order: Any) -> _Array:
    array = _Array()
    array._value = _array(data, dtype, shape, order)
    return array


def _scalar(dtype: Any, data: Any = b"") -> Any:
    return _array(data, dtype, ()).item()


def _encode(text: str, encoding: str = "latin1") -> bytes:
    return text.encode({"latin1": "latin1", "latin-1": "latin1"}[encoding])


def _storage_of_bytes(data: bytes) -> Any:
    # written in the older format only; a TorchScript archive here would be run by PyTorch before 2.6
    if data[:1] != b"\x80":
        raise RefusedContent("the pickle holds a tensor whose values are in no format of tensors")
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


def _tensor(storage: Any, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: object) -> torch.Tensor:
    if not isinstance(storage, torch.storage.TypedStorage):
        raise RefusedContent("the pickle holds a tensor without values")
    length = storage._untyped_storage.nbytes() // storage.dtype.itemsize
    reach = 1 + offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if min((offset, *size, *stride)) < 0 or (0 not in size and reach > length):
        raise RefusedContent("the pickle holds a tensor that is larger than its values")
    return torch._utils._rebuild_tensor(storage, offset, size, stride)


def _parameter(data: torch.Tensor, *_: object) -> torch.Tensor:
    return data


def _plain_tuple(items: Any = ()) -> tuple[Any, ...]:
    return tuple(items)


def _inert_class(name: str) -> type[Inert]:
    return type("_Inert", (Inert,), {"__slots__": (), "name": name})


def _reconstructed(kind: Any, base: Any, state: Any) -> Inert:
    """An object of a plain class, as pickles before protocol 2 make it."""
    if not isinstance(kind, type) or not issubclass(kind, Inert):
        raise RefusedContent("the pickle makes an object of a class that is not known here")
    return kind()


# What PyTorch's own reader lets through besides.
_PLAIN_OBJECTS = (
    *(set, frozenset, complex, torch.dtype, torch.device),
    *(torch.storage.TypedStorage, torch.storage.UntypedStorage),
)

# Classes of plain data, by module. A file may hold their objects beside its weights; they are never made.
_PATHS = ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath")
_INERT: dict[str, tuple[str, ...]] = {
    "argparse": ("Namespace",),
    "types": ("SimpleNamespace",),
    "pathlib": _PATHS,
    "pathlib._local": _PATHS,
    "collections": ("defaultdict", "deque"),
    "datetime": ("datetime", "date", "time", "timedelta", "timezone"),
    "builtins": ("object", "list", "dict", "tuple", "set", "frozenset", "str", "int", "float", "bool", "complex"),
    "__builtin__": ("object", "list", "dict", "tuple", "set", "frozenset", "str", "int", "float", "bool", "complex"),
    "yacs.config": ("CfgNode",),
    "fvcore.common.config": ("CfgNode",),
    "detectron2.config.config": ("CfgNode",),
    "detectron2.config": ("CfgNode",),
    "omegaconf.dictconfig": ("DictConfig",),
    "omegaconf.listconfig": ("ListConfig",),
    "omegaconf.base": ("ContainerMetadata", "Metadata", "SCMode"),
    "omegaconf.nodes": ("AnyNode", "BooleanNode", "FloatNode", "IntegerNode", "PathNode", "StringNode"),
    "typing": ("Any",),
    "numpy.random._pickle": ("__randomstate_ctor", "__generator_ctor", "__bit_generator_ctor"),
    "numpy.random._mt19937": ("MT19937",),
    "numpy.random._pcg64": ("PCG64", "PCG64DXSM"),
    "numpy.random._philox": ("Philox",),
    "numpy.random._sfc64": ("SFC64",),
    "numpy.random.bit_generator": ("SeedSequence", "__pyx_unpickle_SeedSequence"),
    "torch": ("device", "float32", "float16", "bfloat16", "float64", "uint8", "int8", "int32", "int64", "bool"),
    "torch.serialization": ("_get_layout",),
}

_ADMITTED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): _Mapping,
    ("collections", "Counter"): _Mapping,
    ("builtins", "bytes"): _Function(lambda: b""),
    ("__builtin__", "bytes"): _Function(lambda: b""),
    ("_codecs", "encode"): _Function(_encode),
    ("copy_reg", "_reconstructor"): _Function(_reconstructed),
    ("copyreg", "_reconstructor"): _Function(_reconstructed),
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("torch", "Size"): _Function(_plain_tuple),
    ("torch._utils", "_rebuild_tensor"): _Function(_tensor),
    ("torch._utils", "_rebuild_tensor_v2"): _Function(_tensor),
    ("torch._utils", "_rebuild_parameter"): _Function(_parameter),
    ("torch.storage", "_load_from_bytes"): _Function(_storage_of_bytes),
}
for _core in ("numpy.core", "numpy._core"):
    _ADMITTED[f"{_core}.multiarray", "_reconstruct"] = _Function(_empty_array)
    _ADMITTED[f"{_core}.multiarray", "scalar"] = _Function(_scalar)
    _ADMITTED[f"{_core}.numeric", "_frombuffer"] = _Function(_frombuffer)
