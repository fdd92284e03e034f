"""The operators as ONNX nodes in onnxruntime against the same in PyTorch."""

import io

import numpy as np
import onnxruntime
import pytest
import torch

from centernet.export.onnx_operators import translations
from centernet.ops.capture import capturing
from centernet.ops.nms import nms_best
from centernet.ops.roi_align import roi_align_levels

SCALES, LIMIT = (0.25, 0.125, 0.0625), 20


class Suppress(torch.nn.Module):
    def forward(self, boxes, scores, groups, valid):
        return nms_best(boxes, scores, groups, valid, 0.5, LIMIT, False)


class Pool(torch.nn.Module):
    def __init__(self, levels, aligned=True):
        super().__init__()
        self.levels, self.aligned = levels, aligned

    def forward(self, boxes, *maps):
        return roi_align_levels(list(maps), boxes, (7, 5), SCALES[: self.levels], 0, self.aligned)


pytestmark = [
    pytest.mark.filterwarnings("ignore:# The axis name:UserWarning"),
    pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec:FutureWarning"),
]


def in_onnxruntime(module, example, dynamic_shapes):
    with torch.no_grad(), capturing("onnx"):
        program = torch.onnx.export(
            module.eval(),
            example,
            dynamo=True,
            opset_version=20,
            custom_translation_table=translations(),
            dynamic_shapes=dynamic_shapes,
            external_data=False,
            verbose=False,
        )
    stream = io.BytesIO()
    program.save(stream)
    session = onnxruntime.InferenceSession(stream.getvalue(), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    return lambda *inputs: session.run(None, dict(zip(names, (x.numpy() for x in inputs), strict=True)))[0]


def candidates(batch, count, groups, grid=0, seed=0):
    """Random boxes; on a ``grid``, pixels, where many touch, are equal or have no area."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(batch, count, 2, generator=generator) * 300
    size = torch.rand(batch, count, 2, generator=generator) * 100
    if grid:
        corner, size = (corner / grid).round() * grid, (size / grid).round() * grid
    boxes = torch.cat((corner, corner + size), dim=-1)
    scores = torch.rand(batch, count, generator=generator)
    of_group = torch.randint(0, groups, (batch, count), generator=generator)
    return boxes, scores, of_group, torch.rand(batch, count, generator=generator) > 0.2


@pytest.fixture(scope="module")
def suppress():
    batch, count = torch.export.Dim("batch"), torch.export.Dim("count", min=LIMIT)
    return in_onnxruntime(Suppress(), candidates(2, 50, 3), tuple([{0: batch, 1: count}] * 4))


@pytest.mark.parametrize("case", [(1, 40, 1), (2, 300, 80), (3, 500, 4, 20), (1, 500, 1, 50), (5, 30, 1203)], ids=str)
def test_nms_keeps_the_same_boxes(suppress, case):
    inputs = candidates(*case)
    assert np.array_equal(suppress(*inputs), nms_best(*inputs, 0.5, LIMIT, False).numpy())


def test_nms_of_boxes_without_area_that_touch_or_are_not_valid(suppress):
    boxes = torch.zeros(1, 25, 4)
    boxes[0, :5] = torch.tensor([[0.0, 0, 10, 10], [10, 0, 20, 10], [5, 5, 5, 5], [5, 5, 5, 5], [0, 0, 10, 20]])
    scores = torch.linspace(1, 0, 25)[None]
    valid = torch.arange(25)[None] < 5  # the fifth has an IoU of exactly 0.5 with the first
    inputs = boxes, scores, torch.zeros(1, 25, dtype=torch.int64), valid
    assert suppress(*inputs)[0, :6].tolist() == [0, 1, 2, 3, 4, -1]
    nothing = (*inputs[:3], torch.zeros_like(valid))
    assert (suppress(*nothing) == -1).all()


def test_nms_of_fewer_boxes_than_slots_and_groups_of_invalid_ones():
    inputs = candidates(2, 12, 3)
    inputs = (*inputs[:2], torch.where(inputs[3], inputs[2], 10**6), inputs[3])
    found = in_onnxruntime(Suppress(), inputs, None)(*inputs)
    assert found.shape == (2, 12)
    assert np.array_equal(found, nms_best(*inputs, 0.5, LIMIT, False).numpy())


def maps(levels, height=64, width=96, batch=2):
    generator = torch.Generator().manual_seed(levels)
    return [torch.randn(batch, 3, height >> k, width >> k, generator=generator) for k in range(2, 2 + levels)]


@pytest.mark.parametrize("levels, aligned", [(3, True), (1, True), (2, False)])
def test_boxes_are_pooled_from_their_level(levels, aligned):
    boxes = candidates(2, 30, 1)[0] * torch.tensor([0.3, 0.2, 3, 2])  # 4 to 900 pixels, many reach outside
    boxes[0, 0] = 7.0
    boxes[0, 1] = torch.tensor([20.0, 20, 10, 10])
    boxes[1, :3] = torch.tensor([[0.0, 0, 112, 112], [0, 0, 224, 224], [0, 0, 223.9, 223.9]])
    module, inputs = Pool(levels, aligned), (boxes, *maps(levels))
    found = in_onnxruntime(module, inputs, None)(*inputs)
    assert np.allclose(found, module(*inputs).numpy(), atol=1e-5)
    assert found.any()


def test_boxes_that_are_not_finite_are_pooled_as_empty():
    boxes = torch.tensor([[[4.0, 4, 40, 40], [np.nan, 0, 1, 1], [0, 0, np.inf, 1]]]).repeat(2, 1, 1)
    module, inputs = Pool(2), (boxes, *maps(2))
    found = in_onnxruntime(module, inputs, None)(*inputs)
    assert np.isfinite(found).all()
    assert np.allclose(found, module(*inputs).numpy(), atol=1e-5)
