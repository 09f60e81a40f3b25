"""Tasks of Gymnasium whose rewards are divided, as the reference's were in training.

`--task gym_divided_rewards:CartPole10-v1` has train.py import this module, which lies
beside it on PYTHONPATH; learns.py sees to that. Returns are logged in those units.
"""

from typing import Any

import gymnasium
from gymnasium.wrappers import TransformReward

DIVISORS = {"CartPole10-v1": ("CartPole-v1", 10), "Pendulum8-v1": ("Pendulum-v1", 8)}


def make(task: str, divisor: float, **options: Any) -> gymnasium.Env:
    """Make the task with its rewards divided."""
    env = gymnasium.make(task, **options)
    return TransformReward(env, lambda reward: reward / divisor)


for _name, (_task, _divisor) in DIVISORS.items():
    gymnasium.register(_name, make, kwargs={"task": _task, "divisor": _divisor})
