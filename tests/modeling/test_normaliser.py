"""The loss normaliser over several processes."""

import os

import torch
import torch.distributed as dist

from centernet.modeling.dense_heads.centernet import CenterNet


def _worker(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    positives = torch.tensor([10.0, 0.0])[rank]  # one process without objects
    values = {
        "mean": CenterNet(32)._mean_over_processes(positives),
        "floor": CenterNet(32)._mean_over_processes(torch.tensor([0.5, 0.1])[rank]),
        "local": CenterNet(32, no_reduce=True)._mean_over_processes(positives),
    }
    torch.save({**values, "input": positives}, os.path.join(folder, f"{rank}.pt"))
    dist.destroy_process_group()


def test_mean_over_two_processes(tmp_path):
    torch.multiprocessing.spawn(_worker, (str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert float(first["mean"]) == float(second["mean"]) == 5
    assert float(first["floor"]) == 1
    assert (float(first["local"]), float(second["local"])) == (10, 1)
    assert (float(first["input"]), float(second["input"])) == (10, 0)  # the argument is left alone


def test_one_process():
    assert float(CenterNet(32)._mean_over_processes(torch.tensor(7.0))) == 7
    assert float(CenterNet(32)._mean_over_processes(torch.tensor(0.0))) == 1
