"""Calls of a predictor: kinds of input, lists, iterators, threads, devices and precisions, and other architectures."""

import logging
import pickle
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.structures import Instances
from PIL import Image
from small_models import EAGER, small_cfg

import centernet
from centernet.errors import UserError
from centernet.inference import Predictor
from centernet.inference.images import SourceError
from centernet.inference.results import Detections
from centernet.model_zoo import checkpoints

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
MASKS = ("MODEL.MASK_ON", True, "MODEL.ROI_MASK_HEAD.NUM_CONV", 1, "MODEL.ROI_MASK_HEAD.CONV_DIM", 16)
PLAIN = (
    *("MODEL.PROPOSAL_GENERATOR.NAME", "RPN", "MODEL.ROI_HEADS.NAME", "StandardROIHeads"),
    *("MODEL.RPN.IN_FEATURES", "['p3', 'p4', 'p5']", "MODEL.ANCHOR_GENERATOR.SIZES", "[[32], [64], [128]]"),
)


@pytest.fixture(scope="module")
def predictor(trained: Path) -> Predictor:
    return Predictor(small_cfg("CenterNet2_R50_1x", *EAGER, "MODEL.WEIGHTS", trained), batch_size=3)


@pytest.fixture(scope="module")
def pictures(picture: np.ndarray) -> list[np.ndarray]:
    """BGR, of several shapes that alternate; all differ."""
    shapes = [(90, 120), (120, 90), (90, 120), (60, 130), (90, 120), (90, 119), (90, 120)]
    return [np.resize(np.roll(picture, 7 * number, axis=1), (*shape, 3)) for number, shape in enumerate(shapes)]


def rows(found: Instances) -> torch.Tensor:
    """Boxes, scores, objectness if known, and classes, [N, 7] or [N, 6]."""
    objectness = [found.objectness] if found.has("objectness") else []
    columns = [found.scores, *objectness, found.pred_classes]
    return torch.cat([found.pred_boxes.tensor, torch.stack(columns, dim=1)], dim=1)


def same(one: Instances, other: Instances) -> None:
    """Up to rounding, which may swap detections of nearly equal scores."""
    assert len(one) == len(other) > 0
    assert one.image_size == other.image_size
    torch.testing.assert_close(one.scores, other.scores, rtol=0, atol=1e-5)
    for row in rows(one):
        assert (rows(other) - row).abs().amax(dim=1).min() < 1e-2


class TestKinds:
    def test_one_picture_of_every_kind(self, predictor: Predictor, picture: np.ndarray, tmp_path: Path) -> None:
        rgb = np.ascontiguousarray(picture[:, :, ::-1])
        path = tmp_path / "a.png"
        Image.fromarray(rgb).save(path)
        tensor = torch.from_numpy(rgb).permute(2, 0, 1)
        expected = predictor(picture)
        assert isinstance(expected, Detections)
        assert expected.source is None
        for source, channels in [(path, None), (Image.fromarray(rgb), None), (rgb, "RGB"), (tensor, "RGB")]:
            found = predictor(source, channels=channels)
            torch.testing.assert_close(rows(found), rows(expected), rtol=0, atol=0)
            np.testing.assert_array_equal(found[:0].plot(), rgb)
        assert predictor(path).source == str(path)
        assert not torch.equal(predictor(rgb).scores, expected.scores)
        with pytest.raises(UserError, match="the picture is a tensor: say channels='RGB'"):
            predictor(tensor)
        with pytest.raises(UserError, match="channels is 'rgb'"):
            predictor(rgb, channels="rgb")

    def test_order_of_channels_said_once(self, cfg: CfgNode, predictor: Predictor, picture: np.ndarray) -> None:
        rgb = np.ascontiguousarray(picture[:, :, ::-1])
        other = Predictor(cfg, channels="RGB")
        torch.testing.assert_close(rows(other(rgb)), rows(predictor(picture)), rtol=0, atol=0)
        torch.testing.assert_close(rows(other(picture, channels="BGR")), rows(other(rgb)), rtol=0, atol=0)

    def test_results_may_be_written_into(self, predictor: Predictor, picture: np.ndarray) -> None:
        found = predictor(picture)
        found.pred_boxes.scale(2, 2)
        found.scores.mul_(0.5)
        assert found.class_names == ("0", "1", "2", "3")
        assert 0 < found.objectness.min() <= found.objectness.max() <= 1

    @pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1)])
    def test_tiny_pictures(self, predictor: Predictor, shape: tuple[int, int]) -> None:
        assert predictor(np.zeros((*shape, 3), np.uint8)).image_size == shape

    def test_a_picture_that_would_vanish(self, predictor: Predictor) -> None:
        thin = np.zeros((1, 4000, 3), np.uint8)
        with pytest.raises(SourceError, match="the picture of 4000 x 1 pixels is too narrow"):
            predictor(thin)
        with pytest.raises(SourceError, match="picture 0 of 4000 x 1 pixels is too narrow"):
            predictor([thin])

    @pytest.mark.parametrize("wrong", [None, 5, {"a": 1}, object()])
    def test_what_is_no_picture(self, predictor: Predictor, wrong: object) -> None:
        with pytest.raises(UserError, match=f"the picture is a {type(wrong).__name__}, but must be"):
            predictor(wrong)
        with pytest.raises(UserError, match=f"picture 0 is a {type(wrong).__name__}, but must be"):
            predictor([wrong])


class TestSeveral:
    def test_results_are_those_of_each_picture_alone(
        self, predictor: Predictor, pictures: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        alone = [predictor(one) for one in pictures]
        sizes: list[int] = []
        monkeypatch.setattr(predictor, "network", Watched(predictor.network, sizes))
        together = predictor(pictures)
        assert isinstance(together, list)
        assert sum(sizes) == len(pictures) == 7
        assert max(sizes) == 3
        for position, (one, other) in enumerate(zip(together, alone, strict=True)):
            assert one.position == position
            same(one, other)
        assert predictor([]) == []
        assert len(predictor(tuple(pictures[:2]))) == 2

    def test_neighbours_that_are_padded_otherwise_would_move_results(
        self, predictor: Predictor, pictures: list[np.ndarray]
    ) -> None:
        """Why pictures are grouped: padding is seen at the borders."""
        small, wide = pictures[0], pictures[3]
        alone, padded = predictor(small), predictor.predict_batch([small, wide])[0]["instances"]
        with pytest.raises(AssertionError):
            same(padded, alone)
        same(predictor([small, wide])[0], alone)

    def test_an_iterator_is_read_as_results_are_asked_for(
        self, predictor: Predictor, picture: np.ndarray, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        taken = 0

        def camera() -> Iterator[np.ndarray]:
            nonlocal taken
            while True:
                taken += 1
                yield picture

        results = predictor(camera())
        assert taken == 0
        assert isinstance(next(results), Detections)
        assert taken == 3
        monkeypatch.setattr(predictor, "batch_size", 1)
        live, taken = predictor(camera()), 0
        for number in range(1, 4):
            assert next(live).position == number - 1
            assert taken == number

    def test_kinds_may_be_mixed(self, predictor: Predictor, picture: np.ndarray, tmp_path: Path) -> None:
        Image.fromarray(picture[:, :, ::-1]).save(tmp_path / "a.png")
        first, second = predictor([str(tmp_path / "a.png"), picture])
        torch.testing.assert_close(rows(first), rows(second), rtol=0, atol=1e-4)
        assert (first.source, second.source) == (str(tmp_path / "a.png"), None)


class TestBrokenPictures:
    @pytest.fixture
    def mixture(self, pictures: list[np.ndarray], tmp_path: Path) -> list[object]:
        (tmp_path / "broken.jpg").write_text("hello")
        return [pictures[0], pictures[1], tmp_path / "broken.jpg", pictures[2], None]

    def test_a_list_ends_with_one_sentence(self, predictor: Predictor, mixture: list[object]) -> None:
        with pytest.raises(SourceError, match=r"^picture 2 \(.*broken\.jpg\) cannot be read: ") as caught:
            predictor(mixture)
        assert caught.value.position == 2
        assert caught.value.source == str(mixture[2])

    def test_an_iterator_gives_what_came_before(self, predictor: Predictor, mixture: list[object]) -> None:
        remaining = iter(mixture)
        results = predictor(remaining)
        assert [next(results).position, next(results).position] == [0, 1]
        with pytest.raises(SourceError, match="picture 2"):
            next(results)
        assert len(list(remaining)) == 2  # nothing behind it was taken

    def test_skipped_ones_are_logged(
        self, predictor: Predictor, mixture: list[object], caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.ERROR):
            assert [found.position for found in predictor(mixture, on_error="skip")] == [0, 1, 3]
        assert [record.getMessage()[:16] for record in caplog.records] == ["error: picture 2", "error: picture 4"]

    def test_a_function_gets_them(self, predictor: Predictor, mixture: list[object]) -> None:
        errors: list[SourceError] = []
        found = predictor(iter(mixture), on_error=errors.append)
        assert [one.position for one in found] == [0, 1, 3]
        assert [error.position for error in errors] == [2, 4]
        with pytest.raises(UserError, match="on_error is 'ignore'"):
            predictor(mixture, on_error="ignore")


class TestThreads:
    def test_several_threads_get_the_results_of_one(self, predictor: Predictor, pictures: list[np.ndarray]) -> None:
        alone = [rows(predictor(one)) for one in pictures]
        jobs = [(number, number % len(pictures)) for number in range(2 * len(pictures))]
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda job: predictor(pictures[job[1]]), jobs))
        for (_, which), one in zip(jobs, found, strict=True):
            torch.testing.assert_close(rows(one), alone[which], rtol=0, atol=0)

    def test_with_test_time_augmentation(self, cfg: CfgNode, pictures: list[np.ndarray]) -> None:
        """detectron2's switches the model's heads off and on."""
        cfg.TEST.AUG.MIN_SIZES = (64,)
        augmented = Predictor(cfg, test_time_augmentation=True)
        alone = [augmented(one).scores for one in pictures[:3]]
        assert not augmented(pictures[0]).has("objectness")
        with ThreadPoolExecutor(3) as pool:
            for _ in range(2):
                for one, other in zip(pool.map(augmented, pictures[:3]), alone, strict=True):
                    torch.testing.assert_close(one.scores, other, rtol=0, atol=0)


class TestArchitectures:
    @pytest.mark.parametrize(
        ("config", "words"),
        [
            ("CenterNet2_R50_1x", ()),
            ("CenterNet2-F_R50_1x", ()),
            ("CenterNet-FPN_R50_1x", ()),
            ("CenterNet-FPN_R50_1x", ("MODEL.CENTERNET.WITH_AGN_HM", True)),
            ("CenterNet2_R50_1x", MASKS),
            ("CenterNet2_R50_1x", PLAIN),
        ],
        ids=["cascade", "faster", "one stage", "one stage with a map", "masks", "detectron2's"],
    )
    def test_results_are_those_of_the_model(self, config: str, words: tuple[object, ...], picture: np.ndarray) -> None:
        torch.manual_seed(0)
        predictor = Predictor(small_cfg(config, *EAGER, *words, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.001))
        fixed = not words or words[0] == "MODEL.CENTERNET.WITH_AGN_HM"
        assert (predictor.network.fixed_size is not None) == fixed
        found = predictor(picture)
        resized = predictor.aug.get_transform(picture).apply_image(picture)
        entry = {"image": torch.as_tensor(resized.astype("float32").transpose(2, 0, 1)), "height": 90, "width": 120}
        with torch.no_grad():
            wanted = predictor.model([entry])[0]["instances"]
        assert len(wanted) > 3
        assert found.has("objectness") == fixed
        if fixed:
            found.remove("objectness")  # the model does not say it
        same(found, wanted)  # two stages: the fast box stages round otherwise
        assert set(wanted.get_fields()) == set(found.get_fields())
        if found.has("pred_masks"):
            assert torch.equal(found.pred_masks, wanted.pred_masks)
            assert found[:3].plot().shape == picture.shape
            assert found.to_coco()[0]["segmentation"]["size"] == [90, 120]

    def test_the_first_stage_alone(self, picture: np.ndarray) -> None:
        cfg = small_cfg("CenterNet2_R50_1x", *EAGER, "MODEL.META_ARCHITECTURE", "ProposalNetwork")
        found = Predictor(cfg)(picture)
        assert len(found) > 5
        assert (found.class_names, set(found.pred_classes.tolist())) == (("object",), {0})
        assert found.to_coco()[0]["category_id"] == 1
        assert found[:3].plot().shape == picture.shape

    def test_a_segmentation_gives_no_detections(self, picture: np.ndarray) -> None:
        words = ("MODEL.META_ARCHITECTURE", "SemanticSegmentor", "MODEL.SEM_SEG_HEAD.IN_FEATURES", "['p3', 'p4', 'p5']")
        predictor = Predictor(small_cfg("CenterNet2_R50_1x", *words))
        assert "sem_seg" in predictor.predict_batch([picture])[0]
        with pytest.raises(UserError, match="the model gives no detections, but sem_seg: call predict_batch"):
            predictor(picture)


class TestPrecision:
    @pytest.mark.parametrize("precision", ["bfloat16", "auto", "float16"])
    def test_scores_are_near_those_of_float32(
        self, cfg: CfgNode, predictor: Predictor, picture: np.ndarray, precision: str
    ) -> None:
        found, wanted = Predictor(cfg, precision=precision)(picture), predictor(picture)
        assert found.scores.dtype == found.pred_boxes.tensor.dtype == torch.float32
        torch.testing.assert_close(found.scores[:10], wanted.scores[:10], rtol=0.05, atol=0.02)

    def test_unknown_ones_are_refused(self, cfg: CfgNode) -> None:
        with pytest.raises(UserError, match="precision is 'half', but must be"):
            Predictor(cfg, precision="half")

    def test_optimising_is_for_detectors_of_boxes(self, cfg: CfgNode) -> None:
        with pytest.raises(UserError, match="optimize=True is for this package's detectors of boxes"):
            Predictor(cfg, optimize=True, test_time_augmentation=True)

    @pytest.mark.slow
    def test_optimised(self, cfg: CfgNode, predictor: Predictor, pictures: list[np.ndarray]) -> None:
        fast = Predictor(cfg, optimize=True, precision="float32", batch_size=3)
        few = [pictures[0], pictures[2], pictures[4], pictures[3]]
        with ThreadPoolExecutor(3) as pool:
            alone = list(pool.map(fast, few))
        # the threads are gone, and a batch of three is compiled: PyTorch crashes if another thread goes on
        for found, other, wanted in zip(alone, fast(few), predictor(few), strict=True):
            assert found.image_size == wanted.image_size
            torch.testing.assert_close(found.scores, wanted.scores, rtol=0, atol=1e-4)
            torch.testing.assert_close(other.scores, wanted.scores, rtol=0, atol=1e-4)
            torch.testing.assert_close(found.objectness[:5], wanted.objectness[:5], rtol=0, atol=1e-4)

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
    @pytest.mark.parametrize("precision", ["float32", "auto", "float16"])
    def test_on_a_gpu(self, cfg: CfgNode, predictor: Predictor, pictures: list[np.ndarray], precision: str) -> None:
        for found, wanted in zip(
            Predictor(cfg, device="cuda", precision=precision)(pictures), predictor(pictures), strict=True
        ):
            assert found.scores.device.type == "cpu"
            torch.testing.assert_close(found.scores[:5], wanted.scores[:5], rtol=0.05, atol=0.02)


class TestConstruction:
    def test_the_package_offers_it(self) -> None:
        assert centernet.Predictor is Predictor
        assert "Predictor" in centernet.__all__
        assert not hasattr(centernet, "Predictors")

    def test_a_yaml_file_weights_options_and_threshold(
        self, cfg: CfgNode, trained: Path, predictor: Predictor, picture: np.ndarray, tmp_path: Path
    ) -> None:
        cfg.MODEL.WEIGHTS = "no/such/file.pth"
        (tmp_path / "own.yaml").write_text(cfg.dump())
        wanted = predictor(picture)
        threshold = float(wanted.scores[4])
        made = Predictor(
            tmp_path / "own.yaml", trained, device="cpu", threshold=threshold, opts=["TEST.DETECTIONS_PER_IMAGE", 9]
        )
        found = made(picture)
        assert found.scores.tolist() == wanted.scores[wanted.scores >= threshold].tolist()
        assert made.cfg.TEST.DETECTIONS_PER_IMAGE == 9
        of_cfg = Predictor(cfg, str(trained), opts=["TEST.DETECTIONS_PER_IMAGE", 2])
        assert len(of_cfg(picture)) == 2
        assert (cfg.MODEL.WEIGHTS, cfg.TEST.DETECTIONS_PER_IMAGE) == ("no/such/file.pth", 100)

    def test_random_weights_of_a_zoo_name(self, picture: np.ndarray, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.WARNING):
            made = Predictor("CenterNet2_R18_digits", "", device="cpu")
        assert "the model is random" in caplog.text
        assert made(picture).image_size == (90, 120)

    def test_published_weights_that_cannot_be_had(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CENTERNET_CACHE", str(tmp_path))
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        monkeypatch.delenv("CENTERNET_WEIGHTS", raising=False)
        monkeypatch.setattr(checkpoints, "DRIVE", "http://127.0.0.1:9/{}")
        with pytest.raises(UserError) as caught:
            Predictor("CenterNet2_R50_1x")
        sentence = str(caught.value)
        assert "\n" not in sentence
        for part in ("cannot be downloaded", f"save the file as {tmp_path / 'CenterNet2_R50_1x.pth'}"):
            assert part in sentence
        with pytest.raises(UserError, match="no/such.pth"):
            Predictor("CenterNet2_R50_1x", "no/such.pth")

    @pytest.mark.parametrize(
        ("arguments", "options", "sentence"),
        [
            (("CenterNet2_R50_2x",), {}, "the model zoo has no CenterNet2_R50_2x; did you mean .*CenterNet2_R50_1x"),
            (("no/such.yaml",), {}, "the config file no/such.yaml does not exist"),
            (("model.pth",), {}, "model.pth is a file of weights: give the model's name or config first"),
            ((7,), {}, "the model is a int, but must be a name"),
            (("CenterNet2_R50_1x", ""), {"device": "gpu"}, "there is no device 'gpu'"),
            (("CenterNet2_R50_1x", ""), {"device": "cuda:97"}, "device cuda:97 is not there: PyTorch sees "),
            (("CenterNet2_R50_1x", ""), {"batch_size": 0}, "batch_size is 0, but must be"),
            (("CenterNet2_R50_1x", ""), {"channels": "GBR"}, "channels is 'GBR'"),
            (("CenterNet2_R50_1x", ""), {"threshold": 1.5}, "the confidence threshold is 1.5"),
            (("CenterNet2_R50_1x", ""), {"opts": ["MODEL.WEIGHT", ""]}, "there is no config key MODEL.WEIGHT;"),
            (("CenterNet2_R50_1x", ""), {"opts": ["MODEL.WEIGHTS"]}, "overrides are KEY VALUE pairs"),
            (("CenterNet-FPN_R50_1x", ""), {"test_time_augmentation": True}, "is for two-stage models"),
        ],
    )
    def test_mistakes_are_said(self, arguments: tuple[object, ...], options: dict[str, object], sentence: str) -> None:
        with pytest.raises(UserError, match=sentence) as caught:
            Predictor(*arguments, **options)
        assert "\n" not in str(caught.value)

    def test_a_config_of_another_project_takes_options(self, cfg: CfgNode) -> None:
        with pytest.raises(UserError, match="there is no config key NO.SUCH"):
            Predictor(cfg, opts=["NO.SUCH", 1])

    def test_it_can_be_sent_to_another_process(self, predictor: Predictor, picture: np.ndarray) -> None:
        copy = pickle.loads(pickle.dumps(predictor))
        torch.testing.assert_close(rows(copy(picture)), rows(predictor(picture)), rtol=0, atol=0)


class Watched:
    """A network that notes the sizes of its batches."""

    def __init__(self, network: object, sizes: list[int]) -> None:
        self._network, self._sizes = network, sizes
        self.canvas = network.canvas

    def __call__(self, entries: list) -> list:
        self._sizes.append(len(entries))
        return self._network(entries)
