"""Freed memory is kept for the next array of its size."""

import subprocess
import sys

import pytest
from run_tools import environment

from dreamerv2.common.device import malloc

CODE = '''
import resource, threading
import torch
from dreamerv2.common.device.malloc import keep_freed_memory

def faults():
    """Pages of an array that the system had to fill, after many arrays of its size."""
    for _ in range(20):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(10_000_000)  # 40 MB, or 9,766 pages.
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

def everywhere():
    faults()
    thread = threading.Thread(target=faults)
    thread.start()
    thread.join()

everywhere()
print(keep_freed_memory())
everywhere()
'''


@pytest.mark.skipif(not malloc._has_glibc(), reason="no glibc")
def test_an_array_that_was_freed_is_used_again_without_asking_the_system():
    command = [sys.executable, "-c", CODE]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    *asked, told, here, thread = done.stdout.split()
    assert min(map(int, asked)) >= 16  # Huge pages are 2 MB.
    assert told == "True"
    assert int(here) < 4 and int(thread) < 4


def test_without_glibc_nothing_is_changed(monkeypatch):
    monkeypatch.setattr(malloc, "_has_glibc", lambda: False)
    assert malloc.keep_freed_memory() is False
