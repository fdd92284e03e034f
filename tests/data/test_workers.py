"""Workers of a loader: one that dies is a sentence, and a signal for the run does not end them."""

import itertools
import os
import signal
import subprocess
import time

import pytest
import torch
from detectron2.data import DatasetCatalog
from PIL import Image

from centernet.data import DeadWorkerError, build_train_loader
from centernet.errors import UserError


def loader_with(cfg, act, workers=1):
    """A loader whose workers call ``act`` for the image with id 5."""

    def mapper(record):
        if record["image_id"] == 5:
            act()
        return record

    cfg.DATALOADER.NUM_WORKERS = workers
    return build_train_loader(cfg, mapper, seed=0)


def read(loader, count=20):
    return [sample["image_id"] for batch in itertools.islice(loader, count) for sample in batch]


@pytest.mark.parametrize(
    "act, sentence",
    [
        (lambda: os.kill(os.getpid(), signal.SIGKILL), r"was killed \(SIGKILL\).*DATALOADER.NUM_WORKERS \(now 1"),
        pytest.param(lambda: os._exit(7), r"ended unexpectedly \(status 7\)", marks=pytest.mark.slow),
        pytest.param(
            lambda: os.kill(os.getpid(), signal.SIGBUS),
            r"shared memory.*--shm-size=8g.*NUM_WORKERS \(now 1\)",
            marks=pytest.mark.slow,
        ),
    ],
    ids=["killed", "ended", "bus error"],
)  # each takes the 5 s after which PyTorch looks for dead workers
def test_worker_that_dies(small_cfg, act, sentence, capfd):
    with pytest.raises(DeadWorkerError, match=sentence) as error:
        read(loader_with(small_cfg, act))
    assert isinstance(error.value, UserError)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "error, sentence",
    [
        (RuntimeError("unable to write to file </torch_1_2>: No space left on device (28)"), "out of shared memory"),
        (OSError(24, "Too many open files"), "too many files open; raise the limit"),
    ],
)
def test_faults_that_a_worker_reports(small_cfg, error, sentence):
    def act():
        raise error

    with pytest.raises(DeadWorkerError, match=sentence):
        read(loader_with(small_cfg, act))


def test_other_errors_stay_what_they_are(small_cfg):
    def act():
        raise RuntimeError("a defect")

    with pytest.raises(RuntimeError, match="a defect") as error:
        read(loader_with(small_cfg, act))
    assert not isinstance(error.value, UserError)


def test_signals_for_the_run_do_not_end_workers(small_cfg):
    before, others = signal.getsignal(signal.SIGCHLD), torch.multiprocessing.active_children()
    expected = read(loader_with(small_cfg, lambda: None, workers=0), 12)
    batches = iter(loader_with(small_cfg, lambda: None, workers=2))
    seen = [next(batches)]
    children = [child for child in torch.multiprocessing.active_children() if child not in others]
    workers = [child.pid for child in children]
    assert len(workers) == 2
    for name in ("TERM", "INT", "TERM"):
        subprocess.run(["kill", f"-{name}", *map(str, workers)], check=True)
        time.sleep(0.1)
    seen += itertools.islice(batches, 11)
    assert [sample["image_id"] for batch in seen for sample in batch] == expected
    start = time.monotonic()
    for child in children:
        child.terminate()  # from the parent it does
        child.join(5)
        assert child.exitcode == 0
    assert time.monotonic() - start < 4
    assert signal.getsignal(signal.SIGCHLD) is before  # a dead worker is seen at a batch, not in the middle of a step


def test_image_in_a_worker_is_still_replaced(small_cfg):
    small_cfg.DATALOADER.NUM_WORKERS = 1
    file = DatasetCatalog.get(small_cfg.DATASETS.TRAIN[0])[4]["file_name"]
    Image.new("RGB", (3, 3)).save(file)
    loader = build_train_loader(small_cfg, seed=0)
    assert 5 not in read(loader)
    assert len(loader.bad_images) == 1
