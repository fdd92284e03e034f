"""Weights, pictures and videos shared by the tests of inference."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from small_models import EAGER, small_cfg


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights file for ``small_cfg("CenterNet2_R50_1x")``: random, but the same at each loading."""
    torch.manual_seed(0)
    model = build_model(small_cfg("CenterNet2_R50_1x", *EAGER))
    file = tmp_path_factory.mktemp("weights") / "model_final.pth"
    torch.save({"model": model.state_dict()}, file)
    return file


@pytest.fixture
def cfg(trained: Path) -> CfgNode:
    return small_cfg("CenterNet2_R50_1x", *EAGER, "MODEL.WEIGHTS", trained)


@pytest.fixture(scope="session")
def picture() -> np.ndarray:
    """uint8 [90, 120, 3] BGR: a noisy ground with a blue box; no channel is like another."""
    image = np.random.default_rng(0).integers(0, 120, (90, 120, 3), dtype=np.uint8)
    image[20:60, 30:90] = (250, 60, 20)
    return image


@pytest.fixture
def write_clip(tmp_path: Path) -> Callable[..., Path]:
    """Writes a little video: ``write_clip(name, frames=..., fps=...)``."""

    def write(name: str = "clip.mp4", frames: int = 6, fps: float = 12.0) -> Path:
        path = tmp_path / name
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), fps, (120, 90))
        for number in range(frames):
            frame = np.full((90, 120, 3), 60, dtype=np.uint8)
            frame[20:60, 10 * number : 10 * number + 40] = (250, 60, 20)
            writer.write(frame)
        writer.release()
        return path

    return write
