"""The project installs, is complete when installed, and its make targets do as said."""

import importlib
import importlib.metadata
import os
import re
import shutil
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import dreamerv2
from dreamerv2.common.config import load_presets

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "dreamerv2"

needs_make = pytest.mark.skipif(not shutil.which("make"), reason="there is no make")


@pytest.fixture(scope="module")
def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.fixture(scope="module")
def pins():
    """The lines of requirements.txt."""
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def applying(requirements, python):
    """Name -> range, of the requirements that are for a version of Python."""
    at = {"python_version": python}
    some = (x for x in requirements if x.marker is None or x.marker.evaluate(at))
    return {x.name.lower(): x.specifier for x in some}


def test_every_console_command_leads_to_a_function(project):
    installed = {
        entry.name: entry.value
        for entry in importlib.metadata.entry_points(group="console_scripts")
    }
    scripts = project["project"]["scripts"]
    assert "dreamerv2-train" in scripts
    for name, target in scripts.items():
        assert installed.get(name) == target
        module, function = target.split(":")
        assert callable(getattr(importlib.import_module(module), function))


def test_the_installed_version_is_that_of_the_package():
    assert importlib.metadata.version("dreamerv2-torch") == dreamerv2.__version__


def test_a_wheel_holds_the_package_and_the_scores_and_nothing_else(tmp_path):
    pytest.importorskip("setuptools", minversion="77")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(PACKAGE, tmp_path / "dreamerv2")
    skip = shutil.ignore_patterns("__pycache__", "*.json", "*.npz")
    for name in ("scores", "benchmarks", "tests", "examples"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=skip)
    code = "from setuptools.build_meta import build_wheel as f; f('.')"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    files = [name for name in names if ".dist-info/" not in name]
    data = [name.partition(".data/data/")[2] for name in files if ".data/" in name]
    assert sorted(data) == [
        f"share/dreamerv2/scores/{path.name}"
        for path in sorted((ROOT / "scores").glob("*.csv"))
    ]
    assert sorted(name for name in files if ".data/" not in name) == sorted(
        path.relative_to(ROOT).as_posix()
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    )


def test_the_package_needs_nothing_of_the_folders_beside_it():
    beside = {path.stem for path in (ROOT / "benchmarks").iterdir()} - {"replay"}
    beside |= {"benchmarks", "tests", "examples"}
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text()
        for name in re.findall(r"^\s*(?:import|from) (\w+)", text, re.MULTILINE):
            assert name not in beside, f"{path} imports {name}"


def test_presets_are_found_from_any_working_directory(tmp_path):
    code = "from dreamerv2.common.config import load_presets as f; print(*f())"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert result.stdout.split() == list(load_presets()), result.stderr


PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")


@pytest.mark.parametrize("python", PYTHONS)
def test_every_dependency_has_a_tested_pin_in_its_range(project, pins, python):
    extras = project["project"]["optional-dependencies"]
    wanted = [
        *project["project"]["dependencies"],
        *extras["dev"],
        *extras["classic"],
        *extras["docs"],
        *extras["minari"],
    ]
    wanted.remove("dreamerv2-torch[classic]")
    ranges = applying(map(Requirement, wanted), python)
    pinned = applying(pins, python)
    assert ranges.keys() == pinned.keys()
    for name, specifier in pinned.items():
        (pin,) = specifier
        assert pin.operator == "==" and ranges[name].contains(pin.version), name


def test_make_classifiers_and_workflow_name_the_same_versions_of_python(project):
    named = [
        line.rpartition(" :: ")[2]
        for line in project["project"]["classifiers"]
        if line.startswith("Programming Language :: Python :: ")
    ]
    assert tuple(named) == PYTHONS
    makefile = (ROOT / "Makefile").read_text()
    assert all(f"python{python}" in makefile for python in PYTHONS)
    assert "not (3, 10) <= sys.version_info[:2] <= (3, 14)" in makefile
    workflow = (ROOT / ".github" / "workflows" / "test.yml").read_text()
    assert re.findall(r'"(3\.\d+)"', workflow.partition("include:")[0]) == [*PYTHONS]


def test_ci_runs_the_tests():
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & stat.S_IXUSR
    assert "make test" in script.read_text()


@pytest.fixture
def workplace(tmp_path):
    """A folder with a space in its name, the Makefile, and an empty environment.

    The environment's python writes its arguments to calls.txt, one call a line. Asked
    about the GPU, it looks for a file of the name gpu.
    """
    folder = tmp_path / "a folder"
    (folder / ".venv" / "bin").mkdir(parents=True)
    for name in ("Makefile", "requirements.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    python = folder / ".venv" / "bin" / "python"
    python.write_text(
        "#!/bin/sh\n"
        'case "$*" in\n'
        "  *cuda*) [ -e gpu ]; exit ;;\n"
        "  *pip*-e*) [ ! -e broken ] || exit 1 ;;\n"
        "esac\n"
        'for argument; do printf "[%s]" "$argument" >> calls.txt; done\n'
        "echo >> calls.txt\n"
    )
    python.chmod(0o755)
    return folder


def make(folder, *arguments):
    """Run make there; return its exit code, its output, and the calls of python."""
    inherited = ("MAKE", "MFLAGS", "ARGS", "PYTHON", "TORCH_ARGS")
    env = {k: v for k, v in os.environ.items() if not k.startswith(inherited)}
    env["HOME"] = str(folder / "home")
    (folder / "calls.txt").write_text("")
    result = subprocess.run(
        ["make", *arguments], cwd=folder, env=env, capture_output=True, text=True
    )
    calls = (folder / "calls.txt").read_text().splitlines()
    calls = [re.findall(r"\[(.*?)\]", call) for call in calls if "[-c]" not in call]
    return result.returncode, result.stdout + result.stderr, calls


@needs_make
def test_make_setup_installs_once_and_again_only_after_a_change(workplace, pins):
    code, output, calls = make(workplace, "setup")
    assert code == 0, output
    pip = ["-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    assert [call[: len(pip)] for call in calls] == [pip] * 3
    assert [call[len(pip) :] for call in calls] == [
        [str(next(pin for pin in pins if pin.name == "torch"))],
        ["-r", "requirements.txt"],
        ["--no-deps", "-e", "."],
    ]
    assert make(workplace, "setup")[2] == []
    assert make(workplace, "test")[2] == [
        ["-m", "ruff", "check", "."],
        ["-m", "ruff", "format", "--check", "."],
        ["-m", "pytest", "--numprocesses", "auto", "--maxprocesses", "8"]
        + ["--dist", "loadfile"],
    ]
    os.utime(workplace / "requirements.txt", (2**32, 2**32))
    assert len(make(workplace, "setup")[2]) == 3


@needs_make
def test_make_setup_that_failed_is_done_again(workplace):
    (workplace / "broken").touch()
    assert make(workplace, "setup")[0] != 0
    (workplace / "broken").unlink()
    code, _, calls = make(workplace, "setup")
    assert (code, len(calls)) == (0, 3)


@needs_make
def test_make_setup_says_in_one_sentence_that_no_python_will_do(workplace):
    shutil.rmtree(workplace / ".venv")
    code, output, _ = make(workplace, "setup", "PYTHON=/no/such python")
    assert code != 0
    sentence = "Found no Python 3.10 to 3.14 that runs and has venv"
    assert [line for line in output.splitlines() if not line.startswith("make")] == [
        f"{sentence} (tried: /no/such python); install one or name it with PYTHON=path."
    ]


@needs_make
@pytest.mark.parametrize("gpu", [False, True])
def test_make_train_picks_a_setting_for_the_hardware_and_says_so(workplace, gpu):
    make(workplace, "setup")
    if gpu:
        (workplace / "gpu").touch()
    code, output, calls = make(workplace, "train")
    preset, task, name = "small small_boxing", "atari_boxing", "small"
    if gpu:
        preset, task, name = "atari", "atari_pong", "dreamerv2"
    logdir = workplace / "home" / "logdir" / task / name / "1"
    flags = f"--configs defaults {preset} --task {task} --logdir".split()
    assert calls == [["dreamerv2/train.py", *flags, str(logdir)]]
    assert code == 0
    assert ("There is a GPU" if gpu else "There is no GPU") in output


@needs_make
def test_make_train_hands_on_its_arguments_as_they_are(workplace):
    make(workplace, "setup")
    _, _, calls = make(workplace, "train", "ARGS=--logdir 'a b' --x '$^' --y \"'\"")
    assert calls == [["dreamerv2/train.py", "--logdir", "a b", "--x", "$^", "--y", "'"]]


@needs_make
def test_make_clean_leaves_the_environment_and_the_runs(workplace):
    for name in ("build/x", "tests/__pycache__/x", "logdir/__pycache__/x", "build2/x"):
        (workplace / name).parent.mkdir(parents=True)
        (workplace / name).touch()
    assert make(workplace, "clean")[0] == 0
    left = {p.relative_to(workplace).parts[0] for p in workplace.glob("**/x")}
    assert left == {"logdir", "build2"}
    assert (workplace / ".venv" / "bin" / "python").exists()


def test_the_citation_names_the_version_and_the_changes_have_it():
    version = dreamerv2.__version__
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## {version}" in (ROOT / "CHANGELOG.md").read_text()
