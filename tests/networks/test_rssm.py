"""The recurrent state-space model and its KL loss."""

import math

import pytest
import torch
import torch.nn.functional as F
from agent_tools import Replayed

from dreamerv2.common.dists import NormalDist, OneHotDist
from dreamerv2.common.networks.layers import GRUCell
from dreamerv2.common.networks.noise import Noise
from dreamerv2.common.networks.rssm import EnsembleRSSM
from dreamerv2.common.torchutils import init_weights

pytestmark = pytest.mark.usefixtures("one_thread")

BATCH, LENGTH, ACTIONS, EMBED = 3, 7, 2, 5
SMALL = {
    **{"stoch": 4, "deter": 6, "hidden": 8, "act": "elu", "norm": "layer"},
    **{"std_act": "softplus", "min_std": 0.1},
}
KINDS = pytest.mark.parametrize("discrete", [3, 0], ids=["categorical", "gaussian"])


def make(discrete=3, ensemble=1, **kwargs):
    kwargs = {**SMALL, "discrete": discrete, "ensemble": ensemble, **kwargs}
    rssm = EnsembleRSSM(ACTIONS, EMBED, **kwargs)
    init_weights(rssm, torch.Generator().manual_seed(0))
    return rssm


def inputs(seed=0, batch=BATCH, length=LENGTH):
    generator = torch.Generator().manual_seed(seed)
    embed = torch.randn(batch, length, EMBED, generator=generator)
    action = torch.randn(batch, length, ACTIONS, generator=generator)
    is_first = torch.zeros(batch, length, dtype=torch.bool)
    is_first[:, 0] = True
    return embed, action, is_first


def posterior_noise(rssm, seed=0, batch=BATCH, length=LENGTH):
    shape = (length, batch, *rssm.latent_shape)
    return Noise(seed)("observe_post", rssm.noise_kind, shape)


def observe(rssm, embed, action, is_first, draws, state=None):
    return rssm.observe(embed, action, is_first, Replayed(observe_post=draws), state)


def assert_same(left, right):
    assert left.keys() == right.keys()
    for key, value in left.items():
        torch.testing.assert_close(value, right[key], msg=lambda m, k=key: f"{k}: {m}")


def at(state, index):
    return {key: value[:, index] for key, value in state.items()}


def test_the_gru_computes_what_its_docstring_says():
    cell = GRUCell(2, 3)
    init_weights(cell, torch.Generator().manual_seed(1))
    torch.nn.init.normal_(cell.linear.bias)
    x, state = torch.tensor([0.3, -1.0]), torch.tensor([0.5, 0.1, -0.7])
    parts = cell.linear.weight @ torch.cat([x, state]) + cell.linear.bias
    parts = parts - parts.mean()
    parts = parts / (parts.square().mean() + 1e-3).sqrt()
    reset, candidate, update = parts[:3], parts[3:6], parts[6:]
    candidate = torch.tanh(torch.sigmoid(reset) * candidate)
    update = torch.sigmoid(update - 1)
    expected = update * candidate + (1 - update) * state
    torch.testing.assert_close(cell(x, state), expected)


@KINDS
def test_the_initial_state_is_zero_and_has_the_shapes_of_a_posterior(discrete):
    rssm = make(discrete)
    initial = rssm.initial(BATCH)
    post, _ = observe(rssm, *inputs(), posterior_noise(rssm))
    assert initial.keys() == post.keys()
    for key, value in initial.items():
        assert value.shape == post[key][:, 0].shape and not value.any()
    feat = rssm.get_feat(post)
    assert feat.shape == (BATCH, LENGTH, rssm.feat_size)
    flat = post["stoch"].reshape(BATCH, LENGTH, -1)
    assert torch.equal(feat, torch.cat([flat, post["deter"]], -1))


@KINDS
def test_one_step_of_filtering_is_the_documented_chain(discrete):
    rssm = make(discrete, norm="none")
    embed, action, is_first = (x[:, 1] for x in inputs())
    state = at(observe(rssm, *inputs(2), posterior_noise(rssm))[0], 3)
    draws = posterior_noise(rssm)[0]
    got = rssm.obs_step(state, action, embed, is_first, draws)
    flat = state["stoch"].reshape(BATCH, -1)
    x = F.elu(rssm.img_in(torch.cat([flat, action], -1)))
    deter = rssm.gru(x, state["deter"])
    x = F.elu(rssm.obs_out(torch.cat([deter, embed], -1)))
    stats = rssm.obs_dist(x)
    torch.testing.assert_close(got["deter"], deter)
    if discrete:
        logit = stats.reshape(BATCH, 4, 3)
        torch.testing.assert_close(got["logit"], logit)
        assert torch.equal(got["stoch"].argmax(-1), (logit + draws).argmax(-1))
        assert torch.equal(got["stoch"].sum(-1), torch.ones(BATCH, 4))
    else:
        mean, std = stats[:, :4], F.softplus(stats[:, 4:]) + 0.1
        torch.testing.assert_close(got["mean"], mean)
        torch.testing.assert_close(got["std"], std)
        torch.testing.assert_close(got["stoch"], mean + std * draws)


@KINDS
def test_without_noise_the_latents_are_their_mode(discrete):
    rssm = make(discrete)
    embed, action, is_first = (x[:, 1] for x in inputs())
    state = rssm.obs_step(rssm.initial(BATCH), action, embed, is_first, None)
    if discrete:
        best = state["logit"].argmax(-1)
        assert torch.equal(state["stoch"], F.one_hot(best, 3).float())
    else:
        assert torch.equal(state["stoch"], state["mean"])


@KINDS
def test_filtering_step_by_step_is_filtering_the_batch(discrete):
    rssm = make(discrete)
    embed, action, is_first = inputs()
    is_first[1, 4] = True
    draws = posterior_noise(rssm)
    post, _ = observe(rssm, embed, action, is_first, draws)
    state = rssm.initial(BATCH)
    for t in range(LENGTH):
        now = embed[:, t], is_first[:, t], draws[t]
        state = rssm.obs_step(state, action[:, t], *now)
        assert_same(state, at(post, t))


@KINDS
def test_the_prior_is_what_the_dream_would_go_on_with(discrete):
    rssm = make(discrete)
    embed, action, is_first = inputs()
    post, prior = observe(rssm, embed, action, is_first, posterior_noise(rssm))
    assert "stoch" not in prior
    for t in range(1, LENGTH):
        step = rssm.img_step(at(post, t - 1), action[:, t])
        del step["stoch"]
        assert_same(step, at(prior, t))


@KINDS
def test_training_and_dreams_have_one_recurrence_with_one_gradient(discrete):
    """The deferred maps of observe, against the layers themselves in img_step."""
    rssm = make(discrete).double()
    embed, action, is_first = inputs()
    embed, action = embed.double(), action.double()
    is_first[1, 4] = True
    draws = posterior_noise(rssm).double()
    post, _ = observe(rssm, embed, action, is_first, draws)
    # Step by step: the prior of a dream has the posterior's deter.
    state, steps = rssm.initial(BATCH), []
    for t in range(LENGTH):
        keep = 1 - is_first[:, t].double()
        state = {k: (x.movedim(0, -1) * keep).movedim(-1, 0) for k, x in state.items()}
        deter = rssm.img_step(state, action[:, t] * keep[:, None])["deter"]
        x = rssm.obs_out(torch.cat([deter, embed[:, t]], -1))
        stats = rssm._stats(rssm.obs_dist(F.elu(rssm.obs_out_norm(x))))
        state = {"deter": deter, "stoch": rssm.sample(stats, draws[t]), **stats}
        steps.append(state)
    stepwise = {k: torch.stack([step[k] for step in steps], 1) for k in steps[0]}
    assert_same(post, stepwise)
    names = [k for k, _ in rssm.named_parameters() if not k.startswith("img_out")]
    names = [k for k in names if not k.startswith("img_dist")]
    params = [rssm.get_parameter(name) for name in names]
    losses = [rssm.get_feat(x).square().sum() for x in (post, stepwise)]
    grads = [torch.autograd.grad(loss, params) for loss in losses]
    for name, found, expected in zip(names, *grads, strict=True):
        assert expected.any(), name
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


@KINDS
def test_what_came_before_is_first_does_not_matter(discrete):
    rssm = make(discrete)
    embed, action, is_first = inputs()
    is_first[1, 3] = True
    draws = posterior_noise(rssm)
    post, prior = observe(rssm, embed, action, is_first, draws)
    # Another past, another action into the first step, another carried state.
    other_embed, other_action, _ = inputs(seed=1)
    other_embed[:, 3:], other_action[:, 4:] = embed[:, 3:], action[:, 4:]
    carried = {k: v + 1.0 for k, v in rssm.initial(BATCH).items()}
    is_first[:, 0] = False
    post2, prior2 = observe(rssm, other_embed, other_action, is_first, draws, carried)
    for ours, others in ((post, post2), (prior, prior2)):
        for key in ours:
            assert torch.equal(ours[key][1, 3:], others[key][1, 3:]), key
    # The rows that go on are told apart by their past.
    assert (post["deter"][0, 3:] != post2["deter"][0, 3:]).any(-1).all()


@KINDS
def test_no_gradient_crosses_is_first(discrete):
    rssm = make(discrete)
    embed, action, is_first = inputs()
    is_first[:, 3] = True
    embed.requires_grad_()
    action.requires_grad_()
    post, _ = observe(rssm, embed, action, is_first, posterior_noise(rssm))
    loss = rssm.get_feat(at(post, LENGTH - 1)).square().sum()
    by_embed, by_action = torch.autograd.grad(loss, [embed, action])
    assert not by_embed[:, :3].any() and not by_action[:, :4].any()
    assert by_embed[:, 3:].any(-1).all() and by_action[:, 4:].any(-1).all()


@KINDS
def test_going_on_from_the_carried_state_is_one_long_sequence(discrete):
    rssm = make(discrete)
    embed, action, is_first = inputs()
    draws = posterior_noise(rssm)
    post, prior = observe(rssm, embed, action, is_first, draws)
    head = observe(rssm, embed[:, :4], action[:, :4], is_first[:, :4], draws[:4])[0]
    rest = (embed[:, 4:], action[:, 4:], is_first[:, 4:], draws[4:])
    tail, tail_prior = observe(rssm, *rest, at(head, -1))
    assert_same(tail, {key: value[:, 4:] for key, value in post.items()})
    assert_same(tail_prior, {key: value[:, 4:] for key, value in prior.items()})


@KINDS
def test_imagining_follows_the_given_actions(discrete):
    rssm = make(discrete)
    _, action, _ = inputs()
    start = at(observe(rssm, *inputs(), posterior_noise(rssm))[0], -1)
    draws = posterior_noise(rssm, seed=5)
    dream = rssm.imagine(action, start, Replayed(imagine_state=draws))
    state = start
    for t in range(LENGTH):
        state = rssm.img_step(state, action[:, t], draws[t])
        assert_same(state, at(dream, t))


def member_alone(rssm, k):
    """An RSSM whose only prior is the k-th member."""
    alone = make(rssm._discrete)
    state = {
        name.replace(f"_{k}.", "_0."): value
        for name, value in rssm.state_dict().items()
        if not name.startswith(("img_out", "img_dist")) or f"_{k}." in name
    }
    alone.load_state_dict(state)
    return alone


@KINDS
def test_one_member_of_the_ensemble_is_picked_at_each_step(discrete):
    rssm = make(discrete, ensemble=3)
    alone = [member_alone(rssm, k) for k in range(3)]
    embed, action, is_first = inputs()
    # Uniform draws on either side of the thirds.
    uniform = torch.tensor([0.0, 0.33, 0.34, 0.66, 0.67, 0.999, 0.1])
    picked = [0, 0, 1, 1, 2, 2, 0]
    draws = posterior_noise(rssm)
    noise = Replayed(observe_post=draws, observe_member=uniform)
    post, prior = rssm.observe(embed, action, is_first, noise)
    for t, k in enumerate(picked):
        expected = alone[k].observe(embed, action, is_first, noise)
        assert_same(at(post, t), at(expected[0], t))
        assert_same(at(prior, t), at(expected[1], t))
    start = at(post, -1)
    noise = Replayed(imagine_state=draws, imagine_member=uniform)
    dream = rssm.imagine(action, start, noise)
    state = start
    for t, k in enumerate(picked):
        state = alone[k].img_step(state, action[:, t], draws[t])
        assert_same(at(dream, t), state)
    stats = [one._prior_stats(start["deter"], None) for one in alone]
    for key in stats[0]:
        assert (stats[0][key] != stats[1][key]).all()
        assert (stats[1][key] != stats[2][key]).all()


def test_the_members_are_drawn_equally_often():
    rssm = make(ensemble=3)
    members = torch.stack(rssm.draw_members(9000, Noise(0)))
    counts = (members * 3).long().bincount(minlength=3)
    assert (counts - 3000).abs().max() < 4 * math.sqrt(9000 * 2 / 9)
    assert make().draw_members(2, Noise(0)) == [None, None]


@pytest.mark.parametrize(
    ("std_act", "fn"),
    [
        ("softplus", lambda x: math.log1p(math.exp(x))),
        ("sigmoid", lambda x: 1 / (1 + math.exp(-x))),
        ("sigmoid2", lambda x: 2 / (1 + math.exp(-x / 2))),
    ],
)
def test_the_std_of_gaussian_latents_is_positive(std_act, fn):
    rssm = make(0, std_act=std_act, min_std=0.2)
    raw = torch.tensor([[0.0, 1.0, -3.0, 2.0, -50.0, -1.0, 0.0, 4.0]])
    stats = rssm._stats(raw)
    expected = [fn(x) + 0.2 for x in raw[0, 4:].tolist()]
    assert stats["mean"][0].tolist() == [0.0, 1.0, -3.0, 2.0]
    assert stats["std"][0].tolist() == pytest.approx(expected)


# The posterior and the prior of two states with one latent of two classes each. The
# KLs, by hand: KL(p || q) = sum p * log(p / q).
POST = torch.tensor([[0.5, 0.5], [0.9, 0.1]])
PRIOR = torch.tensor([[0.25, 0.75], [0.9, 0.1]])
POST_PRIOR = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)  # 0.1438, and 0 for the 2nd
PRIOR_POST = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)  # 0.1308, and 0


def kl(**changes):
    rssm = make(2, stoch=1)
    post = {"logit": POST.log()[None, :, None]}
    prior = {"logit": PRIOR.log()[None, :, None]}
    settings = {"forward": False, "balance": 0.8, "free": 0.0, "free_avg": True}
    loss, value = rssm.kl_loss(post, prior, **{**settings, **changes})
    return loss.item(), value[0].tolist()


def test_the_kl_loss_is_the_mean_kl():
    for balance in (0.8, 0.5, 0.0, 1.0):
        loss, value = kl(balance=balance)
        assert loss == pytest.approx(POST_PRIOR / 2)
        assert value == pytest.approx([POST_PRIOR, 0.0], abs=1e-6)
    loss, value = kl(forward=True)
    assert loss == pytest.approx(PRIOR_POST / 2)
    assert value == pytest.approx([PRIOR_POST, 0.0], abs=1e-6)


def test_free_bits_bound_the_mean_or_each_state():
    assert kl(free=0.1)[0] == pytest.approx(0.1)  # The mean is 0.0719.
    assert kl(free=0.05)[0] == pytest.approx(POST_PRIOR / 2)
    assert kl(free=0.1, free_avg=False)[0] == pytest.approx((POST_PRIOR + 0.1) / 2)
    # At balance 0.5 each state is bounded, whatever free_avg says.
    for free_avg in (True, False):
        loss, value = kl(free=0.1, balance=0.5, free_avg=free_avg)
        assert loss == pytest.approx((POST_PRIOR + 0.1) / 2)
        assert value == pytest.approx([POST_PRIOR, 0.0], abs=1e-6)


def kl_gradients(discrete, **changes):
    """Gradients of the KL loss in the statistics of posterior and prior."""
    rssm = make(discrete, stoch=3)
    names = ("logit",) if discrete else ("mean", "std")
    shape = (2, 4, 3, *([discrete] if discrete else []))
    states = [
        {
            name: torch.rand(shape, generator=torch.Generator().manual_seed(seed + i))
            .add(0.5)
            .requires_grad_()
            for i, name in enumerate(names)
        }
        for seed in (0, 10)
    ]
    settings = {"forward": False, "balance": 0.8, "free": 0.0, "free_avg": True}
    loss, _ = rssm.kl_loss(*states, **{**settings, **changes})
    leaves = [state[name] for state in states for name in names]
    grads = torch.autograd.grad(loss, leaves)
    kind = OneHotDist if discrete else NormalDist
    args = {"latents": True} if discrete else {}
    post, prior = (kind(*state.values(), **args) for state in states)
    swapped = changes.get("forward", False)
    exact = (prior.kl(post) if swapped else post.kl(prior)).mean()
    exact = torch.autograd.grad(exact, leaves)
    half = len(names)
    return grads[:half], grads[half:], exact[:half], exact[half:]


@KINDS
@pytest.mark.parametrize("forward", [False, True])
def test_balancing_pulls_the_prior_by_its_share_and_the_posterior_by_the_rest(
    discrete, forward
):
    for balance in (0.8, 0.3):
        found = kl_gradients(discrete, balance=balance, forward=forward)
        post, prior, exact_post, exact_prior = found
        for ours, exact in zip(post, exact_post, strict=True):
            torch.testing.assert_close(ours, (1 - balance) * exact)
        for ours, exact in zip(prior, exact_prior, strict=True):
            torch.testing.assert_close(ours, balance * exact)
    post, prior, exact_post, exact_prior = kl_gradients(discrete, balance=0.5)
    for ours, exact in zip((*post, *prior), (*exact_post, *exact_prior), strict=True):
        torch.testing.assert_close(ours, exact)  # One KL, not halves of two.


@KINDS
def test_below_the_free_nats_nothing_pulls(discrete):
    post, prior, *_ = kl_gradients(discrete, free=50.0)
    assert not any(grad.any() for grad in (*post, *prior))
