"""Updates in a thread of their own, while the environments go on.

What is computed does not depend on how long anything takes. With updates u1, u2, ..,
each due after two steps s:

    main thread    s s | s s | s s |        | waits for the updates before, gives their
    learner            u1    u2    u3         weights to the twin, which acts, goes on

So the twin's weights change where updates are due and nowhere else, and lack those
updates that became due after its last action. Saving, logging and evaluating wait for
what is under way, too, but leave the twin as it is.
"""

import ctypes
import queue
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dreamerv2.common.counter import Counter

if TYPE_CHECKING:
    from dreamerv2.agent import Agent

GRACE = 1.0  # Seconds that an update gets whose results nobody waits for any more,
LAST = 60.0  # and those after it has been interrupted.
FIRST = 10  # Updates in which code is compiled or captured.

Batch = Mapping[str, Any]
Acted = tuple[dict[str, np.ndarray], Any]


class Updates:
    """Updates that are made where they are asked for; the agent itself acts.

    Args:
      agent: acts.
      learn: makes an update of the agent on a batch.
    """

    def __init__(self, agent: "Agent", learn: Callable[[Batch], None]):
        self._agent = agent
        self._learn = learn

    def policy(self, obs: Mapping[str, Any], state: Any, mode: str) -> Acted:
        """As Agent.policy."""
        return self._agent.policy(obs, state, mode)

    def begin(self) -> None:
        """To be called where updates are due, before their batches are taken."""

    def submit(self, batch: Batch) -> None:
        """An update on this batch."""
        self._learn(batch)

    def join(self) -> None:
        """Wait until no update is under way; raises what one of them raised."""

    def close(self) -> None:
        """Wait for no results any more."""


class BackgroundUpdates(Updates):
    """Updates in a thread of their own; a twin of the agent acts meanwhile.

    Only `learn` runs in that thread, on a CUDA stream of its own, in the order of
    `submit`. All else is for the main thread, which may touch what `learn` changes
    after `join` and before the next `submit`.

    Args:
      agent: learns.
      twin: acts; another Agent of the same config and spaces, but for its seed.
      learn: makes an update of the agent on a batch.
      step: the count of policy steps, which goes on during an update.
      seen: the agent's own count: in each update what `step` was at its `submit`.
    """

    def __init__(
        self,
        agent: "Agent",
        twin: "Agent",
        learn: Callable[[Batch], None],
        step: Counter,
        seen: Counter,
    ):
        super().__init__(agent, learn)
        self._twin = twin
        self._step, self._seen = step, seen
        # While PyTorch compiles in one thread, another must not run compiled code. So
        # the first updates are waited for at once, which changes no number.
        compiles = agent.config.jit or agent.device.type == "cuda"
        self._alone = FIRST if compiles else 0
        self._filled = False  # Whether the twin has any weights of the agent.
        self._acted = False  # Whether it has acted since it got them.
        self._futures: list[Future] = []
        self._jobs: queue.SimpleQueue = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._over = False  # An update has failed, or all are given up.
        self._stream: torch.cuda.Stream | None = None
        if agent.device.type == "cuda":  # Not run without a GPU.
            self._stream = torch.cuda.Stream(agent.device)

    def policy(self, obs: Mapping[str, Any], state: Any, mode: str) -> Acted:
        """As Agent.policy, by the twin."""
        if not self._filled:
            self._refresh()
        self._acted = True
        return self._twin.policy(obs, state, mode)

    def begin(self) -> None:
        """Waits for the updates before, and gives the twin the agent's weights.

        Updates that are due with no action in between, as of many environments that
        are stepped together, do not wait for each other.
        """
        if self._acted:
            self._refresh()
            self._acted = False

    def submit(self, batch: Batch) -> None:
        """An update on this batch, which is begun when those before are done."""
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._work, name="learner", daemon=True
            )
            self._thread.start()
        event = None
        if self._stream is not None:  # Not run without a GPU.
            event = torch.cuda.current_stream(self._agent.device).record_event()
        future: Future = Future()
        self._futures.append(future)
        self._jobs.put((future, int(self._step), batch, event))
        if self._alone:
            self._alone -= 1
            self.join()

    def join(self) -> None:
        """Wait until no update is under way; raises what one of them raised, and again
        at each further call, since the agent is not whole any more.

        On a GPU, waits until all of their work has been launched; what is launched from
        here on comes after it.
        """
        while self._futures:
            self._futures[0].result()
            del self._futures[0]
        if self._stream is not None:  # Not run without a GPU.
            torch.cuda.current_stream(self._agent.device).wait_stream(self._stream)

    def close(self) -> None:
        """Give up what is under way and end the thread."""
        self._over = True
        self._jobs.put(None)
        if self._thread is not None:
            self._thread.join(GRACE)
            if self._thread.is_alive():
                _interrupt(self._thread)
                self._thread.join(LAST)

    def state_dict(self) -> dict[str, Any]:
        """The twin's weights, which may be older than the agent's, and its noise."""
        if not self._filled:
            self._refresh()
        networks = self._twin.acting_networks().items()
        return {
            "networks": {name: dict(net.state_dict()) for name, net in networks},
            "noise": self._twin.noise.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what state_dict returned; random numbers of another kind of device
        begin anew."""
        for name, network in self._twin.acting_networks().items():
            network.load_state_dict(state["networks"][name])
        self._filled = True
        own = self._twin.noise.state_dict()["generator"]
        if state["noise"]["generator"].shape == own.shape:
            self._twin.noise.load_state_dict(state["noise"])

    @torch.no_grad()
    def _refresh(self) -> None:
        """Gives the twin the weights that the agent has after all its updates."""
        self.join()
        own, new = (
            [x for net in agent.acting_networks().values() for x in net.parameters()]
            for agent in (self._twin, self._agent)
        )
        torch._foreach_copy_(own, new)
        self._filled = True

    def _work(self) -> None:
        """The thread: makes updates until it is told to stop by a None."""
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
                self._learn(batch)
            else:  # Not run without a GPU.
                with torch.cuda.stream(self._stream):
                    self._stream.wait_event(event)
                    self._learn(batch)
            future.set_result(None)
        except BaseException as error:  # Raised again by join.
            self._over = True
            future.set_exception(error)


class Interrupted(BaseException):
    """Ends an update whose results nobody waits for."""


def _interrupt(thread: threading.Thread) -> None:
    """Raises Interrupted in a thread as soon as it runs Python.

    A thread of torch that still computes while the interpreter ends may crash it.
    """
    ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(thread.ident), ctypes.py_object(Interrupted)
    )
