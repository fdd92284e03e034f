from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from detectron2.config import CfgNode
from detectron2.utils.video_visualizer import VideoVisualizer
from detectron2.utils.visualizer import ColorMode, Visualizer
from small_models import EAGER, small_cfg

from centernet.errors import UserError
from centernet.inference import Predictor, VisualizationDemo
from centernet.inference.sources import open_video


@pytest.fixture(autouse=True)
def plain_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Colours are random otherwise; and text is what takes the time."""
    monkeypatch.setattr("detectron2.utils.visualizer.random_color", lambda **_: np.array([0.0, 1.0, 0.0]))
    monkeypatch.setattr("detectron2.utils.video_visualizer.random_color", lambda **_: np.array([0.0, 1.0, 0.0]))
    monkeypatch.setattr(Visualizer, "draw_text", lambda *_, **__: None)


def test_a_picture_is_predicted_and_drawn(cfg: CfgNode, picture: np.ndarray) -> None:
    demo = VisualizationDemo(cfg)
    predictions, drawing = demo.run_on_image(picture)
    assert len(predictions["instances"]) == len(Predictor(cfg)(picture)) > 5
    drawn = drawing.get_image()
    assert drawn.shape == picture.shape
    untouched = (drawn == picture[:, :, ::-1]).all(axis=2).mean()  # RGB against BGR
    assert 0.02 < untouched < 0.999


@pytest.mark.parametrize("pen", ["image", "video"])
def test_a_given_visualizer_draws(cfg: CfgNode, picture: np.ndarray, pen: str) -> None:
    demo = VisualizationDemo(cfg, score_threshold=0.2)
    given = VideoVisualizer(demo.metadata) if pen == "video" else Visualizer(picture[:, :, ::-1], demo.metadata)
    _, drawing = demo.run_on_image(picture, given)
    np.testing.assert_array_equal(drawing.get_image(), demo.run_on_image(picture)[1].get_image())
    assert pen == "video" or drawing is given.output


def test_the_threshold_is_kept_to(cfg: CfgNode, picture: np.ndarray) -> None:
    scores = VisualizationDemo(cfg).run_on_image(picture)[0]["instances"].scores
    threshold = float(scores.sort().values[len(scores) // 2])
    kept = VisualizationDemo(cfg, score_threshold=threshold).run_on_image(picture)[0]["instances"].scores
    assert kept.min() == threshold
    assert len(kept) == int((scores >= threshold).sum()) < len(scores)


def test_the_first_stage_alone_is_shown(picture: np.ndarray) -> None:
    cfg = small_cfg("CenterNet2_R50_1x", *EAGER, "MODEL.META_ARCHITECTURE", "ProposalNetwork")
    predictions, drawing = VisualizationDemo(cfg, score_threshold=0.5).run_on_image(picture)
    assert len(predictions["proposals"]) > 0
    assert (drawing.get_image() != picture[:, :, ::-1]).any()


@pytest.mark.parametrize("parallel", [False, True])
def test_every_frame_of_a_video_comes_once_and_in_order(
    cfg: CfgNode, write_clip: Callable[..., Path], parallel: bool
) -> None:
    clip = write_clip(frames=6)
    demo = VisualizationDemo(cfg, ColorMode.SEGMENTATION, parallel=parallel, score_threshold=1.0)
    with open_video(clip) as source:
        frames = list(source)
    with open_video(clip) as source:
        drawn = list(demo.run_on_video(source))
    assert len(drawn) == 6
    for frame, result in zip(frames, drawn, strict=True):
        np.testing.assert_array_equal(result, frame)  # nothing reaches a score of 1: BGR in, BGR out
    assert len(list(demo.run_on_video(cv2.VideoCapture(str(clip))))) == 6
    assert len(list(demo.run_on_video(frames[:3]))) == 3
    assert list(demo.run_on_video([])) == []


def test_parallel_finds_the_same(cfg: CfgNode, picture: np.ndarray) -> None:
    frames = [np.roll(picture, 3 * number, axis=1) for number in range(5)]
    one, four = (
        [len(found["instances"]) for found, _ in VisualizationDemo(cfg, parallel=parallel).iterate_video(frames)]
        for parallel in (False, True)
    )
    assert one == four
    assert min(one) > 0


def test_a_wrong_frame_ends_a_parallel_video_with_its_error(cfg: CfgNode, picture: np.ndarray) -> None:
    demo = VisualizationDemo(cfg, parallel=True, score_threshold=1.0)
    with pytest.raises(UserError, match="picture 1 of the batch has shape"):
        list(demo.run_on_video([picture, picture[:, :, 0]]))
