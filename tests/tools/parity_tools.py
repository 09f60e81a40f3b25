"""Recordings of our own agents, in the form of the reference's."""

import json

import numpy as np
from agent_tools import make_batch, make_obs, small_config
from recordings import agents
from recordings.recording import RecordedNoise, Recording

from dreamerv2.common.networks.noise import Noise
from dreamerv2.running import reference


class Recorder(RecordedNoise):
    """Draws at random, and keeps every draw under the name that it is looked up by."""

    def __init__(self, seed=0):
        self.stage = ""
        self.draws = {}
        self._noise = Noise(seed)

    def __call__(self, name, kind, shape):
        scope, _, last = name.rpartition("/")
        draw = self._noise(name, kind, shape)
        self.draws[f"{self._folder(scope)}/{last}"] = draw.numpy()
        return draw


def record(
    path, monkeypatch, changes, discrete=True, updates=1, batch=2, length=4, calls=2
):
    """Writes a recording of a small agent of ours; returns its arrays.

    The agent's config is that of agent_tools with ``changes``.
    """
    config = small_config(changes).to_dict()
    arrays = {"config": np.array(json.dumps(config))}
    for i in range(updates):
        data = make_batch(i, discrete, batch=batch, length=length)
        arrays.update({f"update{i}/batch/{k}": v for k, v in data.items()})
    for t in range(calls):
        obs = make_obs(10 + t, count=3, first=t == 0)
        arrays.update({f"policy/obs{t}/{k}": v for k, v in obs.items()})
    data = make_batch(20, discrete, batch=6, length=length + 2)
    arrays.update({f"report/batch/{k}": v for k, v in data.items()})
    if not discrete:
        # By this a file tells, where its config says `auto`, what the actions are.
        arrays["params0/actor/out/std/kernel"] = np.zeros(0)
    np.savez(path, **arrays)
    agent = agents.build_agent(Recording(path), "32", "cpu", False)
    params = reference.to_reference(agent)
    arrays.update({f"params0/{name}": value for name, value in params.items()})
    np.savez(path, **arrays)
    recorder = Recorder()
    with monkeypatch.context() as patch:
        patch.setattr(agents, "recorded_noise", lambda *_: recorder)
        results = agents.compute(Recording(path), "32", "cpu", False, None)
    arrays.update(recorder.draws)
    arrays.update({name: to_array(value) for name, value in results.items()})
    np.savez(path, **arrays)
    return arrays


def to_array(value):
    return value if isinstance(value, np.ndarray) else value.detach().numpy()
