"""A small model for the page, sure enough to find something, and pictures to bring."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from detectron2.config import CfgNode
from PIL import Image
from small_models import EAGER, small_cfg

from centernet.inference.web import ModelShelf
from centernet.inference.web.callbacks import PageActions


@pytest.fixture(scope="session")
def configs(trained: Path) -> dict[str, Callable[[], CfgNode]]:
    """A model with weights, one without, and one whose weights are gone."""

    def with_weights(file: object) -> Callable[[], CfgNode]:
        return lambda: small_cfg("CenterNet2_R50_1x", *EAGER, "MODEL.WEIGHTS", file)

    return {"small": with_weights(trained), "without": with_weights(""), "gone": with_weights("gone.pth")}


@pytest.fixture
def actions(configs: dict[str, Callable[[], CfgNode]]) -> PageActions:
    return PageActions(ModelShelf(configs))


@pytest.fixture
def files(tmp_path: Path, picture: np.ndarray) -> dict[str, str]:
    """``good``, ``other``: pictures; ``broken``: none; ``deep``: 16 bits a channel."""
    paths = {name: str(tmp_path / f"{name}.png") for name in ("good", "other", "broken", "deep")}
    Image.fromarray(picture[:, :, ::-1]).save(paths["good"])
    Image.fromarray(picture[:70, ::-1, ::-1]).save(paths["other"])
    Path(paths["broken"]).write_bytes(b"no picture at all")
    Image.fromarray(np.zeros((9, 9), np.uint16)).save(paths["deep"])
    return paths
