"""Recordings of one's own: learned from as they are meant, or refused by name."""

import re
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from run_tools import TINY, ok, train_here

from dreamerv2.common.episodes import minari as minari_module
from dreamerv2.common.episodes import recording
from dreamerv2.common.episodes.files import EpisodeFiles
from dreamerv2.common.episodes.offline import Recordings, find_episodes
from dreamerv2.common.errors import UsageError
from dreamerv2.common.replay import Replay

ONE_HOT = np.eye(3, dtype=np.float32)


def episode(total=6, **changes):
    rng = np.random.default_rng(total)
    action = rng.uniform(-1, 1, (total, 2)).astype(np.float32)
    action[0] = 0
    place = np.arange(total)
    arrays = {
        "vector": rng.normal(size=(total, 4)).astype(np.float32),
        "action": action,
        "reward": place.astype(np.float32),
        "is_first": place == 0,
        "is_last": place == total - 1,
        "is_terminal": np.zeros(total, bool),
        **changes,
    }
    return {key: value for key, value in arrays.items() if value is not None}


def write(folder, *episodes):
    folder.mkdir(parents=True, exist_ok=True)
    for index, arrays in enumerate(episodes):
        np.savez(folder / f"ep{index}.npz", **arrays)
    return Recordings(find_episodes(folder))


def stored(folder, *episodes):
    """The spaces, and the episodes as a replay finds them."""
    recordings = write(folder / "source", *episodes)
    assert recordings.take_in(folder / "target") == len(episodes)
    files = EpisodeFiles(folder / "target")
    return recordings.spaces, [files.load(name) for name in files.scan()]


def refusal(folder, *episodes):
    with pytest.raises(UsageError) as caught:
        write(folder, *episodes)
    assert str(caught.value).count(". ") == 0
    return str(caught.value)


# Files.


def test_files_of_other_names_are_written_anew_once(tmp_path):
    recordings = write(tmp_path / "source", episode())
    for _ in range(2):
        assert recordings.take_in(tmp_path / "target") == 1
    (path,) = find_episodes(tmp_path / "target")
    assert path.name.endswith("-5.npz")
    with np.load(path, allow_pickle=False) as found:
        assert {k: found[k].tolist() for k in found} == {
            k: v.tolist() for k, v in episode().items()
        }


def test_files_of_a_run_are_linked_and_damaged_ones_left_to_its_replay(
    tmp_path, capsys
):
    source, target = tmp_path / "source" / "train_episodes", tmp_path / "target"
    files = EpisodeFiles(source)
    names = [files.save(episode(total)) for total in (5, 6)]
    damaged = source / names[0]
    damaged.write_bytes(damaged.read_bytes()[:-40])
    assert Recordings(find_episodes(tmp_path / "source")).take_in(target) == 2
    assert (target / names[1]).samefile(source / names[1])
    assert Replay(target).stats["total_episodes"] == 1
    assert "Set aside 1 files" in capsys.readouterr().out
    assert damaged.exists()


def test_a_file_that_is_none_is_refused_and_a_lack_of_memory_is_not_its_fault(
    tmp_path, monkeypatch
):
    path = tmp_path / "walk.npz"
    path.write_bytes(b"no zip")
    with pytest.raises(UsageError, match=f"{path} is damaged or no .npz file"):
        Recordings([path])
    with pytest.raises(UsageError, match="Cannot read the recording .*No such file"):
        Recordings([tmp_path / "none.npz"])

    def fail(*args):
        raise MemoryError

    monkeypatch.setattr(recording, "from_bytes", fail)
    with pytest.raises(MemoryError):
        Recordings([path])


# Actions.


@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.float32, np.float64])
def test_indexes_become_one_hot_of_as_many_as_there_are_in_all_files(
    tmp_path, shape, dtype, capsys
):
    first, second = np.array([1, 1, 0, 0]), np.array([2, 0, 1, 2])
    given = [episode(4, action=x.astype(dtype).reshape(shape)) for x in (first, second)]
    (_, act_space), arrays = stored(tmp_path, *given)
    assert act_space["action"].discrete and act_space["action"].shape == (3,)
    assert "as indexes of 3." in capsys.readouterr().out
    for found, indexes in zip(arrays, (first, second), strict=True):
        assert found["action"].dtype == np.float32
        assert found["action"][0].tolist() == [0, 0, 0]
        assert found["action"][1:].tolist() == ONE_HOT[indexes[1:]].tolist()


def test_one_boolean_is_an_index_of_two(tmp_path):
    (_, spaces), (found,) = stored(tmp_path, episode(3, action=np.zeros(3, bool)))
    assert spaces["action"].discrete
    assert found["action"].tolist() == [[0, 0], [1, 0], [1, 0]]


@pytest.mark.parametrize("dtype", [np.float32, np.int64, bool])
def test_one_hot_actions_are_discrete_in_any_type(tmp_path, dtype):
    action = ONE_HOT[[2, 1, 0, 2]]
    given = episode(4, action=action.astype(dtype))
    (_, spaces), (found,) = stored(tmp_path, given)
    assert spaces["action"].discrete and spaces["action"].shape == (3,)
    assert found["action"].dtype == np.float32
    assert found["action"].tolist() == [[0, 0, 0], *action[1:].tolist()]


@pytest.mark.parametrize("order", [1, -1])
def test_actions_at_their_bounds_in_one_file_are_no_one_hot_ones(tmp_path, order):
    at_bounds = episode(5, action=ONE_HOT[[0, 1, 1, 0, 0]][:, :2])
    alone = write(tmp_path / "alone", at_bounds).spaces[1]["action"]
    assert getattr(alone, "discrete", False)
    both = [at_bounds, episode()][::order]
    space = write(tmp_path / "both", *both).spaces[1]["action"]
    assert not getattr(space, "discrete", False)
    assert (space.low.tolist(), space.high.tolist()) == ([-1, -1], [1, 1])


def test_a_single_float_of_0_and_1_is_continuous(tmp_path):
    action = np.array([0, 1, 0, 1], np.float32)
    (_, spaces), (found,) = stored(tmp_path, episode(4, action=action))
    assert not getattr(spaces["action"], "discrete", False)
    assert found["action"].tolist() == [[0], [1], [0], [1]]


def test_the_action_before_the_first_observation_is_zero(tmp_path):
    _, (found,) = stored(tmp_path, episode(3, action=np.full((3, 2), 0.5)))
    assert found["action"].tolist() == [[0, 0], [0.5, 0.5], [0.5, 0.5]]


def test_an_episode_without_a_step_does_not_decide(tmp_path):
    space = write(tmp_path / "two", episode(1), episode()).spaces[1]["action"]
    assert not getattr(space, "discrete", False)
    told = refusal(tmp_path / "one", episode(1))
    assert "ep0.npz: its 'action' tells no step but the reset's" in told


@pytest.mark.parametrize(
    "action, words",
    [
        (np.full((6, 2), 1.5), "goes from 1.5 to 1.5"),
        (np.full((6, 2), -2.0), "goes from -2 to -2"),
        (np.full((6, 2), 0.5 + 1e4j), "is of type complex128"),
        (np.zeros((6, 3)), "has 3 numbers per step"),
        (np.zeros((6, 2, 2)), r"has shape (6, 2, 2) instead of (T, A)"),
        (np.zeros((6, 0)), r"has shape (6, 0) instead of (T, A)"),
        (np.float32(1), r"has shape ()"),
    ],
)
def test_actions_that_cannot_be_meant_are_refused(tmp_path, action, words):
    told = refusal(tmp_path, episode(), episode(action=action))
    assert "ep1.npz: its 'action'" in told and words in told


@pytest.mark.parametrize(
    "action, words",
    [
        (np.full(6, -1), "integers that are neither indexes from 0 on nor one-hot"),
        (np.ones((6, 2), int), "integers that are neither indexes from 0 on nor"),
        (np.arange(6) * 200, "is the index 1000"),
    ],
)
def test_integers_that_are_no_actions_are_refused(tmp_path, action, words):
    told = refusal(tmp_path, episode(action=action))
    assert "ep0.npz: its 'action'" in told and words in told


# The other keys.


@pytest.mark.parametrize("given", [None, np.zeros(6, bool), np.arange(6) == 0])
def test_flags_that_are_missing_are_made_and_others_made_boolean(tmp_path, given):
    first = given if given is None else given.astype(int)[:, None]
    _, (found,) = stored(tmp_path, episode(is_first=first, is_last=None))
    assert found["is_first"].tolist() == [True] + 5 * [False]
    assert found["is_last"].tolist() == 5 * [False] + [True]
    assert found["is_first"].dtype == found["is_last"].dtype == bool


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_rewards_of_one_column_are_one_dimensional_floats(tmp_path, dtype):
    _, (found,) = stored(tmp_path, episode(reward=np.arange(6, dtype=dtype)[:, None]))
    assert found["reward"].dtype == np.float32
    assert found["reward"].tolist() == [0, 1, 2, 3, 4, 5]


def test_observations_come_in_the_form_that_the_networks_take(tmp_path):
    rng = np.random.default_rng(0)
    shapes = {"channels_first": (3, 8, 9), "picture": (8, 8, 3), "gray": (8, 8)}
    given = {k: rng.integers(0, 256, (6, *v), np.uint8) for k, v in shapes.items()}
    floats = {"floats": given["picture"].astype(np.float32), "board": np.eye(6)[None]}
    floats["board"] = np.repeat(floats["board"], 6, 0)
    (obs_space, _), (found,) = stored(tmp_path, episode(**given, **floats))
    expected = {
        "channels_first": np.moveaxis(given["channels_first"], 1, -1),
        "picture": given["picture"],
        "gray": given["gray"][..., None],
        "floats": given["picture"],  # They go beyond 1.
        "board": floats["board"].reshape(6, 36),
    }
    for key, value in expected.items():
        assert obs_space[key].shape == value.shape[1:] == found[key].shape[1:]
        assert obs_space[key].dtype == found[key].dtype
        np.testing.assert_array_equal(found[key], value)


def test_pictures_of_0_to_1_stay_floats_even_if_one_file_is_black(tmp_path):
    pictures = np.random.default_rng(0).random((6, 8, 8, 3))
    black, bright = np.zeros_like(pictures), 255 * pictures
    spaces, arrays = stored(tmp_path / "a", *(episode(image=x) for x in (pictures,)))
    np.testing.assert_array_equal(arrays[0]["image"], pictures.astype(np.float32))
    given = (episode(image=x) for x in (black, bright))
    spaces, arrays = stored(tmp_path / "b", *given)
    assert [x["image"].dtype for x in arrays] == [np.uint8, np.uint8]
    assert spaces[0]["image"].dtype == np.uint8


@pytest.mark.parametrize(
    "key, value, words",
    [
        ("reward", np.full(6, np.nan), "is nan at index 0"),
        ("vector", np.where(np.arange(24) == 9, np.inf, 1).reshape(6, 4), "is inf at"),
        ("vector", np.full((6, 4), 1e300), "is 1e+300 at index 0"),
        ("count", np.full(6, 2**40), "integers beyond 32 bits"),
        ("reward", np.zeros(5), r"has shape (5,), where the action has 6 entries"),
        ("reward", np.zeros((6, 2)), r"has shape (6, 2) instead of (6,)"),
        ("gamma", np.float32(0.99), r"has shape (), where the action has 6 entries"),
        ("info", np.array([{}] * 6), "holds Python objects"),
        ("name", np.array(["a"] * 6), "is of type <U1"),
        ("time", np.zeros(6, "datetime64[s]"), "is of type datetime64[s]"),
        ("is_first", np.arange(6) % 3 == 0, "is True at index 3"),
        ("is_last", np.arange(6) % 3 == 2, "is True at index 2"),
        ("is_terminal", np.full(6, 0.5), "values other than False and True"),
    ],
)
def test_what_cannot_be_learned_from_is_refused_by_file_and_key(
    tmp_path, key, value, words
):
    told = refusal(tmp_path, episode(), episode(**{key: value}))
    assert re.match(r"Cannot use the recording .*ep1.npz: its ", told)
    assert f"'{key}'" in told and words in told


@pytest.mark.parametrize("key", ["action", "reward", "is_terminal"])
def test_keys_that_cannot_be_made_are_asked_for(tmp_path, key):
    assert f"it lacks {key}" in refusal(tmp_path, episode(**{key: None}))


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"vector": None}, "'vector' is missing, not float32 of shape (4,)"),
        ({"more": np.zeros((6, 2))}, "'more' is float32 of shape (2,), not missing"),
        ({"vector": np.zeros((6, 5))}, "float32 of shape (5,), not float32 of shape"),
    ],
)
def test_all_files_are_to_have_the_same_keys_and_shapes(tmp_path, changes, words):
    told = refusal(tmp_path, *3 * [episode()], episode(**changes))
    assert "ep3.npz: " in told and words in told and "as in " in told


def test_keys_for_people_may_be_anything(tmp_path):
    (obs_space, _), _ = stored(tmp_path, episode(log_info=np.array([{}] * 6)))
    assert "log_info" not in obs_space


def test_paths_of_files_are_told_in_full(tmp_path):
    told = refusal(tmp_path / "a b", episode(reward=np.full(6, np.nan)))
    assert str(Path("a b") / "ep0.npz") in told


@pytest.fixture
def minari_id(tmp_path, monkeypatch):
    """A dataset of two episodes of CartPole, of 7 and 9 steps, made on the spot."""
    minari = pytest.importorskip("minari")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "datasets"))
    env = gymnasium.make("CartPole-v1", max_episode_steps=9)
    played, buffers = [], []
    for seed, length in enumerate((7, 9)):
        obs, _ = env.reset(seed=seed)
        steps = [(obs, None, 0.0)]
        for t in range(length):
            obs, reward, *_ = env.step(t % 2)
            steps.append((obs, t % 2, reward))
        played.append(steps)
        buffers.append(
            minari.data_collector.EpisodeBuffer(
                id=seed,
                observations=np.stack([obs for obs, _, _ in steps]),
                actions=np.array([action for _, action, _ in steps[1:]]),
                rewards=[reward for _, _, reward in steps[1:]],
                terminations=[False] * length,
                truncations=[False] * (length - 1) + [True],
            )
        )
    minari.create_dataset_from_buffers("cartpole/wobble-v0", buffers, env=env)
    env.close()
    return "cartpole/wobble-v0", played


@pytest.mark.filterwarnings("ignore::UserWarning:minari")
def test_a_minari_dataset_is_learned_from_by_its_id(minari_id, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name, played = minari_id
    flags = [*TINY, "--configs", "gym", "--task", "gym_CartPole-v1", "--steps", "2"]
    logdir = tmp_path / "run"
    ok(train_here(*flags, "--offline", name, "--logdir", logdir))
    stored = [np.load(p) for p in sorted((logdir / "minari_episodes").glob("*.npz"))]
    assert len(stored) == 2
    for episode, steps in zip(stored, played, strict=True):
        np.testing.assert_array_equal(episode["vector"], [obs for obs, _, _ in steps])
        one_hot = [np.eye(2)[a] if a is not None else [0, 0] for _, a, _ in steps]
        np.testing.assert_array_equal(episode["action"], one_hot)
        np.testing.assert_array_equal(episode["reward"], [r for _, _, r in steps])
        assert episode["is_first"].tolist() == [True] + [False] * (len(steps) - 1)
        assert episode["is_last"].nonzero()[0].tolist() == [len(steps) - 1]
        assert not episode["is_terminal"].any()  # Both were cut off.
    # The same command goes on with the episodes that were taken in.
    flags[-1] = "3"
    ok(train_here(*flags, "--offline", name, "--logdir", logdir))


def test_continuous_actions_of_minari_are_scaled_from_their_bounds():
    space = gymnasium.spaces.Box(np.float32([0, -2]), np.float32([10, 2]))
    actions = np.float32([[0, -2], [5, 0], [10, 2], [2.5, 1]])
    scaled = minari_module._actions(actions, space)
    np.testing.assert_allclose(
        scaled, [[0, 0], [-1, -1], [0, 0], [1, 1], [-0.5, 0.5]], atol=1e-6
    )


def test_an_unknown_dataset_is_one_sentence(tmp_path, monkeypatch):
    pytest.importorskip("minari")
    monkeypatch.setattr("minari.load_dataset", _unknown)
    with pytest.raises(UsageError, match=r"Minari does not give .*a/b-v0 \(no such\)"):
        minari_module.write_minari("a/b-v0", tmp_path)
    assert not minari_module.is_minari(str(tmp_path))


def _unknown(name, download):
    raise ValueError("no such")
