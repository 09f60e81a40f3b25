"""Rows: a disk that is full, and a folder that cannot be written to."""

import contextlib
import ctypes
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from fault_trials import judge
from fault_trials.folders import Snapshot
from fault_trials.runs import Child
from fault_trials.traps import CHECKPOINTS, TRAINING, Trap
from fault_trials.trials import Skip, Trial

NEW_NAMESPACE = 0x00020000  # CLONE_NEWNS
MOMENTS = ("runs", "starts", "writes an episode", "writes a checkpoint")
CAPABILITIES = 0x20080522  # Version 3 of their structure.


def full_disk(trial: Trial) -> None:
    """The file system is full at a random moment, or when the run is started.

    A small tmpfs, filled by another file; where none can be mounted, a limit on the
    size of the run's files.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(_tmpfs(trial.logdir))
        except Skip as reason:
            trial.note += f"{reason}, so "
            _limited(trial)
        else:
            _filled(trial)


def _filled(trial: Trial) -> None:
    step = _base(trial).step
    moment = MOMENTS[trial.number % len(MOMENTS)]
    seconds, rest = trial.rng.uniform(0.0, 1.5), trial.rng.choice((0, 1, 3, 8, 40))
    after = f" for {seconds:.2f} s" if moment == "runs" else ""
    trial.note += f"all but {rest * 4} kB full when it {moment}{after}"
    filler, marker = trial.logdir / "filler", trial.folder / "stalled"
    prepare = None
    if moment.startswith("writes"):
        pattern = TRAINING if moment.endswith("episode") else CHECKPOINTS
        prepare = Trap(pattern, "write", trial.rng.randint(1, 2), 1000, marker).set
    elif moment == "starts":
        _fill(filler, rest)
    with trial.child(prepare=prepare) as run:
        if prepare:
            run.wait_until(lambda: trial.watch() or marker.exists())
            _fill(filler, 0)
            marker.unlink()
            if trial.number % 8 == 6:  # There is room again when it comes to saving.
                trial.note += ", for a moment"
                run.wait_until(lambda: not list(trial.logdir.glob("*/.*.npz.tmp")))
                filler.unlink()
        elif moment == "runs":
            if not trial.start(run):
                return
            trial.live(run, seconds)
            _fill(filler, rest)
        result = run.result()
    trial.losses += judge.judge_refusal(result)
    trial.losses += judge.judge_named(result.err, "No space left")
    filler.unlink(missing_ok=True)
    trial.aftermath(step)


def _limited(trial: Trial) -> None:
    step = _base(trial).step
    size = trial.rng.randrange(60_000, 250_000)  # A checkpoint has 300,000.
    trial.note += f"no file over {size:,} bytes"

    def limit() -> None:
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))

    with trial.child(prepare=limit) as run:
        result = run.result()
    trial.losses += judge.judge_refusal(result)
    trial.aftermath(step)


def read_only(trial: Trial) -> None:
    """The folder is read-only from the start, or from a random moment on."""
    if trial.number % 2:
        _read_only_later(trial)
    elif os.geteuid() == 0:
        with _tmpfs(trial.logdir):
            before = _base(trial)
            trial.note += "a read-only file system"
            _mount("-o", "remount,ro", "tmpfs", str(trial.logdir))
            _refused(trial, trial.child(), before)
            _mount("-o", "remount,rw", "tmpfs", str(trial.logdir))
            trial.aftermath(before.step)
    else:
        before = _base(trial)
        trial.note += "a folder without the right to write"
        with _without_rights(trial.logdir):
            _refused(trial, trial.child(), before)
        trial.aftermath(before.step)


def _read_only_later(trial: Trial) -> None:
    seconds = trial.rng.uniform(0.0, 1.5)
    step = _base(trial).step
    prepare = None
    if os.geteuid() == 0:  # Root may write wherever it likes.
        _check_rights(trial.folder)
        prepare = _drop_capabilities
    trial.note += f"without the right to write {seconds:.2f} s into the run"
    with trial.child(prepare=prepare) as run:
        if not trial.start(run):
            return
        trial.live(run, seconds)
        with _without_rights(trial.logdir):
            result = run.result()
    trial.losses += judge.judge_refusal(result)
    trial.aftermath(step)


def _refused(trial: Trial, child: Child, before: Snapshot) -> None:
    with child as run:
        result = run.result()
    trial.losses += judge.judge_refusal(result)
    trial.losses += judge.judge_unchanged(before, Snapshot.of(trial.logdir))


def _base(trial: Trial) -> Snapshot:
    before = trial.copy_base()
    trial.seen |= before.episodes.keys()
    return before


def _fill(filler: Path, rest: int) -> None:
    """Take all room on a file system but for so many pages."""
    with filler.open("wb", buffering=0) as file:
        size = 0
        with contextlib.suppress(OSError):
            while True:
                size += file.write(bytes(4096))
        file.truncate(max(0, size - 4096 * rest))


@contextlib.contextmanager
def _tmpfs(folder: Path) -> Iterator[None]:
    """Mount a file system of 8 MB, which nothing but our own processes see."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        raise Skip("no file system can be mounted")
    folder.mkdir()
    # A name space of our own: whatever is mounted goes when we do.
    ctypes.CDLL(None).unshare(NEW_NAMESPACE)
    _mount("--make-rprivate", "/")
    _mount("-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder))
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _mount(*args: str) -> None:
    done = subprocess.run(["mount", *args], capture_output=True, text=True)
    if done.returncode:
        raise Skip(f"no file system can be mounted ({done.stderr.strip()})")


@contextlib.contextmanager
def _without_rights(logdir: Path) -> Iterator[None]:
    paths = [logdir, *logdir.rglob("*")]
    modes = {path: path.stat().st_mode for path in paths if path.exists()}
    for path in modes:
        with contextlib.suppress(FileNotFoundError):  # A temporary one.
            path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        yield
    finally:
        for path, mode in modes.items():
            with contextlib.suppress(FileNotFoundError):
                path.chmod(mode)


def _drop_capabilities() -> None:
    """Let root be a user like others, to whom the modes of files apply."""
    header = (ctypes.c_uint32 * 2)(CAPABILITIES, 0)
    ctypes.CDLL(None).capset(header, (ctypes.c_uint32 * 6)())


def _check_rights(folder: Path) -> None:
    """Raise Skip if files can be made in a folder that is read-only."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            _drop_capabilities()
            folder.chmod(0o555)
            (folder / "probe").touch()
        except PermissionError:
            code = 0
        finally:
            folder.chmod(0o755)
            os._exit(code)
    if os.waitpid(pid, 0)[1]:
        raise Skip("the rights to files cannot be given up")
