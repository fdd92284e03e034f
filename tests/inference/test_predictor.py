import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultPredictor
from detectron2.structures import Instances
from PIL import Image
from small_models import EAGER, small_cfg

from centernet.data import build_test_mapper, build_test_resize
from centernet.errors import UserError
from centernet.inference import Predictor


def rows(found: Instances) -> torch.Tensor:
    """Boxes, scores and classes, [N, 6]."""
    return torch.cat([found.pred_boxes.tensor, found.scores[:, None], found.pred_classes[:, None]], dim=1)


@pytest.mark.parametrize("channels", ["BGR", "RGB"])
def test_same_results_as_detectron2_s_predictor(cfg: CfgNode, picture: np.ndarray, channels: str) -> None:
    cfg.INPUT.FORMAT = channels
    ours, theirs = Predictor(cfg)(picture), DefaultPredictor(cfg)(picture)
    assert len(ours) > 5
    assert ours.image_size == (90, 120)
    theirs = theirs["instances"]
    torch.testing.assert_close(ours.scores, theirs.scores, rtol=0, atol=1e-5)
    for row in rows(theirs):  # nearly equal scores may come in another order
        assert (rows(ours) - row).abs().amax(dim=1).min() < 1e-2


def test_a_batch_gives_each_picture_its_own_size_and_result(cfg: CfgNode, picture: np.ndarray) -> None:
    predictor = Predictor(cfg)
    batch = [picture, picture[:, ::-1], picture]
    together = predictor.predict_batch(batch)
    for image, prediction in zip(batch, together, strict=True):
        torch.testing.assert_close(rows(prediction["instances"]), rows(predictor(image)), rtol=1e-4, atol=1e-3)
    sizes = predictor.predict_batch([picture, picture[:45, :110]])
    assert [prediction["instances"].image_size for prediction in sizes] == [(90, 120), (45, 110)]
    assert predictor.predict_batch([]) == []


def test_test_time_augmentation_merges_sizes_and_flips(cfg: CfgNode, picture: np.ndarray) -> None:
    plain = Predictor(cfg)(picture)
    cfg.TEST.AUG.ENABLED, cfg.TEST.AUG.MIN_SIZES, cfg.TEST.AUG.MAX_SIZE = True, (64, 96), 160
    augmented = Predictor(cfg)
    first, mirrored = augmented.predict_batch([picture, picture[:, ::-1].copy()])
    assert len(first["instances"]) > 5
    assert first["instances"].image_size == (90, 120)
    assert not torch.equal(first["instances"].scores[:5], plain.scores[:5])
    # the flip is one of the views: a picture and its mirror image have the same objects
    torch.testing.assert_close(first["instances"].scores[:5], mirrored["instances"].scores[:5], rtol=1e-3, atol=1e-3)
    # resized as evaluation resizes its bytes
    with torch.inference_mode():
        (evaluated,) = augmented.network._batched([augmented.prepare(picture)])
    torch.testing.assert_close(rows(evaluated["instances"]), rows(first["instances"]), rtol=0, atol=0)
    first["instances"].pred_boxes.scale(2, 2)  # results are the caller's
    cfg.MODEL.META_ARCHITECTURE = "CenterNetDetector"
    with pytest.raises(UserError, match=r"TEST\.AUG\.ENABLED is for two-stage models"):
        Predictor(cfg)


def test_nothing_is_recorded_for_training(cfg: CfgNode, picture: np.ndarray) -> None:
    predictor = Predictor(cfg)
    assert not predictor.model.training
    assert not predictor(picture).scores.requires_grad


@pytest.mark.parametrize("augmentation", ["", "ResizeShortestEdge", "EfficientDetResizeCrop"])
@pytest.mark.parametrize(("shape", "resized"), [((90, 120, 3), (72, 96, 3)), ((400, 100, 3), (96, 24, 3))])
def test_square_input_makes_the_long_side_test_size(
    shape: tuple[int, ...], resized: tuple[int, ...], augmentation: str
) -> None:
    cfg = small_cfg("CenterNet2_R50_1x", "INPUT.TEST_INPUT_TYPE", "square", "INPUT.TEST_SIZE", 96)
    cfg.INPUT.CUSTOM_AUG = augmentation
    image = np.zeros(shape, dtype=np.uint8)
    assert build_test_resize(cfg).get_transform(image).apply_image(image).shape == resized


@pytest.mark.parametrize("augmentation", ["", "ResizeShortestEdge", "EfficientDetResizeCrop"])
@pytest.mark.parametrize("kind", ["default", "square"])
def test_a_picture_is_resized_as_in_the_test_loader(
    kind: str, augmentation: str, picture: np.ndarray, tmp_path: Path, trained: Path
) -> None:
    cfg = small_cfg("CenterNet2_R50_1x", "INPUT.TEST_INPUT_TYPE", kind, "INPUT.TEST_SIZE", 101)
    cfg.INPUT.CUSTOM_AUG, cfg.MODEL.WEIGHTS = augmentation, str(trained)
    Image.fromarray(picture[:, :, ::-1]).save(tmp_path / "picture.png")
    loaded = build_test_mapper(cfg)({"file_name": str(tmp_path / "picture.png")})["image"]
    ours = Predictor(cfg).aug.get_transform(picture).apply_image(picture)
    np.testing.assert_array_equal(ours.transpose(2, 0, 1), loaded.numpy())


@pytest.mark.parametrize(
    ("image", "sentence"),
    [
        ([[1, 2]], "picture 0 of the batch is a list"),
        (np.zeros((4, 4), np.uint8), r"shape \(4, 4\)"),
        (np.zeros((4, 4, 4), np.uint8), r"shape \(4, 4, 4\)"),
        (np.zeros((4, 4, 3), np.float32), "dtype float32"),
        (np.zeros((0, 4, 3), np.uint8), "no pixel"),
    ],
)
def test_what_is_no_picture_is_said(cfg: CfgNode, image: object, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Predictor(cfg).predict_batch([image])


class TestConfig:
    @pytest.mark.parametrize(
        ("key", "value", "sentence"),
        [
            ("INPUT.FORMAT", "L", "INPUT.FORMAT is 'L'"),
            ("INPUT.TEST_INPUT_TYPE", "round", "must be one of default, square"),
            ("MODEL.META_ARCHITECTURE", "CenterNetDetektor", "CenterNetDetektor"),
            ("MODEL.WEIGHTS", "no/such/model.pth", "no/such/model.pth"),
        ],
    )
    def test_a_mistake_is_said(self, key: str, value: str, sentence: str) -> None:
        with pytest.raises(UserError, match=sentence):
            Predictor(small_cfg("CenterNet2_R50_1x", key, value))

    def test_the_given_config_is_not_changed(self, cfg: CfgNode) -> None:
        before = cfg.dump()
        Predictor(cfg)
        assert cfg.dump() == before


class TestWeights:
    def test_random_weights_are_said(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.WARNING):
            Predictor(small_cfg("CenterNet2_R50_1x"))
        assert "the model is random" in caplog.text

    def test_another_class_count_is_said(self, trained: Path) -> None:
        words = ("MODEL.WEIGHTS", trained, "MODEL.ROI_HEADS.NUM_CLASSES", 7)
        with pytest.raises(UserError, match=r"of another shape: roi_heads\S+ \(\(5,.* there, \(8,"):
            Predictor(small_cfg("CenterNet2_R50_1x", *EAGER, *words))

    @pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 broken zip"])
    @pytest.mark.parametrize("ending", [".pth", ".pkl"])
    def test_a_file_without_weights_is_said(self, tmp_path: Path, content: bytes, ending: str) -> None:
        file = tmp_path / f"model{ending}"
        file.write_bytes(content)
        with pytest.raises(UserError, match=f"model{ending} .*cannot be read: "):
            Predictor(small_cfg("CenterNet2_R50_1x", "MODEL.WEIGHTS", file))

    def test_missing_parameters_are_refused_unless_asked_otherwise(
        self, trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        state = torch.load(trained)["model"]
        heads = [key for key in state if key.startswith("roi_heads.")]
        torch.save({"model": {key: state[key] for key in state if key not in heads}}, tmp_path / "part.pth")
        words = (*EAGER, "MODEL.WEIGHTS", tmp_path / "part.pth")
        with pytest.raises(UserError, match=rf"\(missing: roi_heads.* and {len(heads) - 6} more\)"):
            Predictor(small_cfg("CenterNet2_R50_1x", *words))
        with caplog.at_level(logging.WARNING):
            Predictor(small_cfg("CenterNet2_R50_1x", *words, "MODEL.WEIGHTS_STRICT", False))
        assert f"no values for {len(heads)} of " in caplog.text
