"""Memory that stays with the process: asked of a process of its own, since it cannot be undone."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

SCRIPT = """
import sys
import torch
from foveate.device import keep_freed_memory

if "keep" in sys.argv:
    assert keep_freed_memory() and keep_freed_memory()

def faults():
    return int(open("/proc/self/stat").read().rsplit(")")[-1].split()[7])  # minor page faults

def work():
    return sum(float((torch.ones(2**23) * 2)[0]) for _ in range(10))  # 32 MiB each

assert work() == 20
before = faults()
assert work() == 20
print(faults() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can")
def test_what_one_step_frees_the_next_one_finds() -> None:
    """Without, 20 tensors of 32 MiB are faulted in anew, page by page; with, almost nothing."""
    found = {}
    for way in ("plain", "keep"):
        done = subprocess.run([sys.executable, "-c", SCRIPT, way], capture_output=True, text=True, check=True)
        found[way] = int(done.stdout)
    assert found["plain"] > 300 and found["keep"] < found["plain"] / 10, found
