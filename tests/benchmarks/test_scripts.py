"""The scripts under benchmarks/ start from any folder, by their path alone."""

import subprocess
import sys
from pathlib import Path

from run_tools import environment

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

# All in one process, since importing torch takes seconds: each as python would start
# it, with the folder of the script as the first place to import from.
PROGRAM = """
import runpy, sys
from pathlib import Path
for path in sys.argv[2:]:
    sys.path[0], sys.argv = str(Path(path).parent), [path, "--help"]
    try:
        runpy.run_path(path, run_name="__main__")
    except SystemExit as exit:
        assert not exit.code, path
    print("Ended", Path(path).stem)
"""


def test_every_script_starts_from_any_folder_and_prints_its_help(tmp_path):
    paths = sorted(BENCHMARKS.glob("*.py"))
    scripts = [path for path in paths if '__name__ == "__main__"' in path.read_text()]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "-", *scripts],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    ended = [x.split()[1] for x in done.stdout.splitlines() if x.startswith("Ended ")]
    assert ended == [path.stem for path in scripts]
    assert {"faults", "parity", "replicate", "learns", "loop"} <= set(ended)
    assert done.stdout.count("usage: ") == len(ended)
