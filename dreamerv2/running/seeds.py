"""Seeds of all streams of random numbers in a run: children of config.seed by name."""

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

# A stream's place here is a part of its seed: append, never reorder.
STREAMS = (
    "process",  # The generators that Python, numpy and torch have one of.
    "init",  # The networks' first weights.
    "train_noise",  # What the networks draw while they learn and explore,
    "eval_noise",  # in evaluations and reports,
    "acting_noise",  # in the copy that acts beside training,
    "play_noise",  # and in a dream that is played.
    "random_agent",
    "train_replay",
    "eval_replay",
    "train_env",
    "eval_env",
    "play_env",
    "rank",  # All of the above in a further process of a run.
)


def derive_seed(seed: int, stream: str, *indices: int, bits: int = 63) -> int:
    """Return the seed of one stream of a run, in [0, 2**bits); those of other names,
    indices (0 or more) or runs are independent of it, neighbouring seeds included."""
    key = STREAMS.index(stream), *indices
    sequence = np.random.SeedSequence(seed, spawn_key=key)
    return int(sequence.generate_state(1, np.uint64)[0]) >> (64 - bits)


def derive_env_seed(seed: int, train: bool, *indices: int) -> int:
    """Return the seed of an environment; simulators take 32 bits."""
    return derive_seed(seed, "train_env" if train else "eval_env", *indices, bits=32)


class ProcessRandom:
    """The generators that Python, numpy and torch have one of in a process, seeded as a
    child of `seed`: the program uses its own, but environments may draw from these."""

    def __init__(self, seed: int):
        seed = derive_seed(seed, "process", bits=32)
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)

    def state_dict(self) -> dict[str, Any]:
        states = {
            "python": random.getstate(),
            "numpy": np.random.get_state(),
            "torch": torch.get_rng_state(),
        }
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            states["cuda"] = torch.cuda.get_rng_state()
        return states

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what state_dict returned; leave out those of a missing GPU."""
        random.setstate(state["python"])
        np.random.set_state(state["numpy"])
        torch.set_rng_state(state["torch"].cpu())
        if "cuda" in state and torch.cuda.is_available():
            torch.cuda.set_rng_state(state["cuda"].cpu())
