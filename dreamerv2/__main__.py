"""One command for all: dreamerv2 train, play, play-test, evaluate, plot, presets.

    dreamerv2 train --configs atari --task atari_pong --logdir ~/logdir/pong/1
    dreamerv2 train --help

The exit code is 0, or 2 for what the user can mend, 1 for a run that failed on its way,
130 and 143 for one that was stopped by Ctrl-C and by SIGTERM."""

import importlib
import sys
from collections.abc import Sequence

from dreamerv2.common.config import did_you_mean, load_presets

COMMANDS = {
    "train": ("dreamerv2.train", "train an agent, or go on with a run"),
    "play": ("dreamerv2.play", "step inside the dream of a trained agent"),
    "play-test": ("dreamerv2.play_test", "play an environment yourself"),
    "evaluate": ("dreamerv2.evaluate", "score a finished agent"),
    "plot": ("dreamerv2.common.plot", "draw the curves of runs"),
    "presets": ("", "list the presets and what they change"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that the first argument names; return its exit code."""
    name, *rest = [*(sys.argv[1:] if argv is None else argv), ""]
    if name in ("", "-h", "--help"):
        print(__doc__)
        print("\n".join(f"{key:10} {text}" for key, (_, text) in COMMANDS.items()))
        return 0 if name else 2
    if name not in COMMANDS:
        hint = did_you_mean(name, COMMANDS, f"expected one of {', '.join(COMMANDS)}.")
        print(f"dreamerv2: Unknown command {name!r}; {hint}", file=sys.stderr)
        return 2
    module, _ = COMMANDS[name]
    if not module:
        return show_presets()
    return importlib.import_module(module).main(rest[:-1])


def show_presets() -> int:
    """Print the presets of configs.yaml, each with what it changes."""
    for name, values in load_presets().items():
        if name != "defaults":
            print(name, *(f"  {k}: {v}" for k, v in values.items()), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
