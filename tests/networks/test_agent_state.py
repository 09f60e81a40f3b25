"""The agent's seeds, saved state, precisions and compilation."""

import functools

import numpy as np
import pytest
import torch
from agent_tools import GAUSSIAN, make_agent, make_batch, make_obs, snapshot

from dreamerv2.common import torchutils
from dreamerv2.common.config import load_presets
from dreamerv2.common.device.builder import Builder, compile_trouble
from dreamerv2.common.errors import UsageError
from dreamerv2.common.nets import EnsembleRSSM
from dreamerv2.common.torchutils import Precision, can_compile, named_tensors
from dreamerv2.running.statefile import load_checkpoint, save_checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")


def copied(state):
    return {
        key: copied(value) if isinstance(value, dict) else value.clone()
        for key, value in state.items()
    }


def train(agent, seeds, discrete=True):
    """Updates on one batch per seed. Returns the metrics of the last."""
    for seed in seeds:
        metrics = agent.train(make_batch(seed, discrete))
    return metrics


def assert_same(left, right):
    left, right = named_tensors(left), named_tensors(right)
    assert left.keys() == right.keys()
    for key, value in left.items():
        assert torch.equal(value, right[key]), key


def test_one_seed_makes_one_agent_and_another_seed_another():
    first, again, other = (make_agent({"seed": seed}) for seed in (1, 1, 2))
    assert_same(first.state_dict(), again.state_dict())
    for key, value in snapshot(other).items():
        if key.endswith("kernel"):
            assert (value != snapshot(first)[key]).all(), key
    results = [train(agent, (0, 1)) for agent in (first, again, other)]
    assert_same(results[0], results[1])
    assert results[0]["model_loss"] != results[2]["model_loss"]
    assert_same(first.state_dict(), again.state_dict())


def test_nothing_depends_on_the_global_random_state():
    results = []
    for seed in (5, 6):
        torch.manual_seed(seed)
        np.random.seed(seed)
        agent = make_agent({"expl_behavior": "Plan2Explore"}, discrete=False)
        metrics = train(agent, (0, 1), discrete=False)
        action = torch.as_tensor(agent.policy(make_obs(), None, "explore")[0]["action"])
        results.append({**metrics, **agent.state_dict(), "action": action})
    assert_same(*results)


def test_no_two_networks_start_alike():
    agent = make_agent({"expl_behavior": "Plan2Explore"})
    kernels = {
        name: tuple(value.flatten()[:10].tolist())
        for name, value in snapshot(agent).items()
        if name.endswith("dense0/kernel")
    }
    behaviors = ("actor", "critic", "target_critic", "expl_actor", "expl_critic")
    for name in (*behaviors, "expl_head0", "expl_head1", "reward", "discount"):
        assert f"{name}/dense0/kernel" in kernels
    assert len(set(kernels.values())) == len(kernels)


SETTINGS = {
    "greedy": {},
    "gaussian": GAUSSIAN,
    "Plan2Explore": {
        **{"expl_behavior": "Plan2Explore", "expl_extr_scale": 0.5},
        **{"expl_reward_norm.momentum": 0.9, "reward_norm.momentum": 0.9},
    },
    "ModelLoss": {"expl_behavior": "ModelLoss", "slow_target_update": 2},
    "float16": {"precision": "float16"},
}


@pytest.mark.parametrize("discrete", [True, False], ids=["onehot", "box"])
@pytest.mark.parametrize("name", SETTINGS)
def test_a_restored_agent_trains_on_as_if_never_stopped(tmp_path, name, discrete):
    agent = make_agent(SETTINGS[name], discrete)
    train(agent, (0, 1), discrete)
    save_checkpoint(tmp_path / "agent.pt", {"agent": agent.state_dict()})
    expected = train(agent, (2, 3), discrete)

    restored = make_agent({**SETTINGS[name], "seed": 99}, discrete)
    train(restored, (7,), discrete)
    loaded = load_checkpoint(tmp_path / "agent.pt")
    restored.load_state_dict(loaded["agent"])
    assert_same(train(restored, (2, 3), discrete), expected)
    assert_same(agent.state_dict(), restored.state_dict())
    actions = [each.policy(make_obs())[0]["action"] for each in (agent, restored)]
    np.testing.assert_array_equal(*actions)


def test_loading_copies_and_does_not_share():
    agent, other = make_agent({"seed": 1}), make_agent({"seed": 2})
    other.load_state_dict(agent.state_dict())
    before = snapshot(agent)
    train(other, (0,))
    assert all(torch.equal(before[key], x) for key, x in snapshot(agent).items())


def test_a_state_that_does_not_fit_is_an_error_that_names_what_and_changes_nothing():
    agent = make_agent()
    wide = make_agent({"actor.units": 9})
    before = copied(agent.state_dict())
    with pytest.raises(
        UsageError, match=r"task_behavior.actor.dense0.weight is 9x21 where 8x21 is nee"
    ):
        agent.load_state_dict(wide.state_dict())
    state = copied(agent.state_dict())
    del state["wm"]["rssm"]["img_in.bias"]
    state["wm"]["encoder"]["conv0.weight"] += 1
    with pytest.raises(UsageError, match=r"1 missing \(wm\.rssm\.img_in\.bias\)"):
        agent.load_state_dict(state)
    assert_same(before, agent.state_dict())


def test_precision_16_on_a_cpu_gives_the_numbers_of_float32():
    agents = [make_agent({"precision": name}) for name in ("16", "32", "float32")]
    assert {agent.precision.compute for agent in agents} == {torch.float32}
    results = [train(agent, (0, 1)) for agent in agents]
    for other in results[1:]:
        assert_same(results[0], other)


@pytest.mark.parametrize("latents", [{}, GAUSSIAN], ids=["categorical", "gaussian"])
@pytest.mark.parametrize("discrete", [True, False], ids=["onehot", "box"])
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_16_bit_training_is_finite_and_keeps_everything_in_float32(
    precision, discrete, latents
):
    changes = {"precision": precision, "expl_behavior": "Plan2Explore", **latents}
    agent = make_agent(changes, discrete)
    metrics = train(agent, range(3), discrete=discrete)
    exact = make_agent({**changes, "precision": "32"}, discrete)
    expected = train(exact, range(3), discrete=discrete)
    for key, value in metrics.items():
        # A scaled gradient may overflow; then its step is skipped.
        if precision == "bfloat16" or not key.endswith("grad_norm"):
            assert torch.isfinite(value), key
    for key in ("image_loss", "reward_loss", "discount_loss"):
        assert metrics[key].item() == pytest.approx(expected[key].item(), rel=0.05)
        assert metrics[key] != expected[key]  # It did compute in 16 bits.
    for key, value in [*agent.carried.items(), *snapshot(agent).items()]:
        assert value.dtype == torch.float32 and torch.isfinite(value).all(), key
    scales = {key for key in metrics if key.endswith("loss_scale")}
    names = ("model", "actor", "critic", "expl_expl", "expl_actor", "expl_critic")
    scaled = names if precision == "float16" else ()
    assert scales == {f"{name}_loss_scale" for name in scaled}
    action = agent.policy(make_obs())[0]["action"]
    assert action.dtype == np.float32 and np.isfinite(action).all()
    video = agent.report(make_batch(discrete=discrete))["openl_image"]
    assert video.dtype == np.float32 and np.isfinite(video).all()


def test_float64_puts_everything_into_float64():
    agent = make_agent({"precision": "64"})
    metrics = train(agent, (0,))
    for key, value in [*agent.carried.items(), *snapshot(agent).items()]:
        assert value.dtype == torch.float64, key
    single = train(make_agent(), (0,))
    for key in ("model_loss", "critic_loss"):
        assert metrics[key].item() == pytest.approx(single[key].item(), rel=1e-3)


def test_unknown_devices_are_usage_errors():
    with pytest.raises(UsageError, match="Unknown device 'gpu'"):
        make_agent({"device": "gpu"})


def test_without_a_compiler_jit_is_left_out_with_a_word(monkeypatch, capsys):
    monkeypatch.setenv("CXX", "no-such-compiler")
    agent = make_agent({"jit": True})
    assert "without torch.compile" in capsys.readouterr().out
    assert_same(train(agent, (0,)), train(make_agent(), (0,)))


def test_a_gpu_on_which_nothing_can_be_compiled_is_used_without(monkeypatch, capsys):
    # The device without numbers goes the ways of a GPU.
    device = torch.device("meta")
    light = functools.partial(torch.compile, backend="eager")

    def broken(*args, **kwargs):
        def run(x):
            try:
                raise OSError("Python.h: no such file.\nMore.")
            except OSError as error:
                raise RuntimeError("backend='inductor' raised") from error

        return run

    def full(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(torch, "compile", light)
    assert compile_trouble(device) is None
    monkeypatch.setattr(torch, "compile", broken)
    precision, random = Precision("32", device), torch.Generator()
    build = Builder(device, precision, random, jit=True)
    assert capsys.readouterr().out == (
        "torch.compile does not work here (OSError: Python.h: no such file): running "
        "without torch.compile (jit).\n"
    )
    rssm = EnsembleRSSM(2, 5, **load_presets()["defaults"]["rssm"])
    plain = rssm._filter
    assert build(rssm)._filter == plain
    Builder(device, precision, random, jit=False)
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(torch, "compile", full)
    with pytest.raises(torch.OutOfMemoryError):  # Which is no fault of the compiler's.
        compile_trouble(device)


def test_a_gpu_that_pytorch_does_not_see_is_missed_aloud(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    agent = make_agent({"device": "auto"})
    assert "float32. (PyTorch sees no CUDA GPU.)\n" in agent.summary()
    (tmp_path / "nvidia-smi").touch(mode=0o755)
    for version, told in ((None, "CPUs alone"), ("13.0", "CUDA 13.0")):
        monkeypatch.setattr(torch.version, "cuda", version)
        summary = agent.summary()
        assert "CUDA GPU, though an NVIDIA driver is installed: " in summary
        assert f"this build of PyTorch is for {told}; " in summary


def test_what_names_no_gpu_means_the_one_that_was_asked_for(monkeypatch):
    class Told(Exception):
        pass

    def tell(device):
        raise Told(device)

    monkeypatch.setattr(
        torchutils, "resolve_device", lambda name: torch.device("cuda", 1)
    )
    monkeypatch.setattr(torch.cuda, "set_device", tell)
    with pytest.raises(Told, match="cuda:1"):
        make_agent()


@pytest.fixture
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def assert_near(left, right):
    """To rounding, in float32."""
    assert left.keys() == right.keys()
    for key, value in left.items():
        torch.testing.assert_close(
            right[key], value, rtol=1e-5, atol=1e-6, msg=lambda m, k=key: f"{k}: {m}"
        )


@pytest.mark.skipif(not can_compile(), reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize("discrete", [True, False], ids=["onehot", "box"])
def test_an_agent_that_is_compiled_learns_the_same(
    discrete, monkeypatch, fresh_compiler
):
    # Traced, differentiated and checked for graph breaks as for any compiler, but run
    # by PyTorch's own kernels: making C++ of the whole agent takes a minute. (Made into
    # C++, parameters and moments differ by up to 3e-7 after these updates.)
    light = functools.partial(torch.compile, backend="aot_eager", fullgraph=True)
    monkeypatch.setattr(torch, "compile", light)
    changes = {"actor_grad": "dynamics", "expl_behavior": "Plan2Explore"}
    found = []
    for jit in (True, False):
        agent = make_agent({"jit": jit, **changes}, discrete)
        parts = (agent.wm.rssm._filter, agent.wm.rssm._dream, agent.wm.encoder._cnn)
        for part in (*parts, agent.wm.decoder._cnn):
            assert hasattr(part, "_torchdynamo_orig_callable") == jit
        metrics = train(agent, range(20), discrete=discrete)
        _, latent = agent.policy(make_obs())
        video = torch.as_tensor(agent.report(make_batch(2, discrete))["openl_image"])
        found.append({**metrics, **snapshot(agent), **latent[0], "video": video})
    assert_near(*found)


@pytest.mark.skipif(not can_compile(), reason="torch.compile needs a C++ compiler")
def test_a_step_made_into_cpp_computes_the_same(fresh_compiler):
    agent = make_agent()
    rssm = agent.wm.rssm
    state = {key: value + 0.3 for key, value in rssm.initial(2).items()}
    args = state, torch.eye(3)[:2], agent.noise("state", "gumbel", (2, 4, 3))
    with torch.no_grad():
        expected = rssm.img_step(*args)
        rssm.compile_parts()
        assert_near(expected, rssm.img_step(*args))
