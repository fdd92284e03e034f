"""Memory that a training on a CPU keeps."""

import platform
import resource
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# page faults of ten blocks of 80 MB, one after the other, inside and afterwards
COUNT = """
import resource, sys, torch
from centernet.engine.memory import kept_memory
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(20_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
with kept_memory(sys.argv[1]):
    faults()
    inside, kept = faults(), resident()
given_back = kept - resident()
print(inside, faults(), given_back)
"""

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is of glibc")


def counted(device):
    words = [sys.executable, "-c", COUNT, device]
    return map(int, subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split())


def test_blocks_are_kept_inside_and_given_back_afterwards():
    inside, after, given_back = counted("cpu")
    assert inside * resource.getpagesize() < 8_000_000  # of 800 MB
    assert after > inside
    assert given_back > 60_000_000


def test_other_devices_are_left_alone():
    inside, _, given_back = counted("cuda")
    assert inside > 100
    assert given_back < 8_000_000
