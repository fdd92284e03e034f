"""What the machine does to a run, in the words that a user reads. Whole runs are in test_fault_runs.py."""

import logging
import threading

import pytest
import torch
from detectron2.utils.events import EventStorage, EventWriter
from small_run import write_config

from centernet.config_file import load_config
from centernet.engine.faults import check_limits, explained_faults
from centernet.engine.hooks import MetricWriter
from centernet.engine.logs import run_log
from centernet.engine.non_finite import NonFinitePolicy
from centernet.errors import UserError


@pytest.fixture
def cfg(tmp_path):
    return load_config(write_config(tmp_path))


@pytest.mark.parametrize(
    "error, place",
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has"), "on the GPU .*2.50 GiB"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory: you"), "on this"),
        (MemoryError(), "on this machine"),
        (OSError(12, "Cannot allocate memory"), "on this machine"),
        (RuntimeError("std::bad_alloc"), "on this machine"),
    ],
)
def test_out_of_memory_names_the_settings(cfg, error, place):
    with pytest.raises(UserError, match=f"out of memory {place}") as caught, explained_faults(cfg):
        raise error
    sentence = str(caught.value)
    assert "\n" not in sentence
    for setting in (
        "SOLVER.IMS_PER_BATCH (now 2)",
        "INPUT.MIN_SIZE_TRAIN (now (32, 40, 48))",
        "INPUT.MAX_SIZE_TRAIN (now 1333)",
        "SOLVER.GRADIENT_ACCUMULATION (now 1)",
        "SOLVER.AMP.ENABLED (now False)",
        "MODEL.ACTIVATION_CHECKPOINTING (now False)",
    ):
        assert setting in sentence
    cfg.INPUT.CUSTOM_AUG = "EfficientDetResizeCrop"
    with pytest.raises(UserError, match=r"INPUT.TRAIN_SIZE \(now 640\)"), explained_faults(cfg):
        raise error


@pytest.mark.parametrize(
    "error, place",
    [
        (OSError(28, "No space left on device"), "OUTPUT_DIR .* cannot be written: No space"),
        (OSError(30, "Read-only file system", "/elsewhere/x"), "/elsewhere/x cannot be written: Read-only"),
        (FileNotFoundError(2, "No such file or directory", "{output}/inference/x.json"), "x.json cannot be"),
    ],
)
def test_disk_faults_anywhere_are_sentences(cfg, error, place):
    if error.filename:
        error.filename = error.filename.format(output=cfg.OUTPUT_DIR)
    with pytest.raises(UserError, match=place), explained_faults(cfg):
        raise error


def test_a_real_allocation_that_cannot_be(cfg):
    with pytest.raises(UserError, match="out of memory on this machine"), explained_faults(cfg):
        torch.empty(1 << 60, dtype=torch.uint8)


@pytest.mark.parametrize("error", [RuntimeError("a defect"), OSError(2, "No such file or directory"), KeyError("x")])
def test_other_errors_pass(cfg, error):
    with pytest.raises(type(error)) as caught, explained_faults(cfg):
        raise error
    assert caught.value is error


@pytest.mark.parametrize(
    "key, value, sentence",
    [
        ("SOLVER.CHECKPOINTS_KEPT", -1, "SOLVER.CHECKPOINTS_KEPT is -1"),
        ("DATALOADER.BAD_IMAGE_LIMIT", -2, "DATALOADER.BAD_IMAGE_LIMIT is -2"),
        ("SOLVER.NON_FINITE", "ignore", "SOLVER.NON_FINITE is 'ignore', must be one of stop, skip"),
        ("SOLVER.NON_FINITE_LIMIT", -1, "SOLVER.NON_FINITE_LIMIT is -1"),
    ],
)
def test_values_that_make_no_sense(cfg, key, value, sentence):
    cfg.merge_from_list([key, value])
    check = NonFinitePolicy.from_config if "NON_FINITE" in key else check_limits
    check(load_config(""))
    with pytest.raises(UserError, match=sentence):
        check(cfg)


def test_writer_on_a_full_disk_is_a_sentence(tmp_path):
    class Full(EventWriter):
        def write(self):
            with open("/dev/full", "w") as file:
                file.write("x" * 100_000)

        close = write

    class Trainer:
        iter, max_iter, storage = 19, 40, EventStorage(19)

    hook = MetricWriter([Full()], 0)
    hook.trainer = Trainer
    with pytest.raises(UserError, match=r"What Full keeps .* cannot be written: No space left on device; make room"):
        hook.after_step()
    hook.after_train()  # the run is ending for that reason already


def test_log_on_a_full_disk_ends_with_one_line(tmp_path, capsys):
    (tmp_path / "log.txt").symlink_to("/dev/full")
    with run_log(metric_lines=True) as log:
        log.open_file(tmp_path)
        for number in range(3):
            logging.getLogger("centernet").info("line %d", number)
    captured = capsys.readouterr()
    assert captured.err.count("warning: ") == 1
    assert "log.txt cannot be written: No space left on device; it ends here" in captured.err
    assert "Traceback" not in captured.err
    assert "line 2" in captured.out


def test_folder_of_the_log_that_is_gone(tmp_path):
    with pytest.raises(UserError, match=r"log.txt cannot be written: No such file"), run_log(metric_lines=True) as log:
        log.open_file(tmp_path / "gone")


def test_writer_threads_say_nothing_and_others_do(cfg, monkeypatch):
    told = []
    monkeypatch.setattr(threading, "excepthook", lambda fault: told.append(fault.thread.name))

    class _AsyncWriterThread(threading.Thread):
        """As TensorBoard's is called."""

    def fail():
        raise OSError(28, "No space left on device")

    with explained_faults(cfg):
        for kind in (_AsyncWriterThread, threading.Thread):
            thread = kind(target=fail, name=kind.__name__)
            thread.start()
            thread.join()
    assert told == ["Thread"]
