import sys
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).resolve().parents[2])]  # helpers; train_net.py

from small_run import write_config  # noqa: E402


@pytest.fixture
def small(tmp_path):
    """A config file; its runs go to ``small.parent / 'output' / 'small'``."""
    return write_config(tmp_path)
