"""Train an agent: config -> environments, replay, agent -> the loop.

    python dreamerv2/train.py --configs defaults atari --task atari_pong \
        --logdir ~/logdir/atari_pong/dreamerv2/1

The same command again goes on where the run was stopped. --help lists every knob.
"""

import errno
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dreamerv2.common.config import Config, load_presets
from dreamerv2.common.counter import Counter
from dreamerv2.common.errors import RunFailed, UsageError
from dreamerv2.common.files import cannot_write
from dreamerv2.common.flags import parse_config
from dreamerv2.common.logger import Output, add_episode, is_logged
from dreamerv2.common.other import RandomAgent, Timer
from dreamerv2.common.outputs.progress import progress
from dreamerv2.common.outputs.stdout import print_anything
from dreamerv2.common.outputs.stills import save_stills, set_apart
from dreamerv2.common.settings.describe import describe
from dreamerv2.common.settings.rules import checked
from dreamerv2.common.torchutils import resolve_device
from dreamerv2.common.when import Until
from dreamerv2.running import parts
from dreamerv2.running.checkpoint import Checkpoint
from dreamerv2.running.collector import Collector
from dreamerv2.running.environments import MakeEnv
from dreamerv2.running.logdir import Logdir, goes_on
from dreamerv2.running.random_states import ProcessRandom
from dreamerv2.running.reference import parameters
from dreamerv2.running.seeds import derive_seed
from dreamerv2.running.signals import Stopped, StopSignals
from dreamerv2.running.watch import check_actions


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit code: 2 for what the user can mend, 1 for a run
    that failed on its way."""
    print_anything()
    try:
        config = checked(parse_config(argv, load_presets()))
        with ExitStack() as stack:
            logdir = stack.enter_context(closing(Logdir(config)))
            stop = stack.enter_context(StopSignals())
            Trainer(config, logdir, stop, stack).run()
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


class Trainer:
    """A run in its logdir: environments -> driver -> replay -> batches -> agent.

    Args:
      config: the whole configuration.
      logdir: where it is to be; a checkpoint in it is gone on from.
      stop: asked after each step whether to stop.
      stack: closes, when it is left, whatever was opened.
      make: makes the environments; without it, config.task names them.
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
        self.config, self.stop = config, stop
        self.step, self.evaluated = Counter(), Counter(-1)  # Step of the last one.
        self.timer = Timer()
        self.when = parts.make_when(config)
        # Frames to steps, rounded up: Until(0) would be for ever.
        self.should_explore = Until(-(-config.expl_until // config.action_repeat))
        folder, device = logdir.path, resolve_device(config.device)
        self.checkpoint = checkpoint = Checkpoint(folder, device, self.step)
        resumed = checkpoint.resumed
        process_random = ProcessRandom(config.seed)
        envs = parts.make_envs(config, folder, checkpoint.step, make, evaluates)
        for each in envs:
            stack.callback(each.close)
        recordings = parts.open_recordings(config, folder, resumed)
        spaces = parts.find_spaces(envs, recordings, folder)
        self.learner = parts.make_learner(
            config, spaces, folder, self.step, self.timer, resumed
        )
        stack.callback(self.learner.close)
        checkpoint.add(step=self.step, evaluated=self.evaluated, agent=self.learner)
        checkpoint.add(**{f"when_{name}": when for name, when in self.when.items()})
        # What does not fit has been refused. From here on, files are changed.
        logdir.begin()
        if recordings and not resumed:
            recordings.take_in(folder / "train_episodes")
        replays = parts.make_replays(config, folder, spaces)
        if not (resumed or config.offline):
            # Until there is a checkpoint, what was earned is the episodes on disk.
            self.step.increment(replays[0].stats["total_steps"])
        self.train = Collector(envs[0], replays[0], self.step, self.timer)
        self.eval = Collector(envs[1], replays[1])
        self.batches = parts.make_batches(config, *replays, self.learner.agent, stack)
        self.logger = parts.make_logger(
            config, folder, self.step, checkpoint, stack, outputs
        )
        if resumed:
            print(f"Resumed at step {int(self.step)}.")
        if checkpoint.versions_changed:
            print(f"Saved with other versions: {checkpoint.versions_changed}.")
        # What is random in this process goes on from there, too, so this comes last.
        checkpoint.add(train=self.train, eval=self.eval, random=process_random)
        self.eval.driver.on_step(stop.check)
        self.log_episodes("train")

    def run(self) -> None:
        """Prefill, then evaluate and train until the end."""
        config, step = self.config, self.step
        print(describe(config, int(step) if self.checkpoint.resumed else None))
        print(self.learner.agent.summary())
        if config.offline:
            episodes = self.train.replay.stats["total_episodes"]
            print(f"Learns from {episodes} episodes.")
        elif not self.checkpoint.resumed:
            self.prefill()
            self.pretrain()
        self.train.driver.on_step(self.train_step)
        self.log_episodes("eval")  # Not the random one.
        if self.evaluated == step and step >= config.steps:
            print(f"This run has reached its {config.steps} steps already.")
            return
        shown = progress("Train", total=config.steps, start=int(step))
        with self.checkpoint.saved_at_last(), shown as bar:
            saved = time.monotonic()
            while step < config.steps:
                self.checkpoint.whole()
                self.stop.check()
                if self.when["eval"].due(step):
                    self.evaluate()
                    saved = time.monotonic()
                elif time.monotonic() - saved > config.save_every:
                    self.checkpoint.save()
                    saved = time.monotonic()
                before = int(step)
                if config.offline:
                    self.learn_offline()
                else:
                    self.train(self.train_policy, steps=1)
                bar.advance(int(step) - before)
            self.checkpoint.whole()
            self.evaluate()

    def prefill(self) -> None:
        """Act at random until there is something to learn from."""
        env = self.learner.agent.spaces[1]
        agent = RandomAgent(env, derive_seed(self.config.seed, "random_agent"))

        def policy(obs: dict[str, np.ndarray], state: Any) -> tuple[dict, Any]:
            self.stop.check()
            return agent(obs, state)

        done, total = self.train.replay.stats["total_steps"], self.config.prefill
        if done < total:
            with progress("Prefill", total=total, start=done) as bar:
                while done < total:
                    before = int(self.step)
                    self.train(policy, steps=1)
                    bar.advance(int(self.step) - before)
                    done += int(self.step) - before
                if not self.train.replay.stats["total_episodes"]:
                    self.train(policy, episodes=1)
            self.train.reset()
        if self.eval.envs.envs and not self.eval.replay.stats["total_episodes"]:
            self.eval(policy, episodes=1)
            self.eval.reset()

    def pretrain(self) -> None:
        """Learn from the random episodes before the policy's first step."""
        with progress("Pretrain", total=self.config.pretrain, unit="updates") as bar:
            for _ in range(self.config.pretrain):
                self.update()
                self.learner.join()
                bar.advance()
                self.stop.check()

    def train_step(self, tran: dict[str, np.ndarray], worker: int) -> None:
        """Learn and log when due, after each step of an environment."""
        if self.when["train"](self.step):
            for _ in range(self.config.train_steps):
                self.update()
        if self.when["log"](self.step):
            self.log_metrics()

    def learn_offline(self) -> None:
        """Learn from recorded episodes; an update counts as a step."""
        self.step.increment()
        self.update()
        if self.when["log"](self.step):
            self.log_metrics()

    def update(self) -> None:
        """Update the agent once. Does not wait for the device."""
        with self.timer("data"):
            batch = next(self.batches["learn"])
        self.learner.train(batch)

    def train_policy(self, obs: dict[str, np.ndarray], state: Any) -> tuple[dict, Any]:
        """Act to explore, or as the task's actor."""
        mode = "explore" if self.should_explore(self.step) else "train"
        return self.learner.policy(obs, state, mode)

    def eval_policy(self, obs: dict[str, np.ndarray], state: Any) -> tuple[dict, Any]:
        """Act as well as the agent can."""
        outputs, state = self.learner.agent.policy(obs, state, "eval")
        return check_actions(outputs, self.step), state

    def evaluate(self) -> None:
        """Play eval_eps episodes, each environment a number that is fixed before.

        Saves before, so that one that is cut short is made again, and after.
        """
        self.checkpoint.save()
        with self.timer("eval"):
            count = len(self.eval.envs.envs)
            if count:
                rest, extra = divmod(self.config.eval_eps, count)
                episodes = [rest + (i < extra) for i in range(count)]
                self.eval.reset()
                self.eval(self.eval_policy, episodes_per_env=episodes)
                self.logger.add(self.eval.replay.stats, prefix="eval")
            self.report("eval" if count else "train")
            self.logger.write()
        self.when["eval"](self.step)
        self.evaluated.increment(int(self.step) - int(self.evaluated))
        self.checkpoint.save()

    def report(self, mode: str) -> None:
        """Log open-loop videos, and save stills of them in DIR/report."""
        batch = next(self.batches[mode])
        agent, count = self.learner.agent, min(6, len(batch["action"]))
        videos, vectors = agent.report(batch), agent.report_vectors(batch)
        self.logger.add(set_apart(videos, count), prefix=mode)
        folder = self.checkpoint.path.parent / "report"
        save_stills(folder, self.logger.frames, videos, vectors, count)

    def log_metrics(self) -> None:
        """Log everything since the last time; this waits for the device."""
        self.logger.add(self.learner.metrics())
        self.logger.add(self.timer.shares(), prefix="time")
        agent, batch = self.learner.agent, next(self.batches["train"])
        videos = set_apart(agent.report(batch), min(6, len(batch["action"])))
        self.logger.add(videos, prefix="train")
        if self.config.log_histograms:
            for name, value in parameters(agent).items():
                self.logger.histogram(name, value)
        self.logger.write(fps=True)

    def log_episodes(self, mode: str) -> None:
        """Log finished episodes from here on; keep pictures while a video is due."""
        due = self.when[f"video_{mode}"].due
        collector = self.train if mode == "train" else self.eval
        collector.driver.on_episode(
            partial(self.log_episode, mode=mode),
            lambda key: is_logged(key, self.config, due(self.step)),
        )

    def log_episode(self, ep: dict[str, np.ndarray], worker: int, mode: str) -> None:
        """Log figures and a video of a finished episode.

        Training episodes are written one by one, an evaluation's all together.
        """
        shown = any(key in ep for key in self.config.log_keys_video)
        video = shown and self.when[f"video_{mode}"](self.step)
        add_episode(self.logger, ep, mode, self.config, video)
        if mode == "train":
            self.logger.add(self.train.replay.stats, prefix="train")
            self.logger.write()


def full_gpu(error: torch.OutOfMemoryError) -> str:
    """Say what to do where the memory of the GPU is not enough."""
    # What follows is about PyTorch's own settings.
    reason = str(error).partition(" Of the allocated memory")[0].splitlines()[0]
    return (
        f"The memory of the GPU is not enough ({reason.rstrip('.')}): end other "
        "programs that use it, or lower --dataset.batch or the sizes of the networks."
    )


if __name__ == "__main__":
    sys.exit(main())
