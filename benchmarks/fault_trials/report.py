"""What is said about trials: lines, a table, JSON."""

import dataclasses
from typing import Any

from circumstances import circumstances

from fault_trials.judge import KINDS
from fault_trials.rows import ROWS, Outcome, count_losses


def print_trial(outcome: Outcome) -> None:
    """One line, and one more for each loss."""
    verdict = "LOST" if outcome.losses else "ok"
    if outcome.skipped:
        verdict = f"skipped, as {outcome.skipped}"
    name = f"{outcome.row}:{outcome.number}"
    note = f"{outcome.note}: " if outcome.note else ""
    print(f"{name:18} {outcome.seconds:5.1f} s  {note}{verdict}", flush=True)
    for loss in outcome.losses:
        print(f"    {loss.kind}: {loss.text}", flush=True)


def print_table(outcomes: list[Outcome]) -> int:
    """One line per row: how many faults, and what of each kind was lost.

    Returns how much that is in all.
    """
    print(f"\n{'fault':32} {'times':>5}", *(f"{kind:>11}" for kind in KINDS))
    for name, row in ROWS.items():
        mine = [outcome for outcome in outcomes if outcome.row == name]
        _print_row(row.title, mine)
    _print_row("all", outcomes)
    print()
    for kind, meaning in KINDS.items():
        print(f"{kind:12} {meaning}")
    print()
    return sum(count_losses(outcomes).values())


def _print_row(title: str, outcomes: list[Outcome]) -> None:
    skipped = [outcome.skipped for outcome in outcomes if outcome.skipped]
    note = f"  {len(skipped)} skipped: {skipped[0]}" if skipped else ""
    if len(outcomes) > len(skipped):
        cells = "".join(f"{n:12}" for n in count_losses(outcomes).values())
        print(f"{title:32} {len(outcomes) - len(skipped):5}{cells}{note}")
    elif skipped:
        print(f"{title:32} {note}")


def as_json(outcomes: list[Outcome], seed: int, seconds: float) -> dict[str, Any]:
    """Everything that was printed, and where that was."""
    return {
        "seed": seed,
        "minutes": round(seconds / 60, 1),
        **circumstances(),
        "losses": count_losses(outcomes),
        "trials": [
            {
                **dataclasses.asdict(outcome),
                "seconds": round(outcome.seconds, 1),
                "losses": [loss._asdict() for loss in outcome.losses],
            }
            for outcome in outcomes
        ],
    }
