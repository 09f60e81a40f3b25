"""Finds recordings and compares them, whole agents and single parts alike."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from dreamerv2.common.errors import UsageError
from dreamerv2.common.torchutils import can_compile, resolve_device
from recordings import agents, rows, units
from recordings.means import size_of_averaged
from recordings.recording import Recording
from recordings.rows import Row, Rows

FILES = (
    "units",
    "discrete_pixels",
    "continuous_pixels",
    "gaussian_vectors",
    "plan2explore",
)

DTYPES = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True)
class Setup:
    """How to compute: float32, float64, bfloat16 or float16; cpu or cuda; compiled.

    The limits are made for float32 and float64.
    """

    dtype: str = "float32"
    device: str = "cpu"
    compile: bool = False

    def __post_init__(self) -> None:
        known = (*DTYPES, "bfloat16", "float16")
        if self.dtype not in known:
            raise UsageError(
                f"Unknown dtype '{self.dtype}': expected one of {', '.join(known)}."
            )
        if self.compile and not can_compile():
            raise UsageError(
                "Compiling needs a C++ compiler, and none was found: install g++, or "
                "leave out --compile."
            )
        resolve_device(self.device)  # Raises for a device that is not there.

    @property
    def judged(self) -> bool:
        """True if the limits say anything about this dtype."""
        return self.dtype in DTYPES


def find_files(folder: str | Path) -> list[Path]:
    """Return the recordings in a folder. Raises UsageError if there are none."""
    paths = [Path(folder) / f"{name}.npz" for name in FILES]
    found = [path for path in paths if path.is_file()]
    if not found:
        raise UsageError(
            f"There is no recording in {folder}: expected at least one of "
            f"{', '.join(path.name for path in paths)}."
        )
    return found


def compare_file(
    path: str | Path, setup: Setup | None = None, updates: int | None = None
) -> list[Row]:
    """Computes everything that a file holds, and how far it is from it.

    No array of the file is left out: whatever is not an input is compared, and counts
    as infinitely far where this project has no such number. ``updates`` stops an agent
    early, and leaves out what comes later. In 16 bits single parts are not computed:
    they have no such version.
    """
    setup = setup or Setup()
    recording = Recording(path)
    table = Rows()
    if "config" in recording:
        inputs = agents.INPUTS
        with strict(setup):
            ours = agents.compute(
                recording, setup.dtype, setup.device, setup.compile, updates
            )
        _compare_absent_gradients(table, ours, recording)
    elif setup.judged:
        inputs = units.INPUTS
        with strict(setup):
            ours = units.compute(recording, DTYPES[setup.dtype], setup.device)
    else:
        return []
    for name, value in recording.items():
        if inputs.fullmatch(name) or (updates is not None and name not in ours):
            continue
        table.compare(
            quantity(name),
            name,
            ours.get(name),
            value,
            limit(name),
            size_of_averaged(name, recording),
        )
    return table.list()


@contextmanager
def strict(setup: Setup) -> Iterator[None]:
    """Without TF32; and compiled code is compiled, or it is an error.

    PyTorch compiles a function for a few shapes and then quietly stops. Agents of
    several files in one process would get there, so each begins anew.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            if not setup.compile:
                yield
                return
            torch.compiler.reset()
            config, names = torch._dynamo.config, ("recompile", "cache")  # 2.7, 2.6.
            names = (f"fail_on_{name}_limit_hit" for name in names)
            limit = next(name for name in names if hasattr(config, name))
            with config.patch({limit: True}):
                yield
    finally:
        torch.set_float32_matmul_precision(before)


def _compare_absent_gradients(
    table: Rows, ours: agents.Results, recording: Recording
) -> None:
    """Gradients that the reference does not have at all must be zero here."""
    for name, value in ours.items():
        update, _, rest = name.partition("/grads/")
        if rest and name not in recording and recording.group(f"{update}/grads"):
            zeros = torch.zeros_like(value)
            table.compare(quantity(name), name, value, zeros, limit(name))


def quantity(name: str) -> str:
    """Return the row that an array is counted in.

    Its name without the number of the update or call; the network of a parameter or
    gradient.
    """
    name = re.sub(r"^update\d+/", "", name)
    if re.match(r"(params\d+|grads)/", name):
        return "/".join(name.split("/")[:2])
    if re.match(r"policy/\w+?\d+$", name):
        return name.rstrip("0123456789")
    family, _, rest = name.partition("/")
    if family == "kl" and rest:
        kind, last = rest.split("/")[0], rest.split("/")[-1]
        return f"kl/{kind}/{'gradients' if 'grad' in last else last}"
    if family == "optimizer":
        kind, last = rest.split("/")
        return f"optimizer/{kind}/{'norm' if 'norm' in last else 'parameters'}"
    if family in ("lambda_return", "stream_norm") and rest:
        return family
    return name


def limit(name: str) -> float:
    """Return the error that an array may have."""
    if re.search(r"/grads/|/grad_|_grad_norm$|^trunc_normal/d", name):
        return rows.GRADIENT
    if re.match(r"params\d+/|optimizer/\w+/\w\d+$", name):
        return rows.PARAMETER
    return rows.VIDEO if name.startswith("report/") else rows.FORWARD
