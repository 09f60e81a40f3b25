"""Exploration in whole runs: until when it acts, and what is logged of it."""

import pytest
from agent_tools import EXPLORED, TRAINED
from run_tools import CATCH, metrics, ok, step_of, train_here

from dreamerv2.agent import Agent


@pytest.fixture
def acted(monkeypatch):
    """[(step, mode), ...] of the actions that a run asks for while training."""
    asked = []
    policy = Agent.policy

    def spy(self, obs, state=None, mode="train"):
        if mode != "eval":
            asked.append((int(self._counter), mode))
        return policy(self, obs, state, mode)

    monkeypatch.setattr(Agent, "policy", spy)
    return asked


def test_exploration_ends_at_its_frame_also_in_a_run_that_goes_on(tmp_path, acted):
    flags = [*CATCH, "--expl_behavior", "Plan2Explore", "--logdir", tmp_path]
    # At two frames per step, 57 are reached after 29 steps.
    flags += ["--action_repeat", 2, "--expl_until", 57, "--eval_every", 1000]
    for steps in (25, 32, 36):
        ok(train_here(*flags, "--steps", steps))
    first = acted[0][0]
    assert first < 25 and step_of(tmp_path) == 36
    expected = [(k, "explore" if k < 29 else "train") for k in range(first, 36)]
    assert acted == expected
    # Both learn all the time.
    lines = [line for line in metrics(tmp_path) if "actor_loss" in line]
    assert len(lines) >= 2 and lines[-1]["step"] > 57
    for line in lines:
        assert line["expl_actor_loss"] != line["actor_loss"]
        assert line["expl_reward_mean"] == pytest.approx(line["expl_intr_reward_mean"])
        assert set(TRAINED + EXPLORED) <= set(line)
