"""CartPole from its four numbers, on a CPU, through Python.

    python examples/cartpole.py --logdir ~/logdir/cartpole

Every knob of configs.yaml is a flag here, too. The same command goes on where it was
stopped.
"""

import gymnasium

import dreamerv2.api as dv2

SETTINGS = {
    "logdir": "~/logdir/cartpole",
    "steps": 30000,
    # Vectors alone.
    "(encoder|decoder).cnn_keys": "$^",
    "(encoder|decoder).mlp_layers": [128, 128],
    # Small networks.
    "rssm": {"hidden": 128, "deter": 128, "stoch": 8, "discrete": 8},
    "(reward_head|discount_head|actor|critic).layers": 2,
    "(reward_head|discount_head|actor|critic).units": 128,
    "model_opt.lr": 6e-4,
    "actor_opt.lr": 1e-4,
    "critic_opt.lr": 3e-4,
    # Few steps, so many updates. The first episodes are short.
    "prefill": 1000,
    "pretrain": 100,
    "train_every": 4,
    "eval_every": 2000,
    "log_every": 1000,
    "replay": {"minlen": 5, "maxlen": 32},
    "dataset": {"batch": 16, "length": 32},
    "clip_rewards": "identity",
    "actor_ent": 1e-2,
    "loss_scales.discount": 5.0,
    "precision": "32",
    "jit": False,
}


def make_env() -> gymnasium.Env:
    """One environment; the agent trains in some and is evaluated in others."""
    return gymnasium.make("CartPole-v1")


if __name__ == "__main__":
    dv2.train(make_env, dv2.defaults.update(SETTINGS).parse_flags())
