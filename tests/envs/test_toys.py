"""What the two toy tasks promise: their rules, returns and best actions."""

import numpy as np
import pytest

from dreamerv2.common.suites.toys import ToyCatch, ToyReach
from dreamerv2.common.suites.wrappers import OneHotAction


def play(env, policy, episodes):
    """Returns of some episodes."""
    returns = []
    for _ in range(episodes):
        obs, total = env.reset(), 0.0
        while not obs["is_last"]:
            obs = env.step({"action": policy()})
            total += obs["reward"]
        returns.append(total)
    return np.array(returns)


def test_catch_returns_are_as_documented():
    env = OneHotAction(ToyCatch(seed=0))
    env.act_space["action"].seed(0)
    returns = play(env, env.act_space["action"].sample, 1000)
    assert abs(returns.mean() - ToyCatch.RANDOM_RETURN) < 0.15  # 4 standard errors.
    assert set(returns) <= {-3, -1, 1, 3}
    np.testing.assert_array_equal(play(env, env.oracle, 100), ToyCatch.BEST_RETURN)


def test_catch_draws_ball_and_paddle_and_rewards_at_the_bottom():
    env = ToyCatch(seed=1, balls=1)
    obs = env.reset()
    assert obs["image"].shape == (64, 64, 1) and obs["image"].dtype == np.uint8
    assert obs["is_first"] and not obs["is_last"]
    paddle = int(obs["image"][-1, :, 0].argmax()) // 8
    for row in range(8):
        cells = obs["image"][::8, ::8, 0] // 255
        assert (obs["image"] == np.kron(cells, np.ones((8, 8)))[..., None] * 255).all()
        assert cells[row].sum() == (1 if row < 7 else 2)
        assert cells[7, paddle] == 1
        ball = int(np.flatnonzero(cells[row])[0])
        assert obs["reward"] == (-1 if row == 7 else 0)
        assert obs["is_last"] == obs["is_terminal"] == (row == 7)
        if row < 6:
            # Flee from the ball, so that it surely is missed.
            away = 0 if (paddle <= ball and paddle > 0) or paddle == 7 else 2
            paddle = min(max(paddle + away - 1, 0), 7)
            obs = env.step({"action": away})
        elif row == 6:
            away = 1 if paddle != ball else 2 if paddle < 7 else 0
            paddle += away - 1
            obs = env.step({"action": away})


def test_catch_episodes_have_the_documented_length():
    env = ToyCatch(seed=2, balls=3)
    env.reset()
    rewards = []
    while not (obs := env.step({"action": env.oracle()}))["is_last"]:
        rewards.append(obs["reward"])
    rewards.append(obs["reward"])
    assert len(rewards) == 23
    assert np.flatnonzero(rewards).tolist() == [6, 14, 22]


def test_reach_returns_are_as_documented():
    env = ToyReach(seed=0)
    env.act_space["action"].seed(0)
    random = play(env, env.act_space["action"].sample, 400)
    assert abs(random.mean() - ToyReach.RANDOM_RETURN) < 2.4  # 4 standard errors.
    best = play(env, env.oracle, 400)
    assert abs(best.mean() - ToyReach.BEST_RETURN) < 0.4


def test_reach_moves_by_its_speed_and_never_is_terminal():
    env = ToyReach(seed=3)
    obs = env.reset()
    assert obs["is_first"]
    for t in range(1, 26):
        before = obs["position"]
        obs = env.step({"action": np.array([1.0, -9.0])})
        expected = np.clip(before + [0.2, -0.2], -1, 1)
        np.testing.assert_allclose(obs["position"], expected, atol=1e-6)
        reward = 1 - np.linalg.norm(obs["position"] - obs["target"])
        assert abs(obs["reward"] - reward) < 1e-6
        assert obs["is_last"] == (t == 25)
        assert not obs["is_terminal"] and not obs["is_first"]


def test_reach_renders_only_when_asked(monkeypatch):
    def refuse(self):
        raise AssertionError("rendered")

    with monkeypatch.context() as patch:
        patch.setattr(ToyReach, "render", refuse)
        env = ToyReach(seed=0)
        assert "image" not in env.obs_space
        assert "image" not in env.reset()
        assert "image" not in env.step({"action": np.zeros(2)})
    env = ToyReach(seed=0, image=True)
    obs = env.reset()
    assert obs["image"].shape == env.obs_space["image"].shape == (64, 64, 3)
    # The red point is where the position says, y upwards.
    rows, columns = np.nonzero(obs["image"][..., 0])
    found = [columns.mean() / 63 * 2.2 - 1.1, 1.1 - rows.mean() / 63 * 2.2]
    np.testing.assert_allclose(found, obs["position"], atol=0.05)


@pytest.mark.parametrize("make", [ToyCatch, ToyReach])
def test_equal_seeds_give_equal_episodes_and_others_differ(make):
    def record(seed):
        env = make(seed)
        obs = [env.reset() for _ in range(5)]
        keys = sorted(set(obs[0]) - {"reward"})
        return np.concatenate([np.ravel(o[k]) for o in obs for k in keys])

    np.testing.assert_array_equal(record(1), record(1))
    assert (record(1) != record(2)).any()


@pytest.mark.parametrize("make", [ToyCatch, lambda: ToyReach(image=True)])
def test_observations_lie_in_their_spaces(make):
    env = make()
    obs = env.reset()
    while True:
        assert set(obs) == set(env.obs_space)
        for key, space in env.obs_space.items():
            value = np.asarray(obs[key])
            assert value.dtype == space.dtype and space.contains(value), key
        if obs["is_last"]:
            break
        obs = env.step({"action": env.act_space["action"].sample()})
