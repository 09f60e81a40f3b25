"""Distributions and the noise that their samples take."""

import math

import pytest
import torch
import torch.nn.functional as F

from dreamerv2.common.dists import (
    BinaryDist,
    MSEDist,
    NormalDist,
    OneHotDist,
    TanhNormalDist,
    TruncNormalDist,
    stack,
)
from dreamerv2.common.networks.noise import Noise, scoped

pytestmark = pytest.mark.usefixtures("one_thread")

PROBS = torch.tensor([0.5, 0.3, 0.15, 0.05])


def grid(low, high, count=20001):
    return torch.linspace(low, high, count, dtype=torch.float64)


def density(dist_of, points):
    """Probability density of a scalar event at the points."""
    return dist_of(points).log_prob(points[:, None]).exp()


@pytest.mark.parametrize(
    "kind",
    [
        lambda x: OneHotDist(x),
        lambda x: NormalDist(x, x.exp()),
        lambda x: MSEDist(x),
        lambda x: BinaryDist(x, 1),
        lambda x: TruncNormalDist(x.tanh(), x.exp()),
        lambda x: TanhNormalDist(x, x.exp()),
    ],
)
def test_stacked_distributions_are_those_of_each_step(kind):
    steps = [torch.randn(5, 3, requires_grad=True) for _ in range(4)]
    each = [kind(x) for x in steps]
    joined = stack(each)
    assert joined.noise_shape == (4, 5, 3) and each[0].noise_shape == (5, 3)
    draws = Noise(0)("x", joined.noise_kind, joined.noise_shape)
    value = joined.sample(draws)
    assert value.shape == (4, 5, 3)
    found = joined.log_prob(value.detach())
    expected = [d.log_prob(x) for d, x in zip(each, value.detach(), strict=True)]
    torch.testing.assert_close(found, torch.stack(expected))
    losses = found.sum(), sum(x.sum() for x in expected)
    grads = [torch.autograd.grad(x, steps, retain_graph=True) for x in losses]
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs)
    entropy = joined.entropy(Noise(1))
    assert entropy.shape == (4, 5)
    if joined.noise_kind != "normal" or not isinstance(joined, TanhNormalDist):
        torch.testing.assert_close(entropy, torch.stack([x.entropy() for x in each]))


def test_noise_of_one_seed_is_the_same_and_of_another_is_not():
    for kind in ("gumbel", "normal", "uniform"):
        first, again, other = (Noise(seed)("x", kind, (50,)) for seed in (3, 3, 4))
        assert first.dtype == torch.float32 and first.shape == (50,)
        assert torch.equal(first, again)
        assert not torch.equal(first, other)


def test_noise_goes_on_where_its_saved_state_was():
    noise = Noise(0)
    noise("warm", "gumbel", (7,))
    state = {key: value.clone() for key, value in noise.state_dict().items()}
    expected = [noise("x", kind, (9,)) for kind in ("gumbel", "normal", "uniform")]
    other = Noise(99)
    other.load_state_dict(state)
    for kind, value in zip(("gumbel", "normal", "uniform"), expected, strict=True):
        assert torch.equal(other("x", kind, (9,)), value)


def test_noise_has_the_moments_of_its_kind():
    noise, count = Noise(1), 400_000
    euler = 0.5772156649
    expected = {
        "gumbel": (euler, math.pi**2 / 6),
        "normal": (0.0, 1.0),
        "uniform": (0.5, 1 / 12),
    }
    for kind, (mean, variance) in expected.items():
        draws = noise("x", kind, (count,))
        assert draws.mean().item() == pytest.approx(mean, abs=0.01)
        assert draws.var().item() == pytest.approx(variance, rel=0.02)
    assert draws.min() >= 0 and draws.max() < 1


def test_gumbel_noise_is_finite_even_where_zero_was_drawn(monkeypatch):
    assert torch.isfinite(Noise(2)("x", "gumbel", (1_000_000,))).all()
    monkeypatch.setattr(torch.Tensor, "uniform_", lambda x, **_: x.zero_())
    drawn_zero = Noise(2)("x", "gumbel", (3,))
    # -log(-log(x)) of the smallest normal number, 2^-126.
    assert drawn_zero.tolist() == pytest.approx([-4.4699] * 3, abs=1e-3)


def test_an_unknown_kind_of_noise_is_named():
    with pytest.raises(ValueError, match="'cauchy' for 'post'"):
        Noise(0)("post", "cauchy", (2,))


def test_scoped_noise_prefixes_the_name_alone():
    asked = []
    scoped(lambda *args: asked.append(args), "task")("action", "normal", (2, 3))
    assert asked == [("task/action", "normal", (2, 3))]


def test_one_hot_samples_occur_as_often_as_their_probability_says():
    count = 40_000
    dist = OneHotDist(PROBS.log().expand(count, 4))
    samples = dist.sample(Noise(0)("x", dist.noise_kind, dist.noise_shape))
    assert torch.equal(samples.sum(-1), torch.ones(count))
    assert set(samples.unique().tolist()) == {0.0, 1.0}
    deviation = (PROBS * (1 - PROBS) / count).sqrt()
    assert ((samples.mean(0) - PROBS).abs() < 4 * deviation).all()


def test_one_hot_gradient_is_that_of_the_softmax():
    logits = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    weight = torch.randn(6, 5, generator=torch.Generator().manual_seed(1))
    logits.requires_grad_()
    noise = Noise(0)("x", "gumbel", logits.shape)
    straight = torch.autograd.grad(
        (OneHotDist(logits).sample(noise) * weight).sum(), logits
    )[0]
    exact = torch.autograd.grad((logits.softmax(-1) * weight).sum(), logits)[0]
    torch.testing.assert_close(straight, exact)
    assert straight.abs().max() > 0.01


def test_one_hot_values_are_those_computed_by_hand():
    dist = OneHotDist(PROBS.log() + 3)  # Unnormalized.
    value = torch.tensor([0.0, 1.0, 0.0, 0.0])
    assert dist.log_prob(value).item() == pytest.approx(math.log(0.3))
    assert torch.equal(dist.mode(), torch.tensor([1.0, 0, 0, 0]))
    torch.testing.assert_close(dist.mean(), PROBS)
    entropy = -sum(p * math.log(p) for p in PROBS.tolist())
    assert dist.entropy().item() == pytest.approx(entropy)
    uniform = OneHotDist(torch.zeros(4))
    assert uniform.entropy().item() == pytest.approx(math.log(4))
    assert dist.kl(uniform).item() == pytest.approx(math.log(4) - entropy)


def test_latents_are_one_event_and_actions_are_not():
    logits = PROBS.log().expand(2, 3, 4)
    one = OneHotDist(logits).entropy()
    all_three = OneHotDist(logits, latents=True).entropy()
    assert one.shape == (2, 3) and all_three.shape == (2,)
    torch.testing.assert_close(all_three, one.sum(-1))


def test_normal_values_are_those_computed_by_hand():
    dist = NormalDist(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 2.0]))
    half_log = 0.5 * math.log(2 * math.pi)
    expected = -0.5 * 4 - half_log - 0.5 * 1 - math.log(2) - half_log
    assert dist.log_prob(torch.tensor([2.0, -1.0])).item() == pytest.approx(expected)
    assert dist.entropy().item() == pytest.approx(1 + 2 * half_log + math.log(2))
    sample = dist.sample(torch.tensor([0.5, -1.0]))
    torch.testing.assert_close(sample, torch.tensor([0.5, -1.0]))
    left = NormalDist(torch.tensor([0.0]), torch.tensor([1.0]))
    right = NormalDist(torch.tensor([1.0]), torch.tensor([2.0]))
    # log(2) + (1 + 1) / (2 * 4) - 1/2
    assert left.kl(right).item() == pytest.approx(0.4431472)
    assert left.kl(left).item() == 0


def test_mse_is_the_likelihood_of_unit_variance():
    mean = torch.zeros(2, 3)
    value = torch.tensor([[1.0, 2.0, 0.0], [0.0, 0.0, 0.0]])
    log_prob = MSEDist(mean).log_prob(value)
    constant = 1.5 * math.log(2 * math.pi)
    torch.testing.assert_close(log_prob, torch.tensor([-2.5, 0.0]) - constant)
    unit = NormalDist(mean, torch.ones(2, 3))
    torch.testing.assert_close(log_prob, unit.log_prob(value))
    torch.testing.assert_close(MSEDist(mean).entropy(), unit.entropy())


@pytest.mark.parametrize("target", [0.0, 0.5, 0.999, 1.0])
def test_binary_log_prob_is_right_at_soft_targets(target):
    logits = [-40.0, -6.9, 0.0, 3.0, 6.9067548, 40.0]
    got = BinaryDist(torch.tensor(logits)).log_prob(torch.tensor(target))
    assert got.dtype == torch.float32
    for logit, value in zip(logits, got.tolist(), strict=True):
        log_sigmoid = -math.log1p(math.exp(-logit))
        expected = target * log_sigmoid + (1 - target) * (log_sigmoid - logit)
        assert value == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_binary_likelihood_is_highest_where_the_mean_is_the_target():
    logit = torch.logit(torch.tensor(0.999, dtype=torch.float64))
    near = torch.stack([logit - 0.05, logit, logit + 0.05])
    assert BinaryDist(near).log_prob(torch.tensor(0.999)).argmax() == 1
    assert BinaryDist(logit.float()).mean().item() == pytest.approx(0.999, abs=1e-6)


def test_binary_mode_entropy_and_samples():
    probs = torch.tensor([0.2, 0.7])
    dist = BinaryDist(torch.logit(probs))
    assert dist.mode().tolist() == [0.0, 1.0]
    expected = -(probs * probs.log() + (1 - probs) * (1 - probs).log())
    torch.testing.assert_close(dist.entropy(), expected)
    assert dist.sample(torch.tensor([0.19, 0.71])).tolist() == [1.0, 0.0]


SHAPES = [(0.0, 0.1), (0.0, 2.1), (0.95, 0.3), (-0.999, 0.1), (0.5, 1.0)]


def trunc(loc, std, dtype=torch.float64):
    def dist_of(points):
        full = torch.full((len(points), 1), loc, dtype=dtype)
        return TruncNormalDist(full, torch.full_like(full, std))

    return dist_of


@pytest.mark.parametrize(("loc", "std"), SHAPES)
def test_trunc_normal_integrates_to_one_and_its_statistics_are_integrals(loc, std):
    points = grid(-1, 1)
    p = density(trunc(loc, std), points)
    assert torch.trapezoid(p, points).item() == pytest.approx(1, abs=1e-6)
    dist = trunc(loc, std)(points[:1])
    mean = torch.trapezoid(p * points, points).item()
    assert dist.mean().item() == pytest.approx(mean, abs=1e-6)
    entropy = torch.trapezoid(-p * p.clamp(min=1e-300).log(), points).item()
    assert dist.entropy().item() == pytest.approx(entropy, abs=1e-5)
    assert dist.mode().item() == loc
    assert points[p.argmax()].item() == pytest.approx(loc, abs=1e-4)


def test_trunc_normal_has_no_density_outside():
    dist = TruncNormalDist(torch.zeros(2, 1), torch.ones(2, 1))
    outside = torch.tensor([[-1.001], [1.001]])
    assert torch.equal(dist.log_prob(outside), torch.full((2,), -torch.inf))


@pytest.mark.parametrize(("loc", "std"), SHAPES)
def test_trunc_normal_samples_lie_within_the_bounds_and_follow_the_density(loc, std):
    # The noise's extremes, and an even cover between them.
    noise = torch.cat([torch.tensor([0.0, 1 - 2**-24]), torch.arange(0.0005, 1, 1e-3)])
    dist = trunc(loc, std, torch.float32)(noise)
    samples = dist.sample(noise[:, None])
    assert samples.abs().max() < 1 and torch.isfinite(dist.log_prob(samples)).all()
    even = samples[2:]
    assert even.mean().item() == pytest.approx(dist.mean()[0].item(), abs=2e-3)
    # The distribution function at a sample is the noise that it was made from.
    points = grid(-1, float(even[700]), 4001)
    below = torch.trapezoid(density(trunc(loc, std), points), points)
    assert below.item() == pytest.approx(noise[702].item(), abs=1e-3)


def test_trunc_normal_gradient_passes_the_clipping():
    loc = torch.full((1, 1), 0.999, requires_grad=True)
    std = torch.full((1, 1), 0.5, requires_grad=True)
    for uniform in (0.5, 1 - 2**-24):
        dist = TruncNormalDist(loc, std)
        sample = dist.sample(torch.full((1, 1), uniform)).sum()
        grads = torch.autograd.grad(sample, [loc, std])
        assert all(torch.isfinite(grad).all() for grad in grads)
    middle = TruncNormalDist(torch.zeros(1, 1, requires_grad=True), torch.ones(1, 1))
    sample = middle.sample(torch.full((1, 1), 0.5)).sum()
    assert sample.item() == pytest.approx(0, abs=1e-6)


def test_tanh_normal_density_integrates_to_one():
    x = grid(-8, 10, 40001)  # Even before the tanh: near its edges density peaks.
    points = torch.tanh(x)
    base = torch.full((len(x), 1), 0.7, dtype=torch.float64)
    p = TanhNormalDist(base, torch.full_like(base, 0.6)).log_prob(points[:, None]).exp()
    assert torch.trapezoid(p, points).item() == pytest.approx(1, abs=1e-4)


def test_tanh_normal_log_prob_is_finite_at_the_bounds():
    dist = TanhNormalDist(torch.zeros(2, 1), torch.ones(2, 1))
    assert torch.isfinite(dist.log_prob(torch.tensor([[-1.0], [1.0]]))).all()


def test_tanh_normal_mode_is_each_elements_own_best_draw():
    generator = torch.Generator().manual_seed(0)
    loc = torch.randn(5, 7, 2, generator=generator)
    std = 0.3 + torch.rand(5, 7, 2, generator=generator)
    draws = torch.randn(100, 5, 7, 2, generator=generator)
    mode = TanhNormalDist(loc, std).mode(lambda *_: draws)
    picked = set()
    for i in range(5):
        for j in range(7):
            x = loc[i, j] + std[i, j] * draws[:, i, j]
            normal = torch.distributions.Normal(loc[i, j], std[i, j])
            jacobian = (1 - torch.tanh(x.double()) ** 2).log().sum(-1)
            best = int((normal.log_prob(x).sum(-1) - jacobian).argmax())
            torch.testing.assert_close(mode[i, j], torch.tanh(x[best]))
            picked.add(best)
    assert len(picked) > 10  # One draw for all would show as a single index.


def test_tanh_normal_statistics_come_from_its_samples():
    loc, std = torch.tensor([[0.3, -1.0]]), torch.tensor([[0.5, 0.2]])
    dist = TanhNormalDist(loc, std, samples=50_000)
    x = grid(-6, 6)
    expected, entropy = [], 0.0
    for mean, scale in zip(loc[0].double(), std[0].double(), strict=True):
        p = torch.distributions.Normal(mean, scale).log_prob(x).exp()
        expected.append(torch.trapezoid(p * torch.tanh(x), x).item())
        log_det = 2 * (math.log(2) - x - F.softplus(-2 * x))
        entropy += torch.distributions.Normal(mean, scale).entropy().item()
        entropy += torch.trapezoid(p * log_det, x).item()
    assert dist.mean(Noise(0))[0].tolist() == pytest.approx(expected, abs=0.01)
    assert dist.entropy(Noise(0)).item() == pytest.approx(entropy, abs=0.02)
    with pytest.raises(ValueError, match="need a source of noise"):
        dist.mode()
