"""Functions that are captured and replayed: with buffers, as on a GPU, but on a CPU."""

import threading
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from agent_tools import BATCH, GAUSSIAN, Replayed, make_agent, make_batch, make_obs
from capture_tools import Capturable, Emulated, live_state
from run_tools import CATCH, checkpoint, ok, train_here, untimed

import dreamerv2.agent
from dreamerv2.common.device import builder, capture
from dreamerv2.common.device.capture import Captured, backend_for
from dreamerv2.common.networks.noise import Noise
from dreamerv2.common.torchutils import named_tensors

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")


class Counting:
    """A function with state: adds up what it gets, with noise."""

    def __init__(self):
        self.sum = torch.zeros(3)
        self.calls = 0

    def __call__(self, inputs, noise, factor=1):
        self.calls += 1
        more, carry = inputs
        self.sum += factor * more["x"]
        draw = noise("draw", "normal", (3,))
        return {"carry": carry + 1, "draw": draw + self.sum, "mean": self.sum.mean()}


def make(backend=None, **kwargs):
    """(captured, its function)."""
    fn = Counting()
    if backend is not None:
        backend._state = lambda: [fn.sum]
    return Captured(fn, CPU, backend, "a sum", **kwargs), fn


def inputs(number, size=3):
    return {"x": np.full(3, number, np.float32), "n": None}, torch.zeros(size)


def assert_same(left, right):
    left, right = named_tensors(left), named_tensors(right)
    assert left.keys() == right.keys()
    for key, value in left.items():
        # Losses of float16 may be no number, in both.
        assert torch.equal(value.nan_to_num(7.7), right[key].nan_to_num(7.7)), key


def test_every_call_counts_once_whichever_way_it_is_made():
    backend = Emulated()
    (captured, fn), (plain, expected) = make(backend), make()
    noise, other = Noise(0), Noise(0)
    for number in range(8):
        found = captured(inputs(number), noise)
        assert_same(found, plain(inputs(number), other))
        assert torch.equal(fn.sum, expected.sum)
        assert_same(noise.state_dict(), other.state_dict())
    assert (backend.asides, backend.captures, backend.replays) == (3, 1, 5)


def test_what_came_out_is_not_overwritten_by_the_next_call():
    captured, _ = make(Emulated())
    noise, held, copies = Noise(0), [], []
    for number in range(7):
        held.append(captured(inputs(number), noise))
        copies.append({key: value.clone() for key, value in held[-1].items()})
    for found, copy in zip(held, copies, strict=True):
        assert_same(found, copy)
    means = [found["mean"].item() for found in held]
    assert means == [0, 1, 3, 6, 10, 15, 21] and held[0]["mean"].dim() == 0


def test_a_carried_state_goes_round_through_its_buffer():
    captured, _ = make(Emulated())
    noise, state = Noise(0), torch.zeros(3)
    for number in range(8):
        state = captured((inputs(number)[0], state), noise)["carry"]
    assert state.tolist() == [8, 8, 8]


def test_other_shapes_names_values_and_noises_get_graphs_of_their_own():
    backend = Emulated()
    (captured, _), (plain, _) = make(backend), make()
    calls = [
        (inputs(1), 0, 1),
        (inputs(1, size=1), 0, 1),  # Another shape,
        ((inputs(1)[0], torch.zeros(3, dtype=torch.int64)), 0, 1),  # type,
        (({"x": torch.ones(3), "m": None}, torch.zeros(3)), 0, 1),  # name,
        (inputs(1), 0, 2),  # value,
        (inputs(1), 1, 1),  # or stream of random numbers.
    ]
    noises, others = [Noise(0), Noise(1)], [Noise(0), Noise(1)]
    for _ in range(5):
        for args, noise, factor in calls:
            found = captured(args, noises[noise], factor)
            assert_same(found, plain(args, others[noise], factor))
    assert backend.captures == len(calls)


def test_the_order_of_names_makes_no_other_graph():
    # A batch's order is that of the episode which its first row is from.
    class Difference(Counting):
        def __call__(self, inputs, noise):
            return {"out": inputs["a"] - inputs["b"], "in": inputs["b"].mean()}

    backend = Emulated()
    captured = Captured(Difference(), CPU, backend, "a difference")
    noise = Noise(0)
    for number in range(8):
        batch = {"a": torch.full((3,), 5.0), "b": torch.full((3,), float(number))}
        found = captured(dict(sorted(batch.items(), reverse=number % 2)), noise)
        assert found["out"].tolist() == [5.0 - number] * 3 and found["in"] == number
        assert list(found) == ["out", "in"]
    assert (backend.captures, backend.replays) == (1, 5)


def test_too_many_kinds_of_inputs_run_as_they_are_with_a_word(capsys):
    backend = Emulated()
    (captured, _), (plain, _) = make(backend, most=2), make()
    noise, other = Noise(0), Noise(0)
    for _ in range(6):
        for size in (1, 3, 1, 3):
            for factor in (1, 2):
                args = inputs(1, size), noise, factor
                found = captured(*args)
                assert_same(found, plain(args[0], other, factor))
    assert backend.captures == 2
    out = capsys.readouterr().out
    assert out == (
        "A sum has more than 2 kinds of inputs: further ones run without a CUDA "
        "graph.\n"
    )


def test_a_capture_that_fails_leaves_no_trace_but_a_word(capsys):
    backend = Emulated(failing=True)
    (captured, fn), (plain, expected) = make(backend), make()
    noise, other = Noise(0), Noise(0)
    for number in range(7):
        found = captured(inputs(number), noise)
        assert_same(found, plain(inputs(number), other))
        assert torch.equal(fn.sum, expected.sum)
        assert_same(noise.state_dict(), other.state_dict())
    assert (backend.asides, fn.calls) == (3, 8)  # One was the attempt.
    assert capsys.readouterr().out == (
        "Capturing a sum as a CUDA graph failed (RuntimeError: operation not permitted "
        "when stream is capturing), so it goes on without one, slower but with the "
        "same numbers.\n"
    )


def test_a_failed_capture_gives_the_noise_another_generator():
    # PyTorch may take the one of a failed capture to be captured still.
    captured, _ = make(Emulated(failing=True))
    noise = Noise(0)
    before = noise.generator
    for number in range(4):
        assert noise.generator is before
        captured(inputs(number), noise)
    assert noise.generator is not before


def test_the_first_cause_of_a_failure_is_told(capsys):
    class Failing(Emulated):
        def capture(self, run, generator):
            try:
                raise ValueError("no item() here")
            finally:
                raise RuntimeError("the capture was invalid")

    captured, _ = make(Failing())
    for number in range(4):
        captured(inputs(number), noise := Noise(0))
    assert capsys.readouterr().out == ""  # Each noise is warmed up by itself.
    for number in range(4):
        captured(inputs(number), noise)
    assert "failed (ValueError: no item() here), so" in capsys.readouterr().out


def test_a_capture_does_nothing_that_the_calls_before_it_have_not_done():
    # What is done for the first time may be refused while a graph is captured.
    seen = {False: set(), True: set()}

    class Watching(Emulated):
        @contextmanager
        def aside(self):
            with Capturable() as watched:
                yield
            seen[False] |= watched.seen

        def capture(self, run, generator):
            def watched_run():
                with Capturable() as watched:
                    outputs = run()
                seen[True] |= watched.seen
                return outputs

            return super().capture(watched_run, generator)

    captured, _ = make(Watching())
    noise = Noise(0)
    for _ in range(4):
        captured(({"x": torch.ones(3)}, torch.zeros(3)), noise)
    assert "stack" in seen[True] and seen[True] <= seen[False]


def test_a_capture_waits_for_calls_of_its_own_thread():
    backend = Emulated()
    captured, fn = make(backend)
    noise = Noise(0)
    for number in range(3):
        captured(inputs(number), noise)
    thread = threading.Thread(target=captured, args=(inputs(1), noise))
    thread.start()
    thread.join()
    for _ in range(3):
        captured(inputs(1), noise)
        assert backend.captures == 0
    captured(inputs(1), noise)
    assert backend.captures == 1 and fn.sum.tolist() == [8, 8, 8]


def test_noise_that_is_recorded_is_never_baked_into_a_graph():
    backend = Emulated()
    captured, _ = make(backend)
    noise = Replayed()
    for number in range(6):
        captured(inputs(number), noise)
    assert len(noise.asked) == 6 and backend.captures == backend.asides == 0


def test_graphs_are_for_gpus_and_for_jit():
    assert backend_for(CPU, True) is None and backend_for(CPU, False) is None
    assert backend_for(torch.device("cuda"), False) is None


def captured_agent(monkeypatch, changes, discrete=True):
    """An agent that believes in graphs, and the backend of its update and policy."""
    made = []

    def emulated(device, jit):
        made.append(Emulated())
        return made[-1]

    with monkeypatch.context() as patch:
        patch.setattr(dreamerv2.agent, "backend_for", emulated)
        agent = make_agent(changes, discrete)
    for backend in made:
        backend._state = lambda: live_state(agent)
    return agent, *made


CONFIGS = {
    "greedy": ({"actor_grad": "both", "actor_grad_mix": "linear(1,0.1,40)"}, True),
    "gaussian": ({**GAUSSIAN, "slow_target_update": 3, "rssm.ensemble": 3}, False),
    "Plan2Explore": (
        {
            **{"expl_behavior": "Plan2Explore", "expl_extr_scale": 0.5},
            **{"reward_norm.momentum": 0.9, "expl_noise": 0.1},
        },
        False,
    ),
    "ModelLoss": ({"expl_behavior": "ModelLoss", "precision": "bfloat16"}, True),
    "float16": ({"precision": "float16", "slow_target": False}, True),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_an_agent_whose_updates_are_replayed_learns_the_same(name, monkeypatch):
    changes, discrete = CONFIGS[name]
    agent, update, choose = captured_agent(monkeypatch, changes, discrete)
    plain = make_agent(changes, discrete)
    policies = [None, None]
    for i in range(10):
        batch = make_batch(i, discrete)
        obs = make_obs(i, first=i == 0)
        found = []
        for j, each in enumerate((agent, plain)):
            each._counter.increment(3)
            metrics = each.train(batch)
            mode = "explore" if i < 5 else "train"
            out, policies[j] = each.policy(obs, policies[j], mode)
            action = torch.as_tensor(out["action"])
            latent, last = policies[j]
            found.append({**metrics, "l": latent, "last": last})
            found[-1] |= {"action": action, **each.state_dict()}
        assert_same(*found)
    assert (update.asides, update.captures, update.replays) == (3, 1, 7)
    assert (choose.asides, choose.captures, choose.replays) == (6, 2, 4)


def test_an_evaluation_draws_from_its_own_stream_and_leaves_trainings_alone(
    monkeypatch,
):
    changes = {"eval_noise": 0.3}
    agent, _, choose = captured_agent(monkeypatch, changes)
    plain = make_agent(changes)
    for i in range(6):
        found = []
        for each in (agent, plain):
            actions = [each.policy(make_obs(i), None, "train")[0]["action"]]
            before = each.noise.state_dict()
            actions.append(each.policy(make_obs(i), None, "eval")[0]["action"])
            assert_same(each.noise.state_dict(), before)
            actions.append(each.policy(make_obs(i), None, "train")[0]["action"])
            actions.append(each.policy(make_obs(i), None, "eval")[0]["action"])
            found.append(np.stack(actions))
        np.testing.assert_array_equal(*found)
    assert choose.captures == 2


def test_a_restored_agent_goes_on_by_the_graphs_that_are_there(monkeypatch):
    agent, update, _ = captured_agent(monkeypatch, {})
    for i in range(6):
        agent.train(make_batch(i))
    plain = make_agent({"seed": 5})
    expected = plain.train(make_batch(9))
    restored = make_agent({"seed": 5})
    agent.load_state_dict(restored.state_dict())
    found = agent.train(make_batch(9))
    assert_same(found, expected)
    assert_same(agent.state_dict(), plain.state_dict())
    assert update.captures == 1 and update.replays == 4


def test_an_agent_whose_captures_fail_learns_the_same(monkeypatch, capsys):
    agent, *backends = captured_agent(monkeypatch, {})
    plain = make_agent()
    for backend in backends:
        backend._failing = True
    for i in range(8):
        found = []
        for each in (agent, plain):
            metrics = each.train(make_batch(i))
            action = torch.as_tensor(each.policy(make_obs(i), None)[0]["action"])
            found.append({**metrics, "action": action, **each.state_dict()})
        assert_same(*found)
    out = capsys.readouterr().out
    assert out.count("an update as a CUDA graph failed") == 1
    assert out.count("the policy as a CUDA graph failed") == 1


def test_batches_of_another_size_get_another_graph(monkeypatch):
    agent, update, _ = captured_agent(monkeypatch, {})
    plain = make_agent()
    for i in range(12):
        batch = make_batch(i, batch=BATCH - i % 2)
        assert_same(agent.train(batch), plain.train(batch))
    assert update.captures == 2 and capture.MOST >= 6


def test_a_whole_run_by_graphs_logs_and_saves_what_one_without_does(
    tmp_path, monkeypatch
):
    """With evaluations, which draw aside, and gone on with half way."""
    found, made = [], []
    for name in ("plain", "graphs"):
        logdir = tmp_path / name
        for steps in (40, 60):
            agents = []

            class Noted(dreamerv2.agent.Agent):
                def __init__(self, *args, agents=agents, **more):
                    agents.append(self)
                    super().__init__(*args, **more)

            def emulated(device, jit, agents=agents):
                made.append(Emulated(lambda: live_state(agents[0])))
                return made[-1]

            with monkeypatch.context() as patch:
                patch.setattr("dreamerv2.running.parts.Agent", Noted)
                if name == "graphs":
                    patch.setattr(dreamerv2.agent, "backend_for", emulated)
                flags = "--expl_noise", 0.2, "--logdir", logdir, "--steps", steps
                ok(train_here(*CATCH, *flags))
        state = checkpoint(logdir)["agent"]
        found.append((untimed(logdir), named_tensors(state)))
    assert found[0][0] == found[1][0]
    assert_same(found[0][1], found[1][1])
    assert all(backend.captures and backend.replays for backend in made)
    assert len(made) == 4


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
@pytest.mark.parametrize("name", CONFIGS)
def test_on_a_gpu_an_agent_whose_updates_are_graphs_learns_the_same(
    name, monkeypatch, capsys
):
    """Not run without a GPU."""
    monkeypatch.setattr(builder, "compile_trouble", lambda device: "Left out")
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    changes, discrete = CONFIGS[name]
    changes = {**changes, "device": "cuda"}
    agents = [make_agent({**changes, "jit": jit}, discrete) for jit in (True, False)]
    policies = [None, None]
    for i in range(8):
        batch, obs, found = make_batch(i, discrete), make_obs(i, first=i == 0), []
        for j, agent in enumerate(agents):
            metrics = agent.train(agent.to_tensors(batch))
            out, policies[j] = agent.policy(obs, policies[j])
            found.append({**metrics, **out})
    assert "failed" not in capsys.readouterr().out
    for each in (agents[0]._update, agents[0]._choose):
        assert [graph.captured is not None for graph in each._graphs.values()] == [True]
    assert_same(*(agent.noise.state_dict() for agent in agents))
    for key in ("model_loss", "image_loss", "critic_loss", "reward_mean"):
        numbers = [each[key].nan_to_num(7.7) for each in found]  # As in assert_same.
        torch.testing.assert_close(*numbers, rtol=1e-2, atol=1e-3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
def test_on_a_gpu_what_is_compiled_is_captured_too(capsys):
    """Not run without a GPU. As a run with the defaults does it."""
    agent = make_agent({"device": "cuda", "jit": True, "precision": "16"})
    policy = None
    for i in range(6):
        metrics = agent.train(agent.to_tensors(make_batch(i)))
        _, policy = agent.policy(make_obs(i, first=i == 0), policy)
    told = capsys.readouterr().out
    if "without torch.compile" in told:
        pytest.skip(told)
    assert "failed" not in told
    for each in (agent._update, agent._choose):
        assert [graph.captured is not None for graph in each._graphs.values()] == [True]
    assert torch.isfinite(metrics["model_loss"])
