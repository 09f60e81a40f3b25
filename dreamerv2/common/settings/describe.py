"""What a run will do, in a few lines for its start."""

from dreamerv2.common.config import Config
from dreamerv2.common.torchutils import resolve_device


def describe(config: Config, step: int | None = None) -> str:
    """Return what is trained, how long, and where; `step` is None for a new run."""
    offline, unit = config.offline, "updates" if config.offline else "steps"
    repeat = 1 if offline else config.action_repeat

    def count(steps: int) -> str:
        frames = f" ({steps * repeat:,} frames)" if repeat > 1 else ""
        return f"{steps:,} {unit}{frames}"

    start = "New run" if step is None else f"Goes on at {count(step)}"
    many = f" in {config.envs} environments" if config.envs > 1 else ""
    subject = f"the episodes in {offline}" if offline else f"{config.task}{many}"
    lines = [
        f"{start}: {subject}, on {resolve_device(config.device)}, "
        f"to the end at {count(config.steps)}."
    ]
    if step is None and not offline:
        lines.append(f"Begins with random actions: {count(config.prefill)}.")
    due = {"Logs": config.log_every, "evaluates": config.eval_every}
    said = [f"{verb} every {count(every)}" for verb, every in due.items() if every]
    said.append(f"saves every {config.save_every:,} seconds")
    lines.append(f"{', '.join(said).capitalize()}, and at the end.")
    lines.append(f"Writes to {config.logdir}.")
    return "\n".join(lines)
