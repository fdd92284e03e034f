"""Where the small real sets are; made once: a short synthetic set on disk."""

from pathlib import Path

import pytest

from centernet.tracking3d.data.nuscenes import read_nuscenes
from centernet.tracking3d.data.synthetic import write_synthetic

SHARED = Path(__file__).resolve().parents[4] / "shared" / "data"


def _folder(name: str) -> Path:
    if not (SHARED / name).is_dir():
        pytest.skip(f"{name} is not here")
    return SHARED / name


@pytest.fixture(scope="session")
def nuscenes_mini() -> Path:
    return _folder("nuscenes_mini")


@pytest.fixture(scope="session")
def nuscenes_mini_val(nuscenes_mini) -> list:
    """All records, hidden boxes as well."""
    return read_nuscenes(nuscenes_mini, "mini_val", occlusion_filter=False)


@pytest.fixture(scope="session")
def kitti_mini() -> Path:
    return _folder("kitti_mini")


@pytest.fixture(scope="session")
def synthetic_folder(tmp_path_factory) -> Path:
    """``synthetic3d/train``: clips 3 and 4 of five frames."""
    folder = tmp_path_factory.mktemp("datasets") / "synthetic3d" / "train"
    write_synthetic(folder, (3, 4), frames=5)
    return folder
