"""One run shared by two processes, as torchrun starts them, stopped in many ways."""

import os
import signal
from pathlib import Path

import pytest
from run_tools import (
    CATCH,
    RANKS,
    Running,
    checkpoint,
    episodes,
    ok,
    same,
    series,
    step_of,
    train,
    train_here,
)

from dreamerv2.common.config import load_presets
from dreamerv2.common.device.ranks import Ranks
from dreamerv2.common.errors import UsageError
from dreamerv2.common.flags import parse_config
from dreamerv2.running import parts
from dreamerv2.running.statefile import state_from_bytes

FLAGS = [*CATCH, "--logger", "none", "--log_every", "20", "--eval_every", "40"]
OFTEN = [*FLAGS, "--steps", "1e8", "--save_every", "0"]  # A checkpoint each round.


def names(logdir):
    """Files of all finished training episodes."""
    return {path.name for path in logdir.glob("**/train_episodes/*.npz")}


def what_decides(logdir):
    """All in a checkpoint that decides how the run goes on, but for names of files."""
    saved = checkpoint(logdir)
    second = state_from_bytes(saved["ranks"][1], "cpu")
    kept = [saved[key] for key in saved if key.startswith(("when_", "step"))]
    agents = [
        {key: value for key, value in part["agent"].items() if key != "metrics"}
        for part in (saved, second)
    ]
    played = [
        part["train"]["driver"] | {"envs": part["train"]["envs"]["states"]}
        for part in (saved, second)
    ]
    return [kept, agents, played, saved["random"], second["random"]]


def rank_1(run):
    """The process of the second rank."""
    children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
    for child in map(int, children):
        if b"RANK=1" in Path(f"/proc/{child}/environ").read_bytes().split(b"\0"):
            return child
    raise AssertionError(f"{run.pid} has no second rank among {children}.")


def test_a_run_whose_second_rank_is_killed_goes_on_bit_identically(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    ok_ranks(train(*FLAGS, "--logdir", whole, "--steps", 120, command=RANKS))
    flags = [*OFTEN, "--logdir", killed]
    with Running(tmp_path, *flags, command=RANKS) as run:
        run.wait_until((killed / "variables.pt").exists)
        run.wait_until(lambda: step_of(killed) >= 60)
        os.kill(rank_1(run), signal.SIGKILL)
        result = run.result()
    assert result.code == 1
    # In an evaluation, the first rank hears of it by the launcher's signal instead.
    lost = "dreamerv2-train: Process 0 of 2 cannot reach the others" in result.err
    assert lost or "Stopped by SIGTERM" in result.out
    before, at = names(killed), step_of(killed)
    assert 60 <= at < 120
    again = train(*FLAGS, "--logdir", killed, "--steps", 120, command=RANKS)
    assert f"Resumed at step {at}." in ok_ranks(again).out
    assert before <= names(killed)
    assert same(what_decides(killed), what_decides(whole))
    # All steps count, half of which each rank has made; returns of both are logged.
    assert step_of(whole) == 120
    shares = [whole / "train_episodes", whole / "rank1" / "train_episodes"]
    assert [sum(len(x["reward"]) - 1 for x in episodes(y)) for y in shares] == [60, 60]
    assert len(series(whole, "train_return")) == len(names(whole)) == 6
    assert [line for line in series(whole, "train_total_steps")][-1] == (120, 120)


def ok_ranks(result):
    """The result of a shared run that must have ended well."""
    assert result.code == 0, f"{result.out}\n{result.err}"
    return result


def test_a_stopped_launcher_saves_and_another_number_of_ranks_goes_on(tmp_path):
    logdir = tmp_path / "run"
    flags = [*FLAGS, "--steps", "1e8", "--eval_every", "1e8", "--logdir", logdir]
    with Running(tmp_path, *flags, command=RANKS) as run:
        run.wait_until((logdir / "variables.pt").exists)
        first = step_of(logdir)
        run.wait_until(lambda: len(names(logdir)) > 5)
        run.send(signal.SIGTERM)
        result = run.result()
    assert "Stopped by SIGTERM. The same command goes on" in result.out
    at, before = step_of(logdir), names(logdir)
    assert at > first
    # One process reads the episodes of both.
    result = ok(train_here(*FLAGS, "--logdir", logdir, "--steps", at + 5))
    assert "Saved by 2 and goes on with 1 processes" in result.out
    second = len(list(before)) // 2
    assert f"Took over {second} episodes of processes that are no more" in result.out
    assert before <= {path.name for path in logdir.glob("train_episodes/*.npz")}
    # And two again, of which the second has no episode yet.
    flags = [*FLAGS, "--logdir", logdir, "--steps", at + 50]
    result = ok_ranks(train(*flags, command=RANKS))
    assert "Saved by 1 and goes on with 2 processes" in result.out
    assert before <= names(logdir)
    assert len(list(logdir.glob("rank1/train_episodes/*.npz"))) >= 1
    assert step_of(logdir) >= at + 50


def test_a_rank_that_fails_has_all_save_and_says_why(tmp_path):
    logdir = tmp_path / "run"
    flags = [*FLAGS, "--steps", "1e8", "--eval_every", "1e8", "--logdir", logdir]
    with Running(tmp_path, *flags, command=RANKS) as run:
        run.wait_until((logdir / "variables.pt").exists)
        first, folder = step_of(logdir), logdir / "rank1" / "train_episodes"
        folder.rename(logdir / "rank1" / "aside")
        folder.touch()  # No folder, so that no episode can be written.
        result = run.result()
    assert result.code == 1
    said = [line for line in result.err.splitlines() if "dreamerv2-train:" in line]
    assert len(said) == 1 and "Cannot write" in said[0], said
    assert step_of(logdir) > first


class Pair(Ranks):
    """One of two, of which the other says the same."""

    def gather(self, value):
        return [value] * self.count


def share(*flags, rank=1):
    return parts.share(parse_config([*FLAGS, *flags], load_presets()), Pair(rank, 2))


def test_a_rank_has_its_share_of_batch_and_replay_and_a_seed_of_its_own():
    flags = ["--dataset.batch", "6", "--replay.capacity", "1001", "--seed", "4"]
    first, second = share(*flags, rank=0), share(*flags)
    assert first.dataset.batch == second.dataset.batch == 3
    assert first.replay.capacity == second.replay.capacity == 501
    assert first.seed == 4 and second.seed not in (4, share(rank=1).seed)
    assert share("--scale_batch", "True").dataset.batch == 2


@pytest.mark.parametrize(
    "flags, sentence",
    [
        (["--dataset.batch", "3"], "--dataset.batch 3 cannot be split evenly over 2"),
        (["--async_training", "True"], "--async_training works in one process alone"),
        (["--offline", "x"], "--offline works in one process alone"),
    ],
)
def test_what_cannot_be_shared_is_refused(flags, sentence):
    with pytest.raises(UsageError, match=sentence):
        share(*flags)
