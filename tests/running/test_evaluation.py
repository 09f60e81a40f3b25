"""Evaluations: how many episodes, of which the report shows the newest, and when."""

import signal

import numpy as np
from run_tools import CATCH, checkpoint, episodes, ok, train_here

from dreamerv2.agent import Agent
from dreamerv2.running.checkpoint import Checkpoint


def test_as_many_episodes_are_played_as_were_asked_for(tmp_path):
    flags = "--eval_eps", 6, "--envs", 4, "--steps", 85, "--prefill", 80
    ok(train_here(*CATCH, *flags, "--eval_every", 1000, "--logdir", tmp_path))
    # One before training, to have something to report; then two evaluations.
    played = len(episodes(tmp_path / "eval_episodes"))
    assert played - 4 == 2 * 6  # Four environments end their first one together.


def test_a_report_shows_the_newest_episodes(tmp_path, monkeypatch):
    shown = []

    def report(self, data):
        images = np.asarray(data["image"])
        shown.append({x.tobytes() for x in images.reshape(-1, *images.shape[2:])})
        return {}

    def newest():
        return {x.tobytes() for x in episodes(tmp_path / "eval_episodes")[-1]["image"]}

    monkeypatch.setattr(Agent, "report", report)
    # Each replay keeps one episode to draw from.
    flags = ["--replay.capacity", 10, "--log_every", 0, "--replay.minlen", 5]
    flags += ["--logdir", tmp_path, "--eval_every", 1000]
    for steps in (30, 50):
        ok(train_here(*CATCH, *flags, "--steps", steps))
        assert shown[-1] and shown[-1] <= newest()


def test_a_run_that_was_evaluated_at_step_0_is_evaluated_at_its_end(
    tmp_path, monkeypatch
):
    ok(train_here(*CATCH, "--steps", 25, "--logdir", tmp_path / "online"))
    flags = ["--offline", tmp_path / "online" / "train_episodes"]
    flags = [*CATCH, *flags, "--eval_every", 1000, "--logdir", tmp_path / "run"]
    whole = Checkpoint.whole

    def stopping(self):
        whole(self)
        if self._step == 7:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "whole", stopping)
        assert train_here(*flags, "--steps", 30).code == 143
    assert checkpoint(tmp_path / "run")["evaluated"] == {"value": 0}
    assert "already" not in ok(train_here(*flags, "--steps", 7)).out
    assert checkpoint(tmp_path / "run")["evaluated"] == {"value": 7}
    assert "already" in ok(train_here(*flags, "--steps", 7)).out
