"""Load a trained agent and act with it.

python examples/cartpole.py --logdir ~/logdir/cartpole
python examples/act.py --logdir ~/logdir/cartpole
"""

import argparse

import gymnasium

import dreamerv2.api as dv2


def main(logdir: str, episodes: int = 5) -> None:
    """Plays CartPole with the agent in a folder, and prints the returns."""
    player = dv2.load(logdir, gymnasium.make("CartPole-v1"))
    for _ in range(episodes):
        obs, total = player.env.reset(), 0.0
        while not obs["is_last"]:
            obs = player.env.step(player(obs))
            total += obs["reward"]
        print(f"Return {total:.0f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--logdir", default="~/logdir/cartpole")
    parser.add_argument("--episodes", type=int, default=5)
    main(**vars(parser.parse_args()))
