"""What was lost: the folder of a run before and after, and what the run said."""

import re
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

from fault_trials.folders import (
    Snapshot,
    fault_of_episode,
    last_frame,
    parse_line,
)
from fault_trials.runs import LOG_EVERY, REPEAT, Result, resumed_at

# Kind -> its column in the table.
KINDS = {
    "episodes": "finished episodes that are gone",
    "steps": "steps of the count gone back or jumped over",
    "metrics": "lines of metrics.jsonl missing, repeated or out of order",
    "checkpoints": "checkpoints gone, unreadable or older than one before",
    "silent": "things changed or passed over without a word",
    "messages": "messages that are no single sentence",
    "runs": "runs that did not end or go on as they must, or were not harmed",
}


class Loss(NamedTuple):
    """One thing that was lost. `kind` is one of KINDS; `count` how much of it."""

    kind: str
    text: str
    count: int = 1


def judge_message(err: str) -> list[Loss]:
    """Return whether a run that ended by itself said why, in one sentence."""
    lines = err.splitlines()
    if len(lines) != 1:
        last = f", the last of them {lines[-1][:200]!r}" if lines else ""
        return [Loss("messages", f"{len(lines)} lines on stderr{last}")]
    return judge_sentence(lines[0])


def judge_sentence(line: str) -> list[Loss]:
    """Return whether a line is one sentence."""
    text = line.strip().removeprefix("dreamerv2-train: ")
    if not text.endswith((".", "?", "!")):
        return [Loss("messages", f"no whole sentence: {text[:300]!r}")]
    if re.search(r"[.?!]\s+[A-Z]", text):
        return [Loss("messages", f"more than one sentence: {text[:300]!r}")]
    return []


def judge_refusal(result: Result) -> list[Loss]:
    """A run that must have ended with exit code 2 and one sentence."""
    losses = judge_message(result.err)
    if result.code != 2:
        losses.append(Loss("runs", f"exit code {result.code}, not 2"))
    return losses


def judge_quiet(result: Result, codes: Collection[int]) -> list[Loss]:
    """A run that must have ended with one of the codes, and without any error."""
    losses = []
    if result.code not in codes:
        said = result.err.strip() or result.out.strip()
        text = f"exit code {result.code}, not {' or '.join(map(str, codes))}"
        losses.append(Loss("runs", f"{text}: {said[-300:]!r}"))
    if "Traceback" in result.err + result.out:
        losses.append(Loss("messages", f"a traceback: {result.err[-300:]!r}"))
    else:
        for line in result.err.splitlines():
            losses += judge_sentence(line)
    return losses


def judge_named(out: str, name: str) -> list[Loss]:
    """Return whether something that went wrong was named, and in one sentence."""
    lines = [line for line in out.splitlines() if name in line]
    if not lines:
        return [Loss("silent", f"{name} is not named")]
    return judge_sentence(lines[0])


def judge_unchanged(before: Snapshot, after: Snapshot) -> list[Loss]:
    """After a refusal nothing may differ; an empty file that locks may be there."""
    names = sorted({*before.files, *after.files})
    changed = [
        name
        for name in names
        if before.files.get(name) != after.files.get(name) and "lock" not in name
    ]
    return [Loss("silent", f"a refusal changed {name}") for name in changed]


def judge_seen(seen: Collection[str], now: Snapshot, step: int | None) -> list[Loss]:
    """What had been there while the run lived must be there after its death.

    seen: names of episode files; step: of a checkpoint that there had been.
    """
    gone = sorted(set(seen) - now.episodes.keys())
    losses = [Loss("episodes", f"{name} is gone") for name in gone]
    if now.problem:
        losses.append(Loss("checkpoints", now.problem))
    elif step is not None and (now.step is None or now.step < step):
        losses.append(Loss("checkpoints", f"of step {now.step}, after {step}"))
    return losses


def judge_episodes(
    before: Snapshot, after: Snapshot, logdir: Path, but: Collection[str] = ()
) -> list[Loss]:
    """Every finished episode is there, to the byte; every new one is whole.

    but: those that were damaged on purpose.
    """
    losses = []
    for name, content in before.episodes.items():
        if name in but:
            continue
        if name not in after.files:
            losses.append(Loss("episodes", f"{name} is gone"))
        elif after.files[name] != content:
            losses.append(Loss("silent", f"{name} has other bytes"))
    for name in sorted(after.episodes.keys() - before.episodes.keys()):
        fault = fault_of_episode(logdir / name)
        if fault:
            losses.append(Loss("silent", f"the new {name} {fault}"))
    return losses


def judge_steps(
    before: Snapshot, after: Snapshot, out: str, step: int | None
) -> list[Loss]:
    """The run went on from `step`, the checkpoint's, and its count only grew.

    Without a checkpoint (None), what counts is the steps in whole episodes.
    """
    losses = []
    found = resumed_at(out)
    if found != step:
        size = abs(found - step) if None not in (found, step) else 1
        losses.append(Loss("steps", f"went on at step {found}, not {step}", size))
    earned = before.training()[1]
    if step is None and f"Prefill: {earned}/" not in out and earned < 60:
        losses.append(Loss("steps", f"prefill did not start at {earned}"))
    if step is not None and ("Prefill" in out or "Pretrain" in out):
        losses.append(Loss("steps", "a second prefill or pretraining"))
    if after.problem:
        losses.append(Loss("checkpoints", after.problem))
    elif after.step is None or after.step < (step or 0):
        losses.append(Loss("checkpoints", f"of step {after.step} after {step}"))
    else:
        late = last_frame(after.metrics)
        if late > after.step * REPEAT:
            losses.append(Loss("steps", f"saved {after.step} after frame {late}"))
    return losses


def judge_metrics(
    lines: Sequence[bytes], after: Snapshot, frames: int, strict: bool = True
) -> list[Loss]:
    """The lines up to the checkpoint stay as they are, and the new ones follow.

    Args:
      lines: those before, damaged ones left out.
      frames: the checkpoint's step, as in the file.
      strict: the lines before are as the run wrote them, so those of the log must
        have the same distance across the gap.
    """
    kept = [x for x in lines if (y := parse_line(x)) and y["step"] <= frames]
    losses = []
    if after.metrics[: len(kept)] != kept:
        gone = Counter(kept) - Counter(after.metrics)
        count = sum(gone.values())
        text = f"{count} lines are gone" if count else "lines changed their places"
        return [Loss("metrics", text, count or 1)]
    new = [parse_line(line) for line in after.metrics[len(kept) :]]
    if None in new:
        losses.append(Loss("metrics", "new lines that are no JSON", new.count(None)))
    new = [line for line in new if line]
    steps = [line["step"] for line in new]
    if steps != sorted(steps) or any(step < frames for step in steps):
        losses.append(Loss("metrics", "steps out of order"))
    old = [parse_line(line) for line in kept] if strict else []
    both = [*old, *new]
    said = Counter((x["step"], key) for x in both for key in x if key != "step")
    twice = [pair for pair, count in said.items() if count > 1]
    if twice:
        losses.append(Loss("metrics", f"said twice: {twice[:3]}", len(twice)))
    logged = [line["step"] for line in both if "fps" in line]
    gaps = [b - a for a, b in zip(logged, logged[1:], strict=False)]
    wrong = [gap for gap in gaps if gap != LOG_EVERY * REPEAT]
    if wrong:
        text = f"logs {wrong} frames apart, not {LOG_EVERY * REPEAT}"
        losses.append(Loss("metrics", text, len(wrong)))
    return losses


def judge_counted(after: Snapshot) -> list[Loss]:
    """Of a run that stopped by itself: its last count of episodes is that of files."""
    lines = [x for line in after.metrics if (x := parse_line(line))]
    lines = [line for line in lines if "train_total_episodes" in line]
    if not lines:
        return [Loss("metrics", "no line counts the training episodes")]
    found = lines[-1]["train_total_episodes"], lines[-1]["train_total_steps"]
    wanted = after.training()
    if found == wanted:
        return []
    text = "counts {:.0f} episodes of {:.0f} steps, but there are {} of {}"
    count = int(abs(found[0] - wanted[0])) or 1
    return [Loss("episodes", text.format(*found, *wanted), count)]


def judge_returns(after: Snapshot, out: str) -> list[Loss]:
    """Of a run that went on from its last step: each training episode has its line.

    One that was killed plays episodes again, or others, and has files without lines.
    """
    if resumed_at(out) is None or "Holding back" in out:
        return []
    lines = [x for line in after.metrics if (x := parse_line(line))]
    found = sum("train_return" in line for line in lines)
    missing = after.training()[0] - found
    text = f"{abs(missing)} training episodes without a line, or the reverse"
    return [Loss("metrics", text, abs(missing))] if missing else []
