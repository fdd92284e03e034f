"""Fixed canvases, and what PyTorch compiles for them."""

import shutil

import pytest
import torch
from small_detector import batch, small_config, small_detector, train_steps

from centernet.config_file import load_config
from centernet.errors import UserError
from centernet.modeling.compiled import (
    CompiledOnCanvases,
    check_canvases,
    check_compiler,
    configured_canvases,
    one_sentence,
)


def eager(function, dynamic):
    """In the place of torch.compile: fast, and counts what would run compiled."""
    assert dynamic is False

    def called(*args):
        called.shapes.append([tuple(x.shape) for x in (args[0] if isinstance(args[0], list) else args)])
        return function(*args)

    called.shapes = eager.shapes
    return called


@pytest.fixture
def without_compiler(monkeypatch):
    eager.shapes = []
    monkeypatch.setattr(torch, "compile", eager)
    return eager.shapes


def test_smallest_canvas_that_holds_the_batch(tmp_path, without_compiler, caplog):
    model = small_detector(small_config(tmp_path))
    names = list(model.state_dict())
    on = CompiledOnCanvases(model, [(96, 96), (64, 96), (96, 64)])
    assert [on.canvas(*size) for size in ((64, 96), (50, 70), (70, 50), (65, 65), (97, 8))] == [
        (64, 96),
        (64, 96),
        (96, 64),
        (96, 96),
        None,
    ]
    train_steps(model, 1)
    train_steps(model, 1, batch(80, 70))
    train_steps(model, 2, batch(80, 104))
    assert (on.compiled, on.larger) == (2, 2)
    assert on.summary() == "2 batches ran compiled, 2 were larger than any of MODEL.COMPILE.CANVASES"
    assert len([m for m in caplog.messages if "larger than any" in m]) == 1
    assert without_compiler[0] == [(2, 3, 64, 96)]
    assert without_compiler[2] == [(2, 3, 96, 96)]
    assert without_compiler[1] == [(2, 32, 16, 24), (2, 32, 8, 12)]  # the head, at strides 4 and 8
    assert len(without_compiler) == 4
    assert list(model.state_dict()) == names


def test_inference_is_as_it_was(tmp_path, without_compiler):
    cfg = small_config(tmp_path)
    plain, model = small_detector(cfg).eval(), small_detector(cfg).eval()
    CompiledOnCanvases(model, [(96, 96)])
    with torch.no_grad():
        one, other = (net(batch())[0]["instances"] for net in (plain, model))
    assert torch.equal(one.pred_boxes.tensor, other.pred_boxes.tensor)
    assert not without_compiler


def test_exact_canvas_changes_nothing_and_padding_is_seen(tmp_path, without_compiler):
    cfg = small_config(tmp_path)
    plain, exact, wider = (small_detector(cfg) for _ in range(3))
    CompiledOnCanvases(exact, [(64, 96)])
    CompiledOnCanvases(wider, [(96, 96)])
    expected = train_steps(plain)
    assert train_steps(exact) == expected
    found = train_steps(wider)
    assert found != expected
    assert found[0]["loss_centernet_agn_neg"] > 1.2 * expected[0]["loss_centernet_agn_neg"]  # half as many cells more


def test_canvas_that_does_not_fit_the_backbone(tmp_path, without_compiler):
    with pytest.raises(UserError, match=r"has \[64, 100\], but this backbone takes multiples of 8 pixels"):
        CompiledOnCanvases(small_detector(small_config(tmp_path)), [(64, 96), (64, 100)])


@pytest.mark.parametrize(
    "opts, canvases",
    [
        ((), [(800, 1344), (1344, 800), (1344, 1344)]),
        (("MODEL.COMPILE.CANVASES", "[[64, 96]]"), [(64, 96)]),
        (("INPUT.CUSTOM_AUG", "EfficientDetResizeCrop", "INPUT.TRAIN_SIZE", "900"), [(928, 928)]),
        (("INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MAX_SIZE_TRAIN", "64"), [(64, 64)]),
    ],
)
def test_canvases_of_a_config(opts, canvases):
    cfg = load_config("", list(opts))
    check_canvases(cfg)
    assert configured_canvases(cfg, 32) == canvases


@pytest.mark.parametrize("value", ["[800]", "[[800]]", "[[0, 32]]", "[[32.0, 32]]", str([[32, 32]] * 9)])
def test_values_that_are_no_canvases(value):
    with pytest.raises(UserError, match="must be a list of at most 8"):
        check_canvases(load_config("", ["MODEL.COMPILE.CANVASES", value]))


def test_no_compiler_is_one_sentence(monkeypatch):
    def absent(*args, **kwargs):
        raise RuntimeError("Failed to find C compiler.\nPlease specify via CC environment variable.")

    monkeypatch.setattr(torch, "compile", absent)
    with pytest.raises(UserError) as error:
        check_compiler("cpu")
    assert "(Failed to find C compiler.); install a C++ compiler" in str(error.value)


def test_model_that_cannot_be_compiled_is_one_sentence():
    with pytest.raises(UserError, match=r"cannot compile this model \(it broke\); set it to False"), one_sentence():
        raise torch._dynamo.exc.InternalTorchDynamoError("it broke\nhere")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
def test_compiled_losses_are_those_of_eager(tmp_path, monkeypatch):
    """Tolerance: 1e-4 of each loss over three steps of SGD in float32."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    torch._dynamo.reset()
    check_compiler("cpu")
    cfg = small_config(tmp_path)
    plain, model = small_detector(cfg), small_detector(cfg)
    on = CompiledOnCanvases(model, [(64, 96)])
    expected, found = train_steps(plain, 3), train_steps(model, 3)
    for one, other in zip(expected, found, strict=True):
        for name in one:
            assert other[name] == pytest.approx(one[name], rel=1e-4), name
    assert on.compiled == 3
    assert list(model.state_dict()) == list(plain.state_dict())
