"""The agent: acts, learns, reports, and can be saved."""

import copy
import math

import numpy as np
import pytest
import torch
from agent_tools import (
    BATCH,
    GAUSSIAN,
    LENGTH,
    Replayed,
    make_agent,
    make_batch,
    make_obs,
    snapshot,
    spaces,
)

from dreamerv2.agent import Agent
from dreamerv2.common.counter import Counter
from dreamerv2.common.errors import UsageError

pytestmark = pytest.mark.usefixtures("one_thread")

CALM = {"eval_state_mean": True}
"""With it, evaluating discrete actions draws no random number."""


def assert_same(left, right):
    assert left.keys() == right.keys()
    for key, value in left.items():
        assert torch.equal(value, right[key]), key


def rows(state, index):
    latent, action = state
    return {"action": action[index], **{k: v[index] for k, v in latent.items()}}


def obs_rows(obs, index):
    return {key: value[index] for key, value in obs.items()}


@pytest.mark.parametrize("discrete", [True, False], ids=["onehot", "box"])
@pytest.mark.parametrize("mode", ["train", "explore", "eval"])
def test_actions_are_float32_arrays_of_the_action_space(mode, discrete):
    agent = make_agent({"expl_noise": 0.1, "eval_noise": 0.1}, discrete)
    state = None
    for step in range(3):
        obs = make_obs(step, count=4, first=step == 0)
        out, state = agent.policy(obs, state, mode)
        action = out["action"]
        assert list(out) == ["action"] and isinstance(action, np.ndarray)
        assert action.shape == (4, 3) and action.dtype == np.float32
        if discrete:
            np.testing.assert_array_equal(np.sort(action, -1), [[0, 0, 1]] * 4)
        else:
            assert (np.abs(action) <= 1).all() and len(np.unique(action)) > 4


@pytest.mark.parametrize("latents", [{}, GAUSSIAN], ids=["categorical", "gaussian"])
def test_the_policy_forgets_its_state_where_an_episode_begins(latents):
    agent = make_agent({**CALM, **latents})
    _, state = agent.policy(make_obs(0, count=3), None, "eval")
    _, state = agent.policy(make_obs(1, count=3, first=False), state, "eval")
    obs = make_obs(2, count=3, first=False)
    obs["is_first"][1] = True
    _, mixed = agent.policy(obs, state, "eval")
    _, fresh = agent.policy(make_obs(2, count=3, first=True), None, "eval")
    obs["is_first"][1] = False
    _, going_on = agent.policy(obs, state, "eval")
    assert_same(rows(mixed, 1), rows(fresh, 1))
    for index in (0, 2):
        assert_same(rows(mixed, index), rows(going_on, index))
    assert (mixed[0]["deter"][1] != going_on[0]["deter"][1]).any()


def test_environments_are_independent_rows_of_the_policys_batch():
    agent = make_agent(CALM)
    obs = [make_obs(0, count=3), make_obs(1, count=3, first=False)]
    state, alone = None, None
    for each in obs:
        out, state = agent.policy(each, state, "eval")
        single, alone = agent.policy(obs_rows(each, slice(1, 2)), alone, "eval")
        np.testing.assert_array_equal(out["action"][1:2], single["action"])
        torch.testing.assert_close(state[0]["deter"][1:2], alone[0]["deter"])


def test_the_policys_state_is_the_worlds_filtered_state():
    agent = make_agent(CALM)
    first, second = make_obs(0), make_obs(1, first=False)
    out, state = agent.policy(first, None, "eval")
    np.testing.assert_array_equal(state[1].numpy(), out["action"])
    _, state = agent.policy(second, state, "eval")
    wm, latent = agent.wm, None
    with torch.no_grad():
        action = torch.zeros(2, 3)
        latent = wm.rssm.initial(2)
        for obs in (first, second):
            embed = wm.encoder(wm.preprocess(agent.to_device(obs)))
            is_first = torch.as_tensor(obs["is_first"])
            latent = wm.rssm.obs_step(latent, action, embed, is_first)
            action = torch.as_tensor(out["action"])
    assert_same(state[0], latent)


@pytest.mark.parametrize("discrete", [True, False], ids=["onehot", "box"])
def test_evaluating_on_the_mean_state_is_deterministic(discrete):
    agent = make_agent(CALM, discrete)
    agent.eval_noise = Replayed()
    obs = make_obs(0, count=5)
    first, state = agent.policy(obs, None, "eval")
    again, _ = agent.policy(obs, None, "eval")
    np.testing.assert_array_equal(first["action"], again["action"])
    assert agent.eval_noise.asked == []
    with torch.no_grad():
        mode = agent.task_behavior.actor(agent.wm.rssm.get_feat(state[0])).mode()
    np.testing.assert_array_equal(first["action"], mode.numpy())


def test_random_numbers_are_drawn_where_the_config_says_so():
    def asked(mode, **changes):
        agent = make_agent(changes)
        agent.noise = agent.eval_noise = Replayed()
        agent.policy(make_obs(count=2), None, mode)
        return agent.noise.asked

    post = ("policy/post", "gumbel", (2, 4, 3))
    action = ("policy/action", "gumbel", (2, 3))
    more = ("policy/action_noise", "gumbel", (2, 3))
    assert asked("eval") == [post]
    assert asked("eval", eval_noise=0.1, expl_noise=0.2) == [post, more]
    for mode in ("train", "explore"):
        assert asked(mode) == [post, action]
        assert asked(mode, expl_noise=0.1, eval_state_mean=True) == [post, action, more]


def test_exploring_and_training_sample_their_own_actors():
    agent = make_agent({"expl_behavior": "Plan2Explore"})
    actors = [agent.task_behavior.actor, agent.expl_behavior.ac.actor]
    for actor, favourite in zip(actors, (0, 2), strict=True):
        actor.out.out.bias.data[favourite] = 50.0
    for mode, favourite in (("train", 0), ("explore", 2), ("eval", 0)):
        out, _ = agent.policy(make_obs(count=6), None, mode)
        assert (out["action"].argmax(-1) == favourite).all()
    greedy = make_agent()
    greedy.task_behavior.actor.out.out.bias.data[1] = 50.0
    assert (greedy.policy(make_obs(), None, "explore")[0]["action"][:, 1] == 1).all()


def test_an_unknown_mode_is_an_error_that_lists_the_modes():
    with pytest.raises(ValueError, match="train, explore or eval, not 'evaluate'"):
        make_agent().policy(make_obs(), None, "evaluate")


def test_keys_to_be_logged_reach_no_network():
    obs_space, act_space = spaces()
    with_log = make_agent()
    del obs_space["log_stat"]
    without = Agent(with_log.config, obs_space, act_space, Counter(0))
    assert with_log.wm.encoder.mlp_keys == ["vector", "count"]
    assert with_log.wm.decoder.mlp_keys == ["vector", "count"]
    assert_same(snapshot(with_log), snapshot(without))
    batch, obs = make_batch(), make_obs()
    # Whatever it is: text, here.
    obs["log_text"] = np.array(["left", "right"])
    batch["log_stat"] *= np.nan
    with_log.train(batch)
    del batch["log_stat"]
    without.train(batch)
    assert_same(snapshot(with_log), snapshot(without))
    action = with_log.policy(obs)[0]["action"]
    del obs["log_stat"], obs["log_text"]
    np.testing.assert_array_equal(action, without.policy(obs)[0]["action"])


@pytest.mark.parametrize("precision", ["32", "bfloat16"])
def test_what_networks_see_is_computed_in_float32(precision):
    agent = make_agent({"precision": precision, "discount": 0.999})
    obs = {
        "image": torch.tensor([0, 51, 255], dtype=torch.uint8),
        "count": torch.tensor([70_001, -3], dtype=torch.int32),  # No float16.
        "reward": torch.tensor([-2.0, 0.0, 0.5]),
        "is_terminal": torch.tensor([False, True]),
    }
    with agent.precision.context():
        out = agent.wm.preprocess(obs)
    assert {out[k].dtype for k in ("image", "count", "reward")} == {torch.float32}
    assert out["image"].tolist() == pytest.approx([-0.5, -0.3, 0.5])
    assert out["count"].tolist() == [70_001.0, -3.0]
    assert torch.equal(out["discount"], torch.tensor([0.999, 0.0]))


def test_rewards_are_clipped_as_the_config_says():
    expected = {
        "identity": [-2.0, 0.0, 0.5],
        "sign": [-1.0, 0.0, 1.0],
        "tanh": [math.tanh(-2), 0.0, math.tanh(0.5)],
    }
    obs = {"reward": torch.tensor([-2.0, 0.0, 0.5]), "is_terminal": torch.zeros(3)}
    for name, values in expected.items():
        out = make_agent({"clip_rewards": name}).wm.preprocess(obs)
        assert out["reward"].tolist() == pytest.approx(values)


def test_a_head_that_does_not_exist_is_an_error_that_lists_the_heads():
    with pytest.raises(UsageError, match="'discount', but the heads are decoder, rew"):
        make_agent({"pred_discount": False})


@pytest.mark.parametrize(
    "patterns", [("$^", ".*"), (".*", "$^"), ("image", "vec")], ids=str
)
def test_images_alone_vectors_alone_or_some_of_each_can_be_used(patterns):
    cnn, mlp = patterns
    agent = make_agent({r".*\.cnn_keys": cnn, r".*\.mlp_keys": mlp})
    metrics = agent.train(make_batch())
    assert ("image_loss" in metrics) == (cnn != "$^")
    assert ("vector_loss" in metrics) == (mlp != "$^")
    assert ("count_loss" in metrics) == (mlp == ".*")
    assert list(agent.report(make_batch())) == ["openl_image"] * (cnn != "$^")
    assert agent.policy(make_obs())[0]["action"].shape == (2, 3)


def test_training_returns_the_last_posterior_and_metrics_that_hold_no_graph():
    agent = make_agent()
    metrics = agent.train(make_batch())
    state = agent.carried
    assert {k: tuple(v.shape) for k, v in state.items()} == {
        "deter": (BATCH, 9),
        "stoch": (BATCH, 4, 3),
        "logit": (BATCH, 4, 3),
    }
    for key, value in {**state, **metrics}.items():
        assert isinstance(value, torch.Tensor) and not value.requires_grad, key
    named = (
        "kl_loss image_loss reward_loss discount_loss model_kl prior_ent post_ent "
        "model_loss model_grad_norm actor_loss actor_ent actor_grad_norm critic "
        "critic_loss critic_grad_norm critic_slow critic_target reward_mean"
    )
    assert set(named.split()) <= set(metrics)


def test_the_carried_state_is_the_last_posterior():
    agent = make_agent()
    _, last, outs, _ = agent.wm.loss(agent.to_device(make_batch()), None, Replayed())
    for key, value in outs["post"].items():
        assert torch.equal(last[key], value[:, -1]), key


def test_the_carried_state_is_where_the_next_batch_begins():
    agent = make_agent()
    batch = agent.to_device(make_batch())
    batch["is_first"][:] = False
    batch["action"][:, 0] = 0
    state = {k: v + 0.5 for k, v in agent.wm.rssm.initial(BATCH).items()}
    agent.noise = Replayed(3)
    from_zero = agent.wm.loss(batch, None, agent.noise)[2]["post"]["deter"]
    agent.noise = Replayed(3)
    carried = agent.wm.loss(batch, state, agent.noise)[2]["post"]["deter"]
    assert (from_zero != carried).all()
    batch["is_first"][:, 0] = True
    agent.noise = Replayed(3)
    begun = agent.wm.loss(batch, state, agent.noise)[2]["post"]["deter"]
    torch.testing.assert_close(begun, from_zero)


def test_the_report_stacks_truth_model_and_error():
    agent = make_agent()
    batch = make_batch(batch=8, length=9)
    (video,) = agent.report(batch).values()
    assert video.shape == (9, 3 * 8, 6 * 8, 1)  # Six of the eight sequences.
    truth, model, error = np.split(video, 3, 1)
    expected = np.concatenate(list(batch["image"][:6].astype(np.float32) / 255), 2)
    np.testing.assert_allclose(truth, expected, atol=1e-6)
    np.testing.assert_allclose(error, (model - truth + 1) / 2, atol=1e-6)


def test_the_report_sees_five_steps_and_dreams_the_others_from_the_actions():
    agent = make_agent()

    def model_row(batch):
        agent.eval_noise = Replayed(6)
        return agent.report(batch)["openl_image"][:, 8:16]

    batch = make_batch(length=9)
    plain = model_row(batch)
    unseen = copy.deepcopy(batch)
    unseen["image"][:, 5:] = 0
    unseen["vector"][:, 5:] = 0
    np.testing.assert_array_equal(model_row(unseen), plain)
    seen = copy.deepcopy(batch)
    seen["image"][:, 4] = 0
    seen["vector"][:, 4] = 100
    changed = (model_row(seen) != plain).any((1, 2, 3))
    assert changed.tolist() == [False] * 4 + [True] * 5
    acted = copy.deepcopy(batch)
    acted["action"][:, 6] = acted["action"][:, 6, ::-1]
    changed = (model_row(acted) != plain).any((1, 2, 3))
    assert changed.tolist() == [False] * 6 + [True] * 3


def test_the_report_of_short_sequences_still_dreams_a_step():
    assert make_agent().report(make_batch(length=3))["openl_image"].shape[0] == 3


def test_the_summary_names_device_sizes_and_keys():
    agent = make_agent()
    text = agent.summary()
    count = sum(p.numel() for p in agent.wm.encoder.parameters())
    assert "Device: cpu, computing in float32." in text
    assert f"encoder {count}" in text
    assert "sees image, vector, count; the decoder predicts image" in text


def test_the_batch_is_moved_as_it_is():
    agent = make_agent()
    batch = make_batch()
    tensors = agent.to_device(agent.to_tensors(batch))
    for key, value in batch.items():
        np.testing.assert_array_equal(tensors[key].numpy(), value)
        assert tensors[key].numpy().dtype == value.dtype
    assert tensors["image"].shape == (BATCH, LENGTH, 8, 8, 1)
