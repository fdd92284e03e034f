"""A reader sees the old file or the new one, never a part."""

import os
import signal

import pytest
from children import CONTEXT

from centernet.engine import write_atomically, write_text_atomically
from centernet.errors import UserError


def test_replaces(tmp_path):
    file = tmp_path / "a"
    write_text_atomically(file, "öld")
    write_atomically(file, lambda stream: stream.write(b"new"))
    assert file.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["a"]


def test_error_leaves_the_old_file(tmp_path):
    file = tmp_path / "a"
    write_text_atomically(file, "old")

    def fail(stream):
        stream.write(b"ne")
        raise KeyError("x")

    with pytest.raises(KeyError):
        write_atomically(file, fail)
    assert file.read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]


def _die(stream):
    stream.write(b"ne")
    stream.flush()
    os.kill(os.getpid(), signal.SIGKILL)


def test_kill_leaves_the_old_file(tmp_path):
    file = tmp_path / "a"
    write_text_atomically(file, "old")
    child = CONTEXT.Process(target=write_atomically, args=(file, _die))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    assert file.read_text() == "old"
    write_text_atomically(file, "new")
    assert file.read_text() == "new"
    assert os.listdir(tmp_path) == ["a"]


def test_full_disk_and_vanished_folder_are_sentences(tmp_path):
    def full(stream):
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match="a cannot be written: No space left on device"):
        write_atomically(tmp_path / "a", full)
    with pytest.raises(UserError, match="a cannot be written: No such file or directory"):
        write_text_atomically(tmp_path / "gone" / "a", "")
