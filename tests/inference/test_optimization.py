"""An optimised detector finds what the detector finds; what is compiled, padded and cast."""

import pickle
import threading

import pytest
import torch
from small_models import EAGER, small_cfg

from centernet.errors import UserError
from centernet.inference.canvases import Canvases
from centernet.inference.low_precision import fastest_precision
from centernet.inference.optimization import optimize_detector
from centernet.modeling.build import build_detector
from centernet.modeling.fixed_size import FixedSizeDetector

ONE_STAGE, SINGLE, CASCADE = "CenterNet-FPN_R50_1x", "CenterNet2-F_R50_1x", "CenterNet2_R50_1x"
FEW = ["MODEL.CENTERNET.POST_NMS_TOPK_TEST", PROPOSALS := 64]
SURE = 0.1  # scores from here on are compared


@torch.no_grad()
def decisive(config):
    """A random detector whose scores lie far apart, with norms that do something."""
    torch.manual_seed(0)
    # GroupNorm of two channels a group on a map of one cell would blow up rounding
    model = build_detector(small_cfg(config, *EAGER, "MODEL.CENTERNET.NORM", "BN", *FEW)).eval()
    for module in model.modules():
        if hasattr(module, "running_var"):
            module.running_var.copy_(torch.rand(module.running_var.shape) + 0.5)
            module.running_mean.copy_(torch.randn(module.running_mean.shape) * 0.1)
    detector = FixedSizeDetector(model)
    features = detector.features(detector.normalise(*batch()))
    head = model.proposal_generator.centernet_head
    layers = (head.cls_logits, 3.0), (head.bbox_pred, 1.0), (head.agn_hm, 3.0)
    for (layer, deviation), maps in zip(layers, model.proposal_generator.maps(features), strict=True):
        if layer is not None:
            layer.weight.mul_(deviation / maps[0].std())
    if detector.two_stage:
        for _, predictor in model.roi_heads._stages():
            torch.nn.init.normal_(predictor.cls_score.weight, std=0.1)
    return detector


@pytest.fixture(scope="module")
def cascade():
    return decisive(CASCADE)


def batch(height=128, width=128, sizes=((128, 128), (90, 120))):
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (len(sizes), 3, height, width), generator=generator, dtype=torch.uint8)
    return images, torch.tensor(sizes)


def found(result, wanted, pixels, score, share=1.0):
    """Whether ``share`` of the sure detections of ``wanted`` are in ``result``, with boxes and scores this near."""
    total = hits = 0
    for k in range(len(wanted.valid)):
        sure = wanted.valid[k] & (wanted.scores[k] > SURE)
        near = (wanted.boxes[k][sure][:, None] - result.boxes[k]).abs().amax(dim=2) <= pixels
        near &= (wanted.scores[k][sure][:, None] - result.scores[k]).abs() <= score
        near &= (wanted.classes[k][sure][:, None] == result.classes[k]) & result.valid[k]
        total, hits = total + len(near), hits + int(near.any(dim=1).sum())
    assert total >= 5
    return hits >= share * total


@pytest.mark.parametrize("config", [ONE_STAGE, SINGLE, CASCADE])
@torch.no_grad()
def test_float32_finds_the_same(config):
    detector = decisive(config)
    before = {name: tensor.clone() for name, tensor in detector.state_dict().items()}
    fast = optimize_detector(detector, precision="float32", compile=False)
    assert not any(hasattr(module, "running_mean") for module in fast.modules())
    wanted, objectness = detector.detect_with_objectness(*batch())
    assert found(fast(*batch()), wanted, 0.1, 1e-4)
    assert found(wanted, fast(*batch()), 0.1, 1e-4)
    result, values = fast.detect_with_objectness(*batch())
    assert values.shape == objectness.shape
    torch.testing.assert_close(values[:, :5], objectness[:, :5], atol=1e-4, rtol=0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in detector.state_dict().items())


@pytest.mark.parametrize("config", [ONE_STAGE, SINGLE])
@torch.no_grad()
def test_bfloat16_is_near(config):
    detector = decisive(config)
    fast = optimize_detector(detector, precision="bfloat16", compile=False)
    result, wanted = fast(*batch()), detector(*batch())
    assert result.boxes.dtype == result.scores.dtype == torch.float32
    assert found(result, wanted, 4.0, 0.1, share=0.8)
    assert not found(result, wanted, 1e-3, 1e-6, share=0.8)


def test_what_decides_about_pixels_stays_float32():
    fast = optimize_detector(decisive("CenterNet2-F_R50_1x"), precision="bfloat16", compile=False)
    types = {name: tensor.dtype for name, tensor in fast.model.named_parameters()}
    head = "proposal_generator.centernet_head"
    for name in (f"{head}.bbox_pred.weight", f"{head}.agn_hm.weight", f"{head}.scales.0.scale"):
        assert types[name] == torch.float32
    assert {dtype for name, dtype in types.items() if "box_predictor" in name} == {torch.float32}
    heavy = ("backbone.", f"{head}.bbox_tower", "roi_heads.box_head")
    assert {dtype for name, dtype in types.items() if name.startswith(heavy)} == {torch.bfloat16}


def test_deformable_sampling_and_norms_that_are_left_stay_float32():
    detector = FixedSizeDetector(build_detector(small_cfg("CenterNet-S4_DLA_8x")).eval())
    fast = optimize_detector(detector, precision="bfloat16", compile=False)
    types = {name: tensor.dtype for name, tensor in fast.model.backbone.state_dict().items()}
    assert types["dla_up.ida_0.proj_1.conv.weight"] == types["base.level3.project.1.running_var"] == torch.float32
    assert types["dla_up.ida_0.proj_1.offset.weight"] == types["base.level2.tree1.conv1.weight"] == torch.bfloat16
    with torch.no_grad():
        assert fast.heatmaps(fast.features(fast.normalise(*batch())))[0].isfinite().all()


@torch.no_grad()
def test_channels_last_is_a_layout_only(cascade):
    plain = optimize_detector(cascade, precision="float32", channels_last=False, compile=False)
    fast = optimize_detector(cascade, precision="float32", compile=False)
    kernel = "backbone.bottom_up.res2.0.conv1.weight"
    assert not plain.model.get_parameter(kernel).is_contiguous(memory_format=torch.channels_last)
    assert fast.model.get_parameter(kernel).is_contiguous(memory_format=torch.channels_last)
    assert found(fast(*batch()), plain(*batch()), 0.1, 1e-4)


@pytest.fixture
def without_compiler(monkeypatch):
    """In the place of torch.compile: fast, and notes the shapes of what runs compiled."""
    shapes = []

    def compile(function, dynamic):
        assert dynamic is False

        def called(*args):
            shapes.append(tuple((args[0][0] if isinstance(args[0], list) else args[0]).shape))
            return function(*args)

        return called

    monkeypatch.setattr(torch, "compile", compile)
    return shapes


@torch.no_grad()
def test_batches_are_padded_to_a_canvas(cascade, without_compiler, caplog):
    plain = optimize_detector(cascade, precision="bfloat16", compile=False)
    fast = optimize_detector(cascade, precision="bfloat16", compile=True, canvases=[(256, 256), (128, 256)])
    assert without_compiler == []
    images, sizes = batch()
    result = fast(images, sizes)
    assert without_compiler[0] == (2, 3, 128, 256)
    assert without_compiler[1][-2:] == (16, 32)  # the head's first level
    assert [shape[0] for shape in without_compiler[2:]] == [2 * PROPOSALS] * 3
    for one, other in zip(result, plain(torch.nn.functional.pad(images, (0, 128)), sizes), strict=True):
        assert torch.equal(one, other)
    without_compiler.clear()
    for _ in range(2):
        large = batch(384, 128, [(384, 128)])
        assert torch.equal(fast(*large).boxes, plain(*large).boxes)
    assert not without_compiler
    assert caplog.messages == [
        "No canvas is for batches of 384 x 128 pixels (there are 128 x 256, 256 x 256): such ones run as they are, "
        "more slowly"
    ]


def test_warm_up_runs_every_canvas_and_batch_size(cascade, without_compiler):
    fast = optimize_detector(cascade, compile=True, canvases=[(128, 128), (128, 256)])
    fast.warm_up([1, 2])
    images = [shape for shape in without_compiler if shape[1] == 3]
    assert images == [(1, 3, 128, 128), (2, 3, 128, 128), (1, 3, 128, 256), (2, 3, 128, 256)]


def test_without_canvases_sizes_are_learnt_and_nothing_is_padded():
    canvases = Canvases([], 32)
    for n in [*range(1, 9), 1]:
        assert canvases.place(torch.zeros(1, 3, 32 * n, 64)).shape[-2:] == (32 * n, 64)
    assert canvases.place(torch.zeros(1, 3, 64, 32)) is None
    assert len(canvases.sizes) == 8


@torch.no_grad()
def test_what_cannot_be_compiled_runs_as_it_is(cascade, monkeypatch, caplog):
    def broken(function, dynamic):
        def called(*args):
            raise RuntimeError("no compiler\nlong story")

        return called

    monkeypatch.setattr(torch, "compile", broken)
    fast = optimize_detector(cascade, precision="float32", compile=True)
    for _ in range(2):
        assert found(fast(*batch()), cascade(*batch()), 0.1, 1e-4)
    assert caplog.messages == ["PyTorch cannot compile this model here, so it runs uncompiled: no compiler"]


@torch.no_grad()
def test_threads_get_their_own_results(cascade, without_compiler):
    fast = optimize_detector(cascade, precision="float32", compile=True, canvases=[(128, 128), (256, 128)])
    inputs = [batch(side, 128, [(side, 128)] * count) for side in (128, 256) for count in (1, 2)]
    wanted = [fast(*one) for one in inputs]
    results = [None] * len(inputs)

    def work(i):
        for _ in range(2):
            results[i] = fast(*inputs[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(inputs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one, other in zip(results, wanted, strict=True):
        assert torch.equal(one.boxes, other.boxes)
        assert torch.equal(one.scores, other.scores)


@torch.no_grad()
def test_uncompiled_ones_can_be_sent_to_other_processes(cascade):
    fast = optimize_detector(cascade, precision="bfloat16", compile=False)
    sent = pickle.loads(pickle.dumps(fast))
    assert torch.equal(sent(*batch()).boxes, fast(*batch()).boxes)


def test_results_can_be_written_into(cascade):
    fast = optimize_detector(cascade, precision="bfloat16", compile=False)
    with torch.inference_mode():
        images, sizes = batch()
        result = fast(images.clone(), sizes.clone())
    result.boxes.mul_(2)
    assert not result.boxes.requires_grad


def test_refusals(cascade):
    with pytest.raises(UserError, match="precision is 'int8'"):
        optimize_detector(cascade, precision="int8")
    with pytest.raises(UserError, match="the canvas 100 x 128 does not suit this model"):
        optimize_detector(cascade, canvases=[(100, 128)])
    with pytest.raises(UserError, match="CUDA graphs need a GPU"):
        optimize_detector(cascade, cuda_graphs=True)


def test_automatic_precision_is_one_the_device_computes(cascade):
    name = fastest_precision(torch.device("cpu"))
    assert name in ("float32", "bfloat16")
    fast = optimize_detector(cascade, compile=False)
    assert str(fast.model.get_parameter("roi_heads.box_head.0.fc1.weight").dtype) == f"torch.{name}"


@pytest.mark.slow
@torch.no_grad()
def test_compiled(cascade):
    """Really compiled: also the three box heads, which share their code and must not share weights."""
    plain = optimize_detector(cascade, precision="bfloat16", compile=False)
    fast = optimize_detector(cascade, precision="bfloat16", compile=True, canvases=[(128, 128)])
    for count in (1, 2):  # threads that end
        thread = threading.Thread(target=fast.warm_up, args=([count],))
        thread.start()
        thread.join()
    counts = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert counts > 0
    assert found(fast(*batch()), plain(*batch()), 4.0, 0.1, share=0.8)
    assert fast._compiled.in_use is False
    with fast._compiled.active():
        assert fast._compiled.in_use  # nothing failed
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == counts


@torch.no_grad()
def test_matching_sees_differences(cascade):
    wanted = cascade(*batch())
    moved = wanted._replace(boxes=wanted.boxes + 1)
    assert found(wanted, wanted, 0, 0)
    assert not found(moved, wanted, 0.5, 1)
    assert found(moved, wanted, 1.5, 0)
