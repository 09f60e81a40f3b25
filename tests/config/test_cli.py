"""The command line: from anywhere, and bad input gets one clear sentence."""

import sys

import pytest
import torch
from run_tools import (
    COMMAND,
    SCRIPT,
    TINY,
    metrics,
    ok,
    one_sentence,
    train,
    train_here,
)

from dreamerv2.running.statefile import load_checkpoint, save_checkpoint

CATCH = [*TINY, "--task", "toy_catch", "--steps", "25"]


ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


# The command is given a logdir that its locale cannot print.
@pytest.mark.parametrize(
    "command, logdir, locale",
    [(SCRIPT, "a run/1", {}), (COMMAND, "L\u00e5ng", ASCII)],
    ids=["script", "command, in ASCII alone"],
)
def test_a_run_works_from_any_working_directory(
    command, logdir, locale, tmp_path, monkeypatch
):
    for name, value in locale.items():
        monkeypatch.setenv(name, value)
    result = ok(train(*CATCH, "--logdir", logdir, command=command, cwd=tmp_path))
    assert result.err == ""
    assert any("model_loss" in line for line in metrics(tmp_path / logdir))


def test_bad_input_ends_the_process_with_exit_code_2(tmp_path):
    result = train("--rssm.detr", "3", command=COMMAND, cwd=tmp_path)
    sentence = one_sentence(result)
    assert sentence.startswith(
        "Unknown flag '--rssm.detr'; did you mean --rssm.deter or "
    )
    assert result.out == ""
    assert not list(tmp_path.iterdir())


REFUSED_AT_ONCE = {
    "--expl_behavior ModelLoss --expl_model_loss images": "Unknown expl_model_loss 'i",
    # The command line.
    "--rssm.detr 3": "did you mean --rssm.deter",
    "--deter 3": "--rssm.deter",
    "--rssm 3": "it is a group, so set one of its keys: --rssm.ensemble,",
    "--steps": "Flag --steps has no value",
    "-seed 1": "takes one value, a string, but got 3: ",
    r"--.*\.nrm layer": "as a pattern it must match a whole key",
    "--configs atarii": "Unknown preset 'atarii', not one of defaults, atari,",
    "--steps 2.5": "takes a whole number (such as 3 or 1e6), but got '2.5'",
    "--steps many": "'steps' takes a whole number",
    "--jit true": "'jit' takes True or False, but got 'true'; write True",
    "--model_opt.lr big": "'model_opt.lr' takes a number",
    "--render_size 64,x": "'render_size' takes a whole number",
    "--seed 1 2": "'seed' takes one value",
    # Values with which no run can work.
    "--seed -1": "--seed is -1; it must be 0 to 9223372036854775807.",
    "--envs 0": "--envs is 0; it must be 1 or more.",
    "--eval_eps 0": "--eval_eps is 0; it must be 1 or more.",
    "--seed 1e30": "it must be 0 to 9223372036854775807.",
    "--rssm.discrete -1": "--rssm.discrete is -1; it must be 0 or more.",
    "--train_steps 0": "--train_steps is 0; it must be 1 or more.",
    "--model_opt.lr -1e-4": "--model_opt.lr is -0.0001; it must be 0 or more.",
    "--discount 1.01": "--discount is 1.01; it must be 0 to 1.",
    "--discount inf": "--discount is inf; it must be 0 to 1.",
    "--kl.balance 8": "--kl.balance is 8.0; it must be 0 to 1.",
    "--action_repeat 0": "--action_repeat is 0; it must be 1 or more.",
    "--time_limit -1": "--time_limit is -1; it must be 0 or more.",
    "--train_every -1": "--train_every is -1; it must be 0 or more.",
    "--dataset.length 1": "--dataset.length is 1; it must be 2 or more.",
    "--imag_horizon 1": "--imag_horizon is 1; it must be 2 or more.",
    "--rssm.ensemble 0": "--rssm.ensemble is 0; it must be 1 or more.",
    "--encoder.mlp_layers 8 0": "--encoder.mlp_layers is 0; it must be 1 or more.",
    "--render_size 64": "--render_size takes two numbers",
    "--clip_rewards abs": "is 'abs'; it must be identity, sign or tanh.",
    "--log_keys_max *": "is '*'; it must be a regular expression (nothing to repeat",
    "--encoder.mlp_keys (": "--encoder.mlp_keys is '('; it must be a regular expr",
    "--expl_noise -0.1": "--expl_noise is -0.1; it must be 0 or more.",
    "--expl_noise 1.5": "expl_noise is 1.5, but with discrete actions it is the chance",
    "--eval_noise 2": "eval_noise is 2, but with discrete actions it is the chance",
    "--model_opt.wd 2": "--model_opt.wd is 2.0; it must be 0 to 1.",
    "--loss_scales.image -1": "--loss_scales.image is -1.0; it must be 0 or more.",
    "--loss_scales.imag 2": "the losses are kl, reward, discount, image, and",
    "--load_parts world_model": "from the run that --load names, and there is none:",
    "--load_parts brain": "--load_parts is 'brain'; it must be all, world_model,",
    "--log_keys_video imgae": "names 'imgae', but the images are image: name some",
    "--disag_offset -1": "--disag_offset is -1; it must be 0 or more.",
    "--disag_action_next True --disag_action_cond False": "it is told none:",
    "--replay.minlen 0": "--replay.minlen is 0; it must be 1 or more.",
    # Environments.
    "--task attari_pong": "the nearest is atari.",
    "--task pong": "Unknown task 'pong': expected SUITE_NAME with a suite of atari,",
    "--task atari_pnog": "Unknown Atari game 'pnog': the nearest are pong,",
    "--task toy_cach": "Unknown task toy_cach: did you mean toy_catch?",
    "--task gym_CartPol-v1": "the nearest are CartPole-v1",
    "--envs_parallel threads": "is 'threads'; it must be none, thread or process.",
    # Device and networks.
    "--device gpu": "Unknown device 'gpu': expected auto, cpu, cuda or cuda:N.",
    "--device cuda:99": "Device 'cuda:99' was asked for, but PyTorch sees",
    "--precision 8": "--precision is '8'; it must be 16, 32, bfloat16,",
    "--expl_behavior greed": "is 'greed'; it must be greedy, Random, Plan",
    "--actor_grad reinforced": "is 'reinforced'; it must be auto, dynamics,",
    "--actor.dist normal": "actor.dist 'normal' does not fit discrete",
    "--rssm.act tan": "--rssm.act is 'tan'; it must be elu, gelu, leaky",
    "--rssm.norm batch": "--rssm.norm is 'batch'; it must be none or layer.",
    "--model_opt.opt adamw": "--model_opt.opt is 'adamw'; it must be adam,",
    "--encoder.cnn_keys images": "The encoder has no input: encoder.cnn_keys 'images'",
    "--decoder.cnn_keys images": "The decoder has no output",
    "--render_size 32 32": "do not fit images of 32x32",
    "--grad_heads decoder,rewards": "--grad_heads is 'rewards'; it must be decoder,",
    "--pred_discount False": "grad_heads names 'discount'",
    # Replay.
    "--replay.maxlen 4": "replay.maxlen is 4; it must be 0 (no limit) or at least",
    "--replay.capacity -1": "--replay.capacity is -1; it must be 0 or more.",
    "--dataset.batch 0": "--dataset.batch is 0; it must be 1 or more.",
}


@pytest.mark.parametrize("flags", REFUSED_AT_ONCE)
def test_bad_input_gets_one_sentence_before_anything_is_done(flags, tmp_path):
    logdir = tmp_path / "run"
    result = train_here(*CATCH, "--logdir", logdir, *flags.split(" "))
    assert REFUSED_AT_ONCE[flags] in one_sentence(result)
    assert not list(logdir.glob("*_episodes/*")), "Not after the prefill."


REFUSED_LATER = {
    "--prefill 0": "has 0 episodes to draw from (0 on disk with 0 steps,",
    "--prefill 0 --pretrain 0": "1 unfinished with 1 steps); it needs one finished",
    "--replay.minlen 21 --replay.maxlen 50": "(0 on disk with 0 steps, 2 skipped as",
    "--actor_ent linear(1,2)": "'linear(1,2)' is no schedule: expected a number,",
}


@pytest.mark.parametrize("flags", REFUSED_LATER)
def test_what_only_the_run_can_tell_gets_one_sentence_too(flags, tmp_path):
    result = train_here(*CATCH, "--logdir", tmp_path, *flags.split(" "))
    assert REFUSED_LATER[flags] in one_sentence(result)


def test_a_minlen_that_no_episode_reaches_is_told_with_what_to_do(tmp_path):
    flags = ["--replay.minlen", "30", "--replay.maxlen", "50"]
    result = train_here(*CATCH, "--logdir", tmp_path, *flags)
    assert one_sentence(result).endswith(
        "it needs one finished episode of at least 30 steps (replay.minlen): collect "
        "more steps or set replay.minlen lower."
    )
    assert "fewer than replay.minlen, 30, steps; the last one has 20" in result.out


@pytest.mark.parametrize(
    "task, module, extra",
    [
        ("crafter_reward", "crafter", "crafter"),
        ("dmc_walker_walk", "dm_control", "dmc"),
    ],
)
def test_a_missing_optional_package_comes_with_its_pip_command(
    task, module, extra, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, module, None)  # As if it were not installed.
    result = train_here(*CATCH, "--task", task, "--logdir", tmp_path)
    command = f'pip install "dreamerv2-torch[{extra}]"'
    assert one_sentence(result) == (
        f"The package {module} is missing: install it with {command}."
    )


def test_a_gpu_that_is_not_there_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    result = train_here(*CATCH, "--device", "cuda", "--logdir", tmp_path)
    sentence = one_sentence(result)
    assert "Device 'cuda' was asked for, but PyTorch sees 0 CUDA GPUs" in sentence
    assert "--device cpu" in sentence


def test_an_argument_before_all_flags_is_refused():
    sentence = one_sentence(train_here("atari", *CATCH))
    assert sentence.startswith("Argument 'atari' belongs to no flag;")


def test_without_a_logdir_nothing_runs():
    sentence = one_sentence(train_here(*CATCH))
    assert sentence.startswith("No --logdir was given: name the folder for this run,")


@pytest.mark.parametrize("below", ["", "/run"])
def test_a_logdir_that_cannot_be_written_is_named(tmp_path, below):
    path = f"{tmp_path}/file{below}"
    (tmp_path / "file").touch()
    sentence = one_sentence(train_here(*CATCH, "--logdir", path))
    assert sentence.startswith(f"Cannot write {path} (")
    assert "choose another --logdir" in sentence


@pytest.mark.parametrize("name", ["train_episodes", "eval_episodes", "metrics.jsonl"])
def test_something_in_the_way_inside_the_logdir_is_named(tmp_path, name):
    path = tmp_path / name
    path.touch() if name.endswith("episodes") else path.mkdir()
    result = train_here(*CATCH, "--logdir", tmp_path)
    assert str(path) in one_sentence(result)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The logdir of a short run, for tests that leave it as it is."""
    logdir = tmp_path_factory.mktemp("short") / "run"
    ok(train_here(*CATCH, "--logdir", logdir))
    return logdir


REFUSED_CHANGES = {
    "--rssm.deter 9 --actor.layers 2 --train_every 7": "networks of another shape "
    "(rssm.deter 8 -> 9, actor.layers 1 -> 2)",
    "--task toy_reach": "other episodes (task toy_catch -> toy_reach)",
    # The metrics of a run count in frames: with other ones, theirs would be cut.
    "--action_repeat 2": "steps that count otherwise (action_repeat 1 -> 2)",
    "--offline /recordings": "steps that count otherwise (offline '' -> /recordings)",
}


@pytest.mark.parametrize("flags", REFUSED_CHANGES)
def test_what_a_run_cannot_go_on_with_is_refused_and_no_file_is_touched(flags, run):
    files = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert (run / "metrics.jsonl") in files
    result = train_here(*CATCH, "--logdir", run, "--steps", "40", *flags.split())
    assert one_sentence(result) == (
        f"The run in {run} cannot go on with {REFUSED_CHANGES[flags]}: use the values "
        "that it has, or another --logdir to start anew."
    )
    after = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert after == files


def test_a_run_says_what_it_will_do_and_whether_it_goes_on(run, tmp_path):
    out = ok(train_here(*CATCH, "--logdir", tmp_path)).out
    assert out.splitlines()[0] == "New run: toy_catch, on cpu, to the end at 25 steps."
    assert f"Writes to {tmp_path}.\n" in out
    out = ok(train_here(*CATCH, "--logdir", tmp_path)).out
    assert "Goes on at 25 steps: toy_catch, on cpu, to the end at 25 steps.\n" in out


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def age(path):
    """Make it the checkpoint of a version that comes later."""
    content = torch.load(path, weights_only=True)
    torch.save({**content, "version": 99}, path)


def lose(part):
    def change(path):
        state = load_checkpoint(path)
        del state[part]
        save_checkpoint(path, state)

    return change


DAMAGES = {
    "cut": (cut, "or no checkpoint"),
    "flipped": (flip, "is damaged"),
    "empty": (lambda path: path.write_bytes(b""), "cut short or no checkpoint"),
    "version": (age, "it has format 99 and this program reads 1"),
    "no step": (lose("step"), "has no 'step': it is of another version"),
    "no part": (lose("when_eval"), "has no 'when_eval': it is of another version"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_checkpoint_that_cannot_be_used_is_named_and_left_alone(name, run):
    damage, told = DAMAGES[name]
    path = run / "variables.pt"
    whole = path.read_bytes()
    (run / "variables.prev.pt").unlink(missing_ok=True)  # Or else it would be taken.
    try:
        damage(path)
        damaged = path.read_bytes()
        flags = [*CATCH, "--steps", "30", "--logdir", run]
        sentence = one_sentence(train_here(*flags))
        assert path.read_bytes() == damaged
    finally:
        path.write_bytes(whole)
    assert str(path) in sentence and told in sentence
    assert "move it away" in sentence


def test_a_gpu_whose_memory_is_not_enough_is_told_in_one_sentence(
    tmp_path, monkeypatch
):
    def learn(agent, data, state=None):
        raise torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 1.00 GiB free. "
            "Of the allocated memory 7 GiB is allocated by PyTorch.\nMore."
        )

    monkeypatch.setattr("dreamerv2.agent.Agent.train", learn)
    sentence = one_sentence(train_here(*CATCH, "--logdir", tmp_path))
    assert sentence == (
        "The memory of the GPU is not enough (CUDA out of memory. Tried to allocate "
        "2.00 GiB. GPU 0 has 1.00 GiB free): end other programs that use it, or lower "
        "--dataset.batch or the sizes of the networks."
    )
