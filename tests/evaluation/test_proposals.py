"""First-stage proposals stored by an evaluation."""

from pathlib import Path

import numpy as np
import pytest
import torch

from centernet.config_file import load_config
from centernet.errors import UserError
from centernet.evaluation import check, evaluate, output_folder
from centernet.evaluation.proposals import PROPOSALS_FILE, read_proposals
from centernet.modeling.build import build_detector

CONFIG = Path(__file__).parents[2] / "configs" / "demo" / "CenterNet2_R18_digits.yaml"


@pytest.fixture
def two_stage(dataset, tmp_path):
    changes = ["MODEL.DEVICE", "cpu", "DATALOADER.NUM_WORKERS", "0", "OUTPUT_DIR", str(tmp_path / "output")]
    changes += ["DATASETS.TEST", f"('{dataset[0]}',)", "MODEL.ROI_HEADS.NUM_CLASSES", "4", "INPUT.MIN_SIZE_TEST", "100"]
    changes += ["TEST.SAVE_PROPOSALS", "True", "MODEL.CENTERNET.POST_NMS_TOPK_TEST", "20"]
    return load_config(CONFIG, [*changes, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0"])


def watched(module):
    """A list that collects the fields of the ``Instances`` that a stage returns, a list a batch."""
    collected = []

    def hook(module, inputs, output):
        collected.append([instances.get_fields().copy() for instances in output[0]])

    module.register_forward_hook(hook)
    return collected


@pytest.mark.parametrize("sqrt_score", [True, False])
def test_probabilities_and_boxes_are_those_of_the_first_stage(two_stage, dataset, sqrt_score):
    two_stage.MODEL.CENTERNET.SQRT_SCORE = sqrt_score
    torch.manual_seed(0)
    model = build_detector(two_stage)
    first = watched(model.proposal_generator)
    evaluate(two_stage, model)
    stored = read_proposals(str(Path(output_folder(two_stage, dataset[0])) / PROPOSALS_FILE))
    assert sorted(set(stored.image_ids.tolist())) == [1, 2, 3, 4, 5, 6]
    for k in range(6):
        here = stored.image_ids == k + 1
        scores, boxes = first[k][0]["scores"], first[k][0]["proposal_boxes"].tensor
        expected = scores.square() if sqrt_score else scores
        np.testing.assert_allclose(stored.probabilities[here], expected, rtol=1e-6)
        np.testing.assert_allclose(stored.boxes[here], boxes / 2, rtol=1e-5, atol=1e-4)  # 100 pixels, of 50


def test_products_are_what_a_model_without_the_inner_root_detects(two_stage, dataset):
    products = {}
    for sqrt_score in (True, False):
        two_stage.MODEL.CENTERNET.SQRT_SCORE = sqrt_score
        torch.manual_seed(0)
        model = build_detector(two_stage)
        found = watched(model.roi_heads)
        evaluate(two_stage, model)
        stored = read_proposals(str(Path(output_folder(two_stage, dataset[0])) / PROPOSALS_FILE))
        products[sqrt_score] = stored, [fields[0] for fields in found]
    rooted, plain = products[True][0], products[False][0]
    np.testing.assert_allclose(rooted.products, plain.products, rtol=1e-4)
    assert len(rooted.products)
    assert set(rooted.product_category_ids.tolist()) <= {3, 7, 8, 20}  # the dataset's ids
    scores = torch.cat([fields["scores"] for fields in products[False][1]])
    np.testing.assert_allclose(plain.products, scores.numpy() ** 2, rtol=1e-5)


def test_the_model_is_left_as_it_was_and_nothing_is_stored_without_the_key(two_stage, dataset):
    two_stage.TEST.SAVE_PROPOSALS = False
    model = build_detector(two_stage)
    evaluate(two_stage, model)
    assert not (Path(output_folder(two_stage, dataset[0])) / PROPOSALS_FILE).exists()
    two_stage.TEST.SAVE_PROPOSALS = True
    evaluate(two_stage, model)
    assert (Path(output_folder(two_stage, dataset[0])) / PROPOSALS_FILE).is_file()
    assert not model.roi_heads._forward_hooks


def test_models_without_the_probability_are_refused_in_one_sentence(two_stage, cfg, dataset):
    cfg.DATASETS.TEST, cfg.TEST.SAVE_PROPOSALS = (dataset[0],), True
    with pytest.raises(UserError, match=r"TEST\.SAVE_PROPOSALS needs a two-stage model"):
        check(cfg)
    two_stage.TEST.AUG.ENABLED = True
    with pytest.raises(UserError, match="exclude each other"):
        check(two_stage)


def test_another_file_is_no_proposals(tmp_path):
    (tmp_path / "a.npz").write_text("{}")
    np.savez(tmp_path / "b.npz", boxes=np.zeros(3))
    for name in ("a.npz", "b.npz", "c.npz"):
        with pytest.raises(UserError, match="does not hold proposals: evaluate again with TEST.SAVE_PROPOSALS"):
            read_proposals(str(tmp_path / name))
