"""Trains an agent: config -> environments, replay, agent -> the loop.

    python dreamerv2/train.py --configs defaults atari --task atari_pong \
        --logdir ~/logdir/atari_pong/dreamerv2/1

The same command again goes on where the run was stopped. --help lists every knob.
"""

import errno
import functools
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dreamerv2.agent import Agent
from dreamerv2.common.config import Config, load_presets
from dreamerv2.common.counter import Counter
from dreamerv2.common.device.malloc import keep_freed_memory
from dreamerv2.common.device.profiling import UpdateProfile
from dreamerv2.common.driver import Driver
from dreamerv2.common.episodes.memory import warn_if_too_big
from dreamerv2.common.episodes.offline import Recordings, find_episodes
from dreamerv2.common.errors import RunFailed, UsageError
from dreamerv2.common.files import cannot_write
from dreamerv2.common.flags import parse_config
from dreamerv2.common.logger import (
    JSONLOutput,
    Logger,
    Output,
    TerminalOutput,
    add_episode,
    is_logged,
)
from dreamerv2.common.networks.noise import Noise
from dreamerv2.common.other import CarryOverState, RandomAgent, RunningMeans, Timer
from dreamerv2.common.outputs.progress import progress
from dreamerv2.common.outputs.services import make_outputs
from dreamerv2.common.outputs.stdout import print_anything
from dreamerv2.common.outputs.stills import save_stills, set_apart
from dreamerv2.common.replay import Replay
from dreamerv2.common.settings.describe import describe
from dreamerv2.common.settings.rules import check_videos, checked
from dreamerv2.common.torchutils import resolve_device
from dreamerv2.common.when import Every, Until
from dreamerv2.running.background import BackgroundUpdates, Updates
from dreamerv2.running.environments import Environments, MakeEnv, Restarts
from dreamerv2.running.loading import (
    load_weights,
    refuse_other_spaces,
    refuse_unlike,
    shapes_of_run,
)
from dreamerv2.running.logdir import Logdir, goes_on
from dreamerv2.running.reference import parameters
from dreamerv2.running.runstate import Moment, RunState, World
from dreamerv2.running.saves import Saves, seed_process
from dreamerv2.running.seeds import derive_seed
from dreamerv2.running.signals import Stopped, StopSignals
from dreamerv2.running.watch import Watch, check_actions


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns the exit code: 2 for what the user can mend, 1 for a run
    that failed on its way."""
    print_anything()
    try:
        config = checked(parse_config(argv, load_presets()))
        with ExitStack() as stack:
            logdir = stack.enter_context(closing(Logdir(config)))
            stop = stack.enter_context(StopSignals())
            Run(config, logdir, stop, stack).train()
    except (UsageError, RunFailed) as error:
        print(f"dreamerv2-train: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        print(f"dreamerv2-train: {cannot_write('a file', error)}", file=sys.stderr)
        return 2
    except torch.OutOfMemoryError as error:
        print(f"dreamerv2-train: {full_gpu(error)}", file=sys.stderr)
        return 2
    except Stopped as stopped:
        folder = Path(config.logdir).expanduser()
        print(f"{stopped} The same command {goes_on(folder)}")
        return stopped.code
    except KeyboardInterrupt:
        return 130
    return 0


class Run:
    """One run in its logdir: the parts, and the loop that connects them.

    Data flows one way: environments -> driver -> replay -> agent.

    Args:
      config: the whole configuration.
      logdir: where it is to be; a checkpoint in it is gone on from.
      stop: asked after each step whether to stop.
      stack: closes, when it is left, whatever was opened.
      make: what makes the environments; without it, config.task names them.
      evaluates: whether there are environments for evaluation.
      outputs: of metrics, besides those that the config names.
    """

    def __init__(
        self,
        config: Config,
        logdir: Logdir,
        stop: StopSignals,
        stack: ExitStack,
        make: MakeEnv | None = None,
        evaluates: bool = True,
        outputs: Sequence[Output] = (),
    ):
        self.config = config
        self.logdir = logdir.path
        self.stop = stop
        self.stack = stack
        saves = Saves(self.logdir, resolve_device(config.device))
        self.resumed = saves.load()
        seed_process(config.seed)
        self.step = Counter()
        self.evaluated = -1  # Step of the last evaluation.
        self.bar = None
        self.timer = Timer()
        self.profile = UpdateProfile(config.profile, self.logdir)
        self.metrics = RunningMeans()  # Of the updates since the last log.
        self.watch = Watch(config.nan_patience, self.logdir)
        self.make_when()
        self.make_envs(saves, make, evaluates)
        self.make_agent()
        self.state = RunState(saves, self.parts(), self.step, self.watch)
        # What is refused is refused before any file is changed.
        if self.resumed:
            self.state.restore()
            self.fit_carry()
        logdir.begin()
        self.make_replays()
        self.make_logger(saves, outputs)
        if self.resumed:
            self.evaluated = saves.get("evaluated") or int(self.step)
            self.state.restore_world()
            self.logger.restart_clock()

    def train(self) -> None:
        """The whole run: prefill, then evaluate and train until the end."""
        print(describe(self.config, int(self.step) if self.resumed else None))
        print(self.agent.summary())
        if self.config.offline:
            print(f"Learns from {self.train_replay.stats['total_episodes']} episodes.")
        elif not self.resumed:
            self.prefill()
            self.pretrain()
        if self.step >= self.config.steps and self.evaluated == self.step:
            print(f"This run has reached its {self.config.steps} steps already.")
            return
        self.train_driver.on_step(self.train_step)
        eval_episode = functools.partial(self.log_episode, mode="eval")
        self.eval_driver.on_episode(eval_episode, self.keep("eval"))
        steps = self.config.steps
        with (
            self.state.saved_at_last(),
            progress("Train", total=steps, start=int(self.step)) as self.bar,
        ):
            self.loop()
            self.evaluate()

    def loop(self) -> None:
        """Evaluates and trains by turns, saving around each evaluation and by time."""
        last_save = time.monotonic()
        while self.step < self.config.steps:
            if self.when["eval"].due(self.step):
                self.evaluate()
                last_save = time.monotonic()
            if self.config.offline:
                self.learn_offline()
            else:
                with self.state.at(Moment.ACTING):
                    self.train_driver(self.train_policy, steps=1)
            self.stop.check()
            if time.monotonic() - last_save > self.config.save_every:
                self.state.save()
                last_save = time.monotonic()

    def make_when(self) -> None:
        """What is due now and then."""
        config = self.config
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

    def make_envs(self, saves: Saves, make: MakeEnv | None, evaluates: bool) -> None:
        """Environments and what steps them; offline there are none."""
        config, offline = self.config, bool(self.config.offline)
        restarts = Restarts(config.env_restarts, self.logdir)
        start = environment_start(self.logdir, saves.get("step"))
        count = min(config.envs, config.eval_eps)
        self.eval_episodes_per_env = -(-config.eval_eps // count)
        made = []
        numbers = {True: config.envs, False: count if evaluates else 0}
        for train, number in numbers.items():
            number = 0 if offline else number
            envs = Environments(config, number, train, restarts, make, start)
            self.stack.callback(envs.close)
            timer = self.timer if train else None  # An evaluation is timed as one.
            made += [envs, Driver(envs.envs, envs.replace, timer)]
        self.train_envs, self.train_driver, self.eval_envs, self.eval_driver = made
        if offline:
            folder = self.logdir if self.resumed else config.offline
            self.recordings = Recordings(find_episodes(folder))
            self.spaces = self.recordings.spaces
        else:
            env = self.train_envs.envs[0]
            refuse_unlike([*self.train_envs.envs, *self.eval_envs.envs])
            refuse_other_spaces(self.logdir, shapes_of_run(self.logdir), env)
            self.spaces = env.obs_space, env.act_space
        check_videos(config, self.spaces[0])
        self.random_agent = RandomAgent(
            self.spaces[1], derive_seed(config.seed, "random_agent")
        )

    def make_agent(self) -> None:
        """The agent, a second stream of random numbers for it, and what updates it."""
        config = self.config
        if resolve_device(config.device).type == "cpu":
            keep_freed_memory()
        # An update in the background must not see the count go on.
        seen = Counter() if config.async_training else self.step
        self.agent = Agent(config, *self.spaces, seen)
        if config.load and not self.resumed:
            load_weights(self.agent, config.load, config.load_parts)
        self.train_agent = CarryOverState(self.agent.train)
        seed = derive_seed(config.seed, "eval_noise")
        self.eval_noise = Noise(seed, self.agent.device)
        if config.async_training:
            # The twin's random numbers are its own; its weights are to be the agent's.
            twin = Agent(config, *self.spaces, self.step)
            seed = derive_seed(config.seed, "acting_noise")
            twin.noise = Noise(seed, self.agent.device)
            counts = self.step, seen
            self.updates = BackgroundUpdates(self.agent, twin, self.learn, *counts)
        else:
            self.updates = Updates(self.agent, self.learn)
        self.stack.callback(self.updates.close)

    def make_replays(self) -> None:
        """The replays, what fills them, and their streams of batches."""
        offline = self.config.offline
        if offline and not self.resumed:
            self.recordings.take_in(self.logdir / "train_episodes")
        replays = make_replays(self.config, self.logdir)
        self.train_replay, self.eval_replay = replays
        loaded = self.train_replay.stats["loaded_steps"]
        steps = loaded if offline else self.config.steps
        warn_if_too_big(self.config.replay, self.spaces, steps, loaded)
        if not (self.resumed or offline):
            # Until there is a checkpoint, what was earned is the episodes on disk.
            self.step.increment(self.train_replay.stats["total_steps"])
        train_episode = functools.partial(self.log_episode, mode="train")
        self.train_driver.on_episode(train_episode, self.keep("train"))
        self.train_driver.on_step(self.count_step)
        self.train_driver.on_step(self.train_replay.add_step)
        self.train_driver.on_reset(self.train_replay.add_step)
        self.eval_driver.on_step(self.eval_replay.add_step)
        self.eval_driver.on_reset(self.eval_replay.add_step)
        self.eval_driver.on_step(self.stop.check)
        self.state.more, self.state.settle = self.more, self.settle
        world = self.train_envs, self.train_driver, self.train_replay
        self.state.world = World(*world, self.eval_envs, self.eval_replay)
        settings = {**self.config.dataset, "transform": self.agent.to_tensors}
        self.dataset = self.train_replay.dataset(**settings)
        # A report uses up no batch that would have been trained on.
        self.report_dataset = self.train_replay.dataset(**settings)
        self.eval_dataset = self.eval_replay.dataset(**settings)
        for dataset in (self.dataset, self.report_dataset, self.eval_dataset):
            self.stack.enter_context(closing(dataset))

    def make_logger(self, saves: Saves, more: Sequence[Output]) -> None:
        """Terminal, metrics.jsonl and what --logger names; what a resumed run does
        again, the files forget."""
        config = self.config
        multiplier = 1 if config.offline else config.action_repeat
        frames = int(self.step) * multiplier
        self.jsonl = JSONLOutput(self.logdir)
        self.jsonl.truncate_after(frames, saves.get("metrics_size"))
        outputs = [TerminalOutput(), self.jsonl, *more]
        for output in make_outputs(config.logger, self.logdir, config, frames):
            if hasattr(output, "close"):
                self.stack.enter_context(closing(output))
            outputs.append(output)
        self.logger = Logger(self.step, outputs, multiplier)

    def prefill(self) -> None:
        """Random actions, until there is something to learn from."""
        done = self.train_replay.stats["total_steps"]
        total = self.config.prefill
        if done < total:
            with progress("Prefill", total=total, start=done) as self.bar:
                self.train_driver(self.random_policy, steps=total - done, episodes=1)
            self.train_driver.reset()
        if self.eval_envs.envs and not self.eval_replay.stats["total_episodes"]:
            self.eval_driver(self.random_policy, episodes=1)
            self.eval_driver.reset()

    def pretrain(self) -> None:
        """Updates on the random episodes before the policy's first step."""
        with progress("Pretrain", total=self.config.pretrain, unit="updates") as bar:
            for _ in range(self.config.pretrain):
                self.update()
                self.settle()
                bar.advance()
                self.stop.check()

    def update(self) -> None:
        """One update of the agent. Does not wait for the device."""
        with self.timer("data"):
            batch = next(self.dataset)
        with self.timer("update"):
            self.updates.submit(batch)

    def learn(self, batch: dict[str, Any]) -> None:
        """An update on this batch, in whatever thread updates are made."""
        with self.profile:
            metrics = self.train_agent(batch)
        self.watch.add(metrics, batch)
        if self.config.log_every:
            self.metrics.add(metrics)

    def settle(self) -> None:
        """Waits for updates in the background, before anything reads their results."""
        with self.timer("update"):
            self.updates.join()

    def train_step(self, tran: dict[str, np.ndarray], worker: int) -> None:
        """After a step of an environment: updates and logs when they are due."""
        if self.when["train"](self.step):
            with self.timer("update"):
                self.updates.begin()
            for _ in range(self.config.train_steps):
                self.update()
        if self.when["log"](self.step):
            self.log_metrics()

    def learn_offline(self) -> None:
        """An update on recorded episodes, which counts as a step."""
        with self.state.at(Moment.CHANGING):
            self.step.increment()
            self.bar.advance()
            self.update()
            if self.when["log"](self.step):
                self.log_metrics()

    def train_policy(self, obs: dict[str, np.ndarray], state: Any) -> tuple[dict, Any]:
        mode = "explore" if self.should_explore(self.step) else "train"
        with self.timer("policy"):
            outputs, state = self.updates.policy(obs, state, mode)
        return check_actions(outputs, self.step), state

    def random_policy(self, obs: dict[str, np.ndarray], state: Any) -> tuple[dict, Any]:
        self.stop.check()
        return self.random_agent(obs, state)

    def eval_policy(self, obs: dict[str, np.ndarray], state: Any) -> tuple[dict, Any]:
        outputs, state = self.agent.policy(obs, state, mode="eval")
        return check_actions(outputs, self.step), state

    def evaluate(self) -> None:
        """Plays eval_eps episodes, the same number in each environment.

        Saves before, so that one that is cut short is made again, and after.
        """
        self.state.save()
        with self.state.at(Moment.CHANGING), self.timer("eval"), self.aside():
            if not self.eval_envs.envs:
                self.report(next(self.report_dataset), "train")
            elif self.eval_replay.stats["total_episodes"]:
                self.report(next(self.eval_dataset), "eval")
            if self.eval_envs.envs:
                self.play()
            self.logger.write()
        self.when["eval"](self.step)
        self.evaluated = int(self.step)
        self.state.save()

    def play(self) -> None:
        """The episodes of an evaluation."""
        self.eval_driver.reset()
        self.eval_driver(self.eval_policy, episodes_per_env=self.eval_episodes_per_env)
        self.logger.add(self.eval_replay.stats, prefix="eval")

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Within it, the agent draws other random numbers than those of training, which
        goes on as if nothing had been."""
        noise, self.agent.noise = self.agent.noise, self.eval_noise
        try:
            yield
        finally:
            self.agent.noise = noise

    def report(self, batch: dict[str, Any], mode: str) -> None:
        """Open-loop videos for the logger, and stills of them in DIR/report."""
        videos, vectors = self.agent.report(batch), self.agent.report_vectors(batch)
        folder, count = self.logdir / "report", min(6, len(batch["action"]))
        self.logger.add(set_apart(videos, count), prefix=mode)
        save_stills(folder, self.logger.frames, videos, vectors, count)

    def count_step(self, tran: dict[str, np.ndarray], worker: int) -> None:
        self.state.moment = Moment.CHANGING  # Until all that follows is written.
        self.step.increment()
        if self.bar:
            self.bar.advance()

    def log_metrics(self) -> None:
        """Everything since the last time; this waits for the device."""
        self.settle()
        self.watch.check(int(self.step))
        self.logger.add(self.metrics.means())
        self.logger.add(self.timer.shares(), prefix="time")
        with self.aside():
            batch = next(self.report_dataset)
            videos = self.agent.report(batch)
        count = min(6, len(batch["action"]))
        self.logger.add(set_apart(videos, count), prefix="train")
        if self.config.log_histograms:
            for name, value in parameters(self.agent).items():
                self.logger.histogram(name, value)
        self.logger.write(fps=True)

    def keep(self, mode: str) -> Callable[[str], bool]:
        """What is kept of an episode to log it; pictures only while a video is due."""
        due = self.when[f"video_{mode}"].due
        return lambda key: is_logged(key, self.config, due(self.step))

    def log_episode(self, ep: dict[str, np.ndarray], worker: int, mode: str) -> None:
        """Figures and a video of a finished episode.

        Training episodes are written one by one, an evaluation's all together.
        """
        shown = any(key in ep for key in self.config.log_keys_video)
        video = shown and self.when[f"video_{mode}"](self.step)
        add_episode(self.logger, ep, mode, self.config, video)
        if mode == "train":
            self.logger.add(self.train_replay.stats, prefix="train")
            self.logger.write()

    def parts(self) -> dict[str, Any]:
        """What makes up a checkpoint, with what is in `World`."""
        acting = {"acting": self.updates} if self.config.async_training else {}
        return {
            "agent": self.agent,
            **acting,
            "carry": self.train_agent,
            "step": self.step,
            **{f"when_{name}": every for name, every in self.when.items()},
            "metrics": self.metrics,
            "eval_noise": self.eval_noise,
        }

    def more(self) -> dict[str, Any]:
        """Further values for a checkpoint."""
        return {"evaluated": self.evaluated, "metrics_size": self.jsonl.size}

    def fit_carry(self) -> None:
        """Forgets the carried latents if batches have another number of rows now."""
        carried = self.train_agent.state_dict()["state"]
        if carried and len(carried["stoch"]) != self.config.dataset.batch:
            self.train_agent.load_state_dict({"state": None})


def full_gpu(error: torch.OutOfMemoryError) -> str:
    """What to do where the memory of the GPU is not enough."""
    # What follows is about PyTorch's own settings.
    told = str(error).partition(" Of the allocated memory")[0].splitlines()[0]
    return (
        f"The memory of the GPU is not enough ({told.rstrip('.')}): end other programs "
        "that use it, or lower --dataset.batch or the sizes of the networks."
    )


def environment_start(logdir: Path, step: dict[str, int] | None) -> tuple[int, int]:
    """What tells one start of a run from another, for the seeds of environments.

    Made anew, they shall not play the episodes again that they have played.
    """
    episodes = sum(1 for _ in (logdir / "train_episodes").glob("*.npz"))
    return episodes, step["value"] if step else 0


def make_replays(config: Config, logdir: Path) -> tuple[Replay, Replay]:
    """The replays of training and of evaluation, which keeps short episodes, too."""
    seed = derive_seed(config.seed, "train_replay")
    train = Replay(logdir / "train_episodes", **config.replay, seed=seed)
    settings = {
        **config.replay,
        "capacity": config.replay.capacity // 10,
        "ongoing": False,
        "minlen": 1,
        "maxlen": config.dataset.length,
    }
    seed = derive_seed(config.seed, "eval_replay")
    return train, Replay(logdir / "eval_episodes", **settings, seed=seed)


if __name__ == "__main__":
    sys.exit(main())
