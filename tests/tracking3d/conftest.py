"""Reference numbers: small copies in ``tests/data/tracking3d``, all of them in a folder that is not in the project."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

TESTS = Path(__file__).resolve().parents[1]
GOLDEN3D = Path(os.environ.get("CENTERNET_GOLDEN3D", TESTS.parents[1] / "shared" / "golden3d"))


def _load(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as arrays:
        return dict(arrays)


@pytest.fixture(scope="session")
def tracking3d_data() -> Callable[[str], Mapping[str, np.ndarray]]:
    """``tracking3d_data("x.npz")``: the arrays of a file in ``tests/data/tracking3d``."""
    return lambda name: _load(TESTS / "data" / "tracking3d" / name)


@pytest.fixture(scope="session")
def golden3d() -> Callable[[str], Mapping[str, np.ndarray]]:
    """``golden3d("x.npz")``: the arrays of a file of the reference numbers; skips where they are not."""

    def load(name: str) -> Mapping[str, np.ndarray]:
        if not (GOLDEN3D / name).is_file():
            pytest.skip(f"{name} of the reference numbers is not here")
        return _load(GOLDEN3D / name)

    return load
