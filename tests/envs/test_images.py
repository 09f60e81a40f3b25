"""Images of any layout, number of channels, type and bounds are seen as they are."""

import numpy as np
import pytest
import torch
from agent_tools import small_config
from env_tools import Told, prepared
from gymnasium.spaces import Box

from dreamerv2.agent import Agent
from dreamerv2.common.counter import Counter
from dreamerv2.common.errors import UsageError
from dreamerv2.common.suites.observations import FlatObservation


def pixels(shape, space=None):
    """Different values, and what FlatObservation makes of them."""
    value = (np.arange(np.prod(shape)) % 251).reshape(shape).astype(np.uint8)
    flat = FlatObservation(space or Box(0, 255, shape, np.uint8))
    shown = flat(value)
    (name,) = shown
    assert flat.spaces[name].shape == shown[name].shape
    return value, name, shown[name]


@pytest.mark.parametrize(
    "shape",
    [
        (64, 48, 3),
        (64, 64, 1),
        (84, 84, 4),
        (64, 64, 9),
        (7, 7, 3),
        (8, 8, 12),
        (9, 5, 2),
    ],
)
def test_channels_last_stay(shape):
    value, name, shown = pixels(shape)
    assert name == "image"
    np.testing.assert_array_equal(shown, value)


@pytest.mark.parametrize(
    "shape", [(3, 64, 48), (1, 64, 64), (4, 84, 84), (2, 9, 5), (12, 8, 8)]
)
def test_channels_first_are_moved_to_the_end(shape):
    value, name, shown = pixels(shape)
    assert name == "image" and shown.shape == (*shape[1:], shape[0])
    for channel in range(shape[0]):
        np.testing.assert_array_equal(shown[..., channel], value[channel])


@pytest.mark.parametrize("shape", [(4, 64, 48, 3), (4, 3, 64, 48), (2, 1, 9, 9)])
def test_the_frames_of_a_stack_become_channels(shape):
    value, name, shown = pixels(shape)
    frames = value if shape[-1] == 3 else np.moveaxis(value, 1, -1)
    count = frames.shape[-1]
    assert name == "image" and shown.shape == (*frames.shape[1:3], shape[0] * count)
    for index, frame in enumerate(frames):
        part = shown[..., index * count : (index + 1) * count]
        np.testing.assert_array_equal(part, frame)


@pytest.mark.parametrize("shape", [(8, 8, 8), (3, 3, 3), (84, 4, 84), (20, 8, 10)])
def test_a_shape_that_does_not_tell_is_asked_for(shape):
    with pytest.raises(UsageError, match=r"may be an image \(H, W, C\) or \(C, H, W\)"):
        pixels(shape)


@pytest.mark.parametrize(
    "shape, high, dtype, name",
    [
        ((42, 30), 255, np.uint8, "image"),
        ((42, 30), 255, np.float32, "image"),
        ((42, 30), 1, np.float32, "image"),
        ((42, 30), 1, np.uint8, "image"),
        ((42, 30), 9, np.float32, "vector"),
        ((3, 3), 2, np.uint8, "vector"),
        ((3, 3), 2, np.int64, "vector"),
        ((8, 8), 1, np.float32, "vector"),
        ((2, 2, 2, 2, 2), 255, np.uint8, "vector"),
    ],
)
def test_matrices_are_gray_images_by_size_and_bounds_and_boards_are_none(
    shape, high, dtype, name
):
    space = Box(0, high, shape, dtype)
    flat = FlatObservation(space)
    value = space.sample()
    shown = flat(value)
    assert [*shown] == [name]
    np.testing.assert_array_equal(shown[name].ravel(), value.ravel())
    assert shown[name].shape == ((*shape, 1) if name == "image" else (value.size,))


def seen(space, value):
    """What the encoder gets of an observation, after the environment's wrappers."""
    env = prepared(Told(space, obs=value), render_size=[8, 8])
    obs = {key: np.asarray(x)[None] for key, x in env.reset().items()}
    agent = Agent(small_config(), env.obs_space, env.act_space, Counter())
    return agent.wm.preprocess(agent.to_device(obs))


SCALED = {
    "float32 to 255": (0, 255, np.float32),
    "float64 to 255": (0, 255, np.float64),
    "float32 to 1": (0, 1, np.float32),
    "float32 from -1": (-1, 1, np.float32),
    "int16": (0, 255, np.int16),
    "int32 from -1000": (-1000, 4000, np.int32),
    "uint16": (0, 65535, np.uint16),
}


@pytest.mark.parametrize("case", SCALED)
def test_images_are_scaled_by_their_bounds_as_bytes_are(case):
    low, high, dtype = SCALED[case]
    shape = (8, 8, 3)
    gray = np.random.default_rng(0).integers(0, 6, shape) * 51  # Fifths of 255.
    expected = seen(Box(0, 255, shape, np.uint8), gray.astype(np.uint8))["image"]
    value = (low + gray / 255 * (high - low)).astype(dtype)
    image = seen(Box(low, high, shape, dtype), value)["image"]
    assert image.dtype == torch.float32
    torch.testing.assert_close(image, expected, atol=1e-6, rtol=0)
    assert (expected.min(), expected.max()) == (-0.5, 0.5)


def test_bits_and_small_boards_are_told_apart_by_the_networks():
    bits = np.zeros((8, 8, 3), bool)
    bits[:4] = True
    shown = seen(Box(0, 1, bits.shape, bool), bits)["image"]
    torch.testing.assert_close(shown[0], torch.as_tensor(bits).float() - 0.5)
    board = np.array([[0, 1, 2], [2, 1, 0], [0, 0, 2]], np.uint8)
    shown = seen(Box(0, 2, (3, 3), np.uint8), board)["vector"]
    expected = torch.as_tensor(board).float().reshape(1, 9) / 2 - 0.5
    torch.testing.assert_close(shown, expected)


def test_images_without_bounds_that_are_small_are_seen_as_they_are():
    space = Box(-np.inf, np.inf, (8, 8, 3), np.float32)
    value = np.random.default_rng(0).standard_normal((8, 8, 3)).astype(np.float32)
    np.testing.assert_array_equal(seen(space, value)["image"][0], value)
