"""Rows: files of a run that are cut short, or have flipped bits, before it goes on.

What must happen: either the run goes on with the damaged file named and its bytes kept
aside, everything else as it was, or it refuses in one sentence, having changed nothing.
Where the damage changes nothing of what the file says (such as the date in a zip
file's header) nothing need be said.
"""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dreamerv2.common.config import Config
from dreamerv2.running.logdir import CHECKPOINT, changes
from dreamerv2.running.statefile import load_checkpoint
from fault_trials import judge
from fault_trials.folders import (
    METRICS,
    Snapshot,
    digest,
    last_frame,
    parse_line,
    read_episode,
)
from fault_trials.runs import REPEAT, Result, resumed_at
from fault_trials.trials import LOGDIR, Skip, Trial, earned

CONFIG = "config.yaml"


def damaged_checkpoint(trial: Trial) -> None:
    """The checkpoint: refused, or an older one is gone back to."""
    _damage(trial, CHECKPOINT, _same_checkpoint, _judge_checkpoint)


def damaged_episode(trial: Trial) -> None:
    """An episode of training or evaluation: set aside."""
    names = sorted(Snapshot.of(trial.base).episodes)
    _damage(trial, trial.rng.choice(names), _same_episode, _judge_episode)


def damaged_index(trial: Trial) -> None:
    """The index of a folder of episodes: built anew."""
    files = Snapshot.of(trial.base).files
    names = [name for name in files if "index" in name and "episodes/" in name]
    if not names:
        raise Skip("the folders of episodes have no index")
    _damage(trial, trial.rng.choice(names), _same_lines, _judge_index)


def damaged_config(trial: Trial) -> None:
    """config.yaml: refused, or what it says now is listed as changed."""
    _damage(trial, CONFIG, _same_config, _judge_config)


def damaged_metrics(trial: Trial) -> None:
    """metrics.jsonl: lines that are whole stay, the others are named."""
    _damage(trial, METRICS, _same_bytes, _judge_metrics)


class Damage:
    """One file that was damaged, and the run that found it so.

    Attributes:
      name: of the file in the logdir; before, after: of the whole logdir.
      intact, content: its bytes before and after the damage.
      result: how the run ended; a SIGTERM is from us, after it had gone on.
    """

    def __init__(self, trial: Trial, name: str):
        self.trial, self.name = trial, name
        self.before = trial.copy_base()
        path = trial.logdir / name
        self.intact = path.read_bytes()
        self.content, trial.note = _spoil(self.intact, trial)
        trial.note = f"{name} {trial.note}"
        # A disk that forgets a bit leaves the time as it was.
        times = path.stat()
        path.write_bytes(self.content)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        files = {**self.before.files, name: digest(path)}
        metrics = self.before.metrics
        if name == METRICS:
            metrics = self.content.split(b"\n")[:-1]
        self.before = Snapshot(files, metrics, self.before.step)

    @property
    def kept(self) -> bool:
        """Return whether the damaged bytes are still somewhere in the logdir."""
        return self.before.files[self.name] in self.after.files.values()

    def run(self) -> None:
        """The same command again, until it has earned something or has ended."""
        with self.trial.child() as run:
            self.goes_on = run.wait_until(lambda: earned(run, self.before))
            run.send(signal.SIGTERM)
            self.result: Result = run.result()
        self.after = Snapshot.of(self.trial.logdir)
        self.step = resumed_at(self.result.out)


def _damage(
    trial: Trial,
    name: str,
    same: Callable[[Path, bytes], bool],
    judge_more: Callable[[Damage, list], None],
) -> None:
    damage = Damage(trial, name)
    path = trial.folder / Path(name).name
    path.write_bytes(damage.content)
    harmless = same(path, damage.intact)
    damage.run()
    losses, result = trial.losses, damage.result
    if result.code != 143 or not damage.goes_on:
        losses += judge.judge_refusal(result)
        losses += judge.judge_unchanged(damage.before, damage.after)
        if not losses:
            trial.note += ": refused"
        return
    losses += judge.judge_quiet(result, [143])
    names = [] if name not in damage.before.episodes else [name]
    losses += judge.judge_episodes(damage.before, damage.after, trial.logdir, names)
    trial.note += ": harmless" if harmless else ": goes on"
    # An older checkpoint is a matter of the checkpoint alone.
    step = damage.step if name == CHECKPOINT else damage.before.step
    losses += judge.judge_steps(damage.before, damage.after, result.out, step)
    frames = (step or 0) * REPEAT
    if name != METRICS:
        lines, after = damage.before.metrics, damage.after
        losses += judge.judge_metrics(lines, after, frames)
    losses += judge.judge_counted(damage.after)
    if not harmless:
        judge_more(damage, losses)


def _spoil(content: bytes, trial: Trial) -> tuple[bytes, str]:
    """Cut or flip, by turns; return the bytes and what was done, in words."""
    rng = trial.rng
    if trial.number % 2:
        size = rng.randrange(len(content))
        return content[:size], f"cut to {size:,} of {len(content):,} bytes"
    spoilt = bytearray(content)
    places = sorted(rng.sample(range(len(content)), rng.choice((1, 1, 3))))
    for place in places:
        spoilt[place] ^= 1 << rng.randrange(8)
    return bytes(spoilt), f"with bits flipped at {', '.join(map(str, places))}"


def _judge_checkpoint(damage: Damage, losses: list) -> None:
    losses += judge.judge_named(damage.result.out, CHECKPOINT)
    if not damage.kept:
        losses.append(judge.Loss("checkpoints", "the damaged one was not kept"))
    if damage.step is None:
        losses.append(judge.Loss("checkpoints", "the run began anew"))
    elif damage.step > (damage.before.step or 0):
        losses.append(judge.Loss("steps", f"jumped to {damage.step}"))


def _judge_episode(damage: Damage, losses: list) -> None:
    losses += judge.judge_named(damage.result.out, Path(damage.name).name)
    if not damage.kept:
        losses.append(judge.Loss("episodes", "the damaged one was not kept"))


def _judge_index(damage: Damage, losses: list) -> None:
    folder = Path(damage.name).parent.name
    losses += judge.judge_named(damage.result.out, f"{LOGDIR}/{folder} was damaged")


def _judge_config(damage: Damage, losses: list) -> None:
    path = damage.trial.folder / CONFIG
    found = _read_config(path)
    if found is None:
        losses += judge.judge_named(damage.result.out, CONFIG)
        if not damage.kept:
            losses.append(judge.Loss("silent", "the damaged config was not kept"))
        return
    intact = Config.read(damage.trial.base / CONFIG)
    for key in changes(intact, found):
        if f"{key}: " not in damage.result.out:
            losses.append(judge.Loss("silent", f"{key} is not listed as changed"))
    others = damage.trial.logdir.glob("config*.yaml*")
    copies = [_read_config(other) for other in others if other.name != CONFIG]
    if not damage.kept and found.flat not in [c.flat for c in copies if c]:
        losses.append(judge.Loss("silent", "the config before was not kept"))


def _judge_metrics(damage: Damage, losses: list) -> None:
    *lines, cut = damage.content.split(b"\n")
    parsed = [parse_line(line) for line in lines]
    # A line of a later step among earlier ones is damaged, too, though it is valid:
    # it may stay or go, but not without a word.
    frames = (damage.before.step or 0) * REPEAT
    stray = [
        line
        for i, (line, value) in enumerate(zip(lines, parsed, strict=True))
        if value and value["step"] > frames and last_frame(lines[i + 1 :]) <= frames
    ]
    whole = [line for line in lines if line not in stray]
    stays = stray and all(line in damage.after.metrics for line in stray)
    after = damage.after
    if stays:
        rest = [line for line in after.metrics if line not in stray]
        after = Snapshot(after.files, rest, after.step)
    losses += judge.judge_metrics(whole, after, frames, strict=False)
    broken = cut or None in parsed or (stray and not stays)
    if broken and not damage.kept:
        losses += judge.judge_named(damage.result.out, METRICS)


def _same_checkpoint(path: Path, intact: bytes) -> bool:
    """Return whether a damaged checkpoint holds the same, by a fork that may crash."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            other = path.with_name("intact")
            other.write_bytes(intact)
            code = int(not _equal(load_checkpoint(path), load_checkpoint(other)))
        finally:
            os._exit(code)
    return os.waitpid(pid, 0)[1] == 0


def _same_episode(path: Path, intact: bytes) -> bool:
    found, wanted = read_episode(path.read_bytes()), read_episode(intact)
    return found is not None and _equal(found, wanted)


def _same_config(path: Path, intact: bytes) -> bool:
    found = _read_config(path)
    if found is None:
        return False
    path.write_bytes(intact)
    changed = changes(Config.read(path), found)
    path.write_text("")
    found.save(path)
    return not changed


def _same_lines(path: Path, intact: bytes) -> bool:
    """Return whether whole lines are missing at the end, which an index may lack."""
    content = path.read_bytes()
    return intact.startswith(content) and content[-1:] in (b"", b"\n")


def _same_bytes(path: Path, intact: bytes) -> bool:
    return path.read_bytes() == intact


def _read_config(path: Path) -> Config | None:
    try:
        return Config.read(path)
    except Exception:  # Whatever the damage leads to; the run is judged apart.
        return None


def _equal(a: Any, b: Any) -> bool:
    """Return whether two nested states are equal, to the last bit."""
    if isinstance(a, dict):
        same = isinstance(b, dict) and a.keys() == b.keys()
        return same and all(_equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        same = isinstance(b, list | tuple) and len(a) == len(b)
        return same and all(map(_equal, a, b))
    if hasattr(a, "dtype"):
        same = type(a) is type(b) and a.dtype == b.dtype and a.shape == b.shape
        return same and bool((a == b).all() or repr(a) == repr(b))
    return type(a) is type(b) and (a == b or a != a)
