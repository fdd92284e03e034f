"""Rows of the zoo by name, and where their config files are."""

import difflib
import os
from pathlib import Path

from ..errors import UserError
from .rows import MOTION_MODELS, ROWS, Row

__all__ = [
    "config_folder",
    "find",
    "get_config_file",
    "info",
    "motion_names",
    "near_names",
    "names",
    "resolve_config_file",
]

_PACKAGE = Path(__file__).resolve().parents[1]
_BY_NAME = {name: row for row in (*ROWS, *MOTION_MODELS) for name in (row.name, *row.aliases)}


def names() -> list[str]:
    """Names of all models with a config, in the order of the zoo's page; aliases are left out."""
    return [row.name for row in ROWS]


def motion_names() -> list[str]:
    """Names of the motion models of the 3D tracker."""
    return [row.name for row in MOTION_MODELS]


def find(name: str) -> Row | None:
    """The row of a name or alias; None if there is none."""
    return _BY_NAME.get(name)


def info(name: str) -> Row:
    """What is known of a model.

    Raises:
        UserError: the zoo has no such name; the nearest ones are given.
    """
    row = find(name)
    if row is None:
        near = " or ".join(near_names(name))
        hint = f"did you mean {near}?" if near else "docs/MODEL_ZOO.md and centernet.model_zoo.names() list all names"
        raise UserError(f"the model zoo has no {name}; {hint}")
    return row


def near_names(name: str) -> list[str]:
    """Up to three names that are most like ``name``, case ignored."""
    by_lower = {known.lower(): known for known in _BY_NAME}
    return [by_lower[near] for near in difflib.get_close_matches(name.lower(), by_lower, n=3, cutoff=0.6)]


def config_folder() -> Path:
    """The folder of the shipped configs: inside the installed package, or beside it in a checkout."""
    installed = _PACKAGE / "configs"
    return installed if installed.is_dir() else _PACKAGE.parent / "configs"


def get_config_file(name: str) -> str:
    """Path of a model's YAML file.

    Raises:
        UserError: the zoo has no such name, it is a motion model, or this installation lacks the file.
    """
    row = info(name)
    if row.motion:
        raise UserError(
            f"{row.name} is a motion model and has no config file: take a 3D detector's, with "
            f"MODEL.TRACKING3D.TRACKER.MOTION {row.motion} and MODEL.TRACKING3D.TRACKER.MOTION_WEIGHTS zoo://{row.name}"
        )
    path = config_folder() / row.config
    if not path.is_file():
        raise UserError(f"{path} is missing: install this package again, or work in a whole checkout of it")
    return str(path)


def resolve_config_file(path: str | Path) -> str:
    """The config file that a command line means: ``path`` itself, or that of a name of the zoo where there is no such
    file.

    Raises:
        UserError: it is neither, but much like a name of the zoo.
    """
    path = str(path)
    if not path or "/" in path or path.endswith((".yaml", ".yml")) or os.path.exists(path):
        return path
    if find(path):
        return get_config_file(path)
    if near := near_names(path):
        raise UserError(f"the config file {path} does not exist; did you mean the zoo's {' or '.join(near)}?")
    return path
