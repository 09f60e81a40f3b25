"""Dreams, and the actor and critic that learn in them."""

import math

import pytest
import torch
from agent_tools import GAUSSIAN, Replayed, make_agent, make_batch

from dreamerv2.agent import resolve_auto
from dreamerv2.common.errors import UsageError
from dreamerv2.common.networks.noise import Noise

pytestmark = pytest.mark.usefixtures("one_thread")

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
STEP = torch.zeros(())
H = 4


def fill(network, value):
    with torch.no_grad():
        for param in network.parameters():
            param.fill_(value)


def values(network):
    return {value for p in network.parameters() for value in p.unique().tolist()}


def posterior(agent, data=None):
    data = agent.to_device(data or make_batch(discrete=agent.discrete))
    return agent.wm.loss(data, None, agent.noise)[2]["post"], data["is_terminal"]


def dream(agent, noise=None, is_terminal=None):
    post, terminal = posterior(agent)
    terminal = terminal if is_terminal is None else is_terminal
    actor = agent.task_behavior.actor
    with torch.no_grad():
        return agent.wm.imagine(actor, post, terminal, H, noise or Noise(1)), post


@pytest.mark.parametrize("latents", [{}, GAUSSIAN], ids=["categorical", "gaussian"])
@pytest.mark.parametrize("discrete", [True, False], ids=["onehot", "box"])
def test_a_dream_begins_at_every_state_and_acts_on_what_it_sees(discrete, latents):
    agent = make_agent(latents, discrete)
    noise = Replayed(1)
    seq, post = dream(agent, noise)
    state = {key: value.flatten(0, 1) for key, value in post.items()}
    count = len(state["deter"])
    shapes = {x.shape[:2] for x in seq.values() if isinstance(x, torch.Tensor)}
    assert count == 18 and shapes == {(H + 1, count)}
    latent = agent.wm.rssm.latent_shape
    kinds = ["normal" if latents else "gumbel", "gumbel" if discrete else "uniform"]
    assert noise.asked == [
        ("imagine_state", kinds[0], (H, count, *latent)),
        ("imagine_action", kinds[1], (H, count, 3)),
    ]
    # Again, step by step. The first action leads nowhere and is zero.
    again = Noise(1)
    state_noise, action_noise = (again(*args) for args in noise.asked)
    assert not seq["action"][0].any()
    feat = agent.wm.rssm.get_feat(state)
    with torch.no_grad():
        for h in range(H):
            torch.testing.assert_close(seq["feat"][h], feat)
            action = agent.task_behavior.actor(feat).sample(action_noise[h])
            torch.testing.assert_close(seq["action"][h + 1], action)
            state = agent.wm.rssm.img_step(state, action, state_noise[h])
            feat = agent.wm.rssm.get_feat(state)
        torch.testing.assert_close(seq["feat"][H], feat)


def test_the_discount_of_the_first_state_is_the_datas_and_the_others_the_heads():
    agent = make_agent({"discount": 0.9})
    terminal = torch.zeros(3, 6, dtype=torch.bool)
    terminal[0, 2] = terminal[2, 5] = True
    seq, _ = dream(agent, is_terminal=terminal)
    first = torch.where(terminal.flatten(), 0.0, 0.9)
    assert torch.equal(seq["discount"][0], first)
    with torch.no_grad():
        head = torch.sigmoid(agent.wm.heads["discount"](seq["feat"][1:]).logits)
    torch.testing.assert_close(seq["discount"][1:], head)


def test_what_is_dreamt_after_a_terminal_weighs_nothing():
    agent = make_agent()
    terminal = torch.zeros(3, 6, dtype=torch.bool)
    terminal[0, 2] = True
    seq, _ = dream(agent, is_terminal=terminal)
    weight, discount = seq["weight"], seq["discount"]
    assert torch.equal(weight[0], torch.ones(18))
    assert not weight[1:, 2].any()
    others = [i for i in range(18) if i != 2]
    assert (weight[1:, others] > 0).all()
    expected = discount[0] * discount[1] * discount[2]
    torch.testing.assert_close(weight[3], expected)


def test_without_a_discount_head_the_discount_is_the_constant():
    changes = {"pred_discount": False, "grad_heads": ["decoder", "reward"]}
    agent = make_agent({**changes, "discount": 0.9})
    seq, _ = dream(agent)
    assert torch.equal(seq["discount"], torch.full((H + 1, 18), 0.9))
    torch.testing.assert_close(seq["weight"][:, 0], 0.9 ** torch.arange(5.0))


def test_the_slow_critic_is_copied_at_first_and_then_follows_now_and_then():
    ac = make_agent({"slow_target_update": 3, "slow_target_fraction": 0.25})
    ac = ac.task_behavior
    fill(ac.critic, 8.0)
    assert values(ac.slow) != {8.0}  # Whatever it was initialized to.
    ac.update_slow_target()
    assert values(ac.slow) == {8.0}
    fill(ac.critic, 16.0)
    followed = []
    for _ in range(7):
        ac.update_slow_target()
        (value,) = values(ac.slow)
        followed.append(value)
    assert followed == [8.0, 8.0, 10.0, 10.0, 10.0, 11.5, 11.5]
    assert ac.updates == 8


def test_at_the_default_fraction_the_slow_critic_is_the_critic_of_that_update():
    ac = make_agent({"slow_target_update": 2}).task_behavior
    seen = []
    for value in (1.0, 2.0, 3.0, 4.0):
        fill(ac.critic, value)
        ac.update_slow_target()
        seen.append(values(ac.slow))
    assert seen == [{1.0}, {1.0}, {3.0}, {3.0}]


def test_training_updates_the_slow_critic_after_the_critics_step():
    agent = make_agent({"slow_target_update": 2})
    ac = agent.task_behavior
    same = []
    for seed in range(3):
        agent.train(make_batch(seed))
        pairs = zip(ac.slow.parameters(), ac.critic.parameters(), strict=True)
        same.append(all(torch.equal(slow, fast) for slow, fast in pairs))
    assert same == [True, False, True]


def loss_parts(changes, discrete=True):
    """Actor's and critic's loss on a dream, and the dream."""
    agent = make_agent(changes, discrete)
    args = (*posterior(agent), agent.wm.predict_reward, Noise(3), STEP)
    return agent, *agent.task_behavior.loss(agent.wm, *args)


def test_values_come_from_the_slow_critic_or_without_one_from_the_critic():
    for slow in (True, False):
        agent, _, _, seq, metrics = loss_parts({"slow_target": slow})
        ac = agent.task_behavior
        expected = (ac.slow if slow else ac.critic)(seq["feat"]).mode()
        torch.testing.assert_close(seq["value"], expected.detach())
        torch.testing.assert_close(metrics["critic_slow"], expected.mean().detach())
        before = values(ac.slow)
        ac.update_slow_target()
        assert (values(ac.slow) != before) == slow


def test_targets_are_lambda_returns_of_the_dream():
    _, _, _, seq, _ = loss_parts({"discount_lambda": 0.7})
    r, v, d = seq["reward"], seq["value"], seq["discount"]
    expected = v[H]
    for t in reversed(range(H)):
        expected = r[t] + d[t] * (0.3 * v[t + 1] + 0.7 * expected)
        torch.testing.assert_close(seq["target"][t], expected)
    assert seq["target"].shape == (H, 18)


def test_rewards_are_the_heads_mode_normed_by_their_own_stream():
    norm = {"reward_norm": {"momentum": 0.5, "scale": 2.0, "eps": 0.0}}
    agent, _, _, seq, metrics = loss_parts(norm)
    raw = agent.wm.predict_reward(seq).detach()
    magnitude = 0.5 + 0.5 * raw.abs().mean()
    torch.testing.assert_close(seq["reward"], raw / magnitude * 2)
    torch.testing.assert_close(agent.task_behavior.rewnorm.mag, magnitude)
    torch.testing.assert_close(metrics["reward_mean"], raw.mean())
    torch.testing.assert_close(metrics["reward_normed_mean"], seq["reward"].mean())


@pytest.mark.parametrize("slow_baseline", [True, False])
@pytest.mark.parametrize("discrete", [True, False], ids=["onehot", "box"])
@pytest.mark.parametrize("mode", ["dynamics", "reinforce", "both"])
def test_the_actors_loss_pairs_each_action_with_the_return_that_follows_it(
    mode, discrete, slow_baseline
):
    changes = {
        **{"actor_grad": mode, "actor_grad_mix": "0.3", "actor_ent": "0.05"},
        **{"slow_baseline": slow_baseline},
    }
    agent, actor_loss, _, seq, metrics = loss_parts(changes, discrete)
    ac, total = agent.task_behavior, 0.0
    with torch.no_grad():
        for t in range(H - 1):
            policy = ac.actor(seq["feat"][t])
            critic = ac.slow if slow_baseline else ac.critic
            advantage = seq["target"][t + 1] - critic(seq["feat"][t]).mode()
            reinforce = policy.log_prob(seq["action"][t + 1]) * advantage
            dynamics = seq["target"][t + 1]
            mix = {"dynamics": 1.0, "reinforce": 0.0, "both": 0.3}[mode]
            objective = mix * dynamics + (1 - mix) * reinforce
            objective = objective + 0.05 * policy.entropy()
            total = total - (seq["weight"][t] * objective).mean() / (H - 1)
    torch.testing.assert_close(actor_loss.detach(), total)
    assert metrics["actor_ent_scale"].item() == pytest.approx(0.05)
    assert ("actor_grad_mix" in metrics) == (mode == "both")


def test_the_critics_loss_is_the_weighted_likelihood_of_the_targets():
    agent, _, critic_loss, seq, metrics = loss_parts({})
    value = agent.task_behavior.critic(seq["feat"][:-1]).mode().detach()
    error = 0.5 * (value - seq["target"]) ** 2 + HALF_LOG_2PI
    expected = (seq["weight"][:-1] * error).mean()
    torch.testing.assert_close(critic_loss.detach(), expected)
    torch.testing.assert_close(metrics["critic"], value.mean())
    torch.testing.assert_close(metrics["critic_target"], seq["target"].mean())


def test_the_entropys_scale_and_the_mix_follow_their_schedules():
    changes = {
        **{"actor_grad": "both", "actor_ent": "linear(1,0,1000)"},
        **{"actor_grad_mix": "warmup(1000,0.4)"},
    }
    agent = make_agent(changes, step=250)
    metrics = agent.train(make_batch())
    assert metrics["actor_ent_scale"].item() == pytest.approx(0.75)
    assert metrics["actor_grad_mix"].item() == pytest.approx(0.1)
    agent._counter.increment(250)
    metrics = agent.train(make_batch())
    assert metrics["actor_ent_scale"].item() == pytest.approx(0.5)
    assert metrics["actor_grad_mix"].item() == pytest.approx(0.2)


def test_auto_means_reinforce_and_onehot_or_dynamics_and_trunc_normal():
    expected = {
        True: {"actor.dist": "onehot", "actor_grad": "reinforce"},
        False: {"actor.dist": "trunc_normal", "actor_grad": "dynamics"},
    }
    for discrete, chosen in expected.items():
        agent = make_agent(discrete=discrete)
        assert resolve_auto(agent.config, discrete) == chosen
        assert agent.task_behavior.config.actor_grad == chosen["actor_grad"]
    asked = {"actor.dist": "tanh_normal", "actor_grad": "both"}
    assert resolve_auto(make_agent(asked, discrete=False).config, False) == asked


def test_a_distribution_that_makes_no_such_actions_is_an_error():
    with pytest.raises(UsageError, match="'normal' does not fit discrete .* onehot"):
        make_agent({"actor.dist": "normal"})
    with pytest.raises(UsageError, match="'onehot' does not fit continuous .* trunc_n"):
        make_agent({"actor.dist": "onehot"}, discrete=False)


@pytest.mark.parametrize("dist", ["normal", "tanh_normal", "trunc_normal"])
def test_every_continuous_actor_trains_to_finite_numbers(dist):
    changes = {"actor.dist": dist, "actor_grad": "both"}
    agent = make_agent(changes, discrete=False)
    for seed in range(2):
        metrics = agent.train(make_batch(seed, discrete=False))
        assert all(torch.isfinite(value) for value in metrics.values())
