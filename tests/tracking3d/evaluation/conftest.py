"""Reference result files, label files and where the official tools are."""

import gzip
import importlib.util
import json
import os
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[2]
GOLDEN3D = Path(os.environ.get("CENTERNET_GOLDEN3D", TESTS.parents[1] / "shared" / "golden3d"))

SHARED_DATA = TESTS.parents[1] / "shared" / "data"


@pytest.fixture
def tracking3d_json():
    """The small copy of a JSON file."""
    return lambda name: json.loads(gzip.decompress((TESTS / "data" / "tracking3d" / f"{name}.gz").read_bytes()))


@pytest.fixture
def golden3d_json():
    """A JSON file of the reference numbers; skips where they are not."""

    def load(name):
        if not (GOLDEN3D / name).is_file():
            pytest.skip(f"{name} of the reference numbers is not here")
        return json.loads((GOLDEN3D / name).read_text())

    return load


@pytest.fixture
def nuscenes_python():
    """A Python that has nuscenes-devkit (CENTERNET_NUSCENES_PYTHON)."""
    python = os.environ.get("CENTERNET_NUSCENES_PYTHON", "")
    if not Path(python).is_file():
        pytest.skip("CENTERNET_NUSCENES_PYTHON names no Python with nuscenes-devkit")
    return python


@pytest.fixture
def kitti_python():
    """A Python that has trackeval: CENTERNET_KITTI_PYTHON, or this one."""
    python = os.environ.get("CENTERNET_KITTI_PYTHON", "")
    if not python and importlib.util.find_spec("trackeval") is None:
        pytest.skip("neither this Python nor CENTERNET_KITTI_PYTHON has trackeval")
    return python or sys.executable


@pytest.fixture
def shared_data():
    """A folder of the sample data; skips where it is not."""

    def folder(name) -> Path:
        if not (SHARED_DATA / name).is_dir():
            pytest.skip(f"the sample data {name} are not here")
        return SHARED_DATA / name

    return folder
