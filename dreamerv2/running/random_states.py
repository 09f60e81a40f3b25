"""The random generators that a process has one of: the program draws from generators of
its own, but environments may use these."""

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from dreamerv2.running.seeds import derive_seed


class ProcessRandom:
    """The generators of Python, numpy and torch, seeded as a child of `seed`."""

    def __init__(self, seed: int):
        seed = derive_seed(seed, "process", bits=32)
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)

    def state_dict(self) -> dict[str, Any]:
        """Return the states of all generators."""
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
