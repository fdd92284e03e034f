"""Pictures for debugging: what they show, where they go, and that nothing happens without DEBUG."""

import inspect
import logging

import cv2
import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils import logger as detectron2_logger
from detectron2.utils.events import EventStorage
from tiny import image, tiny_model, with_objects

from centernet.modeling import debug, debug_canvas
from centernet.modeling.debug import DebugOptions, debug_second_stage, debug_test, debug_train
from centernet.modeling.dense_heads.centernet import CenterNet
from centernet.ops.grid import cell_centers

CASCADE, SINGLE, ONE_STAGE = "CenterNet2_R50_1x", "CenterNet2-F_R50_1x", "CenterNet-FPN_R50_1x"
HEIGHT, WIDTH, GREY = 60, 90, 100
SIZES, STRIDES = ((8, 12), (4, 6)), (8, 16)  # the maps of a batch padded to 64 x 96
BOX = [24.0, 16.0, 72.0, 56.0]
JPEG_NOISE = 40  # levels; colours differ from the grey picture by more


@pytest.fixture(autouse=True)
def in_new_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr(debug_canvas.sys, "platform", "linux")
    debug_canvas._has_display.cache_clear()


def saved():
    return sorted(path.name for path in debug_canvas.SAVE_FOLDER.glob("*"))


def changed(name):
    """Where the picture is not plain grey, ``[HEIGHT, WIDTH]``."""
    picture = cv2.imread(str(debug_canvas.SAVE_FOLDER / name)).astype(int)
    assert picture.shape == (HEIGHT, WIDTH, 3)
    return np.abs(picture - GREY).max(axis=2) > JPEG_NOISE


def pictures(count=1):
    return [torch.full((3, HEIGHT, WIDTH), float(GREY))] * count


def found(kind="pred_boxes", score=0.9, label=2, box=BOX):
    fields = {kind: Boxes(torch.tensor([box])), "scores": torch.tensor([score]), "pred_classes": torch.tensor([label])}
    return Instances((HEIGHT, WIDTH), **fields)


def targets(count=1):
    """Arguments of ``debug_train``: on both levels the cell at pixel (56, 40) is hot, positive and regresses."""
    heat, regression, positives, start = [], [], [], 0
    for height, width in SIZES:
        for index in range(count):
            row, column = (5, 7) if height == 8 else (2, 3)
            cell = row * width + column
            hot = torch.zeros(height * width, 1)
            box = torch.full((height * width, 4), -1e8)
            if index == 0:
                hot[cell], box[cell] = 1.0, 2.0
                positives.append(start + cell)
            start += height * width
            heat.append(hot)
            regression.append(box)
    truth = [Instances((HEIGHT, WIDTH), gt_boxes=Boxes(torch.tensor([BOX])), gt_classes=torch.tensor([1]))] * count
    places = [cell_centers(size, stride) for size, stride in zip(SIZES, STRIDES, strict=True)]
    labels = torch.ones(len(positives), dtype=torch.int64)
    return truth, torch.cat(heat), torch.cat(regression), labels, torch.tensor(positives), SIZES, places, STRIDES


def test_published_signatures():
    def published(function):
        parameters = inspect.signature(function).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD}

    none = inspect.Parameter.empty
    names = "images gt_instances flattened_hms reg_targets labels pos_inds shapes_per_level locations strides"
    assert published(debug_train) == dict.fromkeys(names.split(), none)
    assert published(debug_test) == {
        "images": none, "logits_pred": none, "reg_pred": none, "agn_hm_pred": (), "preds": (), "vis_thresh": 0.3,
        "debug_show_name": False, "mult_agn": False,
    }  # fmt: skip
    assert published(debug_second_stage) == {
        "images": none, "instances": none, "proposals": None, "vis_thresh": 0.3, "save_debug": False,
        "debug_show_name": False,
    }  # fmt: skip
    assert list(published(debug_test)) == list(inspect.signature(debug_test).parameters)[:8]


def test_training_picture():
    debug_train(pictures(2), *targets(2), save_debug=True)
    assert saved() == [
        f"{number:06d}_train_image{index}_stride{stride}.jpg"
        for number, (stride, index) in enumerate([(8, 0), (8, 1), (16, 0), (16, 1)], 1)
    ]
    with_targets, without = changed(saved()[0]), changed(saved()[1])
    for mask in (with_targets, without):
        assert mask[30, 24]  # left side of the box
        assert mask[55, 50]  # bottom side
        assert not mask[5:10, 5:10].any()
        assert not mask[20:30, 35:45].any()
    # the cell of stride 8 that holds (60, 44) covers x 56..63, y 40..47: dot, heat and outline
    assert with_targets[40:48, 56:64].all()
    assert not without[38:50, 54:66].any()


def test_heatmaps_of_the_first_stage():
    logits = [torch.full((1, 3, *size), -20.0) for size in SIZES]
    logits[0][0, 1, 5, 7] = 20.0
    agnostic = [torch.full((1, 1, *size), -20.0) for size in SIZES]
    debug_test(pictures(), logits, [], save_debug=True)
    debug_test(pictures(), [None, None], [], agnostic, save_debug=True, strides=STRIDES)
    debug_test(pictures(), logits, [], agnostic, mult_agn=True, save_debug=True)
    assert [name[7:-4] for name in saved()[:4]] == [
        "test_image0_stride8_classes", "test_image0_stride16_classes",
        "test_image0_stride8_agnostic", "test_image0_stride16_agnostic",
    ]  # fmt: skip
    heat = changed(saved()[0])
    assert heat[42:46, 58:62].all()
    heat[38:50, 54:66] = False
    assert not heat.any()
    assert not any(changed(name).any() for name in saved()[1:])
    assert len(saved()) == 8


def test_boxes_of_the_first_stage():
    debug_test(pictures(2), [], [], preds=[found(score=0.5), found(score=0.2)], vis_thresh=0.3, save_debug=True)
    above, below = (changed(name) for name in saved())
    assert above[30, 24]
    assert not above[30:50, 30:65].any()
    assert not below.any()


@pytest.mark.parametrize("box", [BOX, [-1e9, 16.0, float("inf"), 56.0], [float("nan")] * 4])
def test_second_stage_pictures(box):
    debug_second_stage(pictures(), [found(box=box)], [found("proposal_boxes", 0.4)], save_debug=True)
    assert [name[7:-4] for name in saved()] == ["second_stage_image0_proposals", "second_stage_image0_detections"]
    assert changed(saved()[0])[30, 24]
    if box is BOX:
        assert changed(saved()[1])[30, 24]


def test_proposals_may_be_left_out_and_carry_objectness():
    proposals = Instances((HEIGHT, WIDTH), proposal_boxes=Boxes(torch.tensor([BOX])))
    proposals.objectness_logits = torch.tensor([0.7])
    debug_second_stage(pictures(), [found()], save_debug=True)
    debug_second_stage(pictures(), [found()], [proposals], save_debug=True)
    assert len(saved()) == 3
    assert changed(saved()[1])[30, 24]


@pytest.mark.parametrize(
    "count, expected", [(80, "car 0.90"), (1203, "airplane 0.90"), (7, "2 0.90"), (None, "2 0.90")]
)
def test_class_names(count, expected, monkeypatch):
    texts = []
    monkeypatch.setattr(debug, "draw_box", lambda canvas, box, color, text="": texts.append(text))
    debug_second_stage(pictures(), [found()], num_classes=count, save_debug=True, debug_show_name=True)
    debug_second_stage(pictures(), [found()], num_classes=count, save_debug=True)
    assert texts == [expected, "2 0.90"]


def test_colors_are_fixed_and_told_apart():
    first = [debug_canvas.class_color(label) for label in range(20)]
    assert first == [debug_canvas.class_color(label) for label in range(20)]
    assert len(set(first)) == 20
    assert all(0 <= channel <= 255 for channel in debug_canvas.class_color(20_000))


def test_numbers_go_on_and_nothing_is_overwritten(monkeypatch):
    debug_canvas.SAVE_FOLDER.mkdir(parents=True)
    (debug_canvas.SAVE_FOLDER / "000041_x.jpg").write_bytes(b"old")
    (debug_canvas.SAVE_FOLDER / "notes.jpg").write_bytes(b"mine")
    canvas = np.zeros((4, 4, 3), np.uint8)
    debug_canvas.emit(canvas, "x", True)
    # another process creates files after this one has looked
    monkeypatch.setattr(type(debug_canvas.SAVE_FOLDER), "glob", lambda *_: iter([debug_canvas.SAVE_FOLDER / "40.jpg"]))
    debug_canvas.emit(canvas, "x", True)
    assert (debug_canvas.SAVE_FOLDER / "000041_x.jpg").read_bytes() == b"old"
    assert {"000042_x.jpg", "000043_x.jpg"} < {path.name for path in debug_canvas.SAVE_FOLDER.iterdir()}


def test_without_display_pictures_are_saved_with_one_line(caplog):
    with caplog.at_level(logging.INFO):
        debug_second_stage(pictures(2), [found(), found()])
    assert len(saved()) == 2
    assert sum("no display" in record.message for record in caplog.records) == 1


def test_windows_do_not_wait(monkeypatch):
    shown, waits = [], []
    monkeypatch.setattr(debug_canvas, "_has_display", lambda: True)
    monkeypatch.setattr(cv2, "imshow", lambda title, canvas: shown.append(title))
    monkeypatch.setattr(cv2, "waitKey", waits.append)
    debug_second_stage(pictures(), [found()])
    assert shown == ["second_stage_image0_detections"]
    assert waits == [1]
    assert not debug_canvas.SAVE_FOLDER.exists()


@pytest.mark.parametrize("status, works", [(0, True), (-6, False)])
def test_a_display_is_tried_by_another_process(status, works, monkeypatch):
    monkeypatch.setenv("DISPLAY", ":0")
    ended = debug_canvas.subprocess.CompletedProcess([], status)
    monkeypatch.setattr(debug_canvas.subprocess, "run", lambda *_, **__: ended)
    assert debug_canvas._has_display() is works


def test_a_failure_is_a_warning(monkeypatch, caplog):
    def fail(*_):
        raise cv2.error("no codec")

    monkeypatch.setattr(detectron2_logger, "_LOG_TIMER", {})
    debug_canvas.SAVE_FOLDER.parent.write_text("a file where the folder should be")
    debug_second_stage(pictures(), [found()], save_debug=True)
    debug_second_stage(pictures(), [found()], save_debug=True)
    assert ["could not draw (NotADirectoryError" in record.message for record in caplog.records] == [True]
    debug_canvas.SAVE_FOLDER.parent.unlink()
    detectron2_logger._LOG_TIMER.clear()
    monkeypatch.setattr(cv2, "imencode", fail)
    debug_train(pictures(), *targets(), save_debug=True)
    assert "could not draw (error: no codec)" in caplog.records[-1].message
    assert not saved()


@pytest.mark.parametrize("order, expected", [("BGR", [10, 20, 30]), ("RGB", [30, 20, 10])])
def test_normalisation_is_undone(order, expected):
    mean, std = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 4.0, 8.0])
    batch = (torch.tensor([10.0, 20.0, 30.0]) - mean) / std
    options = DebugOptions(0.3, mean.tolist(), std.tolist(), order)
    images = ImageList(batch.view(1, 3, 1, 1).expand(1, 3, 64, 96), [(HEIGHT, WIDTH)])
    assert torch.allclose(options.pictures(images)[0][:, 3, 4], torch.tensor(expected).float())
    assert options.pictures(images)[0].shape == (3, HEIGHT, WIDTH)


def test_nothing_is_drawn_without_debug(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("drawn although DEBUG is off")

    for name in ("debug_train", "debug_test", "debug_second_stage", "to_array"):
        monkeypatch.setattr(debug, name, refuse)
    monkeypatch.setattr(DebugOptions, "pictures", refuse)
    model = tiny_model(SINGLE, "SAVE_DEBUG", True)
    assert model.proposal_generator.debug is model.roi_heads.debug is None
    assert CenterNet(32).debug is None
    with torch.no_grad(), EventStorage(0):
        model([image()])
        model.train()([with_objects(image(), 3)])
    assert not debug_canvas.SAVE_FOLDER.exists()


@pytest.mark.parametrize("name", [CASCADE, SINGLE, ONE_STAGE])
def test_models_draw(name):
    overrides = ("DEBUG", True, "SAVE_DEBUG", True, "DEBUG_SHOW_NAME", True, "VIS_THRESH", 0.01)
    model, plain = tiny_model(name, *overrides), tiny_model(name)
    two_stages = name != ONE_STAGE
    examples = [with_objects(image(), 3), with_objects(image(64, 128, seed=1), 0)]
    with torch.no_grad():
        drawn, expected = (m([image()])[0]["instances"] for m in (model, plain))
    for field, value in drawn.get_fields().items():
        other = expected.get(field)
        assert torch.equal(getattr(value, "tensor", value), getattr(other, "tensor", other))
    assert len(saved()) == 5 + 1 + 2 * two_stages
    first = cv2.imread(str(debug_canvas.SAVE_FOLDER / saved()[0]))
    assert np.abs(first.astype(int) - image()["image"].permute(1, 2, 0).numpy()).mean() < 60
    with EventStorage(0):
        torch.manual_seed(1)
        losses = model.train()(examples)
        torch.manual_seed(1)
        expected = plain.train()(examples)
    assert {name: loss.item() for name, loss in losses.items()} == {
        name: loss.item() for name, loss in expected.items()
    }
    assert sum("_train_" in name for name in saved()) == 10


def test_each_model_keeps_its_own_options():
    on, off = tiny_model(CASCADE, "DEBUG", True, "VIS_THRESH", 0.7), tiny_model(CASCADE)
    assert on.roi_heads.debug.vis_thresh == on.proposal_generator.debug.vis_thresh == 0.7
    assert off.roi_heads.debug is None
    assert not hasattr(type(on.roi_heads), "debug")
    assert on.state_dict().keys() == off.state_dict().keys()
