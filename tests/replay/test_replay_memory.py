"""The warning before a run whose replay will not fit into memory."""

from types import SimpleNamespace

import numpy as np
import pytest

from dreamerv2.common.episodes import memory
from dreamerv2.common.episodes.memory import memory_needed, warn_if_too_big
from dreamerv2.common.replay import Replay

SPACES = {
    "image": SimpleNamespace(shape=(64, 64, 1), dtype=np.uint8),
    "speed": SimpleNamespace(shape=(3,), dtype=np.float64),
    "lives": SimpleNamespace(shape=(), dtype=np.int64),
    "is_first": SimpleNamespace(shape=(), dtype=bool),
    "log_secret": SimpleNamespace(shape=(1000,), dtype=np.float32),
    "action": SimpleNamespace(shape=(6,), dtype=np.float32),
}
BOTH = (
    {k: v for k, v in SPACES.items() if k != "action"},
    {"action": SPACES["action"]},
)
SETTINGS = {"capacity": 2_000_000, "storage": "memory"}


def test_the_need_is_what_the_replay_stores(tmp_path):
    assert memory_needed(SPACES, 1000) == 1000 * (4096 + 12 + 4 + 1 + 24)
    replay = Replay(tmp_path)
    zeros = {k: np.zeros((9, *v.shape), v.dtype) for k, v in SPACES.items()}
    replay.add_episode({**zeros, "is_last": np.arange(9) == 8})
    stored = next(replay.dataset(1, 5))
    assert sum(v.nbytes for v in stored.values()) == memory_needed(SPACES, 5) + 5


def test_a_replay_that_does_not_fit_is_warned_of_with_numbers_and_knobs(capsys):
    assert warn_if_too_big(SETTINGS, BOTH, 10**8, 250_000, available=5 * 10**9)
    (line,) = capsys.readouterr().out.splitlines()
    assert "7.2 GB more memory" in line  # 1,750,000 steps of 4,137 bytes.
    assert "2,000,000 steps of 4,137 bytes, of which 250,000 are loaded" in line
    assert "5.0 GB are available" in line
    assert "--replay.capacity to 1,300,000 or less, or --replay.storage to disk" in line


@pytest.mark.parametrize(
    "settings, steps, loaded, available",
    [
        ({}, 10**8, 0, 9 * 10**9),  # It fits,
        ({}, 10**6, 0, 5 * 10**9),  # the run is too short,
        ({}, 10**8, 1_500_000, 3 * 10**9),  # most of it is there already,
        ({"capacity": 1000}, 10**8, 0, 10**7),  # it is small,
        ({"storage": "disk"}, 10**8, 0, 0),  # or on disk.
    ],
)
def test_a_replay_that_fits_is_not_warned_of(
    capsys, settings, steps, loaded, available
):
    settings = {**SETTINGS, **settings}
    assert not warn_if_too_big(settings, BOTH, steps, loaded, available)
    assert capsys.readouterr().out == ""


def test_without_a_capacity_the_steps_of_the_run_count(capsys):
    settings = {"capacity": 0, "storage": "memory"}
    assert warn_if_too_big(settings, BOTH, 10**6, available=10**9)
    assert "1,000,000 steps" in capsys.readouterr().out


def test_the_limit_of_a_container_counts_if_it_is_lower(tmp_path, monkeypatch):
    meminfo, limit, used = (tmp_path / n for n in ("meminfo", "max", "current"))
    meminfo.write_text("MemTotal: 9000 kB\nMemAvailable:    5000 kB\n")
    limit.write_text("max\n")
    used.write_text("1000000\n")
    monkeypatch.setattr(memory, "_MEMINFO", meminfo)
    monkeypatch.setattr(memory, "_CGROUPS", ((limit, used),))
    assert memory.available_memory() == 5000 * 1024
    limit.write_text("3000000\n")
    assert memory.available_memory() == 2_000_000
    used.write_text("4000000\n")
    assert memory.available_memory() == 0


def test_systems_that_do_not_tell_are_not_warned(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "none")
    monkeypatch.setattr(memory, "_CGROUPS", ())
    assert memory.available_memory() is None
    assert not warn_if_too_big(SETTINGS, BOTH, 10**12)
    assert capsys.readouterr().out == ""
