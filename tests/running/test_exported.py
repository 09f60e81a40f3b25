"""Exported agents: small files from which the same agent comes back."""

import numpy as np
import pytest
import torch
from run_tools import TINY, ok, one_sentence, train_here
from safetensors.numpy import load_file, save_file

from dreamerv2.agent import Agent
from dreamerv2.common.counter import Counter
from dreamerv2.common.envs import make_env
from dreamerv2.common.errors import UsageError
from dreamerv2.running.exported import find_agent, open_agent, shipped_agents
from dreamerv2.running.exporting import export_run
from dreamerv2.running.reference import to_reference

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def logdir(tmp_path_factory):
    """What train.py leaves of a short run."""
    folder = tmp_path_factory.mktemp("catch")
    ok(train_here(*TINY, "--task", "toy_catch", "--logdir", folder, "--steps", 24))
    return folder


@pytest.fixture
def files(logdir, tmp_path):
    export_run(logdir, tmp_path / "out", score={"mean": 1.5})
    return tmp_path / "out"


def restored(source):
    trained = open_agent(source)
    env = make_env(trained.config, 0)
    spaces = trained.spaces or (env.obs_space, env.act_space)
    agent = Agent(trained.config, *spaces, Counter())
    trained.restore(agent)
    return agent


def test_the_agent_that_comes_back_is_the_run_s_to_16_bits(logdir, files):
    assert sorted(p.name for p in files.iterdir()) == [
        "catch.npz",
        "catch.safetensors",
        "catch.yaml",
    ]
    before, after = (to_reference(restored(source)) for source in (logdir, files))
    for name, value in before.items():
        source = name.removeprefix("target_")  # The slow critic is the critic.
        np.testing.assert_array_equal(
            after[name], before[source].astype(np.float16).astype(np.float32)
        )
        assert value.dtype == np.float32


def test_spaces_actions_and_story_come_back(logdir, files):
    trained = find_agent(files)
    env = make_env(trained.config, 0)
    assert trained.spaces[0] == env.obs_space
    assert trained.spaces[1]["action"] == env.act_space["action"]
    assert trained.story["score"] == {"mean": 1.5}
    assert trained.story["frames"] == 24
    assert trained.config.task == "toy_catch"
    with np.load(trained.episode) as episode:
        assert episode["is_first"][0] and episode["image"].dtype == np.uint8


def test_an_optimizer_is_not_among_them(files):
    names = load_file(files / "catch.safetensors")
    assert {name.partition("/")[0] for name in names} == {
        *("encoder", "rssm", "decoder", "reward", "discount", "actor", "critic")
    }
    assert {value.dtype for value in names.values()} == {np.dtype(np.float16)}


@pytest.mark.parametrize("suffix", [".safetensors", ".yaml", ".npz"])
def test_a_missing_file_is_named(files, suffix):
    (files / f"catch{suffix}").unlink()
    with pytest.raises(UsageError, match=f"catch{suffix}|no agent in"):
        open_agent(files if suffix != ".safetensors" else files / "catch.yaml")


def test_damaged_files_are_refused_by_a_sentence(files):
    (files / "catch.yaml").write_text("config: [")
    with pytest.raises(UsageError, match=r"catch.yaml is damaged .*: export"):
        open_agent(files)


def test_damaged_parameters_are_refused_by_a_sentence(files):
    path = files / "catch.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UsageError, match=r"safetensors cannot be read .*: copy"):
        restored(files)


def test_parameters_of_another_agent_do_not_fit(files):
    path = files / "catch.safetensors"
    tensors = load_file(path)
    tensors["actor/out/out/bias"] = np.zeros(99, np.float16)
    save_file(tensors, path)
    with pytest.raises(UsageError, match=r"1 misshapen \(actor/out/out/bias is"):
        restored(files)


# Learning rates of zero: what is saved is what was loaded.
STILL = ("--.*_opt.lr", 0, "--.*_opt.wd", 0)


def start(folder, source, *flags):
    flags = [*TINY, "--task", "toy_catch", *STILL, "--load", source, *flags]
    return train_here(*flags, "--logdir", folder, "--steps", 12)


def test_a_run_starts_from_an_exported_agent_or_a_part_of_it(files, tmp_path):
    given = to_reference(restored(files))
    ok(start(tmp_path / "all", files))
    ok(start(tmp_path / "part", files, "--load_parts", "world_model"))
    ok(start(tmp_path / "new", ""))
    every, part, new = (
        to_reference(restored(tmp_path / name)) for name in ("all", "part", "new")
    )
    assert all(np.array_equal(every[name], value) for name, value in given.items())
    for name, value in part.items():
        acts = name.startswith(("actor/", "critic/", "target_critic/"))
        np.testing.assert_array_equal(value, (new if acts else given)[name])
    assert not np.array_equal(
        new["actor/out/out/kernel"], given["actor/out/out/kernel"]
    )


def test_an_exported_agent_has_no_exploration_to_load(files, tmp_path):
    told = one_sentence(start(tmp_path, files, "--load_parts", "exploration"))
    assert "exported one, without exploration: leave it out" in told


def test_a_shipped_agent_of_other_sizes_is_refused_by_its_name(tmp_path):
    told = one_sentence(start(tmp_path, "freeway"))
    assert "The set of parameters does not fit this configuration" in told


def test_what_is_no_agent_is_told_with_those_that_there_are(tmp_path):
    with pytest.raises(UsageError, match=r"no agent in .*nowhere.*come.* along"):
        open_agent(tmp_path / "nowhere")


# Of the image mean, deviation, least and most, and the reward, after 10 and 50 steps
# of a dream by modes in which nothing is done.
DREAMS = {
    "boxing": [
        *(-0.006447, 0.126999, -0.653415, 0.41807, -0.69193),
        *(-0.006662, 0.126909, -0.663554, 0.406463, 0.044996),
    ],
    "freeway": [
        *(-0.011683, 0.187841, -0.504398, 0.405981, 0.001088),
        *(-0.011287, 0.18813, -0.505681, 0.407831, 0.000178),
    ],
}


@torch.no_grad()
def dream(agent, episode):
    """Filter five steps of an episode, then dream fifty; return their figures."""
    rssm, wm = agent.wm.rssm, agent.wm
    data = {k: torch.as_tensor(v[None, :5]) for k, v in episode.items()}
    embed = wm.encoder(wm.preprocess(data))
    state, figures = rssm.initial(1), []
    for t in range(5):
        state = rssm.obs_step(
            state, data["action"][:, t], embed[:, t], data["is_first"][:, t]
        )
    noop = torch.eye(wm.action_size)[:1]
    for t in range(1, 51):
        state = rssm.img_step(state, noop)
        if t in (10, 50):
            feat = rssm.get_feat(state)
            image = wm.decoder(feat)["image"].mode()
            reward = wm.heads["reward"](feat).mode()
            figures += [image.mean(), image.std(), image.min(), image.max(), reward]
    return [float(figure) for figure in figures]


def test_agents_that_come_along_are_small():
    sizes = [
        base.with_name(base.name + suffix).stat().st_size
        for base in shipped_agents().values()
        for suffix in (".safetensors", ".yaml", ".npz")
    ]
    assert sizes and sum(sizes) <= 10e6


@pytest.mark.parametrize("name", sorted(shipped_agents()))
def test_an_agent_that_comes_along_dreams_as_it_was_recorded(name):
    trained = find_agent(name)
    agent = Agent(trained.config.update(jit=False), *trained.spaces, Counter())
    trained.restore(agent)
    with np.load(trained.episode) as episode:
        figures = dream(agent, dict(episode))
    np.testing.assert_allclose(figures, DREAMS[name], rtol=0.02, atol=2e-3)
