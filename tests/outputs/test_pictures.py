"""Pictures for the logger, and GIFs."""

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from dreamerv2.common.outputs.pictures import (
    as_image,
    as_video,
    check_picture,
    encode_gif,
)


def read_gif(data):
    image = Image.open(io.BytesIO(data))
    pixels, durations = [], []
    for frame in ImageSequence.Iterator(image):
        pixels.append(np.asarray(frame.convert("RGB")))
        durations.append(frame.info["duration"])
    return np.stack(pixels), durations, image.info.get("loop")


def test_floats_become_bytes_and_batches_lie_side_by_side():
    floats = torch.tensor([[0.0, 0.5, 1.0], [-1.0, 2.0, math.nan]])
    np.testing.assert_array_equal(
        as_image(floats)[..., 0], [[0, 128, 255], [0, 255, 0]]
    )
    bfloats = as_image(floats.bfloat16())
    np.testing.assert_array_equal(bfloats, as_image(floats))

    batch = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3), np.uint8)
    np.testing.assert_array_equal(as_image(batch), np.concatenate(batch, 1))
    videos = np.random.default_rng(0).integers(0, 256, (2, 6, 4, 5, 3), np.uint8)
    np.testing.assert_array_equal(as_video(videos), np.concatenate(videos, 2))


def test_alpha_is_dropped():
    video = np.random.default_rng(0).integers(0, 256, (6, 4, 5, 4), np.uint8)
    np.testing.assert_array_equal(as_video(video), video[..., :3])
    np.testing.assert_array_equal(as_image(video[0]), video[0, ..., :3])


@pytest.mark.parametrize("channels, shown", [(1, 1), (2, 1), (3, 3), (5, 3), (9, 3)])
def test_of_many_channels_the_first_three_are_shown_and_of_two_the_first(
    channels, shown
):
    video = np.random.default_rng(0).integers(0, 256, (6, 4, 5, channels), np.uint8)
    for value, show, kind in (
        (video, as_video, "video"),
        (video[0], as_image, "image"),
    ):
        check_picture("x", value, kind)
        np.testing.assert_array_equal(show(value), value[..., :shown])


@pytest.mark.parametrize("dtype", [np.int8, np.uint16, np.int32, np.int64])
def test_other_integers_are_shown_from_the_least_to_the_greatest(dtype):
    image = np.array([[0, 30], [60, 120]], dtype) - (60 if dtype == np.int8 else 0)
    image = image.astype(dtype)
    check_picture("x", image, "image")
    assert as_image(image)[..., 0].tolist() == [[0, 64], [128, 255]]
    assert as_image(np.zeros((2, 2), dtype)).max() == 0


@pytest.mark.parametrize("value", [np.zeros((4, 5), "U3"), np.zeros((0, 5, 3)), 1.0])
def test_what_is_no_picture_is_named(value):
    with pytest.raises(ValueError, match="'map'"):
        check_picture("map", value, "image")


# GIFs


def test_gray_gifs_are_exact_and_loop_at_the_given_rate():
    frames = np.arange(256, dtype=np.uint8).reshape(16, 16)
    frames = np.stack([np.roll(frames, i) for i in range(7)])[..., None]
    pixels, durations, loop = read_gif(encode_gif(frames, fps=20))
    np.testing.assert_array_equal(pixels, np.repeat(frames, 3, -1))
    assert durations == [50] * 7
    assert loop == 0


def test_frames_that_are_all_alike_are_all_kept():
    for channels in (1, 3):
        frames = np.full((9, 8, 10, channels), 77, np.uint8)
        pixels, durations, _ = read_gif(encode_gif(frames))
        assert pixels.shape == (9, 8, 10, 3)
        assert durations == [50] * 9
        assert (pixels == 77).all()


def test_frames_of_few_colors_are_exact():
    rng = np.random.default_rng(0)
    colors = rng.integers(0, 256, (4, 256, 3), np.uint8)
    picks = rng.integers(0, 256, (4, 20, 30))
    frames = np.stack([colors[t][picks[t]] for t in range(4)])
    np.testing.assert_array_equal(read_gif(encode_gif(frames))[0], frames)
    one = np.broadcast_to(np.uint8([10, 20, 30]), (2, 1, 1, 3))
    np.testing.assert_array_equal(read_gif(encode_gif(one))[0], one)


def test_frames_of_many_colors_come_close():
    y, x, t = np.mgrid[:64, :64, :3]
    frames = np.stack([4 * y, 4 * x, 100 + 2 * y + 40 * t], -1).astype(np.uint8)
    frames = np.moveaxis(frames, 2, 0)
    pixels = read_gif(encode_gif(frames))[0]
    error = np.abs(pixels.astype(float) - frames)
    assert pixels.shape == frames.shape
    assert error.mean() < 6
    assert error.max() < 40


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((0, 4, 4, 3), np.uint8),
        np.zeros((2, 4, 4, 4), np.uint8),
        np.zeros((2, 4, 4, 3), np.float32),
        np.zeros((4, 4, 3), np.uint8),
        np.zeros((1, 1, 70000, 1), np.uint8),
    ],
)
def test_what_cannot_be_a_gif_is_refused(frames):
    with pytest.raises(ValueError):
        encode_gif(frames)
