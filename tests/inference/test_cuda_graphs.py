"""Replayed CUDA graphs give what the function gives, in memory of their own."""

import threading

import pytest
import torch
from test_optimization import CASCADE, batch, decisive, found

from centernet.inference.cuda_graphs import CUDAGraphs
from centernet.inference.optimization import optimize_detector

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def double(x, y):
    return {"sum": x + 2 * y}, [x * y]


@torch.no_grad()
def test_results_are_copies_and_inputs_may_change():
    graphs = CUDAGraphs(double)
    x, y = torch.ones(3, device="cuda"), torch.full((3,), 2.0, device="cuda")
    first = graphs(x, y)
    second = graphs(x + 1, y)
    third = graphs(torch.ones(5, device="cuda"), torch.ones(5, device="cuda"))
    assert first[0]["sum"].tolist() == [5.0] * 3
    assert second[0]["sum"].tolist() == [6.0] * 3
    assert second[1][0].tolist() == [4.0] * 3
    assert third[0]["sum"].tolist() == [3.0] * 5


@torch.no_grad()
def test_threads_on_streams_of_their_own():
    graphs = CUDAGraphs(double)
    found = {}

    def work(number):
        with torch.no_grad(), torch.cuda.stream(torch.cuda.Stream()):
            for _ in range(50):
                x = torch.full((1000,), float(number), device="cuda")
                sums, _ = graphs(x, x)
                found.setdefault(number, set()).update(sums["sum"].unique().tolist())

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: {3.0 * number} for number in range(4)}


@torch.no_grad()
def test_what_waits_for_the_host_is_refused_and_does_no_harm():
    with pytest.raises(RuntimeError):
        CUDAGraphs(lambda x: x[x > 0])(torch.ones(3, device="cuda"))
    assert torch.ones(3, device="cuda").sum().item() == 3


@torch.no_grad()
def test_a_detector_as_one_graph(caplog):
    detector = decisive(CASCADE).cuda()
    fast = optimize_detector(detector, precision="float32", compile=False, canvases=[(128, 128)])
    inputs = [tensor.cuda() for tensor in batch()]
    wanted, results = detector(*inputs), [fast(*inputs) for _ in range(3)]
    for result in results:
        assert found(result, wanted, 0.1, 1e-3)
    assert not caplog.messages  # captured: no fallback


@pytest.mark.slow
@torch.no_grad()
def test_a_compiled_detector_as_one_graph(caplog):
    detector = decisive(CASCADE).cuda()
    fast = optimize_detector(detector, canvases=[(128, 128)])
    fast.warm_up([2])
    inputs = [tensor.cuda() for tensor in batch()]
    assert found(fast(*inputs), detector(*inputs), 8.0, 0.2, share=0.7)
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
