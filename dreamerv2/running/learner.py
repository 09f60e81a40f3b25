"""An agent that acts and learns: updates one after another, or beside acting.

What is computed beside acting does not depend on how long anything takes. With updates
u1, u2, .., each due after two steps s:

    main thread    s s | s s | s s |        | waits for the updates before, gives their
    learner            u1    u2    u3         weights to the copy that acts, goes on

So the acting copy's weights change where updates are due and nowhere else. Saving,
logging and evaluating wait for what is under way, too, but leave the copy as it is."""

import ctypes
import queue
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dreamerv2.agent import Agent
from dreamerv2.common.counter import Counter
from dreamerv2.common.device.profiling import UpdateProfile
from dreamerv2.common.errors import RunFailed
from dreamerv2.common.other import RunningMeans, Timer
from dreamerv2.common.torchutils import named_tensors
from dreamerv2.running.watch import Watch, all_finite, check_actions

GRACE = 1.0  # Seconds that an update gets whose results nobody waits for any more,
LAST = 60.0  # and those after it has been interrupted.
FIRST = 10  # Updates in which code is compiled or captured.

Batch = Mapping[str, Any]
Acted = tuple[dict[str, np.ndarray], Any]


class Learner:
    """An agent that acts, and learns at once from each batch; `timer` times `policy`
    and `update`, `folder` takes a profile and a batch that spoilt an update."""

    def __init__(self, agent: Agent, step: Counter, timer: Timer, folder: Path):
        self.agent, self._step, self._timer = agent, step, timer
        self._profile = UpdateProfile(agent.config.profile, folder)
        self._watch = Watch(agent.config.nan_patience, folder)
        self._means = RunningMeans()  # Of the updates since the last `metrics`.
        self._launched = False  # Whether an update may be under way on the device.

    def policy(self, obs: Mapping[str, Any], state: Any, mode: str) -> Acted:
        """Choose actions, as Agent.policy; RunFailed for ones that are not finite."""
        agent = self._ready_agent()
        with self._timer("policy"):
            outputs, state = agent.policy(obs, state, mode)
        return check_actions(outputs, self._step), state

    def _ready_agent(self) -> Agent:
        if self._launched:  # Or else the policy would be said to take its time.
            with self._timer("update"):
                self.agent.wait()
            self._launched = False
        return self.agent

    def train(self, batch: Batch) -> None:
        """Update the agent on this batch. Does not wait for the device."""
        with self._timer("update"):
            self.learn(batch)
        self._launched = True

    def learn(self, batch: Batch) -> None:
        """Make an update, in whatever thread updates are made."""
        with self._profile:
            metrics = self.agent.train(batch)
        self._watch.add(metrics, batch)
        if self.agent.config.log_every:
            self._means.add(metrics)

    def join(self) -> None:
        """Wait until no update is under way; raise what one of them raised."""

    def metrics(self) -> dict[str, float]:
        """Return means since the last call. Waits; RunFailed if too many were bad."""
        self.join()
        self._watch.check(int(self._step))
        return self._means.means()

    def state_dict(self) -> dict[str, Any]:
        """Return the agent's state and the metrics so far. Waits; RunFailed as
        `metrics` does, and for parameters that are not finite."""
        self.join()
        self._watch.check(int(self._step))
        state = self.agent.state_dict()
        if not all_finite(named_tensors(state).values()):
            raise RunFailed(
                f"Some parameters are not finite at step {int(self._step)}, so the run "
                "ends with its last good checkpoint kept: go on from there with a "
                "lower learning rate or --precision 32."
            )
        return {**state, "metrics": self._means.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        state = {k: v for k, v in state.items() if k != "acting"}
        self._means.load_state_dict(state.pop("metrics"))
        self.agent.load_state_dict(state)

    def close(self) -> None:
        """Wait for no results any more."""


class BackgroundLearner(Learner):
    """Updates in a thread of their own; a copy of the agent acts meanwhile.

    The main thread may touch what `learn` changes after `join` and before the next
    `train`. `seen`, the agent's count, is what `step` was when `train` was called."""

    def __init__(
        self, agent: Agent, seen: Counter, step: Counter, timer: Timer, folder: Path
    ):
        super().__init__(agent, step, timer, folder)
        self._seen = seen
        self._copy = agent.acting_copy(step)
        # While PyTorch compiles in one thread, another must not run compiled code. So
        # the first updates are waited for at once, which changes no number.
        compiles = agent.config.jit or agent.device.type == "cuda"
        self._alone = FIRST if compiles else 0
        self._filled = False  # Whether the copy has any weights of the agent.
        self._acted = False  # Whether it has acted since it got them.
        self._futures: list[Future] = []
        self._jobs: queue.SimpleQueue = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._over = False  # An update has failed, or all are given up.
        self._stream: torch.cuda.Stream | None = None
        if agent.device.type == "cuda":  # Not run without a GPU.
            self._stream = torch.cuda.Stream(agent.device)

    def _ready_agent(self) -> Agent:
        if not self._filled:
            self._refresh()
        self._acted = True
        return self._copy

    def train(self, batch: Batch) -> None:
        """Have an update made on this batch, after those before it. If the copy has
        acted since it got its weights, waits for these and gives it new ones."""
        with self._timer("update"):
            if self._acted:
                self._refresh()
                self._acted = False
            self._submit(batch)

    def join(self) -> None:
        """Wait until no update is under way (on a GPU, until all is launched); raise
        what one of them raised, and again at each further call."""
        with self._timer("update"):
            self._join()

    def state_dict(self) -> dict[str, Any]:
        """Return the state with the copy's weights, which may be older, and noise."""
        state = super().state_dict()
        if not self._filled:
            self._refresh()
        networks = self._copy.acting_networks().items()
        networks = {name: dict(network.state_dict()) for name, network in networks}
        acting = {"networks": networks, "noise": self._copy.noise.state_dict()}
        return {**state, "acting": acting}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what state_dict returned, also that of a Learner."""
        super().load_state_dict(state)
        if "acting" not in state:
            return
        for name, network in self._copy.acting_networks().items():
            network.load_state_dict(state["acting"]["networks"][name])
        self._filled = True
        noise, own = state["acting"]["noise"], self._copy.noise.state_dict()
        if noise["generator"].shape == own["generator"].shape:
            self._copy.noise.load_state_dict(noise)

    def close(self) -> None:
        """Give up what is under way and end the thread."""
        self._over = True
        self._jobs.put(None)
        if self._thread is not None:
            self._thread.join(GRACE)
            if self._thread.is_alive():
                # Where it runs Python, since it might crash an interpreter that ends.
                number = ctypes.c_ulong(self._thread.ident)
                error = ctypes.py_object(Interrupted)
                ctypes.pythonapi.PyThreadState_SetAsyncExc(number, error)
                self._thread.join(LAST)

    @torch.no_grad()
    def _refresh(self) -> None:
        """Give the copy the weights that the agent has after all its updates."""
        self._join()
        own, new = (
            [x for net in agent.acting_networks().values() for x in net.parameters()]
            for agent in (self._copy, self.agent)
        )
        torch._foreach_copy_(own, new)
        self._filled = True

    def _join(self) -> None:
        while self._futures:
            self._futures[0].result()
            del self._futures[0]
        if self._stream is not None:  # Not run without a GPU.
            torch.cuda.current_stream(self.agent.device).wait_stream(self._stream)

    def _submit(self, batch: Batch) -> None:
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._work, name="learner", daemon=True
            )
            self._thread.start()
        event = None
        if self._stream is not None:  # Not run without a GPU.
            event = torch.cuda.current_stream(self.agent.device).record_event()
        future: Future = Future()
        self._futures.append(future)
        self._jobs.put((future, int(self._step), batch, event))
        if self._alone:
            self._alone -= 1
            self._join()

    def _work(self) -> None:
        """Make updates, in the thread, until a None comes."""
        try:
            while job := self._jobs.get():
                self._update(*job)
                del job  # Do not keep a batch in memory while waiting.
        except Interrupted:
            pass  # It was done when it was interrupted.

    def _update(
        self, future: Future, step: int, batch: Batch, event: "torch.cuda.Event | None"
    ) -> None:
        try:
            if self._over:
                raise Interrupted
            self._seen.load_state_dict({"value": step})
            if self._stream is None:
                self.learn(batch)
            else:  # Not run without a GPU.
                with torch.cuda.stream(self._stream):
                    self._stream.wait_event(event)
                    self.learn(batch)
            future.set_result(None)
        except BaseException as error:  # Raised again by join.
            self._over = True
            future.set_exception(error)


class Interrupted(BaseException):
    """Ends an update whose results nobody waits for."""
