"""Two processes that talk over gloo on the CPU: one run, one checkpoint, one decision to stop."""

import os
import signal
from pathlib import Path

import torch
from children import CONTEXT
from small_run import metric_rows

OPTS = ["DATASETS.TEST", "()", "SEED", "7", "SOLVER.CHECKPOINT_PERIOD", "4"]


def _work(rank: int, config: str, opts: list[str], resume: bool, stop_at: int | None, nan_at: int | None) -> None:
    from centernet.config_file import load_config, resolve_output_dir
    from centernet.engine import train
    from centernet.engine.trainer import Trainer

    torch.set_num_threads(1)
    folder = Path(config).parent
    torch.distributed.init_process_group("gloo", f"file://{folder}/meet{resume}", rank=rank, world_size=2)
    record = Trainer._record

    def recording(trainer, losses):
        if trainer.iter == nan_at and rank == 1:
            losses["loss_cls_stage0"] = losses["loss_cls_stage0"] * float("nan")
        record(trainer, losses)
        total = trainer.storage.history("total_loss").latest()
        with open(folder / f"losses{rank}", "a") as file:
            file.write(f"{trainer.iter} {total.hex()}\n")
        if trainer.iter == stop_at and rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    Trainer._record = recording
    cfg = load_config(config, opts)
    resolve_output_dir(cfg, config)
    train(cfg, resume=resume)


def run_two(config, *, opts=(), resume=False, stop_at=None, nan_at=None):
    """Exit status of both processes."""
    args = (str(config), [*OPTS, *opts], resume, stop_at, nan_at)
    processes = [CONTEXT.Process(target=_work, args=(rank, *args)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        process.kill()  # nothing to do for one that has ended
        process.join()
    return [process.exitcode for process in processes]


def losses(config, rank):
    return (config.parent / f"losses{rank}").read_text().splitlines()


def test_one_run_in_two_processes(small, tmp_path):
    assert run_two(small) == [0, 0]
    output = small.parent / "output" / "small"
    assert losses(small, 0) == losses(small, 1)  # the mean over both
    assert len(losses(small, 0)) == 12
    assert [row["iteration"] for row in metric_rows(output)] == [11]
    assert {"log.txt", "log.txt.rank1"} <= {file.name for file in output.iterdir()}
    states = torch.load(output / "model_final.pth", weights_only=True)["trainer"]["random_states"]
    assert len(states) == 2
    assert not torch.equal(states[0]["torch"], states[1]["torch"])

    uninterrupted, final = losses(small, 0), torch.load(output / "model_final.pth")["model"]
    (small.parent / "losses0").unlink()
    for stale in small.parent.glob("meet*"):
        stale.unlink()
    # a signal to one process stops both after the same iteration, and both go on exactly
    assert run_two(small, stop_at=5) == [128 + signal.SIGTERM] * 2
    assert (output / "last_checkpoint").read_text() == f"model_{len(losses(small, 1)) - 13:07d}.pth"
    assert run_two(small, resume=True) == [0, 0]
    assert losses(small, 0) == uninterrupted
    again = torch.load(output / "model_final.pth")["model"]
    assert all(torch.equal(value, again[name]) for name, value in final.items())


def test_loss_that_is_not_finite_stops_all(small):
    assert run_two(small, nan_at=2) == [1, 1]
    assert len(losses(small, 0)) == len(losses(small, 1)) == 2
    for name in ("log.txt", "log.txt.rank1"):
        assert "loss_cls_stage0 is nan at iteration 2" in (small.parent / "output" / "small" / name).read_text()


def test_checkpoint_of_two_processes_in_one(small):
    from centernet.config_file import load_config, resolve_output_dir
    from centernet.engine import train

    assert run_two(small, opts=["SOLVER.TRAIN_ITER", "4"]) == [0, 0]
    cfg = load_config(small, OPTS)
    resolve_output_dir(cfg, small)
    train(cfg, resume=True)
    log = (Path(cfg.OUTPUT_DIR) / "log.txt").read_text()
    assert "The checkpoint is of another number of processes" in log
    assert "Training from iteration 4 to 12" in log
