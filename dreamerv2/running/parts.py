"""The parts of a run, each made by a function of the config."""

from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from dreamerv2.agent import Agent
from dreamerv2.common.config import Config
from dreamerv2.common.counter import Counter
from dreamerv2.common.device.malloc import keep_freed_memory
from dreamerv2.common.device.ranks import ALONE, Ranks
from dreamerv2.common.episodes.memory import warn_if_too_big
from dreamerv2.common.episodes.minari import is_minari, write_minari
from dreamerv2.common.episodes.offline import Recordings, find_episodes
from dreamerv2.common.episodes.sampling import Dataset
from dreamerv2.common.errors import UsageError
from dreamerv2.common.logger import JSONLOutput, Logger, Output, TerminalOutput
from dreamerv2.common.other import Timer
from dreamerv2.common.outputs.services import make_outputs
from dreamerv2.common.replay import Replay
from dreamerv2.common.settings.rules import check_videos
from dreamerv2.common.torchutils import named_tensors, resolve_device
from dreamerv2.common.when import Every
from dreamerv2.running import loading
from dreamerv2.running.checkpoint import NETWORKS, Checkpoint
from dreamerv2.running.environments import Environments, MakeEnv, Restarts
from dreamerv2.running.exported import start_from
from dreamerv2.running.learner import BackgroundLearner, Learner
from dreamerv2.running.seeds import derive_seed


def share(config: Config, ranks: Ranks) -> Config:
    """Return one process's share of a run: GPU, seed, and part of batch and replay;
    UsageError for what several processes cannot share."""
    count = ranks.count
    if count == 1:
        return config
    if any(flat != config.flat for flat in ranks.gather(config.flat)):
        raise UsageError(
            "The processes of this run were given different flags: start all of them, "
            "on every host, by the same command."
        )
    for key in ("async_training", "offline"):
        if config[key]:
            raise UsageError(
                f"--{key} works in one process alone, but torchrun started {count}: "
                "leave it out, or start without torchrun."
            )
    batch, rest = divmod(config.dataset.batch, 1 if config.scale_batch else count)
    if rest:
        raise UsageError(
            f"--dataset.batch {config.dataset.batch} cannot be split evenly over "
            f"{count} processes: make it a multiple of {count}, or give --scale_batch "
            "True for a whole batch in each."
        )
    changes: dict[str, Any] = {"dataset.batch": batch}
    for key in ("capacity", "disk_capacity"):
        changes[f"replay.{key}"] = -(-config.replay[key] // count)
    if ranks.rank:
        changes["seed"] = derive_seed(config.seed, "rank", ranks.rank)
    if resolve_device(config.device).type == "cuda":  # Not run without a GPU.
        changes["device"] = f"cuda:{ranks.local}"
    return config.update(changes)


def spread_weights(agent: Agent, ranks: Ranks) -> None:
    """Give all ranks the networks, optimizers and norms of the first."""
    state = agent.state_dict()
    shared = {name: state[name] for name in NETWORKS}
    ranks.broadcast(named_tensors(shared).values())


def adopt_episodes(folder: Path, ranks: Ranks) -> None:
    """Take over episodes of ranks that a run has no more: each is read by one."""
    adopted = 0
    for path in sorted(folder.glob("rank*/train_episodes/*.npz")):
        rank = int(path.parts[-3].removeprefix("rank"))
        if rank >= ranks.count and rank % ranks.count == ranks.rank:
            own = ranks.folder(folder) / "train_episodes"
            own.mkdir(parents=True, exist_ok=True)
            path.replace(own / path.name)
            adopted += 1
    if adopted:
        print(f"Took over {adopted:,} episodes of processes that are no more.")


def make_when(config: Config) -> dict[str, Every]:
    """Make what says when something is due."""
    evals = ("eval", "video_train", "video_eval")
    when = {name: Every(config.eval_every) for name in evals}
    # Catching up keeps the ratio of updates to steps, whatever the gaps.
    when["train"] = Every(config.train_every, catch_up=True)
    return {**when, "log": Every(config.log_every)}


def make_envs(
    config: Config, folder: Path, step: int, make: MakeEnv | None, evaluates: bool
) -> tuple[Environments, Environments]:
    """Make the environments for training and for evaluation, maybe none, with seeds by
    which they play other episodes than those on disk."""
    count = 0 if config.offline else config.envs
    eval_count = min(count, config.eval_eps) if evaluates else 0
    episodes = sum(1 for _ in (folder / "train_episodes").glob("*.npz"))
    rest = Restarts(config.env_restarts, folder), make, (episodes, step)
    train = Environments(config, count, True, *rest)
    try:
        return train, Environments(config, eval_count, False, *rest)
    except BaseException:
        train.close()
        raise


def open_recordings(config: Config, folder: Path, resumed: bool) -> Recordings | None:
    """Open the recorded episodes of offline training; None for a run that plays."""
    if not config.offline:
        return None
    if not resumed and is_minari(config.offline):
        return Recordings(write_minari(config.offline, folder / "minari_episodes"))
    return Recordings(find_episodes(folder if resumed else config.offline))


def find_spaces(
    envs: Sequence[Environments], recordings: Recordings | None, folder: Path
) -> tuple[dict, dict]:
    """Return the spaces of observations and actions, of environments or recordings;
    UsageError for environments that differ, also from the run's before."""
    if recordings:
        return recordings.spaces
    every = [env for each in envs for env in each.envs]
    loading.refuse_unlike(every)
    loading.refuse_other_spaces(folder, loading.shapes_of_run(folder), every[0])
    return every[0].obs_space, every[0].act_space


def make_learner(
    config: Config,
    spaces: tuple[dict, dict],
    folder: Path,
    step: Counter,
    timer: Timer,
    resumed: bool,
    ranks: Ranks = ALONE,
) -> Learner:
    """Make the agent for these spaces, and what has it act and learn."""
    check_videos(config, spaces[0])
    if resolve_device(config.device).type == "cpu":
        keep_freed_memory()
    # An update in the background must not see the count go on.
    seen = Counter() if config.async_training else step
    agent = Agent(config, *spaces, seen, ranks=ranks)
    if config.load and not resumed:
        start_from(agent, config.load, config.load_parts)
    if config.async_training:
        return BackgroundLearner(agent, seen, step, timer, folder)
    return Learner(agent, step, timer, folder)


def make_replays(
    config: Config, folder: Path, spaces: tuple[dict, dict]
) -> tuple[Replay, Replay]:
    """Make the replays of training, and of evaluation, which keeps short episodes."""
    seed = derive_seed(config.seed, "train_replay")
    train = Replay(folder / "train_episodes", **config.replay, seed=seed)
    loaded = train.stats["loaded_steps"]
    steps = loaded if config.offline else config.steps
    warn_if_too_big(config.replay, spaces, steps, loaded)
    capacity, length = config.replay.capacity // 10, config.dataset.length
    settings = config.replay.update(
        capacity=capacity, ongoing=False, minlen=1, maxlen=length
    )
    seed = derive_seed(config.seed, "eval_replay")
    return train, Replay(folder / "eval_episodes", **settings, seed=seed)


def make_batches(
    config: Config, train: Replay, evaluation: Replay, agent: Agent, stack: ExitStack
) -> dict[str, Dataset]:
    """Make the streams of batches to `learn` from, and for reports of `train`, `eval`.
    A report uses up no batch that would have been trained on, and sees the newest."""
    more = {**config.dataset, "transform": agent.to_tensors}
    batches = {"learn": train.dataset(**more)}
    batches["train"] = train.dataset(**more, ahead=False)
    batches["eval"] = evaluation.dataset(**more, ahead=False)
    for stream in batches.values():
        stack.enter_context(closing(stream))
    return batches


def make_logger(
    config: Config,
    folder: Path,
    step: Counter,
    checkpoint: Checkpoint,
    stack: ExitStack,
    extra_outputs: Sequence[Output],
    ranks: Ranks = ALONE,
) -> Logger:
    """Make the logger to the terminal, metrics.jsonl and what config.logger names; the
    files forget what a run that goes on does again."""
    multiplier = 1 if config.offline else config.action_repeat
    if ranks.rank:
        return Logger(step, (), multiplier)
    frames = int(step) * multiplier
    jsonl = JSONLOutput(folder)
    if not checkpoint.resumed:
        jsonl.truncate_after(frames)
    checkpoint.add(jsonl=jsonl)
    outputs = [TerminalOutput(), jsonl, *extra_outputs]
    for output in make_outputs(config.logger, folder, config, frames):
        if hasattr(output, "close"):
            stack.enter_context(closing(output))
        outputs.append(output)
    return Logger(step, outputs, multiplier)
