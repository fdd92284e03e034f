"""Reading a config: detectron2's defaults, this package's keys, a YAML file with its bases, overrides.

Everything that can be wrong with a config is found here, before anything is built or written, and said in one
sentence with file, line and dotted key. Files are read with a safe YAML loader: no tag can run code.
"""

import difflib
import logging
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from detectron2.config import CfgNode, get_cfg
from detectron2.utils.file_io import PathManager

from .config import add_centernet_config
from .errors import UserError

__all__ = ["check_weights", "load_config", "nearest_name", "resolve_device", "resolve_output_dir"]

_BASE_KEY = "_BASE_"
_logger = logging.getLogger(__name__)


def load_config(config_file: str | Path, opts: Sequence[str] = ()) -> CfgNode:
    """Read a config.

    Args:
        config_file: path of a YAML file; its ``_BASE_`` files (one or a list) are relative to it; '' for
            the defaults alone.
        opts: overrides, ``[KEY, VALUE, ...]``; a value is read as a Python literal where it is one.

    Returns:
        A config that is not frozen, with every key of detectron2 and of
        :func:`centernet.config.add_centernet_config`.

    Raises:
        UserError: a file is missing, broken or its own base; a key is unknown or given twice; a value has the
            wrong type.
    """
    cfg = get_cfg()
    add_centernet_config(cfg)
    if str(config_file):
        for entry in _entries_with_bases(str(config_file), ()):
            _assign(cfg, entry)
    if len(opts) % 2:
        raise UserError(_odd_overrides(list(opts)))
    for key, value in zip(opts[::2], opts[1::2], strict=True):
        _assign(cfg, _Entry(key, value, "the override"))
    return cfg


def check_weights(cfg: CfgNode) -> None:
    """Raise :class:`UserError` if MODEL.WEIGHTS is a local path and no such file exists. '' and URLs pass."""
    weights = cfg.MODEL.WEIGHTS
    if weights and "://" not in weights and not os.path.isfile(weights.split("?")[0]):
        raise UserError(f"MODEL.WEIGHTS: there is no file {weights}{_nearest_file(weights)}")


def resolve_output_dir(cfg: CfgNode, config_file: str | Path) -> str:
    """Replace each path component ``auto`` of OUTPUT_DIR, in place, by the config's file name without ending.

    ``./output/CenterNet2/auto`` with ``configs/CenterNet2_R50_1x.yaml`` becomes
    ``./output/CenterNet2/CenterNet2_R50_1x``. A first component is left alone: the rule of the published
    configs is ``/auto``. Returns the new OUTPUT_DIR.
    """
    first, *rest = cfg.OUTPUT_DIR.split("/")
    stem = Path(config_file).stem
    cfg.OUTPUT_DIR = "/".join([first, *(stem if part == "auto" and stem else part for part in rest)])
    return str(cfg.OUTPUT_DIR)


def resolve_device(cfg: CfgNode) -> str:
    """Set MODEL.DEVICE to 'cpu', in place and saying so in the log, if it is 'cuda' and there is no GPU."""
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        _logger.info("No GPU that PyTorch can use: running on the CPU, not on %s", cfg.MODEL.DEVICE)
        cfg.MODEL.DEVICE = "cpu"
    return str(cfg.MODEL.DEVICE)


def nearest_name(name: str, known: Sequence[str], cutoff: float = 0.6) -> str | None:
    """The entry of ``known`` that is most like ``name`` (case ignored), or None if none is like it."""
    by_lower = {entry.lower(): entry for entry in known}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=cutoff)
    return by_lower[close[0]] if close else None


# ------------------------------------------------------------------------------------------------------ files


class _Entry(NamedTuple):
    """One ``key: value`` of a file or an override; ``where`` is 'file, line n' or 'the override'."""

    key: str  # dotted
    value: Any
    where: str


class _Loader(yaml.SafeLoader):
    """Safe YAML, and the tag that PyYAML itself writes for a tuple."""


_Loader.add_constructor(
    "tag:yaml.org,2002:python/tuple",
    lambda loader, node: tuple(loader.construct_sequence(node, deep=True)),
)


def _entries_with_bases(path: str, chain: tuple[str, ...]) -> Iterator[_Entry]:
    """Entries of the bases of ``path``, then its own: applied in this order, the later ones win."""
    local = _local_file(path, chain)
    real = os.path.realpath(local)
    if real in chain:
        names = " -> ".join(os.path.basename(name) for name in (*chain[chain.index(real) :], real))
        raise UserError(f"the config {os.path.basename(real)} is its own _BASE_: {names}")
    root = _parse(local)
    entries = [] if root is None else list(_entries(root, local, ()))
    for entry in entries:
        if entry.key == _BASE_KEY:
            bases = entry.value if isinstance(entry.value, list | tuple) else [entry.value]
            for base in map(str, bases):
                yield from _entries_with_bases(_beside(path, base), (*chain, real))
    yield from (entry for entry in entries if entry.key != _BASE_KEY)


def _beside(path: str, base: str) -> str:
    return base if "://" in base else os.path.join(os.path.dirname(path), os.path.expanduser(base))


def _local_file(path: str, chain: tuple[str, ...]) -> str:
    if "://" in path:
        return str(PathManager.get_local_path(path))
    if os.path.isfile(path):
        return path
    if chain:
        raise UserError(f"{chain[-1]}: its _BASE_ {path} does not exist{_nearest_file(path)}")
    what = "is a folder, not a file" if os.path.isdir(path) else "does not exist"
    raise UserError(f"the config file {path} {what}{_nearest_file(path)}")


def _nearest_file(path: str) -> str:
    """'; did you mean X?' with the file of the same folder whose name is nearest, '' if there is none."""
    folder = os.path.dirname(path) or "."
    if not os.path.isdir(folder):
        return f" (nor does its folder {folder})"
    files = [name for name in sorted(os.listdir(folder)) if os.path.isfile(os.path.join(folder, name))]
    near = nearest_name(os.path.basename(path), files)
    return f"; did you mean {os.path.join(os.path.dirname(path), near)}?" if near else ""


def _parse(path: str) -> yaml.MappingNode | None:
    try:
        with open(path, encoding="utf-8") as file:
            root = yaml.compose(file, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"{path}{line}: this is not valid YAML: {error.problem or error.context}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: this is not a YAML text file: {str(error).splitlines()[0]}") from None
    if root is not None and not isinstance(root, yaml.MappingNode):
        raise UserError(f"{path}: a config holds 'KEY: value' lines, this file does not")
    return root


def _entries(node: yaml.MappingNode, path: str, parents: tuple[str, ...]) -> Iterator[_Entry]:
    """Walk a mapping down to its leaves. A key given twice is an error: YAML would quietly drop the first."""
    seen: dict[str, int] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        keys = (*parents, str(key_node.value))
        dotted = ".".join(keys)
        if key_node.tag == "tag:yaml.org,2002:merge":
            raise UserError(f"{path}, line {line}: YAML merge keys (<<) are not supported; use {_BASE_KEY}")
        if dotted in seen:
            lines = f"{seen[dotted]} and {line}"
            raise UserError(f"{path}: the key {dotted} is given twice, in lines {lines}; join the two")
        seen[dotted] = line
        if isinstance(value_node, yaml.MappingNode):
            yield _Entry(dotted, _SECTION, f"{path}, line {line}")
            yield from _entries(value_node, path, keys)
        else:
            yield _Entry(dotted, _value(value_node, path), f"{path}, line {line}")


def _value(node: yaml.Node, path: str) -> Any:
    loader = _Loader("")
    try:
        return loader.construct_document(node)
    except yaml.constructor.ConstructorError as error:
        line = node.start_mark.line + 1
        hint = "; tags that run code are not accepted, write the value out"
        problem = f"{error.problem}{hint if 'python/' in str(node.tag) else ''}"
        raise UserError(f"{path}, line {line}: {problem}") from None


# ------------------------------------------------------------------------------------------------------- keys

_SECTION = object()  # the value of an entry that opens a section


def _assign(cfg: CfgNode, entry: _Entry) -> None:
    """Set one key of ``cfg`` in place, by yacs's rules for types; an int is accepted for a float."""
    *sections, name = entry.key.split(".")
    node = cfg
    for section in sections:
        if not isinstance(node, CfgNode) or section not in node:
            raise UserError(_unknown_key(cfg, entry))
        node = node[section]
    if not isinstance(node, CfgNode) or name not in node:
        raise UserError(_unknown_key(cfg, entry))
    old = node[name]
    if isinstance(old, CfgNode) != (entry.value is _SECTION):
        if entry.value is None:
            return  # an empty section
        kind = "a section of keys, not a value" if isinstance(old, CfgNode) else "a value, not a section"
        raise UserError(f"{entry.where}: {entry.key} is {kind}")
    if entry.value is _SECTION:
        return
    if entry.key == "VERSION" and entry.value != cfg.VERSION:
        raise UserError(f"{entry.where}: config VERSION {entry.value} is not supported, only {cfg.VERSION}")
    try:
        cfg.merge_from_list([entry.key, entry.value])
    except ValueError:
        node[name] = _int_as_float(old, entry)


def _int_as_float(old: Any, entry: _Entry) -> float:
    value = CfgNode._decode_cfg_value(entry.value)
    if type(old) is float and type(value) is int:
        return float(value)
    wanted = {"str": "text", "int": "a whole number", "float": "a number", "bool": "True or False"}
    kind = wanted.get(type(old).__name__, f"a {type(old).__name__}")
    raise UserError(f"{entry.where}: {entry.key} must be {kind} (as in {old!r}), not {value!r}")


def _unknown_key(cfg: CfgNode, entry: _Entry) -> str:
    near = _nearest_key(cfg, entry.key)
    return f"{entry.where}: there is no config key {entry.key}" + (f"; did you mean {near}?" if near else "")


def _nearest_key(cfg: CfgNode, key: str) -> str | None:
    """The nearest known key: in the same section first, then of the same name anywhere, then by the path."""
    known = list(_dotted_keys(cfg, ""))
    section, _, name = key.rpartition(".")
    siblings = {entry.rpartition(".")[2]: entry for entry in known if entry.rpartition(".")[0] == section}
    near = nearest_name(name, list(siblings), cutoff=0.7)
    if near:
        return siblings[near]
    same_name = [entry for entry in known if entry.rpartition(".")[2].lower() == name.lower()]
    return nearest_name(key, same_name, cutoff=0.0) or nearest_name(key, known)


def _dotted_keys(node: CfgNode, prefix: str) -> Iterator[str]:
    for name, value in node.items():
        yield prefix + name
        if isinstance(value, CfgNode):
            yield from _dotted_keys(value, f"{prefix}{name}.")


def _odd_overrides(opts: list[str]) -> str:
    joined = next((text for text in opts if re.match(r"[A-Z][\w.]*=", text)), None)
    hint = f"the last one, {opts[-1]}, has no partner"
    if joined:
        hint = f"write {joined.replace('=', ' ', 1)} with a space"
    return f"overrides are KEY VALUE pairs, but {len(opts)} words are given; {hint}"
