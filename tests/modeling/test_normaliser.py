"""What losses are divided by, over several processes and the parts of a batch."""

import os

import torch
import torch.distributed as dist

from centernet.modeling.normaliser import batch_counts, mean_count, own_counts, record_counts, share_of_mean


def _worker(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    positives = torch.tensor([10.0, 0.0])[rank]  # one process without objects
    values = {
        "mean": mean_count(positives, "a"),
        "floor": mean_count(torch.tensor([0.5, 0.1])[rank], "a"),
        "local": mean_count(positives, "a", reduce=False),
        "share": share_of_mean([10, 2][rank], "a", positives),
        "share of a tensor": share_of_mean(torch.tensor([10, 2])[rank], "a", positives),
    }
    with batch_counts({"a": torch.tensor([10.0, 6.0])[rank]}, 2):
        values["parts"] = mean_count(positives, "a")
        values["own parts"] = mean_count(positives, "a", reduce=False)
        values["unknown"] = mean_count(positives, "b")
    if rank == 0:  # alone: the other process does not take part
        with own_counts():
            values["own"] = mean_count(torch.tensor(4.0), "a")
        with record_counts() as counts:
            mean_count(torch.tensor(4.0), "a")
            share_of_mean(3, "a", positives)
        values["recorded"] = counts["a"]
    torch.save({**values, "input": positives}, os.path.join(folder, f"{rank}.pt"))
    dist.destroy_process_group()


def test_two_processes(tmp_path):
    torch.multiprocessing.spawn(_worker, (str(tmp_path),), nprocs=2)
    first, second = ({k: float(v) for k, v in torch.load(tmp_path / f"{rank}.pt").items()} for rank in range(2))
    assert first["mean"] == second["mean"] == 5
    assert first["floor"] == 1
    assert (first["local"], second["local"]) == (10, 1)
    assert first["share"] == first["share of a tensor"] == torch.tensor(10 / 6)
    assert second["share"] == second["share of a tensor"] == torch.tensor(2 / 6)
    assert first["parts"] == second["parts"] == 4  # 16 objects over 2 processes and 2 parts
    assert (first["own parts"], second["own parts"]) == (5, 3)
    assert first["unknown"] == 5
    assert (first["own"], first["recorded"]) == (4, 7)
    assert (first["input"], second["input"]) == (10, 0)  # the argument is left alone


def test_one_process():
    assert float(mean_count(torch.tensor(7.0), "a")) == 7
    assert float(mean_count(torch.tensor(0.0), "a")) == 1
    assert share_of_mean(7, "a", torch.zeros(1)) is None


def test_parts_of_a_batch():
    totals = {"a": torch.tensor(12.0), "few": torch.tensor(0.5)}
    with batch_counts(totals, 4):
        assert float(mean_count(torch.tensor(7.0), "a")) == 3
        assert float(mean_count(torch.tensor(0.5), "few")) == 0.25  # the floor is that of the whole batch
        assert float(mean_count(torch.tensor(7.0), "b")) == 7
        assert share_of_mean(6, "a", totals["a"]) == 2
    assert share_of_mean(6, "a", totals["a"]) is None
    with batch_counts({}, 2):
        assert share_of_mean(6, "a", totals["a"]) is None
