"""Freed memory is kept for the next array of its size."""

import subprocess
import sys

import pytest
from run_tools import environment

from dreamerv2.common.device import malloc

CODE = '''
import resource, sys, threading
import torch
from dreamerv2.common.device.malloc import keep_freed_memory

def faults():
    """Pages of an array that the system had to fill, after many arrays of its size."""
    for _ in range(20):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(10_000_000)  # 40 MB, or 9,766 pages.
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

if sys.argv[1] == "keep":
    print(keep_freed_memory())
if sys.argv[2] == "thread":
    thread = threading.Thread(target=faults)
    thread.start()
    thread.join()
else:
    faults()
'''


def ran(*arguments):
    command = [sys.executable, "-c", CODE, *arguments]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.skipif(not malloc._has_glibc(), reason="no glibc")
@pytest.mark.parametrize("where", ["here", "thread"])
def test_an_array_that_was_freed_is_used_again_without_asking_the_system(where):
    (asked,) = ran("leave", where)
    told, kept = ran("keep", where)
    assert told == "True"
    assert int(asked) >= 16  # Huge pages are 2 MB.
    assert int(kept) < 4


def test_without_glibc_nothing_is_changed(monkeypatch):
    monkeypatch.setattr(malloc, "_has_glibc", lambda: False)
    assert malloc.keep_freed_memory() is False
