"""Runs on images of other sizes, several images, vectors beside them, and RAM."""

import math

import numpy as np
from run_tools import TINY, episodes, events, metrics, ok, one_sentence, train_here

MODULE = """
import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, MultiDiscrete


class Two(gymnasium.Env):
    observation_space = Dict(
        left=Box(0, 255, (32, 32, 1), np.uint8),
        right=Box(0, 255, (32, 32, 3), np.uint8),
        body=Dict(speed=Box(-1, 1, (2,), np.float32)),
    )
    action_space = MultiDiscrete([2, 3])

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        return self.observation_space.sample(), float(action[1]), False, False, {}


gymnasium.register("Two-v0", Two)
"""
LITTLE = (
    "--render_size 32 32 --encoder.cnn_kernels 4 4 4 --decoder.cnn_kernels 5 6 6"
).split()


def trained(logdir, *flags):
    """What a few updates show: the last metrics and what was printed."""
    flags = [*flags, "--log_every", "10", "--eval_every", "1000", "--steps", "32"]
    result = ok(train_here(*flags, "--logdir", logdir))
    lines = metrics(logdir)
    assert all(math.isfinite(x) for line in lines for x in line.values())
    return [line for line in lines if "model_loss" in line][-1], result.out


def test_two_images_vectors_and_many_actions_learn_together(tmp_path, monkeypatch):
    (tmp_path / "two_images.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    task = ["--task", "gym_two_images:Two-v0"]
    video = ["--log_keys_video", "left", "right"]
    last, out = trained(tmp_path / "run", *TINY, *LITTLE, *task, *video)
    assert "The encoder sees left, right, body_speed; the decoder" in out
    assert {"left_loss", "right_loss", "body_speed_loss"} <= set(last)
    (episode, *_) = episodes(tmp_path / "run" / "train_episodes")
    assert episode["action"].shape[1] == 6
    # The second part of an action is its reward.
    taken = episode["action"][1:].argmax(-1) % 3
    np.testing.assert_array_equal(episode["reward"][1:], taken)
    images = events(tmp_path / "run").Tags()["images"]
    assert {"train_policy_left", "train_policy_right"} <= set(images)


def test_images_of_32x32_and_vectors_learn_together(tmp_path):
    last, out = trained(tmp_path, *TINY, *LITTLE, "--task", "toy_reach")
    assert {"image_loss", "position_loss", "target_loss"} <= set(last)


def test_the_error_for_another_size_names_flags_that_work(tmp_path):
    flags = [*TINY, "--task", "toy_reach", "--render_size", "32", "32"]
    said = one_sentence(train_here(*flags, "--logdir", tmp_path / "a"))
    found = said.partition("use ")[2].rstrip(".").partition(", or")[0].split()
    assert found[0] == "--encoder.cnn_kernels"
    trained(tmp_path / "b", *flags, *found)


def test_atari_learns_from_ram_alone(tmp_path):
    keys = ["--(encoder|decoder).mlp_keys", "ram", "--(encoder|decoder).cnn_keys", "$^"]
    flags = ["--configs", "atari", *TINY, *keys]
    last, out = trained(tmp_path, *flags, "--task", "atari_pong")
    assert "The encoder sees ram; the decoder predicts ram." in out
    assert "ram_loss" in last and "image_loss" not in last
    # Bytes are scaled to [-0.5, 0.5], so that all of them together stay small.
    assert last["ram_loss"] < 0.5 * 128 * (1 + math.log(2 * math.pi))
    (episode, *_) = episodes(tmp_path / "train_episodes")
    assert episode["ram"].dtype == np.uint8 and episode["ram"].shape[1] == 128
    assert "train_policy_image" in events(tmp_path).Tags()["images"]
