"""Which loss moves which parameters, and through what its gradient flows."""

import pytest
import torch
from agent_tools import (
    GAUSSIAN,
    NO_DECAY,
    gradients,
    make_agent,
    make_batch,
    moved,
    names_of,
    networks_of,
    snapshot,
)

pytestmark = pytest.mark.usefixtures("one_thread")

WORLD = ("encoder", "rssm", "decoder", "reward", "discount")
STEP = torch.zeros(())

MODES = pytest.mark.parametrize("mode", ["dynamics", "reinforce", "both"])
ACTIONS = pytest.mark.parametrize("discrete", [True, False], ids=["onehot", "box"])
LATENTS = pytest.mark.parametrize(
    "latents", [{}, GAUSSIAN], ids=["categorical", "gaussian"]
)


def world_loss(agent, data=None):
    """The world model's loss, its last state, outputs and metrics."""
    data = agent.to_device(data or make_batch(discrete=agent.discrete))
    return agent.wm.loss(data, None, agent.noise)


def behavior_loss(agent, ac=None):
    """Actor's loss, critic's loss, the dream, metrics; always on the same noise."""
    agent.noise._generator.manual_seed(7)
    data = make_batch(discrete=agent.discrete)
    post = world_loss(agent, data)[2]["post"]
    terminal = torch.as_tensor(data["is_terminal"])
    ac = ac or agent.task_behavior
    reward = agent.wm.predict_reward
    return ac.loss(agent.wm, post, terminal, reward, agent.noise, STEP)


@ACTIONS
@LATENTS
def test_the_world_models_step_moves_the_world_model_alone(discrete, latents):
    agent = make_agent({**NO_DECAY, **latents}, discrete)
    before = snapshot(agent)
    agent.wm.opt(world_loss(agent)[0])
    assert moved(before, agent) == names_of(agent, *WORLD)


@ACTIONS
@MODES
def test_the_actors_step_moves_the_actor_alone_and_the_critics_the_critic(
    mode, discrete
):
    agent = make_agent({**NO_DECAY, "actor_grad": mode}, discrete)
    actor_loss, critic_loss, *_ = behavior_loss(agent)
    before = snapshot(agent)
    agent.task_behavior.actor_opt(actor_loss)
    assert moved(before, agent) == names_of(agent, "actor")
    before = snapshot(agent)
    agent.task_behavior.critic_opt(critic_loss)
    assert moved(before, agent) == names_of(agent, "critic")


@ACTIONS
def test_training_moves_every_network_of_the_agent(discrete):
    agent = make_agent(NO_DECAY, discrete)
    before = snapshot(agent)
    agent.train(make_batch(discrete=discrete))
    assert moved(before, agent) == set(before)


def test_the_world_models_loss_reaches_neither_actor_nor_critic():
    agent = make_agent()
    assert networks_of(gradients(world_loss(agent)[0], agent)) == set(WORLD)


HEADS = {"image": "decoder", "reward": "reward", "discount": "discount"}


@pytest.mark.parametrize("key", sorted(HEADS))
def test_a_head_outside_grad_heads_learns_from_features_that_it_does_not_shape(key):
    head = HEADS[key]
    for shaping in (True, False):
        heads = ["decoder", "reward", "discount"]
        if not shaping:
            heads.remove(head)
        agent = make_agent({"grad_heads": heads})
        log_prob = world_loss(agent)[2]["log_prob"][key]
        reached = networks_of(gradients(log_prob.mean(), agent))
        assert reached == ({"encoder", "rssm", head} if shaping else {head})


def test_the_kl_reaches_encoder_and_rssm_and_no_head():
    agent = make_agent()
    outs = world_loss(agent)[2]
    assert networks_of(gradients(outs["kl"].mean(), agent)) == {"encoder", "rssm"}


def test_each_loss_counts_by_its_scale():
    scales = {"loss_scales": {"kl": 0.3, "reward": 2.0, "discount": 5.0}}
    loss, _, _, metrics = world_loss(make_agent(scales))
    # The keys of the decoder have no scale: they count once.
    weights = {"kl": 0.3, "reward": 2.0, "discount": 5.0}
    losses = {k.removesuffix("_loss"): v for k, v in metrics.items() if "_loss" in k}
    assert set(losses) == {"kl", "image", "vector", "count", "reward", "discount"}
    expected = sum(weights.get(key, 1.0) * value for key, value in losses.items())
    torch.testing.assert_close(loss.detach(), expected)


@ACTIONS
@MODES
def test_the_critics_loss_reaches_the_critic_alone(mode, discrete):
    agent = make_agent({"actor_grad": mode}, discrete)
    critic_loss = behavior_loss(agent)[1]
    assert set(gradients(critic_loss, agent)) == names_of(agent, "critic")


@LATENTS
@ACTIONS
@MODES
def test_every_gradient_mode_trains_to_finite_numbers(mode, discrete, latents):
    agent = make_agent({"actor_grad": mode, **latents}, discrete)
    for seed in range(3):
        metrics = agent.train(make_batch(seed, discrete=discrete))
        for key, value in metrics.items():
            assert value.shape == () and torch.isfinite(value), key
    for key, value in snapshot(agent).items():
        assert torch.isfinite(value).all(), key
    actor_loss, *_ = behavior_loss(agent)
    grads = gradients(actor_loss, agent)
    reached = networks_of(grads)
    for name in names_of(agent, "actor"):
        assert grads[name].any(), name
    if mode == "reinforce":
        assert reached == {"actor"}
    else:  # Through rewards, discounts and the dynamics that lead to them.
        assert reached == {"actor", "rssm", "reward", "discount"}


@LATENTS
@ACTIONS
def test_reinforce_records_no_graph_of_the_dream(discrete, latents):
    agent = make_agent({"actor_grad": "reinforce", **latents}, discrete)
    seq = behavior_loss(agent)[2]
    for key, value in tensors_in(seq).items():
        assert not value.requires_grad, key
    # But for the policies, which are what the actor's loss is made of.
    assert [x.log_prob(seq["action"][1]).requires_grad for x in seq["policies"]] == (
        [True] * 4
    )


def actor_gradient(changes, discrete, disturb=None):
    """The actor's gradient without its entropy's, as one vector."""
    agent = make_agent({"actor_ent": "0", **changes}, discrete)
    # Until a test says otherwise, all that counts is the rewards.
    for param in agent.task_behavior.slow.parameters():
        param.data.zero_()
    if disturb:
        disturb(agent)
    actor_loss, *_ = behavior_loss(agent)
    params = list(agent.task_behavior.actor.parameters())
    grads = torch.autograd.grad(actor_loss, params)
    return torch.cat([grad.flatten() for grad in grads])


@torch.no_grad()
def scale_reward_head(agent):
    agent.wm.heads["reward"].out.out.weight.mul_(3)


@torch.no_grad()
def cut_action(agent):
    """The dynamics take no notice of the action any more."""
    agent.wm.rssm.img_in.weight[:, agent.wm.rssm.stoch_size :].zero_()


@torch.no_grad()
def scale_dynamics(agent):
    agent.wm.rssm.img_dist_0.weight.mul_(3)


@torch.no_grad()
def scale_value(agent):
    for param in agent.task_behavior.slow.parameters():
        param.copy_(torch.linspace(-0.5, 0.5, param.numel()).reshape(param.shape))


@LATENTS
@ACTIONS
@pytest.mark.parametrize("mix", [1.0, 0.5])
def test_the_dynamics_gradient_comes_from_the_world_model_and_the_value(
    mix, discrete, latents
):
    changes = {"actor_grad": "dynamics", **latents}
    if mix < 1:
        changes = {**changes, "actor_grad": "both", "actor_grad_mix": str(mix)}
    plain = actor_gradient(changes, discrete)
    assert torch.isfinite(plain).all() and plain.norm() > 1e-7
    for disturb in (scale_reward_head, scale_dynamics, scale_value):
        other = actor_gradient(changes, discrete, disturb)
        assert (other - plain).norm() > 0.05 * plain.norm(), disturb.__name__
    if mix == 1:
        # Where actions lead nowhere, there is nothing to be learned.
        assert not actor_gradient(changes, discrete, cut_action).any()


@ACTIONS
def test_both_is_the_mix_of_the_two(discrete):
    def both(mix):
        changes = {"actor_grad": "both", "actor_grad_mix": mix}
        return actor_gradient(changes, discrete)

    dynamics = actor_gradient({"actor_grad": "dynamics"}, discrete)
    torch.testing.assert_close(both("1"), dynamics)
    mixed = 0.25 * both("1") + 0.75 * both("0")
    torch.testing.assert_close(both("0.25"), mixed, rtol=1e-4, atol=1e-8)


def test_the_dynamics_gradient_is_the_slope_of_the_objective():
    # In float64 and with Gaussian latents the dream is a smooth function of the
    # actor's weights once its noise is held. Two of its parts count as constants by
    # design, so here they are: the weights of the states, without a discount head,
    # and what the actor sees, with an actor that looks at nothing.
    changes = {
        **{"actor_grad": "dynamics", "precision": "64", "rssm.discrete": 0},
        **{"pred_discount": False, "grad_heads": ["decoder", "reward"]},
    }
    agent = make_agent(changes, discrete=False)
    actor = agent.task_behavior.actor
    with torch.no_grad():
        actor.dense0.weight.zero_()
        actor.dense0.bias.copy_(torch.linspace(-1, 1, 8))
    weight = actor.out.out.weight
    (grad,) = torch.autograd.grad(behavior_loss(agent)[0], weight)
    direction = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    losses = []
    for amount in (1e-5, -2e-5):
        with torch.no_grad():
            weight.add_(direction.to(weight), alpha=amount)
        losses.append(behavior_loss(agent)[0].item())
    slope = (losses[0] - losses[1]) / 2e-5
    assert slope == pytest.approx((grad * direction).sum().item(), rel=1e-5)
    assert abs(slope) > 1e-3


def tensors_in(seq):
    return {key: x for key, x in seq.items() if isinstance(x, torch.Tensor)}


def with_leaves(seq):
    """A dream whose tensors are leaves with a gradient, and these."""
    leaves = {k: x.detach().requires_grad_() for k, x in tensors_in(seq).items()}
    return {**seq, **leaves}, leaves


@MODES
def test_the_actors_loss_reaches_the_parts_of_a_dream_that_its_mode_names(mode):
    agent = make_agent({"actor_grad": mode, "actor_grad_mix": "0.3"}, discrete=False)
    ac = agent.task_behavior
    seq, leaves = with_leaves(behavior_loss(agent)[2])
    loss, _ = ac.actor_loss(seq, agent.noise, STEP)
    grads = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    found = {key for key, x in zip(leaves, grads, strict=True) if x is not None}
    # Weights, baseline and what the policy looks at are constants everywhere.
    reached = {"dynamics": {"target"}, "reinforce": set(), "both": {"target", "action"}}
    assert found == reached[mode]
    if mode != "reinforce":
        grad = dict(zip(leaves, grads, strict=True))["target"]
        mix = 0.3 if mode == "both" else 1.0
        weight = seq["weight"].detach()[:-2]
        torch.testing.assert_close(grad[1:], -mix * weight / weight.numel())
        assert not grad[0].any()  # No action of the actor's led there.


@MODES
def test_the_critics_loss_takes_the_dream_as_constant(mode):
    agent = make_agent({"actor_grad": mode}, discrete=False)
    seq, leaves = with_leaves(behavior_loss(agent)[2])
    loss, _ = agent.task_behavior.critic_loss(seq)
    grads = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    assert all(grad is None for grad in grads)


@MODES
def test_no_gradient_reaches_the_dream_through_what_the_actor_sees(mode):
    agent = make_agent({"actor_grad": mode}, discrete=False)
    seen = []
    agent.task_behavior.actor.register_forward_pre_hook(
        lambda _, args: seen.append(args[0].requires_grad)
    )
    behavior_loss(agent)
    assert seen == [False] * 4  # The steps of the dream: the loss looks no more.


BEHAVIOURS = pytest.mark.parametrize(
    "name, heads", [("Plan2Explore", 3), ("ModelLoss", 1)]
)


@BEHAVIOURS
@ACTIONS
@MODES
def test_a_behaviour_of_its_own_moves_its_networks_alone(mode, discrete, name, heads):
    changes = {"expl_behavior": name, "actor_grad": mode, "expl_extr_scale": 0.5}
    agent = make_agent({**NO_DECAY, **changes}, discrete)
    data = agent.to_device(make_batch(discrete=discrete))
    outs = world_loss(agent, data)[2]
    before = snapshot(agent)
    agent.expl_behavior.train(outs["post"], outs, data, agent.noise, STEP)
    heads = [f"expl_head{k}" for k in range(heads)]
    mine = names_of(agent, *heads, "expl_actor", "expl_critic")
    # After its first update the slow critic is a copy.
    assert moved(before, agent) == mine | names_of(agent, "expl_target_critic")


@ACTIONS
@MODES
@pytest.mark.parametrize("name", ["greedy", "Random"])
def test_a_behaviour_without_networks_moves_none(name, mode, discrete):
    agent = make_agent({"expl_behavior": name, "actor_grad": mode}, discrete)
    data = agent.to_device(make_batch(discrete=discrete))
    outs = world_loss(agent, data)[2]
    before = snapshot(agent)
    args = (outs["post"], outs, data, agent.noise, STEP)
    assert agent.expl_behavior.train(*args) == {}
    assert not moved(before, agent)


@LATENTS
@pytest.mark.parametrize("target", ["stoch", "deter", "feat", "embed"])
def test_the_predictors_of_an_ensemble_reach_no_other_network(target, latents):
    changes = {"expl_behavior": "Plan2Explore", "disag_target": target, **latents}
    agent = make_agent(changes)
    data = agent.to_device(make_batch())
    outs = world_loss(agent, data)[2]
    loss = agent.expl_behavior.predictor_loss(outs["post"], outs, data)
    grads = gradients(loss, agent)
    heads = [f"expl_head{k}" for k in range(3)]
    assert networks_of(grads) == set(heads)
    assert set(grads) == names_of(agent, *heads)


@pytest.mark.parametrize("key", ["kl", "image", "reward"])
def test_the_predictor_of_the_models_loss_reaches_no_other_network(key):
    agent = make_agent({"expl_behavior": "ModelLoss", "expl_model_loss": key})
    data = agent.to_device(make_batch())
    outs = world_loss(agent, data)[2]
    loss = agent.expl_behavior.predictor_loss(outs["post"], outs, data)
    assert set(gradients(loss, agent)) == names_of(agent, "expl_head0")


@LATENTS
@ACTIONS
@MODES
@BEHAVIOURS
def test_exploring_actors_learn_from_the_intrinsic_reward(
    name, heads, mode, discrete, latents
):
    changes = {"expl_behavior": name, "actor_grad": mode, "actor_ent": "0", **latents}
    agent = make_agent(changes, discrete)
    expl = agent.expl_behavior
    data = agent.to_device(make_batch(discrete=discrete))
    outs = world_loss(agent, data)[2]

    def reward(seq):
        return expl.reward(seq)[0]

    args = (agent.wm, outs["post"], data["is_terminal"], reward)
    actor_loss, critic_loss, *_ = expl.ac.loss(*args, agent.noise, STEP)
    reached = networks_of(gradients(actor_loss, agent))
    if mode == "reinforce":
        assert reached == {"expl_actor"}
    else:  # Through the predictors, the discounts and the dynamics that lead to them.
        predictors = {f"expl_head{k}" for k in range(heads)}
        assert reached == {"expl_actor", "rssm", "discount"} | predictors
    assert set(gradients(critic_loss, agent)) == names_of(agent, "expl_critic")


@BEHAVIOURS
def test_the_reward_head_counts_in_an_exploration_by_its_scale_alone(name, heads):
    reached = []
    for scale in (0.0, 0.5):
        agent = make_agent({"expl_behavior": name, "expl_extr_scale": scale})
        expl = agent.expl_behavior
        post = world_loss(agent)[2]["post"]
        terminal = torch.as_tensor(make_batch()["is_terminal"])
        seq = agent.wm.imagine(expl.ac.actor, post, terminal, 4, agent.noise)
        grads = gradients(expl.reward(seq)[0].sum(), agent)
        reached.append("reward" in networks_of(grads))
    assert reached == [False, name == "Plan2Explore"]
