"""Starting from another run's weights, and learning from recorded episodes alone."""

import json
import shutil

import pytest
import torch
from run_tools import CATCH, one_sentence, train_here
from run_tools import ok as well

from dreamerv2.common.torchutils import named_tensors
from dreamerv2.running.statefile import load_checkpoint


def train(folder, *flags, steps=30):
    return train_here(*CATCH, "--logdir", folder, "--steps", steps, *flags)


def ok(*args, **kwargs):
    return well(train(*args, **kwargs))


def weights(folder, part="wm"):
    return named_tensors(load_checkpoint(folder / "variables.pt")["agent"][part])


def metrics(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of 30 steps with Plan2Explore, whose folder is only read."""
    folder = tmp_path_factory.mktemp("trained")
    ok(folder, "--expl_behavior", "Plan2Explore")
    return folder


# Learning rates of zero: what is saved is what was loaded.
STILL = ("--.*_opt.lr", 0, "--.*_opt.wd", 0, "--steps", 20, "--seed", 7)


def network(state):
    """A world model's or actor-critic's parameters, without what optimizers add."""
    return {k: v for k, v in state.items() if "opt" not in k and "updates" not in k}


def test_a_run_starts_from_all_weights_of_another(trained, tmp_path):
    out = ok(tmp_path, *STILL, "--load", trained, "--expl_behavior", "Plan2Explore").out
    assert "Loaded the weights of world_model and actor_critic and exp" in out
    for part in ("wm", "task_behavior", "expl_behavior"):
        before, after = (
            network(weights(trained, part)),
            network(weights(tmp_path, part)),
        )
        assert before.keys() == after.keys() and before
        moving = [k for k in before if "slow" not in k and "norm.mag" not in k]
        assert all(torch.equal(before[k], after[k]) for k in moving)


def test_optimizers_begin_anew(trained, tmp_path):
    ok(tmp_path, *STILL, "--load", trained)
    counts = [v for k, v in weights(tmp_path).items() if k.endswith("step")]
    before = [v for k, v in weights(trained).items() if k.endswith("step")]
    assert counts and max(map(int, counts)) < max(map(int, before))


def test_the_world_model_alone_leaves_the_behaviour_new(trained, tmp_path):
    out = ok(tmp_path / "a", *STILL, "--load", trained, "--load_parts", "world_model")
    ok(tmp_path / "b", *STILL)
    assert "Loaded the weights of world_model from" in out.out
    loaded, fresh = tmp_path / "a", tmp_path / "b"
    name = "encoder.conv0.weight"
    assert torch.equal(weights(loaded)[name], weights(trained)[name])
    assert not torch.equal(weights(fresh)[name], weights(trained)[name])
    actor = "actor.dense0.weight"
    new = weights(fresh, "task_behavior")[actor]
    assert torch.equal(weights(loaded, "task_behavior")[actor], new)


def test_a_run_that_goes_on_loads_nothing_again(trained, tmp_path):
    ok(tmp_path, "--load", trained)
    moved = weights(tmp_path)["encoder.conv0.weight"]
    out = ok(tmp_path, "--load", trained, *STILL, "--steps", 40).out
    assert "Loaded the weights" not in out and "Resumed at step 30." in out
    assert torch.equal(weights(tmp_path)["encoder.conv0.weight"], moved)


def test_all_means_what_both_runs_have(trained, tmp_path):
    out = ok(tmp_path, "--load", trained, "--steps", 20).out
    assert "Loaded the weights of world_model and actor_critic from" in out


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--load_parts", "brain"], "--load_parts is 'brain'; it must be all, world"),
        (["--rssm.deter", 12], "it has rssm.deter 8 rather than 12"),
        (["--load_parts", "exploration"], "The exploration of"),
    ],
)
def test_what_cannot_be_loaded_is_said_before_a_file_is_written(
    trained, tmp_path, flags, words
):
    assert words in one_sentence(train(tmp_path, "--load", trained, *flags))
    assert not list(tmp_path.glob("*.yaml"))


def test_a_folder_without_a_checkpoint_cannot_be_loaded(tmp_path):
    told = one_sentence(train(tmp_path / "a", "--load", tmp_path / "none"))
    assert f"There is no checkpoint at {tmp_path / 'none' / 'variables.pt'}" in told


def test_recorded_episodes_train_an_agent_without_an_environment(trained, tmp_path):
    before = sorted(path.name for path in (trained / "train_episodes").iterdir())
    # No such task: an environment could not even be made.
    flags = ("--offline", trained, "--task", "toy_nowhere", "--steps", 12)
    out = ok(tmp_path, *flags).out
    assert f"Learns from {len(before) - 1} episodes." in out  # One is the index.
    lines = metrics(tmp_path)
    assert lines[-1]["step"] <= 12
    assert any("model_loss" in line and "actor_loss" in line for line in lines)
    assert not any("train_return" in x or "eval_return" in x for x in lines)
    assert load_checkpoint(tmp_path / "variables.pt")["step"]["value"] == 12
    assert list((tmp_path / "report").glob("*.png"))
    # The recording is as it was, and what was learned from is in the run's folder.
    after = sorted(path.name for path in (trained / "train_episodes").iterdir())
    assert after == before
    taken = {path.name for path in (tmp_path / "train_episodes").glob("*.npz")}
    assert taken == {name for name in before if name.endswith(".npz")}


def test_offline_training_goes_on_where_it_was_even_without_the_recording(
    trained, tmp_path
):
    copy = tmp_path / "copy"
    shutil.copytree(trained / "train_episodes", copy)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    ok(whole, "--offline", copy, "--steps", 16, "--eval_every", 8)
    ok(parts, "--offline", copy, "--steps", 8, "--eval_every", 8)
    shutil.rmtree(copy)
    out = ok(parts, "--offline", copy, "--steps", 16, "--eval_every", 8).out
    assert "Resumed at step 8." in out
    one, two = weights(whole), weights(parts)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[k], two[k]) for k in one)


def test_a_world_model_learned_offline_is_the_start_of_a_run_that_acts(
    trained, tmp_path
):
    ok(tmp_path / "offline", "--offline", trained, "--steps", 5)
    flags = ("--load", tmp_path / "offline", "--load_parts", "world_model")
    out = ok(tmp_path / "online", *flags).out
    assert "Loaded the weights of world_model from" in out
    assert any("eval_return" in line for line in metrics(tmp_path / "online"))


def test_a_folder_without_episodes_is_the_users_fault(tmp_path):
    told = one_sentence(train(tmp_path / "a", "--offline", tmp_path))
    assert f"Found no episodes in {tmp_path}: give --offline a folder" in told
