"""Train runs in the jobs of a Slurm cluster, by submitit."""

import contextlib
import copy
import io
import json
import os
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import circumstances

from dreamerv2.common.errors import UsageError
from dreamerv2.common.files import write_atomically
from replication.jobs import NOTE, Run

FOLDER = "slurm"  # Of submitit's files, and of
JOBS = "jobs.json"  # the job of each run.
_LIMITS = 1000  # How often a run may reach the time limit.
_GRACE = 600  # Seconds for Slurm to end a job that it sent a SIGTERM.


class SlurmRun:
    """A run, to be called in a job of Slurm.

    Before the time limit Slurm sends SIGUSR2, and before it cancels, preempts or queues
    a job again SIGTERM. The run saves then; it goes on when the job is started again.
    """

    def __init__(self, run: Run):
        self.run = run

    def __call__(self) -> None:
        """Train to the end, or until a signal. Raises UsageError if it failed."""
        run, came = copy.copy(self.run), []
        run.facts |= {
            "hardware": circumstances.hardware(),
            "versions": circumstances.versions(),
        }

        def stop(number: int, frame: object) -> None:
            came.append(number)
            run.stop()

        numbers = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
        before = {number: signal.signal(number, stop) for number in numbers}
        while not run() and not came:
            print(f"{run.job.name}: waiting for the process that trains it.")
            time.sleep(NOTE)
        for number, handler in before.items():
            signal.signal(number, handler)
        if came and run.code != 0:
            # A job that ends by itself is not queued again, and Slurm alone knows
            # whether it cancels this one.
            if signal.SIGUSR2 not in came:
                time.sleep(_GRACE)
            signal.raise_signal(signal.SIGUSR2)  # Submitit queues it again.
        if run.code:
            raise UsageError(run.verdict())

    def checkpoint(self) -> Any:
        """What the job does when it runs again: the same, which goes on."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


def submit(runs: Sequence[Run], out: Path, options: Mapping[str, Any]) -> str:
    """Queue runs, as an array of jobs. Return its number.

    Args:
      runs: None of which is queued already.
      out: Folder of everything; Slurm's own is within it.
      options: Of submitit's executor: timeout_min, slurm_partition, and so on.

    Raises UsageError if there is no submitit or no Slurm, or if Slurm refuses.
    """
    try:
        import submitit
    except ImportError:
        raise UsageError(
            "--launcher slurm needs submitit: pip install 'dreamerv2-torch[slurm]'."
        ) from None
    if not (shutil.which("sbatch") and shutil.which("srun")):
        raise UsageError(
            "There is no sbatch on this machine: go to a login node of a Slurm "
            "cluster, or use --launcher local."
        )
    executor = submitit.AutoExecutor(
        out / FOLDER, cluster="slurm", slurm_max_num_timeout=_LIMITS
    )
    modules = shlex.quote(str(Path(circumstances.__file__).parent))
    executor.update_parameters(
        name="replicate",
        slurm_setup=[f"export PYTHONPATH={modules}:$PYTHONPATH"],
        slurm_stderr_to_stdout=True,
        **options,
    )
    try:
        # Submitit prints what sbatch says, which the error holds, too.
        with contextlib.redirect_stderr(io.StringIO()), executor.batch():
            jobs = [executor.submit(SlurmRun(run)) for run in runs]
    except submitit.core.utils.FailedJobError as error:
        said = str(error).replace("sbatch: error: ", "").splitlines()
        raise UsageError(f"Slurm did not take the jobs: {'; '.join(said)}.") from error
    known = _read(out)
    known.update({run.job.name: j.job_id for run, j in zip(runs, jobs, strict=True)})
    text = json.dumps(known, indent=1) + "\n"
    write_atomically(out / FOLDER / JOBS, lambda file: file.write(text.encode()))
    return jobs[0].job_id.partition("_")[0]


def queue(out: Path) -> dict[str, str]:
    """The runs that Slurm has in its queue, by name: queued or running."""
    known = _read(out)
    if not known or not shutil.which("squeue"):
        return {}
    command = ["squeue", "--noheader", "--array", "--format=%i %T"]
    command.append(f"--user={os.getuid()}")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    states = dict(line.split() for line in done.stdout.splitlines())
    words = {
        job: "queued" if s == "PENDING" else "running" for job, s in states.items()
    }
    return {name: words[job] for name, job in known.items() if job in words}


def _read(out: Path) -> dict[str, str]:
    path = out / FOLDER / JOBS
    return json.loads(path.read_text()) if path.exists() else {}
