"""Trains an agent: config -> environments, replay, agent -> the loop.

    python dreamerv2/train.py --configs defaults atari --task atari_pong \
        --logdir ~/logdir/atari_pong/dreamerv2/1

The same command again goes on where the run was stopped. --help lists every knob.
"""

import functools
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from dreamerv2.agent import Agent
from dreamerv2.common.checkpoint import load_checkpoint, save_checkpoint
from dreamerv2.common.config import Config, load_presets
from dreamerv2.common.counter import Counter
from dreamerv2.common.driver import Driver
from dreamerv2.common.envs import Async, make_env
from dreamerv2.common.errors import UsageError
from dreamerv2.common.flags import parse_config
from dreamerv2.common.limits import check_limits
from dreamerv2.common.logdir import CHECKPOINT, open_logdir
from dreamerv2.common.logger import JSONLOutput, Logger, TerminalOutput
from dreamerv2.common.other import CarryOverState, RandomAgent, RunningMeans, Timer
from dreamerv2.common.outputs import make_outputs
from dreamerv2.common.progress import progress
from dreamerv2.common.reference import parameters
from dreamerv2.common.replay import Replay
from dreamerv2.common.signals import Stopped, StopSignals
from dreamerv2.common.stills import save_stills
from dreamerv2.common.torchutils import resolve_device
from dreamerv2.common.when import Every, Until

VIDEO_STEPS = 1000  # A longer GIF is slow to open and shows no more.


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns the exit code: 2 for what the user can mend."""
    try:
        config = parse_config(argv, load_presets())
        check_limits(config)
        logdir = open_logdir(config)
        with StopSignals() as stop, ExitStack() as stack:
            Run(config, logdir, stop, stack).train()
    except UsageError as error:
        print(f"dreamerv2-train: {error}", file=sys.stderr)
        return 2
    except Stopped as stopped:
        print(f"{stopped} The same command goes on from the last checkpoint.")
        return stopped.code
    except KeyboardInterrupt:
        return 130
    return 0


class Run:
    """One run in its logdir: the parts, and the loop that connects them.

    Data flows one way: environments -> driver -> replay -> agent.

    Args:
      config: the whole configuration.
      logdir: an open logdir; a checkpoint in it is gone on from.
      stop: asked after each step whether to stop.
      stack: closes, when it is left, whatever was opened.
    """

    def __init__(
        self, config: Config, logdir: Path, stop: StopSignals, stack: ExitStack
    ):
        self.config = config
        self.logdir = logdir
        self.path = logdir / CHECKPOINT
        device = resolve_device(config.device)
        self.saved = load_checkpoint(self.path, device) if self.path.exists() else None
        self.train_replay, self.eval_replay = make_replays(config, logdir)
        # Until there is a checkpoint, what was earned is the episodes on disk.
        self.step = Counter(self.train_replay.stats["total_steps"])
        if self.saved is not None:
            self.step.load_state_dict(self.saved_part("step"))
        self.logger = make_logger(config, logdir, self.step, stack)
        self.when = {
            # Catching up keeps the ratio of updates to steps, whatever the gaps.
            "train": Every(config.train_every, catch_up=True),
            "log": Every(config.log_every),
            "eval": Every(config.eval_every),
            "video_train": Every(config.eval_every),
            "video_eval": Every(config.eval_every),
        }
        # Frames to steps, rounded up: Until(0) would be for ever.
        self.should_explore = Until(-(-config.expl_until // config.action_repeat))
        self.timer = Timer()
        self.metrics = RunningMeans()  # Of the updates since the last log.
        self.bar = None
        envs = stack.enter_context(make_envs(config, config.envs, train=True))
        self.random_agent = RandomAgent(envs[0].act_space, config.seed)
        self.spaces = envs[0].obs_space, envs[0].act_space
        self.train_driver = Driver(envs)
        self.train_driver.on_episode(functools.partial(self.log_episode, mode="train"))
        self.train_driver.on_step(self.count_step)
        self.train_driver.on_step(self.train_replay.add_step)
        self.train_driver.on_reset(self.train_replay.add_step)
        count = min(config.envs, config.eval_eps)
        eval_envs = stack.enter_context(make_envs(config, count, train=False))
        self.eval_episodes_per_env = -(-config.eval_eps // count)
        self.eval_driver = Driver(eval_envs)
        self.eval_driver.on_step(self.eval_replay.add_step)
        self.eval_driver.on_reset(self.eval_replay.add_step)
        self.eval_driver.on_step(stop.check)
        self.stop = stop
        self.stack = stack

    def train(self) -> None:
        """The whole run: agent, prefill, then evaluate and train until the end."""
        self.make_agent()  # First, since settings that it refuses need no prefill.
        if self.saved is None:
            self.prefill()
            self.pretrain()
        else:
            self.restore()
            if self.step >= self.config.steps:
                print(f"This run has reached its {self.config.steps} steps already.")
                return
        self.train_driver.on_step(self.train_step)
        self.train_driver.on_step(self.stop.check)
        self.eval_driver.on_episode(functools.partial(self.log_episode, mode="eval"))
        steps = self.config.steps
        try:
            with progress("Train", total=steps, start=int(self.step)) as self.bar:
                self.loop()
            # If one is due now, too, a run that goes on from here has had it.
            self.when["eval"](self.step)
            self.evaluate()
        except Stopped:
            self.save()
            raise
        self.save()

    def loop(self) -> None:
        """Evaluates and trains by turns, saving after each evaluation and by time."""
        last_save = time.monotonic()
        while self.step < self.config.steps:
            before = self.when["eval"].state_dict()
            if self.when["eval"](self.step):
                try:
                    self.evaluate()
                except Stopped:  # It is still due when the run goes on.
                    self.when["eval"].load_state_dict(before)
                    raise
                self.save()
                last_save = time.monotonic()
            self.train_driver(self.train_policy, steps=1)
            if time.monotonic() - last_save > self.config.save_every:
                self.save()
                last_save = time.monotonic()

    def prefill(self) -> None:
        """Random actions, until there is something to learn from."""
        done = self.train_replay.stats["total_steps"]
        total = self.config.prefill
        if done < total:
            self.train_driver.on_step(self.stop.check)
            with progress("Prefill", total=total, start=done) as self.bar:
                self.train_driver(self.random_agent, steps=total - done, episodes=1)
            self.train_driver.reset()
        if not self.eval_replay.stats["total_episodes"]:
            self.eval_driver(self.random_agent, episodes=1)
            self.eval_driver.reset()

    def make_agent(self) -> None:
        """The agent and its streams of batches."""
        self.agent = Agent(self.config, *self.spaces, self.step)
        print(self.agent.summary())
        self.train_agent = CarryOverState(self.agent.train)
        settings = {**self.config.dataset, "transform": self.agent.to_tensors}
        self.dataset = self.train_replay.dataset(**settings)
        # A report uses up no batch that would have been trained on.
        self.report_dataset = self.train_replay.dataset(**settings)
        self.eval_dataset = self.eval_replay.dataset(**settings)
        for dataset in (self.dataset, self.report_dataset, self.eval_dataset):
            self.stack.enter_context(closing(dataset))

    def pretrain(self) -> None:
        """Updates on the random episodes before the policy's first step."""
        with progress("Pretrain", total=self.config.pretrain, unit="updates") as bar:
            for _ in range(self.config.pretrain):
                self.update()
                bar.advance()
                self.stop.check()

    def update(self) -> None:
        """One update of the agent. Does not wait for the device."""
        with self.timer("data"):
            batch = next(self.dataset)
        with self.timer("update"):
            metrics = self.train_agent(batch)
        if self.config.log_every:
            self.metrics.add(metrics)

    def train_step(self, tran: dict[str, np.ndarray], worker: int) -> None:
        """After a step of an environment: updates and logs when they are due."""
        if self.when["train"](self.step):
            for _ in range(self.config.train_steps):
                self.update()
        if self.when["log"](self.step):
            self.log_metrics()

    def train_policy(self, obs: dict[str, np.ndarray], state: Any) -> tuple[dict, Any]:
        mode = "explore" if self.should_explore(self.step) else "train"
        with self.timer("policy"):
            return self.agent.policy(obs, state, mode)

    def eval_policy(self, obs: dict[str, np.ndarray], state: Any) -> tuple[dict, Any]:
        return self.agent.policy(obs, state, mode="eval")

    def evaluate(self) -> None:
        """Plays eval_eps episodes, the same number in each environment."""
        with self.timer("eval"):
            if self.eval_replay.stats["total_episodes"]:
                self.report(next(self.eval_dataset))
            self.eval_driver.reset()
            self.eval_driver(
                self.eval_policy, episodes_per_env=self.eval_episodes_per_env
            )
        self.logger.add(self.eval_replay.stats, prefix="eval")
        self.logger.write()

    def report(self, batch: dict[str, Any]) -> None:
        """Open-loop videos for the logger, and stills of them in DIR/report."""
        videos = self.agent.report(batch)
        self.logger.add(videos, prefix="eval")
        vectors = self.agent.report_vectors(batch)
        folder, count = self.logdir / "report", min(6, len(batch["action"]))
        save_stills(folder, self.logger.frames, videos, vectors, count)

    def count_step(self, tran: dict[str, np.ndarray], worker: int) -> None:
        self.step.increment()
        if self.bar:
            self.bar.advance()

    def log_metrics(self) -> None:
        """Everything since the last time; this waits for the device."""
        self.logger.add(self.metrics.means())
        self.logger.add(self.timer.shares(), prefix="time")
        report = self.agent.report(next(self.report_dataset))
        self.logger.add(report, prefix="train")
        if self.config.log_histograms:
            for name, value in parameters(self.agent).items():
                self.logger.histogram(name, value)
        self.logger.write(fps=True)

    def log_episode(self, ep: dict[str, np.ndarray], worker: int, mode: str) -> None:
        """Return, length, chosen keys and a video of a finished episode.

        Training episodes are written one by one, an evaluation's all together.
        """
        self.logger.scalar(f"{mode}_return", float(ep["reward"].astype("f8").sum()))
        self.logger.scalar(f"{mode}_length", len(ep["reward"]) - 1)
        for kind, reduce in (("sum", np.sum), ("mean", np.mean), ("max", np.max)):
            pattern = self.config[f"log_keys_{kind}"]
            for key in ep:
                if re.match(pattern, key):
                    value = reduce(ep[key].astype("f8"), 0).mean()
                    self.logger.scalar(f"{kind}_{mode}_{key}", value)
        if self.when[f"video_{mode}"](self.step):
            for key in self.config.log_keys_video:
                if key in ep and ep[key].ndim == 4:
                    self.logger.video(f"{mode}_policy_{key}", ep[key][:VIDEO_STEPS])
        if mode == "train":
            self.logger.add(self.train_replay.stats, prefix="train")
            self.logger.write()

    def parts(self) -> dict[str, Any]:
        """What makes up a checkpoint: everything needed to go on."""
        return {
            "agent": self.agent,
            "carry": self.train_agent,
            "step": self.step,
            "train_replay": self.train_replay,
            "eval_replay": self.eval_replay,
            **{f"when_{name}": every for name, every in self.when.items()},
        }

    def save(self) -> None:
        state = {name: part.state_dict() for name, part in self.parts().items()}
        save_checkpoint(self.path, state)

    def restore(self) -> None:
        """Takes every part back to the checkpoint."""
        for name, part in self.parts().items():
            part.load_state_dict(self.saved_part(name))
        carried = self.saved_part("carry")["state"]
        if carried and len(carried["stoch"]) != self.config.dataset.batch:
            self.train_agent = CarryOverState(self.agent.train)  # Its rows are others.
        self.saved = {}  # Frees the memory.
        self.logger.restart_clock()
        print(f"Resumed at step {int(self.step)}.")

    def saved_part(self, name: str) -> Any:
        """The state of one part in the checkpoint."""
        if name not in self.saved:
            raise UsageError(
                f"The checkpoint {self.path} has no '{name}': it is of another "
                "version; move it away to start anew from the episodes."
            )
        return self.saved[name]


def make_replays(config: Config, logdir: Path) -> tuple[Replay, Replay]:
    """The replays of training and of evaluation, which keeps short episodes, too."""
    train = Replay(logdir / "train_episodes", **config.replay, seed=config.seed)
    settings = {
        **config.replay,
        "capacity": config.replay.capacity // 10,
        "ongoing": False,
        "minlen": 1,
        "maxlen": config.dataset.length,
    }
    return train, Replay(logdir / "eval_episodes", **settings, seed=config.seed + 1)


def make_logger(
    config: Config, logdir: Path, step: Counter, stack: ExitStack
) -> Logger:
    """Terminal, metrics.jsonl and what --logger names; what a resumed run does again,
    the files forget."""
    frames = int(step) * config.action_repeat
    jsonl = JSONLOutput(logdir)
    jsonl.truncate_after(frames)
    outputs = [TerminalOutput(), jsonl]
    for output in make_outputs(config.logger, logdir, config, frames):
        if hasattr(output, "close"):
            stack.enter_context(closing(output))
        outputs.append(output)
    return Logger(step, outputs, multiplier=config.action_repeat)


@contextmanager
def make_envs(config: Config, count: int, train: bool) -> Iterator[list[Any]]:
    """``count`` environments with seeds of their own, closed at the end."""
    if config.envs_parallel not in ("none", "thread", "process"):
        raise UsageError(
            f"Unknown envs_parallel '{config.envs_parallel}': expected none, thread "
            "or process."
        )
    with ExitStack() as stack:
        envs = []
        for index in range(count):
            make = functools.partial(make_env, config, config.seed + index, train)
            if config.envs_parallel == "none":
                env = make()
            else:
                role = "training" if train else "evaluation"
                name = f"{role} environment {index} ({config.task})"
                env = Async(make, config.envs_parallel, name)
            stack.callback(env.close)
            envs.append(env)
        yield envs


if __name__ == "__main__":
    sys.exit(main())
