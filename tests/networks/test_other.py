"""Returns, schedules, random actions and the norm of rewards."""

import numpy as np
import pytest
import torch
from agent_tools import Replayed
from gymnasium.spaces import Box

from dreamerv2.common.errors import UsageError
from dreamerv2.common.networks.noise import Noise
from dreamerv2.common.other import (
    RandomAgent,
    RunningMeans,
    StreamNorm,
    Timer,
    action_noise,
    lambda_return,
    schedule,
)
from dreamerv2.common.suites.wrappers import OneHotSpace

pytestmark = pytest.mark.usefixtures("one_thread")

REWARD = torch.tensor([1.0, 2.0, 3.0])
VALUE = torch.tensor([10.0, 20.0, 30.0])
DISCOUNT = torch.tensor([0.9, 0.5, 0.8])
BOOTSTRAP = torch.tensor(40.0)


def returns(lambda_, reward=REWARD, value=VALUE, discount=DISCOUNT):
    return lambda_return(reward, value, discount, BOOTSTRAP, lambda_).tolist()


def test_the_lambda_return_is_the_one_computed_by_hand():
    # R2 = 3 + 0.8 * (0.4 * 40 + 0.6 * 40)   = 35
    # R1 = 2 + 0.5 * (0.4 * 30 + 0.6 * 35)   = 18.5
    # R0 = 1 + 0.9 * (0.4 * 20 + 0.6 * 18.5) = 18.19
    assert returns(0.6) == pytest.approx([18.19, 18.5, 35.0])


def test_lambda_zero_looks_one_step_ahead():
    # 1 + 0.9 * 20, 2 + 0.5 * 30, 3 + 0.8 * 40
    assert returns(0.0) == pytest.approx([19.0, 17.0, 35.0])


def test_lambda_one_sums_the_rewards_and_reads_no_value_but_the_last():
    # 3 + 0.8 * 40, 2 + 0.5 * 35, 1 + 0.9 * 19.5
    assert returns(1.0) == pytest.approx([18.55, 19.5, 35.0])
    assert returns(1.0, value=VALUE * 7) == pytest.approx([18.55, 19.5, 35.0])


def test_nothing_after_a_terminal_counts():
    discount = torch.tensor([0.9, 0.0, 0.8])
    for lambda_ in (0.0, 0.6, 1.0):
        assert returns(lambda_, discount=discount)[1] == 2.0
        later = torch.tensor([1.0, 2.0, 1000.0])
        before = returns(lambda_, discount=discount)[:2]
        assert returns(lambda_, reward=later, discount=discount)[:2] == before


def test_every_column_has_its_own_return_and_gradient():
    def columns(x):
        return torch.stack([x, 2 * x], 1).requires_grad_()

    reward, value = columns(REWARD), columns(VALUE)
    discount = torch.stack([DISCOUNT, DISCOUNT], 1)
    bootstrap = torch.tensor([40.0, 80.0])
    out = lambda_return(reward, value, discount, bootstrap, 0.6)
    expected = [[18.19, 36.38], [18.5, 37.0], [35.0, 70.0]]
    np.testing.assert_allclose(out.detach(), expected, rtol=1e-6)
    by_reward, by_value = torch.autograd.grad(out[0].sum(), [reward, value])
    # r1 counts 0.9 * 0.6 in R0 and r2 0.9 * 0.6 * 0.5 * 0.6; v0 is not read.
    np.testing.assert_allclose(by_reward[:, 1], [1, 0.54, 0.162], rtol=1e-5)
    np.testing.assert_allclose(by_value[:, 0], [0, 0.36, 0.108], rtol=1e-5, atol=1e-9)


def test_returns_of_differing_shapes_are_an_error_that_shows_them():
    with pytest.raises(ValueError, match=r"\(3,\), \(4,\), \(3,\)"):
        lambda_return(REWARD, torch.zeros(4), DISCOUNT, BOOTSTRAP, 0.5)
    with pytest.raises(ValueError, match=r"one step, \(\), but has \(2,\)"):
        lambda_return(REWARD, REWARD, DISCOUNT, torch.zeros(2), 0.5)


@pytest.mark.parametrize(
    ("text", "steps", "values"),
    [
        ("0.001", [0, 1e6], [0.001, 0.001]),
        (0.25, [0, 9], [0.25, 0.25]),
        ("1e-3", [5], [0.001]),
        ("linear(1,0.1,1000)", [0, 500, 1000, 5000], [1.0, 0.55, 0.1, 0.1]),
        ("linear(0, 2, 10)", [-5, 5], [0.0, 1.0]),
        ("warmup(100,0.5)", [0, 50, 100, 200], [0.0, 0.25, 0.5, 0.5]),
        ("exp(1,0.2,100)", [0, 100, 200], [1.0, 0.6, 0.4]),
        ("horizon(10,100,1000)", [0, 500, 1000, 2000], [0.9, 1 - 1 / 55, 0.99, 0.99]),
    ],
)
def test_schedules_follow_their_formula(text, steps, values):
    for step, value in zip(steps, values, strict=True):
        out = schedule(text, torch.tensor(float(step)))
        assert out.shape == () and out.item() == pytest.approx(value)


@pytest.mark.parametrize(
    "text", ["linear(1,2)", "warmup(1,2,3)", "cosine(1,2,3)", "linear(a,b,c)", "fast"]
)
def test_what_is_no_schedule_is_an_error_that_lists_them(text):
    with pytest.raises(UsageError, match="is no schedule: .*linear.*warmup.*horizon"):
        schedule(text, torch.tensor(0.0))


def test_no_action_noise_draws_nothing():
    noise, action = Replayed(), torch.eye(3)
    for discrete in (True, False):
        assert action_noise(action, 0.0, discrete, noise) is action
    assert noise.asked == []


def test_discrete_action_noise_replaces_the_share_that_it_names():
    count, amount = 30_000, 0.3
    action = torch.tensor([0.0, 1.0, 0.0, 0.0]).expand(count, 4)
    noisy = action_noise(action, amount, True, Noise(0))
    assert torch.equal(noisy.sum(-1), torch.ones(count))
    expected = torch.tensor([0.075, 0.775, 0.075, 0.075])  # A quarter hits it again.
    deviation = (expected * (1 - expected) / count).sqrt()
    assert ((noisy.mean(0) - expected).abs() < 4 * deviation).all()
    uniform = action_noise(action, 1.0, True, Noise(1)).mean(0)
    assert (uniform - 0.25).abs().max() < 0.01


def test_continuous_action_noise_has_its_standard_deviation_and_stays_in_bounds():
    action = torch.zeros(20_000, 2)
    noisy = action_noise(action, 0.1, False, Noise(0))
    assert noisy.std().item() == pytest.approx(0.1, rel=0.03)
    assert noisy.mean().abs() < 0.005
    draws = torch.tensor([[3.0, -0.5]])
    shifted = action_noise(
        torch.tensor([[0.8, 0.2]]), 0.4, False, Replayed(action_noise=draws)
    )
    torch.testing.assert_close(shifted, torch.tensor([[1.0, 0.0]]))


def acts(space, count=4000, seed=0):
    agent = RandomAgent({"action": space}, seed)
    return agent({"is_first": np.zeros(count, bool)})[0]["action"]


def test_random_actions_of_a_discrete_space_are_uniform_one_hot_vectors():
    action = acts(OneHotSpace(4))
    assert action.shape == (4000, 4) and action.dtype == np.float32
    np.testing.assert_array_equal(np.sort(action, -1)[:, -1], 1)
    np.testing.assert_array_equal(action.sum(-1), 1)
    np.testing.assert_allclose(action.mean(0), 0.25, atol=0.03)


def test_random_actions_of_a_box_are_uniform_within_its_bounds():
    low, high = np.array([-1.0, 2.0]), np.array([1.0, 6.0])
    action = acts(Box(low, high, dtype=np.float64))
    assert action.dtype == np.float32
    assert (action >= low).all() and (action <= high).all()
    np.testing.assert_allclose(action.mean(0), [0, 4], atol=0.1)
    np.testing.assert_allclose(action.std(0), [2 / 12**0.5, 4 / 12**0.5], rtol=0.05)


def test_random_actions_without_bounds_are_finite():
    low = np.array([-np.inf, 0.0, -np.inf, -1.0], np.float32)
    high = np.array([np.inf, np.inf, -0.5, 1.0], np.float32)
    action = acts(Box(low, high))
    assert np.isfinite(action).all()
    assert (action >= low).all() and (action <= high).all()
    assert action[:, 0].std() == pytest.approx(1, abs=0.1)
    assert action[:, 3].std() == pytest.approx(2 / 12**0.5, abs=0.05)


def test_random_agents_of_one_seed_act_alike_and_go_on_from_their_state():
    space = OneHotSpace(3)
    np.testing.assert_array_equal(acts(space, seed=1), acts(space, seed=1))
    assert (acts(space, seed=1) != acts(space, seed=2)).any()
    obs = {"is_first": np.zeros(5, bool)}
    agent = RandomAgent({"action": space}, 3)
    agent(obs)
    saved = agent.state_dict()
    expected = agent(obs, state="kept")
    assert expected[1] == "kept"
    other = RandomAgent({"action": space}, 4)
    other.load_state_dict(saved)
    np.testing.assert_array_equal(other(obs)[0]["action"], expected[0]["action"])


def test_stream_norm_divides_by_the_running_magnitude():
    norm = StreamNorm(momentum=0.9, scale=2.0, eps=0.5)
    out, metrics = norm(torch.tensor([-3.0, 5.0]))
    # The magnitude starts at 1: 0.9 * 1 + 0.1 * 4 = 1.3, and eps is added.
    assert out.tolist() == pytest.approx([-3 / 1.8 * 2, 5 / 1.8 * 2])
    values = {key: value.item() for key, value in metrics.items()}
    scale = 2 / 1.8
    assert values == pytest.approx(
        {"mean": 1, "std": 4, "normed_mean": scale, "normed_std": 4 * scale}
    )
    out, _ = norm(torch.tensor([2.0, 2.0]))
    assert out[0].item() == pytest.approx(2 / (0.9 * 1.3 + 0.1 * 2 + 0.5) * 2)


def test_stream_norm_with_momentum_one_is_off():
    norm = StreamNorm(momentum=1.0, scale=1.0, eps=1e-8)
    x = torch.tensor([-300.0, 5.0])
    for _ in range(3):
        assert torch.equal(norm(x)[0], x)
    assert norm.mag.item() == 1


def test_stream_norm_passes_gradients_and_saves_its_magnitude():
    norm = StreamNorm(momentum=0.5, scale=1.0, eps=1e-8)
    x = torch.tensor([2.0, 4.0], requires_grad=True)
    out, _ = norm(x)
    norm(100 * x)  # A later update changes nothing of what was computed before.
    (grad,) = torch.autograd.grad(out.sum(), x)
    assert grad.tolist() == pytest.approx([0.5, 0.5])  # 1 / (0.5 * 1 + 0.5 * 3)
    other = StreamNorm(momentum=0.5, scale=1.0, eps=1e-8)
    other.load_state_dict({key: v.clone() for key, v in norm.state_dict().items()})
    assert torch.equal(other(x)[0], norm(x)[0]) and other.mag == norm.mag


def metrics(**values):
    return {key: torch.tensor(value) for key, value in values.items()}


def test_running_means_are_of_the_updates_since_they_were_last_asked():
    running = RunningMeans()
    assert running.means() == {}
    running.add(metrics(loss=1.0, norm=4.0))
    running.add({"loss": torch.tensor(2.0, dtype=torch.bfloat16), **metrics(norm=8.0)})
    running.add(metrics(loss=6.0, norm=0.0))
    assert running.means() == {"loss": 3.0, "norm": 4.0}
    assert running.means() == {}
    running.add(metrics(other=5.0))  # Other names may come after the means.
    assert running.means() == {"other": 5.0}


def test_metrics_of_other_names_in_between_are_an_error():
    running = RunningMeans()
    running.add(metrics(loss=1.0))
    with pytest.raises(ValueError, match=r"were \['loss'\] and are \['norm'\] now"):
        running.add(metrics(norm=1.0))


def test_the_timer_tells_shares_of_the_time_since_it_was_last_asked():
    now = [0.0]
    timer = Timer(clock=lambda: now[0])

    def work(name, seconds):
        with timer(name):
            now[0] += seconds

    work("policy", 2)
    work("update", 5)
    work("policy", 1)
    now[0] += 2
    assert timer.shares() == {"policy": 0.3, "update": 0.5}
    now[0] += 1
    assert timer.shares() == {}
    with pytest.raises(RuntimeError), timer("update"):
        now[0] += 1
        raise RuntimeError
    assert timer.shares() == {"update": 1.0}
