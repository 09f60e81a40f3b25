"""Tiny agents in folders, and the commands of play.py and play_test.py, for tests."""

import contextlib
import io

import pytest
from run_tools import NETWORKS, Result

from dreamerv2 import play, play_test
from dreamerv2.agent import Agent
from dreamerv2.common.config import load_presets
from dreamerv2.common.counter import Counter
from dreamerv2.common.envs import make_env
from dreamerv2.common.flags import parse_config
from dreamerv2.playing import options
from dreamerv2.running.statefile import save_checkpoint


def save_agent(logdir, *flags):
    """An untrained agent's config.yaml and checkpoint; returns the folder."""
    argv = [*NETWORKS, "--logdir", str(logdir), *map(str, flags)]
    config = parse_config(argv, load_presets())
    env = make_env(config, 0)
    agent = Agent(config, env.obs_space, env.act_space, Counter())
    save_checkpoint(logdir / "variables.pt", {"agent": agent.state_dict()})
    config.save(logdir / "config.yaml")
    return logdir


def make_player(logdir, episode=""):
    """The core of play.py on the agent of a folder."""
    config = options.run_config(["--logdir", str(logdir)])
    return play.make_player(config, episode, scale=2)


def command(script, *flags):
    """A run in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = script.main([str(flag) for flag in flags])
    return Result(code, out.getvalue(), err.getvalue())


def refusal(script, *flags):
    """What a run that refused its input said: one line, one sentence, no trace."""
    result = command(script, *flags)
    assert result.code == 2, f"{result.code}\n{result.out}\n{result.err}"
    line, end, rest = result.err.partition("\n")
    assert (end, rest) == ("\n", ""), result.err
    name, _, sentence = line.partition(": ")
    assert name == {play: "dreamerv2-play", play_test: "dreamerv2-play-test"}[script]
    assert sentence.endswith((".", "?")), sentence
    return sentence


def press(player, keys, steps=0):
    """Press keys one after another, then let time pass."""
    for key in keys.split():
        player.press(key)
        player.release(key)
    for _ in range(steps):
        player.tick()


def cells(player):
    """The strip as a dict."""
    return dict(player._scene().cells)


def captions(player):
    return [caption for caption, _ in player._scene().panes]


class Typist:
    """Sends key events to a pygame window, at given steps of its player."""

    def __init__(self, player, script):
        self._tick, self._script = player.tick, script
        self._player = player
        player.tick = self

    def __call__(self):
        pygame = pytest.importorskip("pygame")
        for key in self._script.pop(self._player.steps, ()):
            code = pygame.key.key_code(key)
            for kind in (pygame.KEYDOWN, pygame.KEYUP):
                pygame.event.post(pygame.event.Event(kind, key=code, unicode=""))
        return self._tick()
