"""Means of numbers of both signs, which may nearly cancel.

No arithmetic gives such a mean to 1e-5 of itself: in gaussian_vectors a mean of rewards
is -3.2e-4 where these are of size 1, and the mean, in float64, of the very rewards in
the file is 4e-5 of it off the metric beside them. So the error of a mean of signed
values is taken relative to the size (root mean square) of the values.

The sizes are the reference's own, never those of what this project computed, so that
nothing wrong here makes its own limit wider.
"""

import re

import numpy as np

from recordings.recording import Recording

ENTROPIES = {"actor_ent": "action", "post_ent": "stoch", "prior_ent": "stoch"}


def size_of_averaged(name: str, recording: Recording) -> float:
    """Return the size of the values that a metric is the mean of, if they have signs.

    Zero for every other array, and where the file does not tell.

    - Rewards: from their mean and standard deviation, metrics of the file.
    - Returns; and the values and the actor's objective, of which returns are made and
      which is made of them: from the returns.
    - Entropies of continuous variables: one nat for each of them.
    """
    match = re.fullmatch(r"(update\d+)/metrics/(expl_)?(\w+)", name)
    if not match:
        return 0.0
    update, explores, metric = match.groups()
    behavior = "expl" if explores else "task"
    if metric in ("reward_mean", "reward_normed_mean"):
        spread = recording.get(name.removesuffix("mean") + "std", 0.0)
        return float(np.hypot(recording[name], spread))
    if metric in ("critic", "critic_slow", "critic_target", "actor_loss"):
        returns = recording.get(f"{update}/{behavior}/lambda_return", 0.0)
        return float(np.sqrt(np.mean(np.square(returns, dtype=np.float64))))
    if metric in ENTROPIES:
        return _count_continuous(ENTROPIES[metric], update, recording)
    return 0.0


def _count_continuous(kind: str, update: str, recording: Recording) -> float:
    """Return the number of action dimensions or latents, zero if they are classes."""
    if kind == "stoch":
        means = recording.get(f"{update}/post/mean")
        return 0.0 if means is None else float(means.shape[-1])
    actions = recording.get(f"{update}/batch/action")
    if actions is None or np.isin(actions, (0, 1)).all():
        return 0.0
    return float(actions.shape[-1])
