"""Every command and example of README, CONTRIBUTING and docs runs, shortened."""

import re
import shutil

import gymnasium
import matplotlib
import page_tools
import pytest
from page_tools import MADE, NOT_RUN, PAGES, ROOT, TRAIN, Reader, blocks, lines
from ruamel.yaml import YAML
from run_tools import ok, train_here

import dreamerv2.api as dv2

pytestmark = pytest.mark.usefixtures("one_thread")

PAGES = [path for path in PAGES if re.search(r"^```\w", path.read_text(), re.MULTILINE)]
NAMES = [path.relative_to(ROOT).as_posix() for path in PAGES]
LINES = [
    (name, line)
    for name, path in zip(NAMES, PAGES, strict=True)
    for text in blocks(path, "sh")
    for line in lines(text)
]

# Stands for a package that no test installs.
MLFLOW = """
import pathlib, types
set_experiment = log_params = lambda it: None
end_run = lambda: None
start_run = lambda **more: types.SimpleNamespace(info=types.SimpleNamespace(run_id="1"))
def log_metric(name, value, step):
    with pathlib.Path("mlflow.txt").open("a") as file:
        print(step, name, value, file=file)
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A home with the runs that pages take for granted."""
    home = tmp_path_factory.mktemp("home")
    first, *others = (home / name for name in MADE)
    flags = ["--configs", "atari", "--task", "atari_pong", *TRAIN]
    ok(train_here(*flags, "--logdir", first))
    for other in others:
        shutil.copytree(first, other)
    return home


@pytest.fixture
def reader(made, tmp_path, monkeypatch):
    """Makes a reader, whose home is as `made` is."""
    home = tmp_path / "home"
    shutil.copytree(made, home)
    monkeypatch.setenv("MPLCONFIGDIR", matplotlib.get_cachedir())  # Its list of fonts.
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    monkeypatch.setenv("SDL_AUDIODRIVER", "dummy")
    return lambda **more: Reader(home, tmp_path / "dreamerv2-torch", **more)


def is_first(line):
    """Whether no line before this one runs the same script."""
    script = page_tools.script_of(line)
    return line == next(x for _, x in LINES if page_tools.script_of(x) == script)


def makers():
    """What a page means by make_env and config: the reader's own."""
    config = dv2.defaults.update(dv2.presets["gym"])
    config = config.update(logdir="~/logdir/mine").parse_flags(TRAIN)
    return {"make_env": lambda: gymnasium.make("CartPole-v1"), "config": config}


@pytest.mark.parametrize("name", NAMES)
def test_a_page_s_commands_and_examples_run_one_after_another(
    name, reader, monkeypatch, tmp_path
):
    text = (ROOT / name).read_text()
    someone = reader(alone=is_first, names=makers() if "outputs" in name else None)
    monkeypatch.syspath_prepend(someone.folder)
    (someone.folder / "mlflow.py").write_text(MLFLOW)
    if "dv2.push(" in text:
        hub_tools = pytest.importorskip("hub_tools")
        with hub_tools.stand_in(monkeypatch, tmp_path / "cache"):
            someone.read(text)
            assert "org/repo" in hub_tools.StandIn.files
        return
    # Of two pages that say the same line, the first one runs it.
    earlier = {line for page, line in LINES if NAMES.index(page) < NAMES.index(name)}
    someone.read(text, skip=lambda line: line in earlier)
    if "mlflow" in text:
        assert "model_loss" in (someone.folder / "mlflow.txt").read_text()


def test_the_commands_of_the_workflow_run(reader):
    text = (ROOT / ".github" / "workflows" / "test.yml").read_text()
    steps = YAML(typ="safe").load(text)["jobs"]["test"]["steps"]
    commands = [step["run"] for step in steps if "run" in step]
    assert [line.split()[1] for line in commands] == ["setup", "test", "train"]
    block = "\n".join(commands)
    said = {line for _, line in LINES}  # By a page, which runs it.
    reader().read(f"```sh\n{block}\n```\n", skip=lambda line: line in said)


@pytest.mark.parametrize("pattern", NOT_RUN)
def test_what_is_not_run_is_still_in_the_docs(pattern):
    assert any(page_tools.listed(line) == pattern for _, line in LINES), pattern


@pytest.mark.parametrize(
    "language, text, error, said",
    [
        ("sh", "python dreamerv2/train.py --stepz 5 --logdir ~/x", None, "--steps?"),
        ("sh", "python dreamerv2/trane.py --logdir ~/x", None, "no dreamerv2/trane.py"),
        ("sh", "python dreamerv2/evaluate.py --logdir ~/x", None, "no agent in"),
        ("sh", "python dreamerv2/play.py --logdr DIR --headless", None, "--logdir or"),
        ("sh", "python dreamerv2/common/plot.py --indir ~/x", None, "--outdir"),
        ("sh", "make trian", None, "No rule to make target"),
        ("sh", 'make play ARGS="--logdir ~/x"', None, "no checkpoint at"),
        ("sh", "dreamer --help", None, "There is no rule for"),
        ("shell", "make help", None, "sh or python?"),
        ("bash", "make help", None, "sh, or a whole script?"),
        ("bash", "#!/bin/bash\nsrun python x.py", None, "There is no x.py"),
        ("bash", "#!/bin/bash\nif", None, "syntax error"),
        ("python", "import dreamerv2.api as x\nx.lode('~/x')", AttributeError, "lode"),
        ("python", "from dreamerv2.api import trane", ImportError, "trane"),
        ("python", "player = dv2.load('~/logdir/pong/1')", NameError, "dv2"),
    ],
)
def test_a_page_with_a_mistake_fails(language, text, error, said, reader):
    with pytest.raises(error or AssertionError, match=re.escape(said)):
        reader().read(f"# Title\n\n```{language}\n{text}\n```\n")
