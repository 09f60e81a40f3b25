"""`make docs`: the site builds, and whatever leads nowhere fails."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytest.importorskip("material", reason="there is no mkdocs-material (Python 3.10)")
pytest.importorskip("mkdocstrings")


def test_the_site_builds_without_a_warning_and_has_every_page(tmp_path):
    """Links, anchors and names of the API that are stale are warnings, so errors."""
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--site-dir", tmp_path],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    # Warnings that --quiet leaves out would not be counted.
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr
    for page in ROOT.glob("docs/*.md"):
        html = (tmp_path / "docs" / f"{page.stem}.html").read_text("utf-8")
        assert "<td>#" not in html, f"{page.name}: a table took the heading after it"
    # A link to a file that is no page, as in the repository.
    assert "def make_env" in _text(tmp_path / "examples" / "cartpole.py.html")
    assert (tmp_path / "benchmarks" / "results" / "learns_cpu.json").is_file()
    # Bars in the code of a table have a backslash in Markdown alone.
    table = _text(tmp_path / "docs" / "environments.html")
    assert "(encoder|decoder).mlp_keys" in table and "\\|" not in table
    api = _text(tmp_path / "docs" / "api.html")
    assert "go on with the one that is there" in api  # dv2.train


def _text(path):
    """The words of a page without its tags."""
    return re.sub("<[^>]*>", "", path.read_text("utf-8"))
