"""The pages of the docs, and a reader who runs what they say, for tests.

Each block of a page is run as a reader would, in order, in a folder that looks like the
repository and a home of its own; long commands are shortened by rules for whole
scripts. A command without a rule fails: it gets one, or a line in NOT_RUN.
"""

import contextlib
import importlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import NamedTuple

from run_tools import TINY, Result, environment, main_here, ok, script_here

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("scores/*.md")],
    key=lambda path: path.relative_to(ROOT).as_posix(),
)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# Those without a name are drawings; bash is a script for a cluster.
LANGUAGES = {"", "sh", "python", "bash"}

# Commands that are not run here, and why. Each must be in the docs, or leave this list.
NOT_RUN = {
    r"pip install .*": "changes the environment that runs the tests, by the network",
    r"make setup.*": "installs; test_project.py runs it with a stand-in for pip",
    r"make test-lowest": "makes a second environment, by the network, for minutes",
    r"torchrun .*": "takes minutes; test_ranks.py runs two processes",
    r"make docs": "test_site.py builds the site",
    r"python .* --launcher slurm .*": "test_slurm.py runs it, where there is a Slurm",
    r"python examples/sweep_seeds.py .*": "test_slurm.py runs it, where submitit is",
    r"python examples/optuna_sweep.py .*": "test_examples.py runs it, where Optuna is",
}

# What a placeholder stands for.
PLACEHOLDERS = {"DIR": "~/logdir/pong/1"}

# Runs that the pages take for granted, made once: an hour of training, shortened.
MADE = ("logdir/pong/1", "logdir/atari_pong/dreamerv2/1")
TRAIN = [*TINY, "--steps", "24"]

# Flags that shorten a script, behind its own, of which the last one counts.
SHORT = {
    "dreamerv2/train.py": TRAIN,
    "dreamerv2/evaluate.py": ["--episodes", "2"],
    "dreamerv2/play.py": ["--scale", "1"],
    "dreamerv2/play_test.py": ["--scale", "1"],
    "dreamerv2/common/plot.py": [],
}
# What a command must leave where its flags say so.
WRITES = ("--json", "--video", "--record", "--save", "--outdir", "--out")

# Stands for Makefile's python: notes its arguments, or runs code that it is given.
RECORDER = """#!/bin/sh
if [ "$1" = -c ]; then exec "{python}" "$@"; fi
for argument; do printf '%s\\001' "$argument" >> "{calls}"; done
printf '\\002' >> "{calls}"
"""


class Block(NamedTuple):
    """A block of code, and the text from it to the next one."""

    language: str
    text: str
    after: str


def prose(path):
    """The text of a page without its blocks."""
    return FENCE.sub("", path.read_text())


def split(text):
    """The blocks of a page's text."""
    *pieces, last = FENCE.split(text)  # Text, language, block, text, language, ...
    after = [*pieces[3::3], last]
    return list(map(Block, pieces[1::3], pieces[2::3], after))


def blocks(path, language):
    """The text of a page's blocks in one language."""
    return [x.text for x in split(path.read_text()) if x.language == language]


def lines(text):
    """The commands of a block, without comments."""
    joined = text.replace("\\\n", " ").splitlines()
    return [line for line in joined if shlex.split(line, comments=True)]


def listed(line):
    """The entry of NOT_RUN for a line, or None."""
    line = shlex.join(shlex.split(line, comments=True))
    return next((x for x in NOT_RUN if re.fullmatch(x, line)), None)


def script_of(line):
    """The script that a line runs, or ''."""
    words = shlex.split(line, comments=True)
    return words[1] if words[:1] == ["python"] else ""


class Reader:
    """Runs a page's blocks one after another.

    home: where ~ is, with the runs of MADE.
    folder: looks like the repository, and takes what is written where one stands.
    alone: says of a line whether it gets a process of its own.
    names: what the page's examples in Python take for granted.
    """

    def __init__(self, home, folder, alone=lambda line: False, names=None):
        self.home, self.folder, self._alone = home, folder, alone
        self._names = {"__name__": "__main__", **(names or {})}
        self._made = {home / name for name in MADE}
        folder.mkdir()
        for path in ROOT.iterdir():
            if not path.name.startswith((".", "logdir", "site")):
                (folder / path.name).symlink_to(path)

    def read(self, text, skip=lambda line: False):
        """Run the blocks of a page, but for the lines that `skip` says."""
        with _inside(self.folder):
            for block in split(text):
                assert block.language in LANGUAGES, (
                    f"```{block.language}: sh or python?"
                )
                if block.language == "python":
                    self._python(block)
                for line in self._commands(block):
                    if not listed(line) and not skip(line):
                        self._line(line)

    def _commands(self, block):
        """The commands to run; of a script for Slurm, what srun starts."""
        if block.language == "sh":
            return lines(block.text)
        if block.language == "bash":
            assert block.text.startswith("#!/bin/bash\n"), "sh, or a whole script?"
            ok(self._process(["bash", "-n", "-c", block.text]))
            starts = [x for x in lines(block.text) if x.startswith("srun ")]
            return [x.removeprefix("srun ") for x in starts]
        return []

    def _python(self, block):
        """Run an example; its parse_flags() gets the flags that shorten it."""
        arguments, sys.argv = sys.argv, ["example.py", *TRAIN]
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                exec(compile(block.text, "<example>", "exec"), self._names)
        finally:
            sys.argv = arguments
        if saved := re.search(r"`(\w+\.py)` in the current folder", block.after):
            (self.folder / saved[1]).write_text(block.text)

    def _line(self, line):
        words = [self._expand(word) for word in shlex.split(line, comments=True)]
        variables = {}
        while re.match(r"[A-Z_]+=", words[0]):
            name, _, variables[name] = words.pop(0).partition("=")
        name, *arguments = words
        if name == "make":
            self._make(arguments)
        elif name == "python":
            self._script(arguments, self._alone(line) or bool(variables), variables)
        elif name == "tensorboard":  # Reads the same files, but serves none of them.
            command = Path(sysconfig.get_path("scripts"), name)
            done = self._process([command, *arguments, "--inspect"])
            assert "Event statistics for" in done.out
        else:
            raise AssertionError(f"There is no rule for {line!r}, here or in NOT_RUN.")

    def _expand(self, word):
        """A word as the shell would give it to the command."""
        return os.path.expanduser(PLACEHOLDERS.get(word, word))

    def _script(self, words, alone, variables=None):
        """python FILE FLAGS ..., shortened."""
        name, *flags = words
        assert (self.folder / name).is_file(), f"There is no {name}."
        if {"--list", "--plot_only"} & set(flags):
            pass
        elif name == "benchmarks/replicate.py":  # Its plan whole, but a single run.
            ok(script_here(self.folder / name, *flags, "--list"))
            flags = [*_firsts(flags), "--frames", "160", "--", *TINY]
        else:
            assert name in SHORT, f"SHORT has nothing for {name}."
            flags = [*flags, *SHORT[name]]
            if "play" in name and "--steps" not in flags:  # A window, for ever.
                flags += ["--steps", "3"]
        writes = () if "--list" in flags else WRITES
        if name == "dreamerv2/train.py":
            self._give_way(flags)
            writes += ("--logdir",)
        before = self._written(flags, writes)
        if alone:
            env = {**environment(), **(variables or {})}
            self._process([sys.executable, name, *flags], env)
        elif name.startswith("dreamerv2/"):
            module = importlib.import_module(name[: -len(".py")].replace("/", "."))
            ok(main_here(module.main, *flags))
        else:
            ok(script_here(self.folder / name, *flags))
        for path, files in self._written(flags, writes).items():
            assert files - before[path], f"{name} wrote nothing to {path}."

    def _give_way(self, flags):
        """A run that the reader begins is not gone on with from one that was made."""
        logdir = Path(flags[flags.index("--logdir") + 1])
        if logdir in self._made:
            self._made.remove(logdir)
            shutil.rmtree(logdir)

    def _written(self, flags, writes):
        """The files, with their times, of each path that a flag lets write."""
        found = {}
        for flag, value in zip(flags, flags[1:], strict=False):
            if flag in writes:
                path = self.folder / value
                files = [path, *path.rglob("*")] if path.exists() else []
                found[value] = {(x, x.stat().st_mtime_ns) for x in files if x.is_file()}
        return found

    def _make(self, arguments):
        """make TARGET ARGS=...: the Makefile runs, and then what it would run."""
        python, calls = self.home / "python", self.home / "calls"
        python.write_text(RECORDER.format(python=sys.executable, calls=calls))
        python.chmod(0o755)
        calls.write_text("")
        inherited = ("MAKE", "MFLAGS", "ARGS", "PYTHON", "TORCH_ARGS")
        env = {k: v for k, v in environment().items() if not k.startswith(inherited)}
        self._process(["make", "-o", "setup", f"PY={python}", *arguments], env)
        for call in calls.read_text().split("\2")[:-1]:
            words = call.split("\1")[:-1]
            if words[:2] == ["-m", "pytest"]:
                few = ["-n", 0, "--collect-only", "-q", ROOT / "tests" / "replay"]
                self._process([sys.executable, *words, *few])
            elif words[:2] != ["-m", "ruff"]:  # `make test` has just run it.
                self._script(words, alone=False)

    def _process(self, words, env=None):
        done = subprocess.run(
            [*map(str, words)],
            cwd=self.folder,
            env=env or environment(),
            capture_output=True,
            text=True,
            timeout=300,
        )
        return ok(Result(done.returncode, done.stdout, done.stderr))


def _firsts(flags):
    """The flags, each with the first of its values alone."""
    kept = []
    for before, word in zip([None, *flags], flags, strict=False):
        if word.startswith("--") or before.startswith("--"):
            kept.append(word)
    return kept


@contextlib.contextmanager
def _inside(folder):
    """Stand in a folder."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
