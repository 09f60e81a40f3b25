"""How far this project's numbers are from the TensorFlow 2 reference's.

    python benchmarks/parity.py
    python benchmarks/parity.py --dtype float64
    python benchmarks/parity.py --compile --json parity.json
    python benchmarks/parity.py --device cuda --dtype bfloat16

Computes everything in the recordings of tests/parity (or of --dir) anew, and prints
for each file and quantity the largest relative error ||a - b|| / ||b|| of its arrays,
the limit for it, and whether it is met. Exit code 0 if all are, 1 if one is not, 2 if
there is nothing to compare or the options are wrong.

TF32 is off. Noise comes from the files, through the one callable that an agent draws
by. Plan2Explore learns from pairs across episodes as the reference does, which this
project otherwise leaves out (disag_mask_seams). Every is asked with catch_up, as the
reference's catches up after a gap and this project's otherwise does not.

In bfloat16 and float16 no limits hold: the table says how far each loss and gradient
of the first update is off. Where rounding there flips a sampled latent, what follows
from it differs, too; the row post/stoch shows whether it did.
"""

import argparse
import dataclasses
import json
import math
import platform
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from circumstances import make_parser
from recordings import Row, Setup, compare_file, find_files

from dreamerv2.common.errors import UsageError

DEFAULT_DIR = Path(__file__).parent.parent / "tests" / "parity"


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table; returns the exit code."""
    args = parse_args(argv)
    try:
        setup = Setup(args.dtype, args.device, args.compile)
        files = find_files(args.dir)
        tables = {}
        for path in files:
            rows = compare_file(path, setup, None if setup.judged else 1)
            tables[path.stem] = rows
            print_table(path.stem, rows, setup.judged)
    except UsageError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    failed = [row for rows in tables.values() for row in rows if not row.passed]
    print_summary(tables, setup)
    if args.json:
        Path(args.json).write_text(json.dumps(as_json(tables, setup), indent=1) + "\n")
    return 1 if failed and setup.judged else 0


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--dtype", default="float32", help="float32, float64, ...")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--compile", action="store_true", help="with torch.compile")
    parser.add_argument("--dir", default=DEFAULT_DIR, help="folder of the recordings")
    parser.add_argument("--json", metavar="FILE", help="write the table there, too")
    return parser.parse_args(argv)


def print_table(name: str, rows: Sequence[Row], judged: bool) -> None:
    """One line per quantity: file, quantity, error, limit, verdict, worst array."""
    for row in rows:
        line = f"{name:18} {row.quantity:32} {row.error:9.1e}"
        if judged:
            line += f" {row.limit:7.0e}  {'pass' if row.passed else 'FAIL'}"
        note = f" ({row.note})" if row.note else ""
        # The worst array is named where there is a choice.
        array = row.array if row.count > 1 else ""
        print(f"{line}  {array}{note}".rstrip(), flush=True)


def print_summary(tables: dict[str, list[Row]], setup: Setup) -> None:
    """For each file, the number of arrays and the worst of them."""
    how = ", compiled" if setup.compile else ""
    print(f"\n{setup.dtype} on {setup.device}{how}, PyTorch {torch.__version__}")
    for name, rows in tables.items():
        if not rows:
            print(f"{name:18} single parts have no 16-bit version: nothing to compare")
            continue
        count, failed = sum(row.count for row in rows), count_failed(rows)
        line = f"{name:18} {count:4} arrays in {len(rows):3} quantities"
        if setup.judged:
            worst = max(rows, key=lambda row: row.error / row.limit)
            line += f", {failed} failed, worst {worst.error:.1e} of {worst.limit:.0e}"
        else:
            worst = max(rows, key=lambda row: row.error)
            line += f", worst {worst.error:.1e}"
        print(f"{line} ({worst.quantity})")


def count_failed(rows: Sequence[Row]) -> int:
    return sum(not row.passed for row in rows)


def as_json(tables: dict[str, list[Row]], setup: Setup) -> dict:
    """Return the table and how it was made; infinite errors are null."""
    device = torch.device(setup.device)
    cuda = device.type == "cuda"
    machine = torch.cuda.get_device_name(device) if cuda else platform.machine()
    rows = []
    for file, table in tables.items():
        for row in table:
            entry = {"file": file, **dataclasses.asdict(row), "passed": row.passed}
            if not math.isfinite(row.error):
                entry["error"] = None
            if not setup.judged:
                del entry["limit"], entry["passed"]
            rows.append(entry)
    return {
        **dataclasses.asdict(setup),
        "machine": machine,
        "torch": torch.__version__,
        "rows": rows,
    }


if __name__ == "__main__":
    sys.exit(main())
