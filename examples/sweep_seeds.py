"""Train with each value of a flag and each seed, as jobs of a Slurm cluster or here.

    python examples/sweep_seeds.py --flag actor_ent --values 1e-3 1e-2 --seeds 1 2 3 \
        --task toy_catch --out ~/logdir/sweep --configs small
    python examples/sweep_seeds.py --cluster local --jobs 2 ...

Needs submitit: pip install 'dreamerv2-torch[slurm]'. The runs lie in
OUT/TASK/VALUE/SEED, where plot.py finds them. The same command goes on with those that
were stopped. What is not known here, such as --steps 9000, goes to train.py.
"""

import argparse
import itertools
import signal
import time
from pathlib import Path
from typing import Any

import submitit

from dreamerv2 import train


class Train:
    """A run, as what submitit calls, and calls again once the job is queued again."""

    def __init__(self, flags: list[str]):
        self.flags = flags

    def __call__(self) -> None:
        """Train. Near the time limit Slurm sends SIGUSR2, on which train.py saves."""
        code = train.main(self.flags)
        if code == 128 + signal.SIGTERM:
            time.sleep(600)  # Slurm queues the job again or ends it, before that is up.
        if code in (128 + signal.SIGTERM, 128 + signal.SIGUSR2):
            signal.raise_signal(signal.SIGUSR2)  # Now for submitit, which requeues.
        if code:
            raise RuntimeError(f"train.py ended with the exit code {code}.")

    def checkpoint(self) -> Any:
        """The same again, which goes on from the run's checkpoint."""
        return submitit.helpers.DelayedSubmission(self)


def main() -> None:
    """Queue the jobs; on this machine, wait for them."""
    title, _, details = __doc__.partition("\n")
    parser = argparse.ArgumentParser(
        description=title,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--flag", required=True, help="of train.py, without its dashes")
    add("--values", nargs="+", required=True)
    add("--seeds", nargs="+", default=["1"])
    add("--task", required=True)
    add("--out", type=Path, required=True, help="on a disk that all machines see")
    add("--cluster", choices=("slurm", "local"), default="slurm")
    add("--jobs", type=int, default=4, help="at the same time")
    add("--time", type=int, default=1440, help="limit of a job, in minutes")
    add("--gpus", type=int, default=0)
    add("--cpus", type=int, default=2)
    add("--memory", type=int, default=8, help="in GB")
    args, more = parser.parse_known_args()
    out = args.out.expanduser().absolute()

    executor = submitit.AutoExecutor(
        out / "jobs", cluster=args.cluster, slurm_max_num_timeout=1000
    )
    executor.update_parameters(
        name="sweep",
        timeout_min=args.time,
        gpus_per_node=args.gpus,
        cpus_per_task=args.cpus,
        mem_gb=args.memory,
        slurm_array_parallelism=args.jobs,
    )
    runs = [
        Train(
            [
                *more,
                f"--{args.flag}={value}",
                f"--task={args.task}",
                f"--seed={seed}",
                f"--logdir={out / args.task / value / seed}",
            ]
        )
        for seed, value in itertools.product(args.seeds, args.values)
    ]
    if args.cluster == "slurm":
        with executor.batch():  # One array.
            jobs = [executor.submit(run) for run in runs]
        print(f"Queued {len(jobs)} jobs; their output is in {out / 'jobs'}.")
        return
    jobs = []
    for run in runs:  # Submitit itself would start all at once.
        while sum(not job.done() for job in jobs) >= args.jobs:
            time.sleep(0.5)
        jobs.append(executor.submit(run))
    failed = [job.job_id for job in jobs if job.exception() is not None]
    print(f"{len(jobs)} runs, {len(failed)} failed; their output is in {out / 'jobs'}.")
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
