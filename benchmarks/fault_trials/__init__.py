"""Faults injected into real training runs, and what they cost.

A trial harms a run once: it is killed, or its disk is full, or one of its files is
damaged. Then the same command is started again, and its folder and its words are
compared with those before. Nothing here is used by a run, and a run knows nothing of
it; a fault that needs a sure moment is set as a trap in a fork of this process.
"""

from fault_trials.judge import KINDS, Loss
from fault_trials.rows import ROWS, Outcome, count_losses, run_trial
from fault_trials.trials import LOGDIR, make_base

__all__ = [
    "KINDS",
    "LOGDIR",
    "ROWS",
    "Loss",
    "Outcome",
    "count_losses",
    "make_base",
    "run_trial",
]
