"""No host synchronisation and no data-dependent shape between images and padded detections: strict ``torch.export``,
TorchScript, and, with a GPU, a CUDA graph."""

from pathlib import Path

import pytest
import torch
from test_fixed_size import CASCADE, ONE_STAGE, SINGLE
from tiny import tiny_model

from centernet.config_file import load_config
from centernet.modeling.build import build_detector
from centernet.modeling.fixed_size import FixedSizeDetector
from centernet.ops.capture import capturing

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
PUBLISHED = [
    "CenterNet-FPN_R50_1x",
    "CenterNet2_R50_1x",
    "CenterNet2-F_R50_1x",
    "CenterNet2_DLA-BiFPN-P3_4x",
    "CenterNet2_DLA-BiFPN-P5_640_16x",
    "CenterNet-S4_DLA_8x",
    "CenterNet2_R2-101-DCN-BiFPN_1280_4x",
]
SMALLEST = 160  # pixels: p7 has more than one cell, as the strides of a tensor need to be general
FORBIDDEN = ("_local_scalar_dense", "aten.item", "nonzero", "masked_select", "unique", "sym_constrain", "centernet")


def cells(least, divisor):
    """The smallest multiple of ``divisor`` that has ``least`` pixels, in divisors."""
    return -(-least // divisor)


def example(divisor, batch=2, extra=(1, 3), seed=0):
    """Images of two sizes, noise of small contrast and bright rectangles."""
    height, width = (divisor * (cells(SMALLEST, divisor) + more) for more in extra)
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(60, 90, (batch, 3, height, width), generator=generator, dtype=torch.uint8)
    images[..., 20:90, 30:100] += 120
    sizes = torch.tensor([[height - 9 * k, width - 5 * k] for k in range(batch)])
    return images, sizes


@torch.no_grad()
def export(detector):
    batch = torch.export.Dim("batch", min=1, max=64)
    divisor = detector.divisor
    height, width = (
        torch.export.Dim(name, min=cells(SMALLEST, divisor), max=4096 // divisor) for name in ("rows", "columns")
    )
    shapes = ({0: batch, 2: divisor * height, 3: divisor * width}, {0: batch})
    with capturing("export"):
        return torch.export.export(detector, example(divisor), dynamic_shapes=shapes, strict=True)


# a block of the NMS each: graphs that a test can afford
FEW = ["MODEL.CENTERNET.PRE_NMS_TOPK_TEST", 60, "MODEL.CENTERNET.POST_NMS_TOPK_TEST", 60]


def assert_nothing_depends_on_data(program):
    for module in (program.graph_module, *program.graph_module.modules()):
        for node in getattr(module, "graph", program.graph).nodes:
            if node.op == "call_function":
                assert not any(word in str(node.target) for word in FORBIDDEN), node
            value = node.meta.get("val")
            for tensor in value if isinstance(value, list | tuple) else [value]:
                sizes = tensor.shape if isinstance(tensor, torch.Tensor) else [tensor]
                assert not any(str(size).startswith("u") for size in sizes if isinstance(size, torch.SymInt))


def assert_equal(ours, theirs):
    for one, another in zip(ours, theirs, strict=True):
        assert one.shape == another.shape
        assert torch.allclose(one.float(), another.float(), atol=1e-4, rtol=1e-5)


def assert_equal_but_for_ties(ours, theirs):
    """Random networks give scores that differ in their last bits only: these may change places, also with one that is
    the first beyond the limit."""
    for one, another in ((ours, theirs), (theirs, ours)):
        for a, b in zip(zip(*one, strict=True), zip(*another, strict=True), strict=True):
            (boxes, scores, classes), (boxes_b, scores_b, classes_b) = ([f[x[3]] for f in x[:3]] for x in (a, b))
            same = (boxes[:, None] - boxes_b).abs().amax(dim=2) < 0.1
            same &= ((scores[:, None] - scores_b).abs() < 1e-4) & (classes[:, None] == classes_b)
            assert (scores[~same.any(dim=1)] < scores_b.min() + 1e-4).all()


@torch.no_grad()
def assert_same_detections(detector, other, device="cpu", compare=assert_equal):
    found = 0
    for case, (batch, extra) in enumerate([(1, (0, 0)), (2, (1, 3)), (5, (2, 1))]):
        images, sizes = (t.to(device) for t in example(detector.divisor, batch, extra, seed=case))
        ours = detector(images, sizes)
        compare(ours, other(images, sizes))
        found += int(ours[3].sum())
    assert found > 0


@pytest.mark.parametrize(
    "name", [CASCADE, *(pytest.param(name, marks=pytest.mark.slow) for name in (ONE_STAGE, SINGLE))]
)
def test_strict_export_of_small_models(name):
    detector = FixedSizeDetector(tiny_model(name, *FEW))
    program = export(detector)
    assert_nothing_depends_on_data(program)
    assert_same_detections(detector, program.module())


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_strict_export_of_published_configs(name):
    torch.manual_seed(0)
    threshold = ["MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.001", "MODEL.CENTERNET.INFERENCE_TH", "0.001"]
    cfg = load_config(CONFIGS / f"{name}.yaml", ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", *threshold])
    detector = FixedSizeDetector(build_detector(cfg).eval())
    program = export(detector)
    assert_nothing_depends_on_data(program)
    assert_same_detections(detector, program.module(), compare=assert_equal_but_for_ties)


@torch.no_grad()
@pytest.mark.parametrize("name", [ONE_STAGE, CASCADE])
def test_torchscript_trace_takes_other_sizes_and_batches(name):
    detector = FixedSizeDetector(tiny_model(name, *FEW))
    with capturing("torchscript"):
        traced = torch.jit.trace(detector, example(detector.divisor), check_trace=False)
    assert_same_detections(detector, traced)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@torch.no_grad()
@pytest.mark.parametrize("name", [ONE_STAGE, SINGLE, CASCADE])
def test_cuda_graph_without_waiting_for_the_host(name):
    detector = FixedSizeDetector(tiny_model(name, "MODEL.CENTERNET.CHECK_FINITE", False).cuda())
    images, sizes = (t.cuda() for t in example(detector.divisor))
    for _ in range(3):
        expected = detector(images, sizes)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        detector(images, sizes)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            replayed = detector(images, sizes)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    images.copy_(torch.zeros_like(images))
    graph.replay()
    assert not torch.equal(replayed.scores, expected.scores)
    images.copy_(example(detector.divisor)[0])
    graph.replay()
    for ours, theirs in zip(replayed, expected, strict=True):
        assert torch.allclose(ours.float(), theirs.float(), atol=1e-3)
