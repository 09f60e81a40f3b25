"""Everything that the reference computed, computed here, is as near as it should be.

Reads the recordings in the folder DREAMERV2_PARITY_DIR, by default tests/parity.
"""

import os
from pathlib import Path

import pytest
from recordings import Setup, compare_file, find_files
from recordings.agents import INPUTS as AGENT_INPUTS
from recordings.recording import Recording
from recordings.units import INPUTS as UNIT_INPUTS

from dreamerv2.common.torchutils import can_compile

FOLDER = os.environ.get("DREAMERV2_PARITY_DIR") or Path(__file__).parent
PATHS = {path.stem: path for path in find_files(FOLDER)}
AGENTS = [name for name in PATHS if name != "units"]

pytestmark = pytest.mark.usefixtures("one_thread")


def assert_close(name, setup):
    """Every array of a file is compared, and every one is within its limit."""
    rows = compare_file(PATHS[name], setup)
    failed = [
        f"{row.quantity}: {row.error:.1e}, not {row.limit:.0e}, {row.array} {row.note}"
        for row in rows
        if not row.passed
    ]
    assert not failed, "\n".join([f"{len(failed)} of {name} are off:", *failed])
    inputs = AGENT_INPUTS if name in AGENTS else UNIT_INPUTS
    results = [key for key in Recording(PATHS[name]) if not inputs.fullmatch(key)]
    assert results
    assert sum(row.count for row in rows) >= len(results)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", PATHS)
def test_every_number_is_within_its_limit(name, dtype):
    assert_close(name, Setup(dtype))


@pytest.mark.skipif(not can_compile(), reason="there is no C++ compiler")
@pytest.mark.parametrize("name", AGENTS)
def test_every_number_is_within_its_limit_when_compiled(name):
    assert_close(name, Setup(compile=True))
