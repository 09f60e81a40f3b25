"""Rows that begin with the latent that the agent had when it acted there."""

import numpy as np
import pytest
import torch
from agent_tools import BATCH, GAUSSIAN, LENGTH, make_agent, make_batch, make_obs

from dreamerv2.common.episodes.episode import LATENT

pytestmark = pytest.mark.usefixtures("one_thread")

ACTED = {"dataset.rows": "acted"}


def states_of(agent, count, steps=3):
    """What the policy kept at its last step, and its state then."""
    state = None
    for step in range(steps):
        out, state = agent.policy(make_obs(step, count, first=step == 0), state)
    return out[LATENT], state[0]


@pytest.mark.parametrize("latents", [{}, GAUSSIAN], ids=["categorical", "gaussian"])
def test_a_latent_comes_back_from_its_bytes(latents):
    agent = make_agent({**ACTED, **latents})
    kept, state = states_of(agent, 4)
    assert kept.dtype == np.uint8 and kept.shape == (4, 2 * (4 + 9))
    kept[2] = 0  # Nothing was kept there.
    other = {k: v + 0.25 for k, v in agent.wm.rssm.initial(4).items()}
    found = agent.wm.rssm.unpack(torch.as_tensor(kept), other)
    assert found.keys() == other.keys()
    for key in ("stoch", "deter"):
        assert torch.equal(found[key][2], other[key][2])
        torch.testing.assert_close(
            found[key][[0, 1, 3]], state[key][[0, 1, 3]], atol=1e-3, rtol=1e-3
        )
    if not latents:
        assert torch.equal(found["stoch"][0], state["stoch"][0])


def test_an_update_begins_where_the_policy_was(monkeypatch):
    agent = make_agent(ACTED)
    kept, state = states_of(agent, BATCH)
    kept[1] = 0
    agent.train(make_batch())
    before, begun = agent.carried, []
    loss = agent.wm.loss

    def spy(data, state, noise):
        assert LATENT not in data
        begun.append(state)
        return loss(data, state, noise)

    monkeypatch.setattr(agent.wm, "loss", spy)
    agent.train({**make_batch(1), LATENT: kept})
    (found,) = begun
    assert torch.equal(found["deter"][1], before["deter"][1])
    expected = state["deter"][[0, 2]]
    torch.testing.assert_close(found["deter"][[0, 2]], expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    "changes",
    [
        {"dataset.rows": "stream"},
        {"dataset.rows": "rows"},
        {**ACTED, "replay.minlen": LENGTH, "replay.maxlen": LENGTH},
        {**ACTED, "offline": "folder"},
    ],
)
def test_latents_are_kept_only_where_rows_may_begin_there(changes):
    agent = make_agent(changes)
    assert agent.kept_latents == {}
    assert list(agent.policy(make_obs())[0]) == ["action"]
    # Nor are those used that an earlier run left.
    agent.train(make_batch())
    other = make_agent(changes)
    other.policy(make_obs())
    other.train({**make_batch(), LATENT: np.ones((BATCH, 26), np.uint8)})
    assert torch.equal(agent.carried["deter"], other.carried["deter"])


def test_an_evaluation_keeps_no_latents():
    agent = make_agent(ACTED)
    assert list(agent.policy(make_obs(), None, "eval")[0]) == ["action"]


def test_how_far_off_the_model_is_at_single_steps_of_acting():
    agent = make_agent({"eval_state_mean": True})
    rssm, wm = agent.wm.rssm, agent.wm
    _, state = agent.policy(make_obs(0, 3), None, "eval")
    obs = make_obs(1, 3, first=False)
    found = agent.follow(obs, state)
    assert sorted(found) == ["count_loss", "image_loss", "kl", "vector_loss"]
    assert all(value.shape == (3,) for value in found.values())
    with torch.no_grad():
        del obs["log_stat"]
        seen = wm.preprocess(agent.to_device(obs))
        post = rssm.obs_step(*state, wm.encoder(seen), seen["is_first"])
        prior = rssm.img_step(*state)
        kl = rssm.get_dist(post).kl(rssm.get_dist(prior))
    np.testing.assert_allclose(found["kl"], kl, rtol=1e-5, atol=1e-6)
