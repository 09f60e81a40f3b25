"""The folder of a run: made, checked, and compared with the run that it holds."""

import os
from pathlib import Path
from typing import Any

from dreamerv2.common.config import Config
from dreamerv2.common.errors import UsageError

CHECKPOINT = "variables.pt"

# What decides the names and shapes of parameters, or what the episodes hold.
SHAPING = (
    "task",
    "atari_grayscale",
    "atari_all_actions",
    "render_size",
    "pred_discount",
    "expl_behavior",
    "disag_target",
    "disag_models",
    "disag_action_cond",
)
SHAPING_PARTS = (
    "layers",
    "units",
    "norm",
    "dist",
    "ensemble",
    "hidden",
    "deter",
    "stoch",
    "discrete",
    "mlp_keys",
    "cnn_keys",
    "cnn_depth",
    "cnn_kernels",
    "mlp_layers",
    "opt",
)


def open_logdir(config: Config) -> Path:
    """Makes config.logdir and saves the config there as config.yaml.

    A folder that holds a run already is resumed: what changed in its config is
    printed, and the config before is kept as config.1.yaml and so on.

    Raises UsageError for a missing --logdir, one that cannot be written, and one
    whose run has networks or episodes of another shape; each change is named.
    """
    if config.logdir in ("", os.devnull):
        raise UsageError(
            "No --logdir was given: name the folder for this run, such as "
            "--logdir ~/logdir/atari_pong/dreamerv2/1."
        )
    logdir = Path(config.logdir).expanduser()
    try:
        logdir.mkdir(parents=True, exist_ok=True)
        probe = logdir / f".writable.{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UsageError(
            f"Cannot write to the logdir {logdir} ({error.strerror}): choose another "
            "--logdir or change its permissions."
        ) from error
    path = logdir / "config.yaml"
    if path.exists():
        before = Config.load(path)
        changed = changes(before, config)
        started = (logdir / CHECKPOINT).exists() or any(
            (logdir / "train_episodes").glob("*.npz")
        )
        if started and changed:
            refuse_other_shapes(logdir, changed)
            _keep(path, before)
            print("Changed since this run was started:")
            for key, (old, new) in changed.items():
                print(f"  {key}: {old} -> {new}")
    config.save(path)
    return logdir


def changes(before: Config, after: Config) -> dict[str, tuple[Any, Any]]:
    """Dotted keys whose values differ -> (before, after). Not the logdir itself."""
    old, new = before.flat, after.flat
    keys = [key for key in {**new, **old} if key != "logdir"]
    pairs = {key: (old.get(key), new.get(key)) for key in keys}
    return {key: (a, b) for key, (a, b) in pairs.items() if a != b}


def refuse_other_shapes(logdir: Path, changed: dict[str, tuple[Any, Any]]) -> None:
    """Raises UsageError if a change gives other networks or other episodes."""
    bad = {
        key: pair
        for key, pair in changed.items()
        if key in SHAPING or key.rpartition(".")[2] in SHAPING_PARTS
    }
    if bad:
        listed = ", ".join(f"{key} {old} -> {new}" for key, (old, new) in bad.items())
        raise UsageError(
            f"The run in {logdir} has networks of another shape: {listed}. Use its "
            "values to go on with it, or another --logdir to start anew."
        )


def _keep(path: Path, config: Config) -> None:
    """Saves the config before under the first free number."""
    number = 1
    while (kept := path.with_name(f"config.{number}.yaml")).exists():
        number += 1
    config.save(kept)
