"""Environments of one's own from Python: roles, refusals, going on, and acting."""

import io
import traceback
from contextlib import redirect_stdout

import gymnasium
import numpy as np
import pytest
from env_tools import Told
from gymnasium.spaces import Box, Discrete
from run_tools import NETWORKS, TINY, episodes, one_sentence, train_here

import dreamerv2.api as dv2
from dreamerv2.common.flags import Flags
from dreamerv2.running.own_envs import OwnEnvs

pytestmark = pytest.mark.usefixtures("one_thread")

LOOP = {
    "dataset.length": 6,
    "replay": {"minlen": 1, "maxlen": 6},
    "prefill": 10,
    "log_every": 0,
    "eval_every": 100,
    "train_every": 5,
    "steps": 10,
    "logger": ["none"],
}


def config(logdir, **changes):
    small = Flags(dv2.defaults).parse(NETWORKS).update(LOOP)
    return small.update(logdir=str(logdir), **changes)


def quietly(*args, **kwargs):
    with redirect_stdout(io.StringIO()) as out:
        dv2.train(*args, **kwargs)
    return out.getvalue()


# --- One environment, one role --------------------------------------------------------

ONE = Told()


@pytest.mark.parametrize(
    "env, evaluation, words",
    [
        (lambda: ONE, None, "Told was given for training and again for evaluation"),
        (
            lambda: gymnasium.wrappers.TimeLimit(ONE, 9),
            None,
            "and again for evaluation",
        ),
        ([ONE, ONE], None, "for training and again for training"),
        ([ONE, gymnasium.wrappers.TimeLimit(ONE, 9)], None, "again for training"),
        (ONE, ONE, "for training and again for evaluation"),
        (Told(), [ONE, ONE], "for evaluation and again for evaluation"),
        (lambda: ONE, Told(), None),
        ([Told(), Told()], [Told(), Told()], None),
        (Told, None, None),
    ],
)
def test_one_object_in_two_roles_is_refused(tmp_path, env, evaluation, words):
    def make():
        envs = OwnEnvs(env, evaluation, config(tmp_path, eval_eps=2))
        for train in [True] * envs.config.envs + [False] * envs.evaluates:
            envs(envs.config, 1, train)
        return envs

    if words is None:
        make()
        return
    with pytest.raises(dv2.UsageError, match=words):
        make()


def test_a_function_may_give_one_that_failed_again(tmp_path):
    env = Told()
    envs = OwnEnvs(lambda: env, Told(), config(tmp_path))
    for seed in range(3):  # The second and third take the place of the first.
        envs(envs.config, seed, True)


def test_environments_elsewhere_are_copies_of_one(tmp_path):
    env = Told()
    quietly(lambda: env, config(tmp_path, envs_parallel="thread"))
    assert not hasattr(env, "gave")
    assert len(episodes(tmp_path / "train_episodes")) >= 2


@pytest.mark.parametrize("other", [Told(Box(-9, 9, (3,))), Told(action=Discrete(3))])
def test_environments_of_one_run_are_of_one_kind(tmp_path, other):
    with pytest.raises(dv2.UsageError, match="differ in their spaces"):
        dv2.train([Told(), other], config(tmp_path))
    with pytest.raises(dv2.UsageError, match="differ in their spaces"):
        dv2.train(Told, config(tmp_path), eval_env=Told(Box(-9, 9, (3,))))


@pytest.mark.parametrize("env", [None, [], "CartPole-v1", lambda: "CartPole-v1", 3])
def test_what_is_no_environment_is_refused(tmp_path, env):
    with pytest.raises(dv2.UsageError, match="Expected an environment|is empty"):
        dv2.train(env, config(tmp_path))


# --- Sentences ------------------------------------------------------------------------


def wrong():
    return Told(reward=None)


def test_from_python_a_refusal_ends_in_the_users_call(tmp_path):
    with pytest.raises(dv2.UsageError, match="gave the reward None") as info:
        dv2.train(wrong, config(tmp_path))
    frames = traceback.extract_tb(info.value.__traceback__)
    assert [frame.filename.rpartition("/")[2] for frame in frames] == [
        "test_own_envs.py",
        "api.py",
    ]
    assert info.value.__suppress_context__
    assert not (tmp_path / "config.yaml").exists()  # Before any file was written.


@pytest.mark.parametrize("parallel", ["none", "process"])
def test_from_the_command_line_a_refusal_is_one_line_and_code_2(
    tmp_path, monkeypatch, parallel
):
    (tmp_path / "strange.py").write_text(
        "import gymnasium, numpy as np\n"
        "from gymnasium.spaces import Box, Discrete\n"
        "class Strange(gymnasium.Env):\n"
        "    observation_space = Box(0, 255, (64, 64, 3), np.uint8)\n"
        "    action_space = Discrete(2)\n"
        "    def reset(self, seed=None, options=None):\n"
        "        return np.zeros((64, 64, 3)), {}\n"
        "gymnasium.register('Strange-v0', Strange)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    flags = [*TINY, "--task", "gym_strange:Strange-v0", "--envs_parallel", parallel]
    said = one_sentence(train_here(*flags, "--logdir", tmp_path / "run"))
    assert said == (
        "The environment's observation 'image' holds float64 numbers, but its "
        "space says uint8 of shape (64, 64, 3) in [0, 255]: give what the space says, "
        "or correct the space."
    )


# --- Going on, loading, acting --------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    quietly(Told, config(folder))
    return folder


OTHERS = {
    "observations": (
        lambda: Told(Box(-9, 9, (3,), np.float32)),
        r"'vector' of shape \(2,\) rather than \(3,\)",
    ),
    "actions": (
        lambda: Told(action=Discrete(5)),
        r"'action' of shape \(2,\) rather than \(5,\)",
    ),
    "images": (
        lambda: Told(Box(0, 255, (64, 64, 3), np.uint8)),
        r"'image' of shape none rather than \(64, 64, 3\)",
    ),
}


@pytest.mark.parametrize("case", OTHERS)
def test_an_environment_with_other_spaces_is_refused_by_what_differs(trained, case):
    make, words = OTHERS[case]
    before = {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()}
    with pytest.raises(dv2.UsageError, match=f"learned from other spaces .*{words}"):
        dv2.load(trained, make())
    with pytest.raises(dv2.UsageError, match=f"learned from other spaces .*{words}"):
        quietly(make, config(trained, steps=20))
    after = {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()}
    assert after.keys() == before.keys()
    assert all(after[p] == before[p] for p in after if p.name != ".lock")


def test_a_function_of_another_name_goes_on(tmp_path):
    quietly(lambda: Told(), config(tmp_path))

    def renamed():
        return Told()

    assert "Resumed at step 10." in quietly(renamed, config(tmp_path, steps=15))


@pytest.mark.parametrize(
    "obs, words",
    [
        (np.zeros(2, np.float32), "but got a ndarray"),
        ((np.zeros(2, np.float32), {}), "but got a tuple"),
        ({"vector": np.zeros(2, np.float32)}, r"but got vector of shape \(2,\)"),
        (None, "but got a NoneType"),
    ],
)
def test_a_player_says_that_it_takes_what_its_environment_observes(trained, obs, words):
    with dv2.load(trained, Told()) as player:
        with pytest.raises(dv2.UsageError, match=f"player.env observes.*{words}"):
            player(obs)
        first = player.env.reset()
        with pytest.raises(dv2.UsageError, match=r"vector of shape \(3,\)"):
            player({**first, "vector": np.zeros(3, np.float32)})
        assert player(first)["action"].shape == (2,)


def test_a_player_closes_its_environment(trained):
    closed = []

    class Closing(Told):
        def close(self):
            closed.append(self)

    with dv2.load(trained, Closing()) as player:
        player.episode()
        assert not closed
    assert len(closed) == 1
    player = dv2.load(trained, Closing())
    player.close()
    assert len(closed) == 2


# --- Images that train ----------------------------------------------------------------


@pytest.mark.parametrize(
    "space",
    [
        Box(0, 255, (3, 64, 64), np.uint8),
        Box(0, 255, (64, 64, 2), np.uint8),
        Box(0, 255, (64, 64, 9), np.uint8),
        Box(0, 255, (64, 64, 3), np.float32),
        Box(-100, 100, (64, 64, 3), np.int8),
        Box(0, 1, (64, 64, 1), bool),
    ],
    ids=str,
)
def test_images_of_every_kind_train_and_are_logged(tmp_path, space):
    settings = {"log_every": 5, "eval_every": 5, "pretrain": 1}
    quietly(lambda: Told(space), config(tmp_path, **settings))
    (first, *_) = episodes(tmp_path / "train_episodes")
    assert first["image"].shape[1:3] == (64, 64)
    assert list((tmp_path / "report").iterdir())
