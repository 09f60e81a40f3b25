"""MiniGrid's DoorKey from pixels: find the key, open the door, reach the goal.

    pip install "dreamerv2-torch[minigrid]"
    python examples/minigrid_doorkey.py --logdir ~/logdir/doorkey

What the agent sees is the picture of the seven by seven fields before it. With
--envs 4 --envs_parallel process, four games are played at a time.
"""

import gymnasium
from minigrid.wrappers import ImgObsWrapper, RGBImgPartialObsWrapper

import dreamerv2.api as dv2

SETTINGS = {
    "logdir": "~/logdir/doorkey",
    "steps": 1e6,
    "log_every": 1000,
    "eval_every": 1e4,
    "train_every": 10,
    "prefill": 1e4,
    "(encoder|decoder).mlp_keys": "$^",
    # Networks for a laptop; without these four lines they are several times as large.
    "(encoder|decoder).cnn_depth": 16,
    "rssm": {"hidden": 200, "deter": 200, "stoch": 16, "discrete": 16},
    "(reward_head|discount_head|actor|critic).layers": 2,
    "(reward_head|discount_head|actor|critic).units": 128,
    "clip_rewards": "identity",
    "actor_ent": 3e-3,
    "replay.minlen": 10,
}


def make_env() -> gymnasium.Env:
    """The game, with a picture as its only observation."""
    env = gymnasium.make("MiniGrid-DoorKey-5x5-v0")
    return ImgObsWrapper(RGBImgPartialObsWrapper(env))


if __name__ == "__main__":
    dv2.train(make_env, dv2.defaults.update(SETTINGS).parse_flags())
