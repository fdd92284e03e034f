import sys
from pathlib import Path

import pytest
import torch

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).resolve().parents[2])]  # helpers; train_net.py

from small_run import write_config  # noqa: E402


@pytest.fixture
def small(tmp_path):
    """A config file; its runs go to ``small.parent / 'output' / 'small'``."""
    return write_config(tmp_path)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Many threads on tensors this small only wait for each other, above all on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
