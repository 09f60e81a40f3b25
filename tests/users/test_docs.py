"""README and docs: links lead somewhere, and commands are commands."""

import contextlib
import importlib.util
import io
import os
import re
import shlex
import sys
import types

import pytest
from docs_tools import BEGIN, PAGE, keys_table
from page_tools import PAGES, ROOT, blocks, lines, listed, prose
from run_tools import CATCH, ok, series, train_here

from dreamerv2 import evaluate, play, play_test
from dreamerv2.common import plot
from dreamerv2.common.config import load_presets
from dreamerv2.common.flags import parse_config
from dreamerv2.common.settings.rules import checked

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

NAMES = [path.relative_to(ROOT).as_posix() for path in PAGES]
# Folders in which a path in the text may begin.
BASES = (ROOT, ROOT / "dreamerv2", ROOT / "dreamerv2" / "common")


def anchors(path):
    """The anchors of a page's headings, as GitHub makes them."""
    found = []
    for title in re.findall(r"^#+ (.+)$", prose(path), re.MULTILINE):
        plain = re.sub(r"[^\w\- ]", "", title.lower())
        found.append(plain.replace(" ", "-"))
    return found


@pytest.mark.parametrize("name", NAMES)
def test_every_link_and_anchor_leads_somewhere(name):
    page = ROOT / name
    text = prose(page)
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    links += re.findall(r"^\[[^]]+\]: (\S+)$", text, re.MULTILINE)
    for link in links:
        if link.startswith(("https://", "mailto:")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists() and target.is_relative_to(ROOT), link
        if anchor:
            assert anchor in anchors(target), f"{link}: {anchors(target)}"


@pytest.mark.parametrize("name", NAMES)
def test_every_path_in_the_text_exists(name):
    for code in re.findall(r"`([^`\n]+)`", prose(ROOT / name)):
        (word, *_) = code.split() or [""]
        word = word.removeprefix("python")
        if re.fullmatch(r"[a-z_]+(/[\w.]+)*/(\w+\.(py|md|yaml|csv))?", word):
            if word.startswith(
                ("train_episodes", "eval_episodes", "report", "profile")
            ):
                continue  # Of a logdir.
            assert any((base / word).exists() for base in BASES), word


def test_every_page_is_reached_from_the_readme():
    text = (ROOT / "README.md").read_text()
    for name in NAMES:
        assert name in ("README.md", "scores/README.md") or f"]({name})" in text, name


def commands():
    """The commands that no test runs as they are there: (page, words). Those within a
    sentence, which may be broken across lines, and those that page_tools lists."""
    found = []
    for name, path in zip(NAMES, PAGES, strict=True):
        text = "".join(blocks(path, "sh"))
        found += [(name, line) for line in lines(text) if listed(line)]
        inline = re.findall(r"`((?:python|make|pip) [^`]+)`", prose(path))
        found += [(name, code.replace("\n", " ")) for code in inline]
    return found


@contextlib.contextmanager
def quiet():
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def check_train(words):
    checked(parse_config(words, load_presets()))


def check_script(path, words):
    """The options of a script with a parser, by its --help."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        if path.parent.name == "common":
            plot.main(["--help"])
        elif path.stem == "evaluate":
            evaluate.parse(["--help"])
        else:
            spec = importlib.util.spec_from_file_location(f"bench_{path.stem}", path)
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            arguments, sys.argv = sys.argv, [str(path), "--help"]
            try:
                module.main()
            finally:
                sys.argv = arguments
    own = words[: words.index("--")] if "--" in words else words
    for word in own:
        if word.startswith("--"):
            assert word.partition("=")[0] in out.getvalue(), word
    if "--" in words:
        check_train(words[words.index("--") + 1 :])


def check(line):
    words = shlex.split(line, comments=True)
    while re.match(r"[A-Z]+=", words[0]):  # Variables before the command.
        words = words[1:]
    if words[0] == "make":
        makefile = (ROOT / "Makefile").read_text()
        targets = re.findall(r"^([\w-]+):", makefile, re.MULTILINE)
        given = dict(word.split("=", 1) for word in words[1:] if "=" in word)
        (target,) = [word for word in words[1:] if "=" not in word]
        assert target in targets
        assert given.keys() <= {"ARGS", "TORCH_ARGS", "PYTHON"}
        if target == "train" and "value" not in line:
            check_train(shlex.split(given.get("ARGS", "")))
    elif words[:2] == ["pip", "install"]:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        for extras in re.findall(r"\[(.*?)\]", line):
            for extra in extras.split(","):
                assert extra in project["optional-dependencies"], extra
    elif words[0] == "python":
        path = ROOT / words[1]
        assert path.is_file(), words[1]
        name = path.relative_to(ROOT).as_posix()
        if name == "dreamerv2/train.py":
            check_train(words[2:])
        elif name.startswith(("examples/", "tests/")):
            assert not words[2:] or words[2].startswith("--")
        else:
            check_script(path, words[2:])
    elif words[0] == "torchrun":
        check_train(words[words.index("dreamerv2/train.py") + 1 :])
    else:
        assert listed(line), f"No test runs {line!r}, and none checks it."


@pytest.mark.parametrize("name", sorted({name for name, _ in commands()}))
def test_every_command_that_is_not_run_is_one_that_would(name, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.setitem(os.environ, "OMP_NUM_THREADS", "1")
    for page, line in commands():
        if page == name:
            with quiet():
                check(line)


def test_flags_in_the_text_are_known():
    known = {f"--{key}" for key in parse_config([], load_presets()).flat}
    for path in [*ROOT.glob("dreamerv2/**/*.py"), *ROOT.glob("[be]*s/*.py")]:
        text = path.read_text()
        known |= {f"--{x}" for x in re.findall(r'"--(\w+)"', text)}
        known |= set(re.findall(r"^\s+--(\w+)", text))
    known |= {f"--{key}" for key in (*play.OPTIONS, *play_test.OPTIONS)}
    known |= {"--help", "--configs", "--key", "--index-url", "--max-restarts"}
    for page in PAGES:
        for code in re.findall(r"`([^`]+)`", prose(page)):
            for flag in re.findall(r"(?<![\w-])(--[a-z][\w.-]*)", code):
                assert flag in known, f"{page.name}: {flag}"


def test_the_table_of_keys_is_the_configurations():
    assert PAGE.read_text().partition(BEGIN)[2].strip() == keys_table().strip()


class FakeMLflow(types.ModuleType):
    """Stands for the package: runs by id, each with its settings and metrics."""

    def __init__(self):
        super().__init__("mlflow")
        self.runs, self.now = {}, None

    def set_experiment(self, name):
        self.experiment = name

    def start_run(self, run_id=None, run_name=None):
        self.now = run_id or f"{run_name}-{len(self.runs)}"
        self.runs.setdefault(self.now, {"metrics": []})
        return types.SimpleNamespace(info=types.SimpleNamespace(run_id=self.now))

    def log_params(self, params):
        assert "params" not in self.runs[self.now]  # They may not change.
        self.runs[self.now]["params"] = params

    def log_metric(self, key, value, step):
        self.runs[self.now]["metrics"].append((step, key, value))

    def end_run(self):
        self.now = None


def test_the_output_that_the_docs_show_takes_the_metrics_of_a_run_that_resumes(
    tmp_path, monkeypatch
):
    shown, _ = blocks(ROOT / "docs" / "outputs.md", "python")
    (tmp_path / "shown_output.py").write_text(shown)
    monkeypatch.syspath_prepend(tmp_path)
    mlflow = FakeMLflow()
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    logdir = tmp_path / "catch"
    flags = [*CATCH, "--logger", "shown_output:MLflow", "--logdir", logdir]
    ok(train_here(*flags, "--steps", 25))
    ok(train_here(*flags, "--steps", 30))
    (run,) = mlflow.runs.values()
    assert mlflow.experiment == "toy_catch" and mlflow.now is None
    assert run["params"]["steps"] == 25 and run["params"]["rssm.deter"] == 8
    for key in ("eval_return", "model_loss"):
        logged = [(step, value) for step, name, value in run["metrics"] if name == key]
        assert logged == series(logdir, key) and logged[-1][0] > 25
