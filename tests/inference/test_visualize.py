import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances
from detectron2.utils.video_visualizer import VideoVisualizer
from detectron2.utils.visualizer import ColorMode, Visualizer
from small_models import instances, small_cfg

from centernet.inference.visualize import as_predictions, draw_predictions, resolve_metadata

FOUR = ["ant", "bee", "cat", "dog"]
BOX = [30.0, 20.0, 90.0, 60.0]


@pytest.fixture
def dataset():
    """A registered dataset with four classes."""
    name = "inference_test_four"
    MetadataCatalog.get(name).set(thing_classes=FOUR)
    DatasetCatalog.register(name, list)
    yield name
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


class TestNames:
    def test_of_the_test_set(self, dataset: str) -> None:
        cfg = small_cfg("CenterNet2_R50_1x", "DATASETS.TEST", f"('{dataset}',)")
        assert resolve_metadata(cfg).thing_classes == FOUR

    def test_of_the_training_set_where_the_test_set_is_unknown(self, dataset: str) -> None:
        names = ("DATASETS.TEST", "('not_registered',)", "DATASETS.TRAIN", f"('{dataset}',)")
        assert resolve_metadata(small_cfg("CenterNet2_R50_1x", *names)).thing_classes == FOUR

    def test_of_coco(self) -> None:
        cfg = small_cfg("CenterNet-FPN_R50_1x", "DATASETS.TEST", "('coco_2017_val',)")
        cfg.MODEL.CENTERNET.NUM_CLASSES = 80
        assert resolve_metadata(cfg).thing_classes[0] == "person"

    def test_of_a_coco_json_that_was_never_loaded(self, tmp_path: Path) -> None:
        categories = [{"id": 10 - number, "name": name} for number, name in enumerate(FOUR)]
        (tmp_path / "a.json").write_text(json.dumps({"categories": categories}))
        name = f"coco_json:{tmp_path / 'a.json'}:{tmp_path}"
        cfg = small_cfg("CenterNet2_R50_1x", "DATASETS.TEST", f"('{name}',)")
        assert resolve_metadata(cfg).thing_classes == FOUR[::-1]

    def test_of_the_config_where_the_data_are_gone(self, caplog: pytest.LogCaptureFixture) -> None:
        own = ("MODEL.CLASS_NAMES", "['a', 'b', 'c', 'd']")
        cfg = small_cfg("CenterNet2_R50_1x", *own, "DATASETS.TEST", "('coco_json:gone/a.json:gone',)")
        with caplog.at_level(logging.WARNING):
            assert resolve_metadata(cfg).thing_classes == ["a", "b", "c", "d"]
        (message,) = caplog.messages
        assert message.startswith("category ids of COCO results count from 1 (")

    def test_of_the_config_come_first(self, dataset: str) -> None:
        test = ("DATASETS.TEST", f"('{dataset}',)")
        other = small_cfg("CenterNet2_R50_1x", *test, "MODEL.CLASS_NAMES", "['a', 'b', 'c', 'd']")
        assert resolve_metadata(other).thing_classes == ["a", "b", "c", "d"]
        assert resolve_metadata(other).name == "model"
        same = small_cfg("CenterNet2_R50_1x", *test, "MODEL.CLASS_NAMES", str(FOUR))
        assert resolve_metadata(same).name == dataset  # with its category ids

    def test_a_number_of_names_that_does_not_fit_the_model(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.WARNING):
            metadata = resolve_metadata(small_cfg("CenterNet2_R50_1x", "MODEL.CLASS_NAMES", "['a', 'b']"))
        assert metadata.thing_classes == ["0", "1", "2", "3"]
        assert caplog.messages == [
            "MODEL.CLASS_NAMES has 2 classes, the model 4: class numbers are shown instead of names"
        ]

    def test_numbers_where_nothing_is_known(self) -> None:
        assert resolve_metadata(small_cfg("CenterNet2_R50_1x")).thing_classes == ["0", "1", "2", "3"]

    def test_a_dataset_that_is_not_there_is_warned_of_once(self, caplog: pytest.LogCaptureFixture) -> None:
        """Names and category ids of the results depend on it."""
        datasets = "('coco_json:gone/a.json:gone', 'coco_json:gone/b.json:gone')"
        with caplog.at_level(logging.WARNING):
            metadata = resolve_metadata(small_cfg("CenterNet2_R50_1x", "DATASETS.TEST", datasets))
        assert metadata.thing_classes == ["0", "1", "2", "3"]
        (message,) = caplog.messages
        assert "class names are not known" in message
        assert "gone/a.json" in message
        assert "gone/b.json" not in message

    def test_numbers_and_a_warning_where_the_count_does_not_fit(
        self, dataset: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        cfg = small_cfg("CenterNet2_R50_1x", "DATASETS.TEST", f"('{dataset}',)")
        cfg.MODEL.ROI_HEADS.NUM_CLASSES = 6
        with caplog.at_level(logging.WARNING):
            assert resolve_metadata(cfg).thing_classes == list("012345")
        assert "has 4 classes, the model 6" in caplog.text


class TestProposals:
    def proposals(self, **fields: torch.Tensor) -> Instances:
        return Instances((90, 120), proposal_boxes=Boxes(torch.tensor([BOX])), **fields)

    @pytest.mark.parametrize(
        ("fields", "score"),
        [
            ({"scores": torch.tensor([0.6]), "objectness_logits": torch.tensor([0.1])}, 0.6),
            ({"objectness_logits": torch.tensor([0.25])}, 0.25),
            ({"objectness_logits": torch.tensor([4.0])}, 0.98201),
        ],
    )
    def test_become_predictions_without_a_class(self, fields: dict[str, torch.Tensor], score: float) -> None:
        result = as_predictions(self.proposals(**fields))
        assert result.pred_boxes.tensor.tolist() == [BOX]
        assert result.scores.tolist() == pytest.approx([score], abs=1e-5)
        assert result.pred_classes.tolist() == [-1]

    def test_predictions_pass(self) -> None:
        given = instances([BOX], [0.9], [2])
        assert as_predictions(given) is given

    @pytest.mark.parametrize("video", [False, True])
    def test_are_drawn_as_objects_not_as_the_last_class(self, monkeypatch, video: bool) -> None:
        texts = []
        monkeypatch.setattr(Visualizer, "draw_text", lambda self, text, *args, **kwargs: texts.append(text))
        metadata = resolve_metadata(small_cfg("CenterNet2_R50_1x"))
        pen = VideoVisualizer(metadata) if video else None
        predictions = {"proposals": self.proposals(scores=torch.tensor([0.6]))}
        draw_predictions(np.zeros((90, 120, 3), np.uint8), predictions, metadata, visualizer=pen)
        assert texts == ["object 60%"]


@pytest.mark.parametrize("mode", [ColorMode.IMAGE, ColorMode.IMAGE_BW, ColorMode.SEGMENTATION])
def test_a_box_is_drawn_where_it_is_in_the_right_channel_order(mode: ColorMode) -> None:
    np.random.seed(0)  # detectron2 draws the colours from it; a red box on red would not be seen
    metadata = resolve_metadata(small_cfg("CenterNet2_R50_1x"))
    image = np.zeros((90, 120, 3), np.uint8)
    image[..., 0] = 200  # RGB: red
    drawn = draw_predictions(image, {"instances": instances([BOX], [0.9], [1])}, metadata, mode).get_image()
    ground = drawn[80, 110]
    assert drawn.shape == image.shape
    assert mode is ColorMode.IMAGE_BW or tuple(ground) == (200, 0, 0)
    changed = np.abs(drawn.astype(int) - ground).sum(axis=2) > 30
    assert changed[35:60, 30].all()  # left edge, below the label
    assert changed[59:61, 30:90].any(axis=0).all()  # lower edge
    assert not changed[30:55, 75:85].any()  # inside
    assert not changed[65:].any()  # outside


def test_an_empty_result_leaves_the_picture_as_it_is() -> None:
    metadata = resolve_metadata(small_cfg("CenterNet2_R50_1x"))
    image = np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8)
    for pen in (None, VideoVisualizer(metadata)):
        for predictions in ({"instances": instances([], [], [])}, {}):
            drawn = draw_predictions(image, predictions, metadata, visualizer=pen)
            np.testing.assert_array_equal(drawn.get_image(), image)


@pytest.mark.parametrize("video", [False, True])
def test_segmentations_are_drawn_and_boxes_on_top(video: bool) -> None:
    metadata = resolve_metadata(small_cfg("CenterNet2_R50_1x"))
    image = np.zeros((90, 120, 3), np.uint8)
    labels = torch.zeros(54, 90, 120)
    labels[3, 40:80, 10:50] = 1
    labels[5] += 0.5
    pen = VideoVisualizer(metadata) if video else None
    sem_seg = draw_predictions(image, {"sem_seg": labels}, metadata, visualizer=pen).get_image()
    assert sem_seg[45:75, 15:45].any()

    both = {"sem_seg": labels, "instances": instances([[60.0, 40.0, 110.0, 85.0]], [0.9], [1])}
    drawn = draw_predictions(image, both, metadata, visualizer=pen).get_image()
    assert drawn[45:75, 15:45].any()
    assert (drawn != sem_seg).any()

    segments = torch.zeros(90, 120, dtype=torch.int32)
    segments[40:80, 10:50] = 1
    info = [{"id": 1, "isthing": True, "category_id": 2, "score": 0.9, "instance_id": 0}]
    panoptic = {"panoptic_seg": (segments, info)}
    pen = VideoVisualizer(metadata) if video else None
    assert draw_predictions(image, panoptic, metadata, visualizer=pen).get_image()[45:75, 15:45].any()


def test_a_video_keeps_an_object_s_colour() -> None:
    metadata = resolve_metadata(small_cfg("CenterNet2_R50_1x"))
    pen, image = VideoVisualizer(metadata), np.zeros((90, 120, 3), np.uint8)
    edges = []
    for shift in (0.0, 1.0, 2.0):
        box = [[BOX[0] + shift, BOX[1], BOX[2] + shift, BOX[3]]]
        drawn = draw_predictions(image, {"instances": instances(box, [0.9], [1])}, metadata, visualizer=pen)
        edges.append(drawn.get_image()[59:62, 50:80].max(axis=(0, 1)))
    np.testing.assert_allclose(edges, [edges[0]] * 3, atol=2)
