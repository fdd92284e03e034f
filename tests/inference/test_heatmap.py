from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from small_models import small_cfg

from centernet.errors import UserError
from centernet.inference import Predictor
from centernet.inference.heatmap import draw_heatmap, first_stage_heatmap


@pytest.fixture(scope="module", params=["CenterNet2_R50_1x", "CenterNet-FPN_R50_1x"])
def predictor(request: pytest.FixtureRequest) -> Predictor:
    torch.manual_seed(0)
    return Predictor(small_cfg(request.param))


def spotlight(predictor: Predictor, monkeypatch: pytest.MonkeyPatch, level: int, row: int, column: int) -> None:
    """Make the first stage sure of one cell of one level, whatever it is shown."""
    head = predictor.model.proposal_generator
    original = head.maps

    def maps(features: object) -> object:
        classes, boxes, agnostic = original(features)
        shown = agnostic if head.with_agn_hm else classes
        shown = [torch.full_like(logits, -20.0) for logits in shown]
        shown[level][:, :, row, column] = 20.0
        return (classes, boxes, shown) if head.with_agn_hm else (shown, boxes, agnostic)

    monkeypatch.setattr(head, "maps", maps)


@pytest.mark.parametrize(("level", "row", "column"), [(0, 3, 5), (1, 2, 4), (2, 1, 2)])
def test_the_peak_is_where_the_cell_s_centre_is(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch, picture: np.ndarray, level: int, row: int, column: int
) -> None:
    spotlight(predictor, monkeypatch, level, row, column)
    large = np.repeat(np.repeat(picture, 2, axis=0), 2, axis=1)  # 180 x 240, which the model sees at 96 x 128
    heatmap = first_stage_heatmap(predictor, large)
    assert (heatmap.shape, heatmap.dtype) == ((180, 240), np.float32)
    assert 0 <= heatmap.min() < 1e-3 < 0.8 < heatmap.max() <= 1
    rows, columns = np.nonzero(heatmap > 0.9 * heatmap.max())
    stride = predictor.model.proposal_generator.strides[level]
    scale = 180 / 96
    assert (rows.mean() + 0.5) == pytest.approx((row + 0.5) * stride * scale, abs=1.5)
    assert (columns.mean() + 0.5) == pytest.approx((column + 0.5) * stride * scale, abs=1.5)


def test_the_order_of_channels_and_the_padding_do_not_matter(picture: np.ndarray) -> None:
    torch.manual_seed(0)
    bgr = Predictor(small_cfg("CenterNet2_R50_1x", "MODEL.PIXEL_MEAN", [0.0, 0.0, 0.0]))
    torch.manual_seed(0)
    rgb = Predictor(small_cfg("CenterNet2_R50_1x", "MODEL.PIXEL_MEAN", [0.0, 0.0, 0.0], "INPUT.FORMAT", "RGB"))
    expected = first_stage_heatmap(bgr, picture)
    np.testing.assert_array_equal(first_stage_heatmap(rgb, np.ascontiguousarray(picture[:, :, ::-1])), expected)
    assert np.abs(first_stage_heatmap(rgb, picture) - expected).max() > 1e-6


def test_a_model_without_our_first_stage_is_said(cfg: CfgNode, picture: np.ndarray) -> None:
    predictor = Predictor(cfg)
    predictor.model.proposal_generator = torch.nn.Identity()
    with pytest.raises(UserError, match="it needs CenterNet as its first stage"):
        first_stage_heatmap(predictor, picture)


def test_nothing_is_drawn_where_it_is_zero_and_red_where_it_is_one(picture: np.ndarray) -> None:
    heatmap = np.zeros(picture.shape[:2], dtype=np.float32)
    np.testing.assert_array_equal(draw_heatmap(picture, heatmap), picture)
    heatmap[40, 50] = 1.0
    drawn = draw_heatmap(picture, heatmap)
    assert (drawn != picture).any(axis=2).sum() == 1
    red, green, blue = draw_heatmap(np.zeros_like(picture), heatmap)[40, 50].tolist()
    assert red > 2 * max(green, blue)


def test_nothing_else_runs_on_the_model_meanwhile(predictor: Predictor, picture: np.ndarray) -> None:
    """The page draws a visitor's heatmap while another's pictures are predicted, and checks are the model's."""
    with ThreadPoolExecutor(1) as pool:
        with predictor.network.alone(predictor.model):
            heatmap = pool.submit(first_stage_heatmap, predictor, picture)
            with pytest.raises(NotYet):
                heatmap.result(timeout=1)
        assert heatmap.result().shape == (90, 120)
