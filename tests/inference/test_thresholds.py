from typing import Any

import pytest
import torch
from detectron2.config import CfgNode
from small_models import EAGER, instances, small_cfg

from centernet.errors import UserError
from centernet.inference import Predictor, filter_predictions, set_score_threshold

# every meta architecture, the one-stage ones with and without the class-agnostic heatmap
MODELS = {
    "two-stage": ("CenterNet2_R50_1x",),
    "one-stage": ("CenterNet-FPN_R50_1x",),
    "one-stage, agnostic heatmap": ("CenterNet-FPN_R50_1x", "MODEL.CENTERNET.WITH_AGN_HM", True),
    "proposals": ("CenterNet2_R50_1x", "MODEL.META_ARCHITECTURE", "ProposalNetwork"),
}


def scores_of(cfg: CfgNode, threshold: float, picture: object) -> torch.Tensor:
    """Boxes and scores, [N, 5], best first, of the model that one seed gives."""
    torch.manual_seed(0)
    result = filter_predictions(Predictor(cfg).predict_batch([picture])[0], threshold)
    found = result.get("instances", result.get("proposals"))
    boxes = found.pred_boxes if found.has("pred_boxes") else found.proposal_boxes
    table = torch.cat([boxes.tensor, found.scores[:, None]], dim=1)
    return table[table[:, 4].argsort(descending=True, stable=True)]


@pytest.mark.parametrize("name", MODELS)
def test_the_threshold_in_the_config_keeps_exactly_the_scores_at_or_above_it(name: str, picture: object) -> None:
    config, *overrides = MODELS[name]
    words = (*EAGER, *overrides, "TEST.DETECTIONS_PER_IMAGE", 5000, "MODEL.CENTERNET.INFERENCE_TH", 1e-6)
    loose = small_cfg(config, *words, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 1e-6)
    everything = scores_of(loose, 0.0, picture)
    assert len(everything) > 20
    # the score of one detection: what is exactly at the threshold stays
    threshold = float(everything[len(everything) // 2, 4])

    strict = small_cfg(config, *words)
    set_score_threshold(strict, threshold)
    found = scores_of(strict, threshold, picture)
    wanted = everything[everything[:, 4] >= threshold]
    assert found[-1, 4] == threshold
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)


def test_keys_that_get_the_threshold() -> None:
    cfg = small_cfg("CenterNet2_R50_1x")
    before = cfg.MODEL.CENTERNET.INFERENCE_TH
    set_score_threshold(cfg, 0.3)
    assert pytest.approx(0.3) == cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST
    assert pytest.approx(0.3) == cfg.MODEL.RETINANET.SCORE_THRESH_TEST
    assert cfg.MODEL.PANOPTIC_FPN.COMBINE.INSTANCES_CONFIDENCE_THRESH == 0.3
    assert before == cfg.MODEL.CENTERNET.INFERENCE_TH  # candidates of a two-stage model are no detections


@pytest.mark.parametrize(("agnostic", "probability"), [(False, 0.3), (True, 0.09)])
def test_a_score_of_the_first_stage_is_the_root_of_its_probability(agnostic: bool, probability: float) -> None:
    cfg = small_cfg("CenterNet-FPN_R50_1x", "MODEL.CENTERNET.WITH_AGN_HM", agnostic)
    cfg.freeze()
    set_score_threshold(cfg, 0.3)
    assert pytest.approx(probability) == cfg.MODEL.CENTERNET.INFERENCE_TH
    assert cfg.is_frozen()


@pytest.mark.parametrize("threshold", [-0.1, 1.01, float("nan"), "0.3", [0.3]])
def test_a_threshold_that_is_no_probability_is_said(threshold: Any) -> None:
    with pytest.raises(UserError, match="from 0 to 1"):
        set_score_threshold(small_cfg("CenterNet2_R50_1x"), threshold)


def test_the_filter_leaves_the_given_predictions_alone() -> None:
    predictions = {"instances": instances([[0, 0, 9, 9], [0, 0, 5, 5]], [0.9, 0.2], [0, 1]), "sem_seg": 1}
    kept = filter_predictions(predictions, 0.9)
    assert kept["instances"].scores.tolist() == pytest.approx([0.9])
    assert len(predictions["instances"]) == 2
    assert kept["sem_seg"] == 1
