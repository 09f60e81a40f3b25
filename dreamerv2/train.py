"""Train an agent: config -> environments, replay, agent -> the loop.

    python dreamerv2/train.py --configs defaults atari --task atari_pong \
        --logdir ~/logdir/atari_pong/dreamerv2/1

The same command again goes on where the run was stopped. --help lists every knob.
`torchrun --nproc-per-node 2 dreamerv2/train.py ..` shares the run among two processes.
"""

import errno
import sys
from collections.abc import Sequence
from contextlib import ExitStack, closing, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dreamerv2.common.config import Config, load_presets
from dreamerv2.common.counter import Counter
from dreamerv2.common.device.ranks import ALONE, Ranks, join_ranks
from dreamerv2.common.driver import Policy
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
from dreamerv2.running.reference import parameters
from dreamerv2.running.rounds import Rounds
from dreamerv2.running.seeds import ProcessRandom, derive_seed
from dreamerv2.running.signals import Stopped, StopSignals
from dreamerv2.running.since_reset import SinceReset
from dreamerv2.running.watch import check_actions


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code, as `dreamerv2.__main__` lists them."""
    print_anything()
    ranks = join_ranks()

    def end(code: int, sentence: object) -> int:
        if ranks.is_first_to_end():
            print(f"dreamerv2-train: {sentence}", file=sys.stderr)
        return code

    with ExitStack() as last:  # A signal waits for the last word, too.
        try:
            config = checked(parse_config(argv, load_presets()))
            with ExitStack() as stack:
                shared = parts.share(config, ranks)
                logdir = stack.enter_context(closing(Logdir(config, ranks)))
                ranks.gather(None)  # The first has found nothing to refuse.
                if ranks.rank:  # What it prints would be a second voice.
                    logdir.own.mkdir(parents=True, exist_ok=True)
                    output = (logdir.own / "output.txt").open("a", 1, "utf-8")
                    last.enter_context(redirect_stdout(last.enter_context(output)))
                stop = last.enter_context(StopSignals())
                Trainer(shared, logdir, stop, stack, ranks=ranks).run()
        except (UsageError, RunFailed) as error:
            return end(2 if isinstance(error, UsageError) else 1, error)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            return end(2, cannot_write("a file", error))
        except torch.OutOfMemoryError as error:
            return end(2, full_gpu(error))
        except Stopped as stopped:
            ranks.is_first_to_end()  # The others need not say so.
            folder = Path(config.logdir).expanduser()
            print(f"{stopped} The same command {goes_on(folder)}")
            return stopped.code
        except KeyboardInterrupt:
            return 130
    ranks.close()
    return 0


class Trainer:
    """A run in its logdir: environments -> driver -> replay -> batches -> agent.

    `stop` is asked after each step, `stack` closes what was opened, `make` makes the
    environments in place of config.task; config is this rank's share of the run."""

    def __init__(
        self,
        config: Config,
        logdir: Logdir,
        stop: StopSignals,
        stack: ExitStack,
        make: MakeEnv | None = None,
        evaluates: bool = True,
        outputs: Sequence[Output] = (),
        ranks: Ranks = ALONE,
    ):
        self.config, self.stop, self.ranks = config, stop, ranks
        self.step, self.evaluated = Counter(), Counter(-1)  # Step of the last one.
        self.timer = Timer()
        self.when = parts.make_when(config)
        # Frames to steps, rounded up: Until(0) would be for ever.
        self.should_explore = Until(-(-config.expl_until // config.action_repeat))
        folder, device = logdir.own, resolve_device(config.device)
        checkpoint = Checkpoint(logdir.path, device, self.step, ranks)
        self.checkpoint, resumed = checkpoint, checkpoint.resumed
        process_random = ProcessRandom(config.seed)
        evaluates = evaluates and not ranks.rank
        envs = parts.make_envs(config, folder, checkpoint.step, make, evaluates)
        for each in envs:
            stack.callback(each.close)
        recordings = parts.open_recordings(config, folder, resumed)
        spaces = parts.find_spaces(envs, recordings, folder)
        self.learner = parts.make_learner(
            config, spaces, folder, self.step, self.timer, resumed, ranks
        )
        stack.callback(self.learner.close)
        checkpoint.add(step=self.step, evaluated=self.evaluated, agent=self.learner)
        checkpoint.add(**{f"when_{name}": when for name, when in self.when.items()})
        parts.spread_weights(self.learner.agent, ranks)
        # What does not fit has been refused. From here on, files are changed.
        logdir.begin()
        parts.adopt_episodes(logdir.path, ranks)
        if recordings and not resumed:
            recordings.take_in(folder / "train_episodes")
        replays = parts.make_replays(config, folder, spaces)
        if not (resumed or config.offline):
            # Until there is a checkpoint, what was earned is the episodes on disk.
            self.step.increment(ranks.sum(replays[0].stats["total_steps"])[0])
        kept = self.learner.agent.kept_latents
        shared = self.step, self.timer, ranks, kept
        self.train = Collector(envs[0], replays[0], *shared)
        self.eval = Collector(envs[1], replays[1])
        self.batches = parts.make_batches(config, *replays, self.learner.agent, stack)
        self.logger = parts.make_logger(
            config, folder, self.step, checkpoint, stack, outputs, ranks
        )
        if resumed:
            print(f"Resumed at step {int(self.step)}.")
        if checkpoint.versions_changed:
            print(f"Saved with other versions: {checkpoint.versions_changed}.")
        # What is random in this process goes on from there, too, so this comes last.
        checkpoint.add(train=self.train, eval=self.eval, random=process_random)
        self.eval.driver.on_step(stop.check)
        every = config.save_every
        self.play = Rounds(self.train, checkpoint, stop, every, self.log_of_all, ranks)
        self.log_episodes("train")

    def run(self) -> None:
        """Prefill, then evaluate and train until the end."""
        config, step = self.config, self.step
        print(describe(config, int(step) if self.checkpoint.resumed else None))
        print(self.learner.agent.summary())
        if (count := self.ranks.count) > 1:
            batch = config.dataset.batch
            print(f"{count} processes, each with a batch of {batch} and its own envs.")
        if config.offline:
            episodes = self.train.replay.stats["total_episodes"]
            print(f"Learns from {episodes} episodes.")
        elif not self.checkpoint.resumed:
            self.prefill()
            self.pretrain()
        elif self.ranks.count > 1:
            self.first_episodes(self.random_policy())
        self.train.on_step(self.train_step)
        self.log_episodes("eval")  # Not the random one.
        if self.evaluated == step and step >= config.steps:
            print(f"This run has reached its {config.steps} steps already.")
            return
        shown = progress("Train", total=config.steps, start=int(step))
        with self.checkpoint.saved_at_last(), shown as bar:
            self.play.saved()
            while step < config.steps:
                self.checkpoint.whole()
                self.play.check_stop()
                if self.when["eval"].due(step):
                    self.evaluate()
                    self.play.saved()
                elif self.play.is_save_due():
                    self.checkpoint.save()
                    self.play.saved()
                before = int(step)
                if config.offline:  # An update counts as a step.
                    step.increment()
                    self.update()
                    if self.when["log"](step):
                        self.log_metrics()
                else:
                    self.play(self.train_policy, steps=1)
                bar.advance(int(step) - before)
            self.checkpoint.whole()
            self.evaluate()

    def prefill(self) -> None:
        """Act at random until there is something to learn from."""
        policy, total = self.random_policy(), self.config.prefill
        (done,) = self.ranks.sum(self.train.replay.stats["total_steps"])
        if done < total:
            with progress("Prefill", total=total, start=done) as bar:
                while done < total:
                    before = int(self.step)
                    self.play(policy, steps=1)
                    bar.advance(int(self.step) - before)
                    done += int(self.step) - before
                self.first_episodes(policy)
            self.train.reset()
        if self.eval.envs.envs and not self.eval.replay.stats["total_episodes"]:
            self.eval(policy, episodes=1)
            self.eval.reset()

    def random_policy(self) -> Policy:
        """Return random actions, as a policy that may be stopped."""
        env = self.learner.agent.spaces[1]
        agent = RandomAgent(env, derive_seed(self.config.seed, "random_agent"))

        def policy(obs: dict[str, np.ndarray], state: Any) -> tuple[dict, Any]:
            self.play.check_stop()
            return agent(obs, state)

        return policy

    def first_episodes(self, policy: Policy) -> None:
        """Play an episode at each rank that has none to learn from."""
        lacks = not self.train.replay.stats["total_episodes"]
        if self.ranks.sum(lacks)[0]:
            self.play(policy, episodes=int(lacks))
            if lacks:
                self.train.reset()

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
        self.since_reset.add(obs, state)
        outputs, state = self.learner.agent.policy(obs, state, "eval")
        return check_actions(outputs, self.step), state

    def evaluate(self) -> None:
        """Play eval_eps episodes. Saves before, so that one cut short is made again."""
        self.checkpoint.save()
        if not self.ranks.rank:
            self.play_evaluation()
        self.when["eval"](self.step)
        self.evaluated.increment(int(self.step) - int(self.evaluated))
        self.checkpoint.save()

    def play_evaluation(self) -> None:
        """Play the episodes of an evaluation, and log them."""
        with self.timer("eval"):
            count = len(self.eval.envs.envs)
            if count:
                rest, extra = divmod(self.config.eval_eps, count)
                episodes = [rest + (i < extra) for i in range(count)]
                self.eval.reset()
                length = self.config.dataset.length
                self.since_reset = SinceReset(self.learner.agent, length)
                self.eval(self.eval_policy, episodes_per_env=episodes)
                self.logger.add(self.since_reset.metrics(), prefix="eval")
                self.logger.add(self.eval.replay.stats, prefix="eval")
            self.report("eval" if count else "train")
            self.logger.write()

    def report(self, mode: str) -> None:
        """Log open-loop videos, and save stills of them in DIR/report."""
        batch = next(self.batches[mode])
        agent, count = self.learner.agent, min(6, len(batch["action"]))
        videos, vectors = agent.report(batch), agent.report_vectors(batch)
        self.logger.add(set_apart(videos, count), prefix=mode)
        folder = self.checkpoint.path.parent / "report"
        series = self.since_reset.series() if mode == "eval" else None
        save_stills(folder, self.logger.frames, videos, vectors, count, series)

    def log_metrics(self) -> None:
        """Log everything since the last time; this waits for the device."""
        told = self.ranks.gather(self.learner.metrics())
        if self.ranks.rank:
            return
        self.logger.add({k: sum(x[k] for x in told) / len(told) for k in told[0]})
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
        due, ranks = self.when[f"video_{mode}"].due, self.ranks
        collector = self.train if mode == "train" else self.eval
        later = mode == "train" and ranks.count > 1
        collector.driver.on_episode(
            self.play.keep_episode if later else partial(self.log_episode, mode=mode),
            lambda key: is_logged(key, self.config, due(self.step) and not ranks.rank),
        )

    def log_of_all(
        self, episodes: list[dict[str, np.ndarray]], stats: dict[str, int]
    ) -> None:
        """Log training episodes of all ranks, with the stats of all their replays."""
        for episode in episodes:
            self.log_episode(episode, 0, "train", stats)

    def log_episode(
        self,
        ep: dict[str, np.ndarray],
        worker: int,
        mode: str,
        stats: dict[str, int] | None = None,
    ) -> None:
        """Log figures and a video of a finished episode."""
        shown = any(key in ep for key in self.config.log_keys_video)
        video = shown and self.when[f"video_{mode}"](self.step)
        add_episode(self.logger, ep, mode, self.config, video)
        if mode == "train":  # An evaluation's are written all together.
            self.logger.add(stats or self.train.replay.stats, prefix="train")
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
