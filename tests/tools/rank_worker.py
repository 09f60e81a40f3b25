"""One rank of two: trains agents on its half of each batch, beside one on the whole.

Started by torchrun with the name of a file, to which rank 0 writes for each
configuration and each way of reducing how far parameters are apart in the end.
"""

import json
import sys
from pathlib import Path

import torch

TESTS = Path(__file__).parent.parent
sys.path[:0] = [str(TESTS.parent / "benchmarks")]

from recordings.agents import build_agent  # noqa: E402
from recordings.recording import Recording  # noqa: E402

from dreamerv2.common.device.ranks import ALONE, Ranks, join_ranks  # noqa: E402
from dreamerv2.common.networks.noise import Noise  # noqa: E402
from dreamerv2.common.torchutils import Optimizer  # noqa: E402
from dreamerv2.running import reference  # noqa: E402

# Clips so low that they act; rewards are normed; free nats lie between the ranks' KLs.
EVERYWHERE = {r".*_opt\.clip": 0.05, ".*reward_norm.momentum": 0.9}
CASES = {
    "discrete_pixels": {},
    "continuous_pixels": {},
    "gaussian_vectors": {},
    "plan2explore": {},
    "seams_and_free_nats": {"disag_mask_seams": True, "kl.free_avg": True},
}


class Share:
    """Draws for the whole batch, and gives the rows of one rank, which are in dim 1."""

    def __init__(self, ranks):
        self._noise, self._ranks = Noise(7), ranks

    def __call__(self, name, kind, shape):
        if len(shape) < 2:  # One draw for all rows.
            return self._noise(name, kind, shape).double()
        time, rows, *rest = shape
        whole = self._noise(name, kind, (time, rows * self._ranks.count, *rest))
        return whole[:, self._ranks.rank * rows :][:, :rows].double()


def share(batch, ranks):
    """A rank's half of four rows, of which the last is the first again."""
    rows = [0, 1, 2, 0][ranks.rank * 4 // ranks.count :][: 4 // ranks.count]
    return {key: value[rows] for key, value in batch.items()}


def trained(case, free, ranks):
    """An agent after three updates on a recording's batches; and its first KL."""
    name = "plan2explore" if case not in RECORDINGS else case
    changes = {**EVERYWHERE, **CASES[case]}
    if free is not None:
        changes["kl.free"] = free
    agent = build_agent(RECORDINGS[name], "64", "cpu", False, changes, ranks)
    reference.load_reference(agent, RECORDINGS[name].group("params0"))
    agent.noise = Share(ranks)
    updates = [
        agent.train(share(RECORDINGS[name].group(f"update{i}/batch"), ranks))
        for i in range(3)
    ]
    params = {k: v.detach() for k, v in reference.parameters(agent).items()}
    return params, float(updates[0]["model_kl"])


def error(found, wanted):
    """The largest relative difference of a parameter."""
    errors = [
        (found[k] - x).norm() / x.norm().clamp(min=1e-3) for k, x in wanted.items()
    ]
    return float(torch.stack(errors).max())


def clipped_first(optimizer, grads, apply=Optimizer.apply):
    """Clip by the norm of this rank alone, and only then reduce."""
    norm = torch.stack(torch._foreach_norm(grads)).norm()
    factor = optimizer._clip / norm.clamp(min=optimizer._clip)
    return apply(optimizer, torch._foreach_mul(grads, factor))


def main(path):
    torch.set_num_threads(1)
    ranks = join_ranks()
    table = {}
    for case, changes in CASES.items():
        free = None
        if "kl.free_avg" in changes:
            kls = ranks.gather(trained(case, None, ranks)[1])
            free = sum(kls) / 2 - abs(kls[0] - kls[1]) / 4
        wanted, _ = trained(case, free, ALONE)
        found, _ = trained(case, free, ranks)
        others = ranks.gather(found)
        same = all(torch.equal(x[k], found[k]) for x in others for k in found)
        row = table[case] = {"right": error(found, wanted), "same": same}
        original = Optimizer.apply
        Optimizer.apply = clipped_first
        row["clipped first"] = error(trained(case, free, ranks)[0], wanted)
        Optimizer.apply = original
        original = Ranks.mean
        Ranks.mean = lambda self, value: value
        row["own means"] = error(trained(case, free, ranks)[0], wanted)
        Ranks.mean = original
    if ranks.rank == 0:
        Path(path).write_text(json.dumps(table, indent=1))
    ranks.close()


RECORDINGS = {
    path.stem: Recording(path) for path in sorted((TESTS / "parity").glob("*s.npz"))
} | {"plan2explore": Recording(TESTS / "parity" / "plan2explore.npz")}

if __name__ == "__main__":
    main(sys.argv[1])
