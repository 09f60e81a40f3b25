"""An output of train.py (--logger turns_output:Turn) that takes turns, for turns.py.

It needs nothing of the checkout that it runs in.
"""

import json
import os
import time


class Turn:
    """After each window, tells what it took and waits for the next turn."""

    def __init__(self, logdir, config):
        self._told, self._turn = map(int, os.environ["TURNS"].split(","))
        self._begin()

    def _begin(self):
        self._cpu, self._wall = time.process_time(), time.monotonic()

    def __call__(self, summaries):
        if not any(name == "fps" for _, name, _ in summaries):
            return  # Of an episode.
        cpu, wall = time.process_time() - self._cpu, time.monotonic() - self._wall
        line = json.dumps({"cpu_seconds": cpu, "seconds": wall})
        os.write(self._told, f"{line}\n".encode())
        os.read(self._turn, 1)
        self._begin()
