"""Exploration: random actions, Plan2Explore, and dreams of a hard-to-model world.

Each behaviour has ``act(feat, noise)``, the action in features (N, F), and
``train(start, outs, data, noise, step)``, which returns metrics.
Shapes: B batch, T time, H horizon, N = B*T, K heads, F features, A actions."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from dreamerv2.common import nets, torchutils
from dreamerv2.common.config import Config
from dreamerv2.common.device.builder import Builder
from dreamerv2.common.errors import UsageError
from dreamerv2.common.networks.noise import NoiseFn, scoped

if TYPE_CHECKING:
    from dreamerv2.agent import ActorCritic, WorldModel

Metrics = dict[str, Tensor]
Outputs = Mapping[str, Any]  # Tensors by name, or of log_prob such a mapping.
NewActorCritic = Callable[[], "ActorCritic"]  # Makes the one of a behaviour's own.


def make(
    config: Config,
    wm: "WorldModel",
    space: Any,
    build: Builder,
    task_behavior: "ActorCritic",
    new_ac: NewActorCritic,
) -> "Greedy | Random | Plan2Explore | ModelLoss":
    """Make the behaviour that config.expl_behavior names."""
    if config.expl_behavior == "greedy":
        return Greedy(task_behavior)
    if config.expl_behavior == "Random":
        return Random(space, build.device)
    seekers = {"Plan2Explore": Plan2Explore, "ModelLoss": ModelLoss}
    return seekers[config.expl_behavior](config, wm, build, new_ac)


def sample_actor(actor: nn.Module, feat: Tensor, noise: NoiseFn) -> Tensor:
    """Sample an action (N, A) of the actor in features (N, F)."""
    dist = actor(feat)
    return dist.sample(noise("action", dist.noise_kind, dist.noise_shape))


class Greedy(torchutils.Module):
    """No exploration of its own: the task's actor, sampled."""

    def __init__(self, task_behavior: "ActorCritic"):
        self._task_behavior = task_behavior

    def act(self, feat: Tensor, noise: NoiseFn) -> Tensor:
        return sample_actor(self._task_behavior.actor, feat, noise)

    def train(self, *args: Any) -> Metrics:
        return {}


class Random(torchutils.Module):
    """Random actions: one-hot, uniform within bounds, standard normal without any."""

    def __init__(self, space: Any, device: torch.device | str = "cpu"):
        self._size = space.shape[0]
        self._discrete = bool(getattr(space, "discrete", False))
        if not self._discrete:
            self._low = torch.as_tensor(space.low, device=device)
            self._high = torch.as_tensor(space.high, device=device)

    def act(self, feat: Tensor, noise: NoiseFn) -> Tensor:
        shape = (len(feat), self._size)
        if self._discrete:
            best = noise("action", "uniform", shape).argmax(-1, keepdim=True)
            return feat.new_zeros(shape).scatter_(-1, best, 1.0)
        low, high = self._low.to(feat.dtype), self._high.to(feat.dtype)
        bounded = low.isfinite() & high.isfinite()
        uniform = noise("action", "uniform", shape).to(feat)
        uniform = low.where(bounded, 0) + uniform * (high - low).where(bounded, 0)
        normal = noise("action_unbounded", "normal", shape).to(feat)
        return torch.where(bounded, uniform, normal.clamp(low, high))

    def train(self, *args: Any) -> Metrics:
        return {}


class Seeker(torchutils.Module, ABC):
    """A behaviour with predictors, and an actor-critic of its own, which learns in
    dreams to seek what interests them. Subclasses set `predictors`, `opt` and `ac`."""

    predictors: nn.Module
    opt: torchutils.Optimizer | None
    ac: "ActorCritic"

    def __init__(self, config: Config, wm: "WorldModel", build: Builder):
        self.config, self._wm = config, wm
        self._precision, self._ranks = build.precision, build.ranks

    def act(self, feat: Tensor, noise: NoiseFn) -> Tensor:
        return sample_actor(self.ac.actor, feat, noise)

    def train(
        self, start: Outputs, outs: Outputs, data: Outputs, noise: NoiseFn, step: Tensor
    ) -> Metrics:
        """Step the predictors, then the actor-critic on their reward, from posteriors
        (B, T, ...), the outputs of WorldModel.loss, and the batch. Returns metrics:
        ``expl_loss``, ``expl_grad_norm``, those of `reward` and of the actor-critic."""
        with self._precision.context():
            loss = self.predictor_loss(start, outs, data)
        metrics = self.opt(loss)

        def reward(seq: Outputs) -> Tensor:
            value, found = self.reward(seq)
            metrics.update(found)
            return value

        args = self._wm, start, data["is_terminal"], reward
        metrics |= self.ac.train(*args, scoped(noise, "expl"), step)  # Calls `reward`.
        return metrics

    @abstractmethod
    def predictor_loss(self, start: Outputs, outs: Outputs, data: Outputs) -> Tensor:
        """Compute the predictors' loss on a batch, which reaches nothing else."""

    @abstractmethod
    def reward(self, seq: Outputs) -> tuple[Tensor, Metrics]:
        """Compute the reward (H+1, N) of an imagined sequence, and its metrics."""


class Plan2Explore(Seeker):
    """Seeks what an ensemble of one-step predictors disagrees on (Sekar et al. 2020).

    disag_models heads predict disag_target, disag_offset steps ahead, from the features
    (with disag_action_cond also the action that led to them, as in the reference; with
    disag_action_next the one that follows, as in the paper, so that what an action does
    is no chance to the heads). The reward is their disagreement, see `reward`. With
    disag_mask_seams, pairs whose target lies in another episode than their input are
    left out of the loss; the reference keeps them."""

    parts = ("heads", "opt", "ac", "intr_rewnorm", "extr_rewnorm")

    def __init__(
        self, config: Config, wm: "WorldModel", build: Builder, new_ac: NewActorCritic
    ):
        super().__init__(config, wm, build)
        rssm = wm.rssm
        sizes = {
            "embed": wm.encoder.out_size,
            "stoch": rssm.stoch_size,
            "deter": rssm.feat_size - rssm.stoch_size,
            "feat": rssm.feat_size,
        }
        if not config.disag_offset < config.dataset.length:
            raise UsageError(
                f"disag_offset {config.disag_offset} must be less than dataset.length "
                f"{config.dataset.length}: there would be no pairs to learn from."
            )
        if config.disag_action_next and not config.disag_offset:
            raise UsageError(
                "disag_action_next tells the heads the action that leads to the next "
                "state, so it needs a disag_offset of 1 or more."
            )
        inputs = wm.feat_size + (wm.action_size if config.disag_action_cond else 0)
        size, count = sizes[config.disag_target], config.disag_models
        made = (nets.MLP(inputs, size, **config.expl_head) for _ in range(count))
        self.heads = self.predictors = build(nn.ModuleList(made))
        self.opt = build.optimizer("expl", {"heads": self.heads}, config.expl_opt)
        self.ac = new_ac()
        self.intr_rewnorm = build.stream_norm(config.expl_reward_norm)
        self.extr_rewnorm = build.stream_norm(config.expl_reward_norm)

    def predictor_loss(self, start: Outputs, outs: Outputs, data: Outputs) -> Tensor:
        """Compute -sum_k mean(log p_k(target[t + offset] | feat[t], action[t]))."""
        target = {
            "embed": outs["embed"],
            "stoch": start["stoch"].flatten(2),
            "deter": start["deter"],
            "feat": outs["feat"],
        }[self.config.disag_target].detach()  # (B, T, size)
        offset = self.config.disag_offset
        inputs, action = outs["feat"].detach(), data["action"]
        if self.config.disag_action_next:  # The last one's lies beyond the batch, and
            action = action.roll(-1, 1)  # so does its target.
        inputs = self._inputs(inputs, action)  # (B, T, F+A)
        mask = torch.ones_like(inputs[:, offset:, 0])  # (B, T-offset)
        if offset:
            if self.config.disag_mask_seams:
                mask = self._same_episode(data["is_first"], offset).to(inputs.dtype)
            target, inputs = target[:, offset:], inputs[:, :-offset]  # T-offset
        ranks = self._ranks
        total = ranks.mean(mask.sum()).clamp(min=1 / ranks.count)
        return -sum(
            (head(inputs).log_prob(target) * mask).sum() / total for head in self.heads
        )

    def _inputs(self, feat: Tensor, action: Tensor) -> Tensor:
        """Join what the heads see, (..., F+A)."""
        if not self.config.disag_action_cond:
            return feat
        return torch.cat([feat, action.to(feat.dtype)], -1)

    @staticmethod
    def _same_episode(is_first: Tensor, offset: int) -> Tensor:
        """Check (B, T) -> (B, T-offset) that no episode begins in (t, t + offset]."""
        begun = is_first.long().cumsum(1)
        return begun[:, offset:] == begun[:, :-offset]

    def reward(self, seq: Outputs) -> tuple[Tensor, Metrics]:
        """Compute the reward (H+1, N) of an imagined sequence, and metrics.

            reward = intr_scale * norm(mean over dimensions of std_k(prediction_k))
                     + extr_scale * norm(reward of the task)

        Metrics: ``intr_reward_`` and ``extr_reward_``, before and (``normed_``) after
        the norms: ``mean`` and ``std``."""
        feat, action, ones = seq["feat"], seq["action"], seq.get("ones")
        if self.config.disag_action_next:
            feat, action, ones = feat[:-1], action[1:], ones and ones[:-1]
        inputs = self._inputs(feat, action)
        preds = torch.stack([head(inputs, ones).mode() for head in self.heads])
        disag = preds.std(0, correction=0).mean(-1)  # (K, H+1, N, size) -> (H+1, N)
        if self.config.disag_action_next:
            # That of what an action leads to: H of them. What led to the first state is
            # not in the dream: it counts like the second.
            disag = torch.cat([disag[:1], disag])
        if self.config.disag_log:
            disag = torch.log(disag + 1e-8)  # Heads may agree to the last bit.
        intr, norms = self.intr_rewnorm(disag)
        metrics = {f"intr_reward_{key}": value for key, value in norms.items()}
        reward = self.config.expl_intr_scale * intr
        if self.config.expl_extr_scale:
            extr, norms = self.extr_rewnorm(self._wm.predict_reward(seq))
            metrics.update({f"extr_reward_{key}": x for key, x in norms.items()})
            reward = reward + self.config.expl_extr_scale * extr
        return reward, metrics


class ModelLoss(Seeker):
    """Seeks states in which a head predicts the world model's expl_model_loss to be
    high: ``kl``, or the negative log-likelihood of a head such as ``image``."""

    parts = ("head", "opt", "ac", "rewnorm")

    def __init__(
        self, config: Config, wm: "WorldModel", build: Builder, new_ac: NewActorCritic
    ):
        super().__init__(config, wm, build)
        heads = [name for name in wm.heads if name != "decoder"]
        losses = ["kl", *wm.decoder.cnn_keys, *wm.decoder.mlp_keys, *heads]
        if config.expl_model_loss not in losses:
            raise UsageError(
                f"Unknown expl_model_loss '{config.expl_model_loss}': expected one of "
                f"{', '.join(losses)}."
            )
        head = nets.MLP(wm.feat_size, (), **config.expl_head)
        self.head = self.predictors = build(head)
        self.opt = build.optimizer("expl", {"head": self.head}, config.expl_opt)
        self.ac = new_ac()
        self.rewnorm = build.stream_norm(config.expl_reward_norm)

    def predictor_loss(self, start: Outputs, outs: Outputs, data: Outputs) -> Tensor:
        """Compute the head's mean negative log-likelihood of the chosen loss."""
        return -self.head(outs["feat"].detach()).log_prob(self._target(outs)).mean()

    def _target(self, outs: Outputs) -> Tensor:
        """Return the chosen loss of every state of the batch, (B, T)."""
        losses = {"kl": outs["kl"], **{k: -x for k, x in outs["log_prob"].items()}}
        return losses[self.config.expl_model_loss].detach()

    def reward(self, seq: Outputs) -> tuple[Tensor, Metrics]:
        """Predict the loss (H+1, N) of a dream; metrics as those of Plan2Explore."""
        intr, norms = self.rewnorm(self.head(seq["feat"], seq.get("ones")).mode())
        metrics = {f"intr_reward_{key}": value for key, value in norms.items()}
        return self.config.expl_intr_scale * intr, metrics
