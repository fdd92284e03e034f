"""Memory that a training on a CPU keeps."""

import platform
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from centernet.engine.memory import kept_memory

ROOT = Path(__file__).resolve().parents[2]
# page faults of ten blocks of 80 MB, one after the other, inside and afterwards
COUNT = """
import resource, torch
from centernet.engine.memory import kept_memory
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(20_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
with kept_memory("cpu"):
    faults()
    inside, kept = faults(), resident()
given_back = kept - resident()
print(inside, faults(), given_back)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is of glibc")
def test_blocks_are_kept_inside_and_given_back_afterwards():
    words = subprocess.run([sys.executable, "-c", COUNT], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    inside, after, given_back = map(int, words.split())
    page = resource.getpagesize()
    assert inside * page < 8_000_000  # of 800 MB
    assert after > inside
    assert given_back > 60_000_000


def test_other_devices_are_left_alone():
    with kept_memory("cuda"):
        assert torch.ones(3).sum() == 3
