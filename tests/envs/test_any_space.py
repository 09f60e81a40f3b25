"""Whatever the space: actions are contained and observations stay, or a sentence."""

import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
from env_tools import Told, prepared
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from dreamerv2.common.driver import Driver
from dreamerv2.common.envs import GymWrapper
from dreamerv2.common.errors import UsageError
from dreamerv2.common.other import RandomAgent
from dreamerv2.common.replay import Replay
from dreamerv2.common.suites.spaces import leaf_spaces

pytestmark = pytest.mark.filterwarnings("ignore:.*it is left out")

QUICK = settings(max_examples=80, deadline=None, derandomize=True)

BOUNDS = [-np.inf, -1e200, -3e38, -1.5, 0, 0.25, 1, 255, 3e38, 1e39, np.inf]
DTYPES = "f4 f8 f2 ? u1 i1 u2 i2 u4 i4 u8 i8".split()


@st.composite
def boxes(draw):
    shape = tuple(draw(st.lists(st.integers(1, 6), max_size=4)))
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    if dtype.kind == "f":
        most = float(np.finfo(dtype).max)
        ends = [x if np.isinf(x) else max(-most, min(x, most)) for x in BOUNDS]
    elif dtype.kind == "b":
        ends = [0, 1]
    else:
        least, most = np.iinfo(dtype).min, np.iinfo(dtype).max
        # Gymnasium cannot draw from more.
        ends = [least, min(most, 2**63 - 2), 0, 1, 5, min(255, most)]
    low, high = sorted([draw(st.sampled_from(ends)), draw(st.sampled_from(ends))])
    if low == high and np.isinf(low):
        low, high = -np.inf, np.inf
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Of precision, for float16.
        return spaces.Box(low, high, shape, dtype.type)


@st.composite
def discretes(draw):
    kind, start = (
        draw(st.sampled_from(["one", "bits", "many"])),
        draw(st.integers(-3, 3)),
    )
    if kind == "one":
        return spaces.Discrete(draw(st.integers(1, 600)), start=start)
    shape = draw(st.lists(st.integers(1, 3), min_size=1, max_size=2))
    if kind == "bits":
        return spaces.MultiBinary(shape)
    nvec = np.array([draw(st.integers(1, 5)) for _ in range(np.prod(shape))])
    return spaces.MultiDiscrete(nvec.reshape(shape), start=np.full(shape, start))


LEFT_OUT = spaces.Text | spaces.Sequence | spaces.Graph | spaces.OneOf
ODD = st.sampled_from(
    [
        spaces.Text(4),
        spaces.Sequence(spaces.Discrete(2)),
        spaces.Graph(spaces.Box(-1, 1, (2,)), None),
        spaces.OneOf([spaces.Discrete(2), spaces.Box(-1, 1, (2,))]),
    ]
)
KEYS = st.sampled_from(["a", "b/c", "reward"])
SPACES = st.recursive(
    st.one_of(boxes(), boxes(), discretes(), discretes(), ODD),
    lambda inner: st.one_of(
        st.dictionaries(KEYS, inner, min_size=1).map(spaces.Dict),
        st.lists(inner, min_size=1, max_size=3).map(spaces.Tuple),
    ),
    max_leaves=3,
)


def sentence(error):
    text = str(error)
    assert text.endswith(".") and "\n" not in text and len(text) > 40, text


@QUICK
@given(SPACES)
def test_an_accepted_space_gets_only_actions_that_it_contains(space):
    inner = Told(action=space, length=50)
    try:
        env = prepared(inner)
    except UsageError as error:
        return sentence(error)
    drawn = env.act_space["action"]
    env.reset()
    agent = RandomAgent(env.act_space, 0)
    actions = [agent({"is_first": np.ones(1)})[0]["action"][0] for _ in range(10)]
    if not getattr(drawn, "discrete", False):
        ends = (-1.0, 1.0, 0.0, 0.999999, -3.0, 3.0)
        actions += [np.full(drawn.shape, x, np.float32) for x in ends]
    for action in actions:
        env.step({"action": action})
    assert len(inner.took) == len(actions)
    for taken in inner.took:
        assert space.contains(taken), (space, taken)


def walk(value, path):
    for key in path:
        value = value[key]
    return value


def restored(leaf, stored):
    """Of stored rows (T, ...), the values in the form of the leaf."""
    if isinstance(leaf, spaces.Discrete):
        assert (stored.sum(-1) == 1).all()
        return stored.argmax(-1) + leaf.start
    if isinstance(leaf, spaces.MultiDiscrete):
        places = np.split(stored, np.cumsum(leaf.nvec.ravel())[:-1], -1)
        found = np.stack([x.argmax(-1) for x in places], -1)
        return found.reshape(-1, *leaf.shape) + leaf.start
    shape = leaf.shape
    if stored.ndim == 4 and len(shape) in (3, 4):  # (T, H, W, frames * C)
        frames = shape[0] if len(shape) == 4 else 1
        stored = stored.reshape(*stored.shape[:3], frames, -1)
        stored = np.moveaxis(stored, 3, 1)  # (T, frames, H, W, C)
        if stored.shape[2:] != shape[-3:]:
            stored = np.moveaxis(stored, -1, 2)
    return stored.reshape(-1, *shape)


def any_action(obs, state):
    return {"action": np.zeros(1, int)}, state


@QUICK
@given(SPACES)
def test_observations_come_back_from_the_replay_as_they_were_or_are_refused(space):
    inner = Told(space, length=3)
    with tempfile.TemporaryDirectory() as folder:
        try:
            env = GymWrapper(inner, seed=0)
            driver, replay = Driver([env]), Replay(folder, minlen=1)
            driver.on_reset(replay.add_step)
            driver.on_step(replay.add_step)
            driver(any_action, episodes=1)
        except UsageError as error:
            return sentence(error)
        (path,) = Path(folder).glob("*.npz")
        with np.load(path) as file:
            episode = dict(file)
    names = iter(env.obs_space)
    for path, leaf in leaf_spaces(space):
        if isinstance(leaf, LEFT_OUT):
            continue
        gave = np.stack([np.asarray(walk(obs, path)) for obs in inner.gave])
        stored = episode[next(names)]
        kind = np.float32 if gave.dtype.kind == "f" else gave.dtype
        np.testing.assert_array_equal(restored(leaf, stored), gave.astype(kind))
