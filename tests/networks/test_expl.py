"""Exploration: random actions, Plan2Explore and ModelLoss."""

import math

import gymnasium
import numpy as np
import pytest
import torch
from agent_tools import (
    BATCH,
    EXPLORED,
    GAUSSIAN,
    LENGTH,
    TRAINED,
    Replayed,
    make_agent,
    make_batch,
    make_obs,
    snapshot,
)

from dreamerv2.common.errors import UsageError
from dreamerv2.common.networks.noise import Noise
from dreamerv2.expl import Greedy, ModelLoss, Plan2Explore, Random

pytestmark = pytest.mark.usefixtures("one_thread")

VECTORS = {r".*\.cnn_keys": "$^"}


def explorer(name="Plan2Explore", changes=None, **kwargs):
    return make_agent({"expl_behavior": name, **(changes or {})}, **kwargs)


def observed(agent, data=None):
    """Posterior, outputs and batch, as the agent hands them to its exploration."""
    data = agent.to_device(data or make_batch(discrete=agent.discrete))
    outs = agent.wm.loss(data, None, agent.noise)[2]
    return outs["post"], outs, data


def fill(module, value):
    with torch.no_grad():
        for param in module.parameters():
            param.fill_(value)


def predict(head, value):
    """Makes a head predict the value, whatever it sees."""
    fill(head, 0.0)
    with torch.no_grad():
        head.out.out.bias.fill_(value)


def dream(agent, steps=3, count=4):
    generator = torch.Generator().manual_seed(0)
    shape = (steps, count)
    return {
        "feat": torch.randn(*shape, agent.wm.feat_size, generator=generator),
        "action": torch.randn(*shape, 3, generator=generator),
    }


def test_the_config_names_the_behaviour():
    kinds = {
        "greedy": Greedy,
        "Random": Random,
        "Plan2Explore": Plan2Explore,
        "ModelLoss": ModelLoss,
    }
    for name, kind in kinds.items():
        assert type(explorer(name).expl_behavior) is kind


@pytest.mark.parametrize("latents", [{}, GAUSSIAN], ids=["categorical", "gaussian"])
@pytest.mark.parametrize("discrete", [True, False], ids=["onehot", "box"])
@pytest.mark.parametrize("name", ["greedy", "Random", "Plan2Explore", "ModelLoss"])
def test_every_behaviour_trains_and_acts(name, discrete, latents):
    agent = explorer(name, latents, discrete=discrete)
    for seed in range(2):
        metrics = agent.train(make_batch(seed, discrete=discrete))
        assert all(torch.isfinite(value) for value in metrics.values())
    own = {key for key in metrics if key.startswith("expl_")}
    assert own == (set() if name in ("greedy", "Random") else set(EXPLORED))
    assert set(TRAINED) <= set(metrics) - own
    assert all(torch.isfinite(value).all() for value in snapshot(agent).values())
    action = agent.policy(make_obs(), None, "explore")[0]["action"]
    assert np.isfinite(action).all()


def test_greedy_is_the_tasks_actor():
    agent = explorer("greedy")
    feat = dream(agent, count=50)["feat"][0]
    dist = agent.task_behavior.actor(feat)
    draws = Noise(3)("action", "gumbel", (50, 3))
    action = agent.expl_behavior.act(feat, Replayed(action=draws))
    assert torch.equal(action, dist.sample(draws))
    assert agent.expl_behavior.state_dict() == {}


def test_random_one_hot_actions_are_uniform_and_ignore_the_features():
    agent = explorer("Random")
    count = 6000
    feats = torch.zeros(count, 4), torch.ones(count, 4)
    actions = [agent.expl_behavior.act(feat, Noise(0)) for feat in feats]
    assert torch.equal(*actions)
    assert actions[0].shape == (count, 3)
    assert torch.equal(actions[0].sort(-1).values, torch.eye(3)[2:].expand(count, 3))
    deviation = math.sqrt(2 / 9 / count)
    assert (actions[0].mean(0) - 1 / 3).abs().max() < 4 * deviation


def random_box(low, high):
    space = gymnasium.spaces.Box(np.float32(low), np.float32(high))
    return Random(space).act(torch.zeros(6000, 4), Noise(0))


def test_random_box_actions_are_uniform_within_the_bounds():
    action = random_box([-1.0, 2.0], [1.0, 6.0])
    assert action.shape == (6000, 2)
    assert action[:, 0].min() >= -1 and action[:, 0].max() <= 1
    assert action[:, 1].min() >= 2 and action[:, 1].max() <= 6
    np.testing.assert_allclose(action.mean(0), [0, 4], atol=0.08)
    np.testing.assert_allclose(action.std(0), [2 / 12**0.5, 4 / 12**0.5], rtol=0.04)


def test_random_actions_without_bounds_are_finite():
    assert torch.isfinite(random_box([-np.inf, 0.0], [np.inf, np.inf])).all()


@pytest.mark.parametrize("target", ["stoch", "deter", "feat", "embed"])
@pytest.mark.parametrize("latents", [{}, GAUSSIAN], ids=["categorical", "gaussian"])
@pytest.mark.parametrize("encoder", [{}, VECTORS], ids=["pixels", "vectors"])
def test_the_predictors_are_as_wide_as_what_they_predict(encoder, latents, target):
    agent = explorer(changes={**encoder, **latents, "disag_target": target})
    post, outs, data = observed(agent)
    stoch = 4 if latents else 12
    # The embedding: 8 units of the vectors, and 4 channels of the 1x1 convolution.
    embed = 8 if encoder else 8 + 4
    sizes = {"stoch": stoch, "deter": 9, "feat": stoch + 9, "embed": embed}
    feat = torch.cat([post["stoch"].flatten(2), post["deter"]], -1)
    values = {
        "stoch": post["stoch"].flatten(2),
        "deter": post["deter"],
        "feat": feat,
        "embed": outs["embed"],
    }
    expl = agent.expl_behavior
    assert len(expl.heads) == 3
    for head in expl.heads:
        assert head.out.out.out_features == sizes[target]
        predict(head, 0.5)
    # The mean square error of every target but the first of each episode.
    error = 0.5 * (values[target][:, 1:] - 0.5) ** 2 + 0.5 * math.log(2 * math.pi)
    keep = ~data["is_first"][:, 1:]
    expected = 3 * error.sum(-1)[keep].mean()
    torch.testing.assert_close(expl.predictor_loss(post, outs, data), expected)


@pytest.mark.parametrize("condition", [True, False])
def test_the_predictors_see_features_and_if_asked_the_action_that_led_there(condition):
    changes = {"disag_action_cond": condition, "disag_mask_seams": False}
    agent = explorer(changes=changes)
    post, outs, data = observed(agent)
    expl = agent.expl_behavior
    inputs = outs["feat"][:, :-1]
    if condition:
        inputs = torch.cat([inputs, data["action"][:, :-1]], -1)
    assert expl.heads[0].dense0.in_features == inputs.shape[-1]
    target = post["stoch"].flatten(2)[:, 1:]
    expected = -sum(head(inputs).log_prob(target).mean() for head in expl.heads)
    torch.testing.assert_close(expl.predictor_loss(post, outs, data), expected)
    seq = dream(agent)
    inputs = seq["feat"]
    if condition:
        inputs = torch.cat([inputs, seq["action"]], -1)
    preds = torch.stack([head(inputs).mode() for head in expl.heads])
    disag = preds.std(0, correction=0).mean(-1)
    torch.testing.assert_close(expl.reward(seq)[0], disag)


def test_the_predictors_can_be_told_the_action_that_follows_the_state():
    agent = explorer(changes={"disag_action_next": True, "disag_mask_seams": False})
    post, outs, data = observed(agent)
    expl = agent.expl_behavior
    # The action of index t led to the state of index t.
    inputs = torch.cat([outs["feat"][:, :-1], data["action"][:, 1:]], -1)
    target = post["stoch"].flatten(2)[:, 1:]
    expected = -sum(head(inputs).log_prob(target).mean() for head in expl.heads)
    torch.testing.assert_close(expl.predictor_loss(post, outs, data), expected)
    seq = dream(agent)
    inputs = torch.cat([seq["feat"][:-1], seq["action"][1:]], -1)
    preds = torch.stack([head(inputs).mode() for head in expl.heads])
    disag = preds.std(0, correction=0).mean(-1)
    reward, _ = expl.reward(seq)
    torch.testing.assert_close(reward[1:], disag)
    assert torch.equal(reward[0], reward[1])
    with pytest.raises(UsageError, match="it needs a disag_offset of 1 or more"):
        explorer(changes={"disag_action_next": True, "disag_offset": 0})


#            t     0  1  2  3  4  5  6  7
IS_FIRST = [
    [True, False, False, False, False, False, False, False],
    [True, False, False, True, False, False, False, False],
    [False, True, False, False, False, False, True, True],
]
SAME_EPISODE = {
    1: [
        [True, True, True, True, True, True, True],
        [True, True, False, True, True, True, True],
        [False, True, True, True, True, False, False],
    ],
    3: [
        [True, True, True, True, True],
        [False, False, False, True, True],
        [False, True, True, False, False],
    ],
}


@pytest.mark.parametrize("offset", [1, 3])
def test_predictions_across_two_episodes_are_left_out(offset):
    is_first, expected = torch.tensor(IS_FIRST), torch.tensor(SAME_EPISODE[offset])
    assert torch.equal(Plan2Explore._same_episode(is_first, offset), expected)
    changes = {"disag_offset": offset, "dataset.length": 8}
    agent = explorer(changes=changes)
    batch = make_batch(length=8)
    batch["is_first"] = np.array(IS_FIRST)
    post, outs, data = observed(agent, batch)
    expl = agent.expl_behavior
    inputs = torch.cat([outs["feat"], data["action"]], -1)[:, :-offset]
    target = post["stoch"].flatten(2)[:, offset:]
    each = -sum(head(inputs).log_prob(target) for head in expl.heads)
    loss = expl.predictor_loss(post, outs, data)
    torch.testing.assert_close(loss, each[expected].mean())
    # What lies beyond a seam changes nothing.
    spoilt = {**post, "stoch": post["stoch"].clone()}
    spoilt["stoch"][:, offset:][~expected] = 99.0
    torch.testing.assert_close(expl.predictor_loss(spoilt, outs, data), loss)


def test_the_seams_can_be_kept_as_the_reference_does():
    agent = explorer(changes={"disag_mask_seams": False})
    post, outs, data = observed(agent)
    loss = agent.expl_behavior.predictor_loss(post, outs, data)
    data = {**data, "is_first": torch.zeros_like(data["is_first"])}
    assert loss == agent.expl_behavior.predictor_loss(post, outs, data)


def test_a_batch_of_seams_alone_is_no_division_by_zero():
    agent = explorer()
    post, outs, data = observed(agent)
    data = {**data, "is_first": torch.ones_like(data["is_first"])}
    assert agent.expl_behavior.predictor_loss(post, outs, data) == 0


def test_offset_zero_predicts_the_present():
    agent = explorer(changes={"disag_offset": 0})
    post, outs, data = observed(agent)
    expl = agent.expl_behavior
    inputs = torch.cat([outs["feat"], data["action"]], -1)
    target = post["stoch"].flatten(2)
    expected = -sum(head(inputs).log_prob(target).mean() for head in expl.heads)
    torch.testing.assert_close(expl.predictor_loss(post, outs, data), expected)


def test_an_offset_that_leaves_no_pairs_is_an_error():
    with pytest.raises(UsageError, match=f"disag_offset {LENGTH} must be less than"):
        explorer(changes={"disag_offset": LENGTH})


def test_the_reward_is_the_standard_deviation_over_the_heads():
    agent = explorer(changes={"expl_intr_scale": 2.0})
    for head, value in zip(agent.expl_behavior.heads, (1.0, 2.0, 6.0), strict=True):
        predict(head, value)
    # Mean 3, deviations -2, -1 and 3.
    expected = torch.full((3, 4), 2.0 * math.sqrt((4 + 1 + 9) / 3))
    torch.testing.assert_close(agent.expl_behavior.reward(dream(agent))[0], expected)


def test_the_log_of_no_disagreement_is_finite_and_so_is_its_gradient():
    for log in (True, False):
        agent = explorer(changes={"disag_log": log}, discrete=False)
        for head in agent.expl_behavior.heads:
            predict(head, 0.7)
        seq = dream(agent)
        seq["feat"].requires_grad_()
        reward, _ = agent.expl_behavior.reward(seq)
        expected = math.log(1e-8) if log else 0.0
        torch.testing.assert_close(reward, torch.full((3, 4), expected))
        (grad,) = torch.autograd.grad(reward.sum(), seq["feat"])
        assert torch.isfinite(grad).all()
        metrics = agent.train(make_batch(discrete=False))
        assert all(torch.isfinite(value) for value in metrics.values())


def test_the_logarithm_is_of_the_disagreement():
    agent = explorer(changes={"disag_log": True})
    for head, value in zip(agent.expl_behavior.heads, (1.0, 2.0, 6.0), strict=True):
        predict(head, value)
    expected = torch.full((3, 4), math.log(math.sqrt(14 / 3)))
    torch.testing.assert_close(agent.expl_behavior.reward(dream(agent))[0], expected)


def test_the_tasks_reward_is_added_by_its_scale_through_a_norm_of_its_own():
    changes = {
        **{"expl_intr_scale": 2.0, "expl_extr_scale": 3.0},
        "expl_reward_norm": {"momentum": 0.5, "scale": 1.0, "eps": 0.0},
    }
    agent = explorer(changes=changes)
    expl = agent.expl_behavior
    for head, value in zip(expl.heads, (0.0, 0.0, 3.0), strict=True):
        predict(head, value)
    predict(agent.wm.heads["reward"], -4.0)
    disag = math.sqrt(2)
    # Each is divided by half of one and half of its own magnitude.
    expected = 2 * disag / (0.5 + disag / 2) + 3 * -4 / (0.5 + 4 / 2)
    reward, metrics = expl.reward(dream(agent))
    torch.testing.assert_close(reward, torch.full((3, 4), expected))
    assert expl.intr_rewnorm.mag.item() == pytest.approx(0.5 + disag / 2)
    assert expl.extr_rewnorm.mag.item() == pytest.approx(2.5)
    assert {key: value.item() for key, value in metrics.items()} == pytest.approx(
        {
            **{"intr_reward_mean": disag, "extr_reward_mean": -4},
            **{"intr_reward_std": 0, "extr_reward_std": 0},
            "intr_reward_normed_mean": disag / (0.5 + disag / 2),
            "extr_reward_normed_mean": -4 / 2.5,
            **{"intr_reward_normed_std": 0, "extr_reward_normed_std": 0},
        },
        abs=1e-6,
    )


@pytest.mark.parametrize("key", ["kl", "image", "reward", "discount", "vector"])
def test_the_model_loss_of_every_state_is_the_target(key):
    agent = explorer("ModelLoss", {"expl_model_loss": key})
    post, outs, data = observed(agent)
    expl = agent.expl_behavior
    target = outs["kl"] if key == "kl" else -outs["log_prob"][key]
    assert target.shape == (BATCH, LENGTH)
    assert not expl._target(outs).requires_grad
    before = snapshot(agent)
    error = 0.5 * (expl.head(outs["feat"]).mode() - target) ** 2
    expected = error.mean().item() + 0.5 * math.log(2 * math.pi)
    metrics = expl.train(post, outs, data, agent.noise, torch.zeros(()))
    assert metrics["expl_loss"].item() == pytest.approx(expected, rel=1e-4)
    assert not torch.equal(
        before["expl_head0/dense0/kernel"], expl.head.dense0.weight.T
    )


def test_the_predicted_model_loss_is_the_reward():
    agent = explorer("ModelLoss", {"expl_intr_scale": 0.5})
    predict(agent.expl_behavior.head, 3.0)
    reward, metrics = agent.expl_behavior.reward(dream(agent))
    torch.testing.assert_close(reward, torch.full((3, 4), 1.5))
    assert metrics["intr_reward_mean"] == metrics["intr_reward_normed_mean"] == 3


def test_an_unknown_model_loss_is_an_error_that_lists_those_there_are():
    with pytest.raises(UsageError, match="'images': .*kl, image, vector, count, rew"):
        explorer("ModelLoss", {"expl_model_loss": "images"})


def test_a_behaviour_of_its_own_leaves_the_tasks_networks_as_they_are_without_it():
    plain = snapshot(explorer("greedy"))
    assert not any(key.startswith("expl_") for key in plain)
    for name in ("Plan2Explore", "ModelLoss"):
        params = snapshot(explorer(name))
        for key, value in plain.items():
            assert torch.equal(params.pop(key), value), key
        networks = {"expl_actor", "expl_critic", "expl_target_critic", "expl_head0"}
        assert networks <= {key.split("/")[0] for key in params}
