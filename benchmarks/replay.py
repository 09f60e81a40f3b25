"""How fast the replay is and how much memory it takes.

    python benchmarks/replay.py                        # up to 2,000,000 steps
    python benchmarks/replay.py --steps 100000 --storage disk --json FILE

Makes Atari-like episodes (64x64 gray images that compress about as well as Pong's) of
1,000 steps, opens them in a process of its own for each number of steps and each
storage, with nothing of the files in the page cache, and measures there:

- opening, the first time without an index, the second time with one
- memory: what the process has more after opening and after 300 batches of 16x50 than
  before. Pages of mapped files that the process has touched are in it, and shown by
  themselves, too; the rest of the page cache belongs to no process and can be taken
  back at any time.
- batches of 16x50: seconds that the main thread computes for one, and seconds for one
  if they are asked for without a pause
- adding steps, with the writing of their files

Then 8 threads write and 4 sample at once, and every value that was read and all
episodes are checked. Exit code 1 if one was torn or is missing, or if a goal is missed
at 2,000,000 steps: opening in 30 seconds, memory of at most 1.1 times the raw bytes
with storage memory and of less than 1 GB with storage disk.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from circumstances import circumstances, make_parser

from dreamerv2.common.episodes.files import EpisodeFiles
from dreamerv2.common.episodes.memory import available_memory
from dreamerv2.common.episodes.npz import Arrays
from dreamerv2.common.replay import Replay

EPISODE = 1000  # Steps.
TEMPLATES = 16  # Different episodes; the rest are copies of these in other files.
GOAL_STEPS = 2_000_000
SETTINGS = {"minlen": 50, "maxlen": 50, "prioritize_ends": True}


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; return the exit code."""
    args = parse_args(argv)
    if args.measure:
        print(json.dumps(measure(Path(args.measure), args.storage[0], args.batches)))
        return 0
    rows, notes = [], []
    with tempfile.TemporaryDirectory(prefix="replay-", dir=args.dir) as folder:
        for storage in args.storage:
            most = affordable(args.steps, storage, folder)
            if most < args.steps:
                notes.append(f"{storage}: room for {most:,} of {args.steps:,} steps")
                print(notes[-1])
            for steps in [n for n in (10**4, 10**5, 10**6) if n < most] + [most]:
                rows.append(run(Path(folder), storage, steps, args.batches))
                show(rows[-1])
        threads = contend(Path(folder) / "threads", args.operations)
    print(
        f"8 writers and 4 samplers: {threads['operations']:,} operations, "
        f"{threads['torn_reads']} torn reads, {threads['lost_episodes']} lost episodes"
    )
    failed = missed(rows) + [
        key for key in ("torn_reads", "lost_episodes") if threads[key]
    ]
    print("Failed: " + "; ".join(failed) if failed else "All goals that apply are met.")
    if args.json:
        result = {"machine": machine(), "notes": notes, "rows": rows}
        result.update(threads=threads, failed=failed)
        Path(args.json).write_text(json.dumps(result, indent=1) + "\n")
    return bool(failed)


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--steps", type=int, default=GOAL_STEPS, help="at most so many")
    parser.add_argument(
        "--storage", nargs="+", choices=["memory", "disk"], default=["memory", "disk"]
    )
    parser.add_argument("--dir", help="where to put the episodes, which are removed")
    parser.add_argument("--operations", type=int, default=60_000, help="of the threads")
    parser.add_argument("--batches", type=int, default=100, help="to take a median of")
    parser.add_argument("--json", metavar="FILE", help="write the results there, too")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def affordable(steps: int, storage: str, folder: str) -> int:
    """How many of the steps memory or disk have room for, in whole episodes."""
    room = shutil.disk_usage(folder).free
    if storage == "memory":
        room = min(room * 20, available_memory() or room)
    return min(steps, int(0.8 * room / bytes_per_step()) // EPISODE * EPISODE)


def make_episode(seed: int) -> Arrays:
    """A game with a ball and two paddles, as the replay stores it."""
    rng = np.random.default_rng(seed)
    total = EPISODE + 1
    image = np.full((total, 64, 64, 1), 87, np.uint8)
    image[:, :10] = rng.integers(60, 200, (1, 10, 64, 1))
    for index, frame in enumerate(image):
        up, down, across = rng.integers(10, 56, 3)
        frame[up : up + 8, 4:6], frame[down : down + 8, 58:60] = 147, 92
        frame[(3 * index) % 50 + 10, across] = 236
    steps = np.arange(total)
    return {
        "image": image,
        "reward": rng.integers(-1, 2, total).astype(np.float32),
        "is_first": steps == 0,
        "is_last": steps == EPISODE,
        "is_terminal": steps == EPISODE,
        "action": np.eye(6, dtype=np.float32)[rng.integers(6, size=total)],
    }


def bytes_per_step() -> float:
    return sum(value.nbytes for value in make_episode(0).values()) / EPISODE


def fill(folder: Path, steps: int, storage: str) -> int:
    """Write files of so many steps, without an index; return their bytes."""
    files = EpisodeFiles(folder, compress=storage == "memory")
    templates = []
    for seed in range(TEMPLATES):
        name = files.save(make_episode(seed))
        templates.append((folder / name).read_bytes())
        (folder / name).unlink()
    (folder / "index.jsonl").unlink()
    size = 0
    for index in range(steps // EPISODE):
        name = f"20260101T{index:012}-{index:032x}-{EPISODE}.npz"
        content = templates[index % TEMPLATES]
        (folder / name).write_bytes(content)
        size += len(content)
    return size


def forget_pages(folder: Path) -> None:
    """Have the next reader take the files from the disk."""
    for path in folder.iterdir():
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def run(folder: Path, storage: str, steps: int, batches: int) -> dict[str, Any]:
    """One row: two processes on the same files."""
    target = folder / f"{storage}-{steps}"
    try:
        size = fill(target, steps, storage)
        row = {"storage": storage, "steps": steps, "episodes": steps // EPISODE}
        row["file_bytes_per_step"] = size / steps
        row["raw_bytes_per_step"] = bytes_per_step()
        command = [sys.executable, __file__, "--measure", str(target)]
        command += ["--storage", storage, "--batches", str(batches)]
        for first in (True, False):
            forget_pages(target)
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
            values = json.loads(output.splitlines()[-1])
            if first:
                row["open_without_index_seconds"] = values["open_seconds"]
        row.update(values)
    finally:
        shutil.rmtree(target, ignore_errors=True)
    row["memory_bytes_per_step"] = row["memory_bytes"] / steps
    row["memory_per_raw_byte"] = row["memory_bytes"] / steps / row["raw_bytes_per_step"]
    return row


def measure(folder: Path, storage: str, batches: int) -> dict[str, float]:
    """What one process sees that opens the folder."""
    warm_up(folder.with_name("warm"), storage)
    before = resident()
    begin, cpu = time.perf_counter(), time.process_time()
    replay = Replay(folder, storage=storage, **SETTINGS)
    result = {
        "open_seconds": time.perf_counter() - begin,
        "open_cpu_seconds": time.process_time() - cpu,
    }
    opened = resident()
    result.update(sample(replay, batches))
    after = resident()
    result.update(
        memory_bytes_after_opening=sum(opened) - sum(before),
        memory_bytes=sum(after) - sum(before),
        memory_bytes_in_mapped_files=after[1] - before[1],
    )
    result.update(add(folder.with_name("added"), storage))
    return result


def warm_up(folder: Path, storage: str) -> None:
    """So that what any replay takes is not counted: modules, threads, buffers."""
    replay = Replay(folder, storage=storage, **SETTINGS)
    replay.add_episode(make_episode(0))
    with closing(replay.dataset(16, 50)) as dataset:
        for _ in range(5):
            next(dataset)
    shutil.rmtree(folder)


def sample(replay: Replay, batches: int) -> dict[str, float]:
    """Batches with pauses, as in training, and without."""
    own, waits, pace = [], [], []
    with closing(replay.dataset(16, 50)) as dataset:
        for _ in range(batches):
            next(dataset)
        for _ in range(batches):
            time.sleep(0.03)  # The update of the agent: the next one gets ready.
            begin, cpu = time.perf_counter(), time.thread_time()
            next(dataset)
            own.append(time.thread_time() - cpu)
            waits.append(time.perf_counter() - begin)
        for _ in range(batches):
            begin = time.perf_counter()
            next(dataset)
            pace.append(time.perf_counter() - begin)
    return {
        "batch_main_thread_seconds_median": statistics.median(own),
        "batch_main_thread_seconds_95_percent": float(np.quantile(own, 0.95)),
        "batch_wait_seconds_median": statistics.median(waits),
        "batch_seconds_median": statistics.median(pace),
        "sampled_steps_per_second": 16 * 50 * len(pace) / sum(pace),
    }


def add(folder: Path, storage: str, episodes: int = 5) -> dict[str, float]:
    """Step one by one, from an environment that costs no time."""
    arrays = make_episode(1)
    steps = [{k: v[i] for k, v in arrays.items()} for i in range(EPISODE + 1)]
    replay = Replay(folder, storage=storage, **SETTINGS)
    begin = time.perf_counter()
    for _ in range(episodes):
        for step in steps:
            replay.add_step(step)
    seconds = time.perf_counter() - begin
    shutil.rmtree(folder)
    return {"added_steps_per_second": episodes * EPISODE / seconds}


def resident() -> tuple[int, int]:
    """Bytes of this process in memory: its own, and those of mapped files."""
    found = {}
    for line in Path("/proc/self/status").read_text().splitlines():
        key, _, value = line.partition(":")
        if key in ("RssAnon", "RssFile", "RssShmem"):
            found[key] = int(value.split()[0]) * 1024
    return found["RssAnon"] + found["RssShmem"], found["RssFile"]


def contend(folder: Path, operations: int, storage: str = "memory") -> dict[str, int]:
    """8 threads add steps and 4 take batches; all that comes out is checked."""
    replay = Replay(folder, storage=storage, ongoing=True, minlen=5, maxlen=20)
    replay.add_episode(_numbered(10**6, 40))
    length, writers, samplers = 40, 8, 4
    episodes = -(-operations // (writers * (length + 1)))
    torn, batches = [], [0] * samplers
    done = threading.Event()

    def write(worker: int) -> None:
        for index in range(episodes):
            arrays = _numbered(worker * 10**4 + index, length)
            for step in range(length + 1):
                replay.add_step({k: v[step] for k, v in arrays.items()}, worker)

    def take(sampler: int) -> None:
        with closing(replay.dataset(8, 30)) as dataset:
            while not done.is_set() or batches[sampler] < 10:
                torn.extend(_torn(next(dataset)))
                batches[sampler] += 1

    with ThreadPoolExecutor(writers + samplers) as pool:
        taking = [pool.submit(take, number) for number in range(samplers)]
        try:
            list(pool.map(write, range(writers)))
        finally:
            done.set()
        for future in taking:
            future.result()
    expected = {w * 10**4 + i for w in range(writers) for i in range(episodes)}
    return {
        "operations": writers * episodes * (length + 1) + sum(batches),
        "batches": sum(batches),
        "torn_reads": len(torn),
        "lost_episodes": len(expected - set(_whole_episodes(folder))),
    }


def _numbered(number: int, steps: int) -> Arrays:
    """An episode of which each value says which step of which episode it is."""
    index = np.arange(steps + 1)
    image = (index + number) % 251
    return {
        "image": np.broadcast_to(
            image.astype(np.uint8)[:, None, None, None], (steps + 1, 16, 16, 1)
        ),
        "number": np.full(steps + 1, number, np.int32),
        "index": index.astype(np.int32),
        "is_first": index == 0,
        "is_last": index == steps,
    }


def _torn(batch: Arrays) -> Iterator[str]:
    """Return what is wrong in a batch of such episodes."""
    values = (batch["number"] + batch["index"]) % 251
    if (batch["image"] != values[..., None, None, None]).any():
        yield "an image of another step"
    follows = np.diff(batch["index"]) == 1
    same = np.diff(batch["number"]) == 0
    # The first place of a batch may go on with the sequence of the one before.
    if not ((follows & same) | batch["is_first"][:, 1:]).all():
        yield "a gap in a sequence"


def _whole_episodes(folder: Path) -> Iterator[int]:
    """Numbers of the episodes on disk that are as they were made."""
    files = EpisodeFiles(folder)
    for name in files.scan():
        arrays = files.load(name)
        if arrays is not None:
            number = int(arrays["number"][0])
            made = _numbered(number, len(arrays["number"]) - 1)
            if all((arrays[key] == value).all() for key, value in made.items()):
                yield number


def missed(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The goals that were not reached, which are for 2,000,000 steps."""
    failed = []
    for row in rows:
        if row["steps"] < GOAL_STEPS:
            continue
        if row["open_seconds"] > 30:
            failed.append(f"{row['storage']} opened in {row['open_seconds']:.0f} s")
        if row["storage"] == "memory" and row["memory_per_raw_byte"] > 1.1:
            failed.append(
                f"memory is {row['memory_per_raw_byte']:.2f} of the raw bytes"
            )
        if row["storage"] == "disk" and row["memory_bytes"] > 1e9:
            failed.append(f"disk needs {row['memory_bytes'] / 1e9:.1f} GB of memory")
    return failed


def show(row: dict[str, Any]) -> None:
    print(
        f"{row['storage']:6} {row['steps']:9,} steps"
        f" | open {row['open_seconds']:6.2f} s"
        f" ({row['open_without_index_seconds']:.2f} without index)"
        f" | memory {row['memory_bytes'] / 1e6:7.0f} MB, of raw"
        f" {row['memory_per_raw_byte']:.3f}"
        f" (mapped {row['memory_bytes_in_mapped_files'] / 1e6:.0f} MB)"
        f" | batch {1e3 * row['batch_main_thread_seconds_median']:.2f} ms of the main"
        f" thread, {1e3 * row['batch_seconds_median']:.1f} ms in all"
        f" | {row['added_steps_per_second']:,.0f} steps/s added",
        flush=True,
    )


def machine() -> dict[str, Any]:
    """Where this was measured."""
    return {
        **circumstances(),
        "load_average": os.getloadavg(),
        "memory_bytes_available": available_memory(),
    }


if __name__ == "__main__":
    sys.exit(main())
