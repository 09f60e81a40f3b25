"""The agent: a world model, and an actor and a critic that learn in its dreams.

Legend of shapes: B batch, T time, H horizon, N = B*T, S latents, C classes,
D deter, E embed, F features, A actions."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dreamerv2 import expl
from dreamerv2.common import dists, nets, torchutils
from dreamerv2.common.config import Config
from dreamerv2.common.counter import Counter
from dreamerv2.common.device.builder import Builder, no_gpu
from dreamerv2.common.device.capture import Captured, backend_for
from dreamerv2.common.device.ranks import ALONE, Ranks
from dreamerv2.common.episodes.episode import LATENT
from dreamerv2.common.errors import UsageError
from dreamerv2.common.networks.noise import Noise, NoiseFn, scoped
from dreamerv2.common.networks.onehot import stack_ones
from dreamerv2.common.other import action_noise, lambda_return, parse_schedule, schedule
from dreamerv2.common.suites.images import image_range
from dreamerv2.running.seeds import derive_seed

Metrics = dict[str, Tensor]
Data = Mapping[str, Any]
Dream = dict[str, Any]  # An imagined sequence, see WorldModel.imagine.

CLIP_REWARDS = {"identity": lambda x: x, "sign": torch.sign, "tanh": torch.tanh}


class Agent(torchutils.Module):
    """What train.py talks to: acts, learns from batches, reports videos.

    `step` counts policy steps, for schedules; without `learns` there are no optimizers;
    `ranks` share each update. `noise` draws for training, `eval_noise` for evaluations
    and reports. `carried` is the last posterior (B, ...) of the batch before, where the
    next one begins; None for zeros. `kept_latents` is {LATENT: zeros (L)} if
    transitions keep those of acting. UsageError where config and spaces do not fit."""

    parts = ("wm", "task_behavior", "expl_behavior", "noise", "eval_noise")

    def __init__(
        self,
        config: Config,
        obs_space: Data,
        act_space: Data,
        step: Counter,
        learns: bool = True,
        ranks: Ranks = ALONE,
    ):
        self.config = config
        self.spaces = obs_space, act_space
        self.device = torchutils.resolve_device(config.device)
        if self.device.type == "cuda" and self.device.index is not None:
            # What names no GPU means this one, rather than the first.
            torch.cuda.set_device(self.device)
        alone = not config.async_training
        self.precision = torchutils.Precision(config.precision, self.device, alone)
        self._counter = step
        dtype = self.precision.param
        self._step = torch.zeros((), dtype=dtype, device=self.device)  # Of the counter.
        self.carried: dict[str, Tensor] | None = None
        space = act_space["action"]
        self.discrete = bool(getattr(space, "discrete", False))
        config = config.update(resolve_auto(config, self.discrete))
        obs_space = _unlogged(obs_space)
        self.noise = Noise(derive_seed(config.seed, "train_noise"), self.device)
        self.eval_noise = Noise(derive_seed(config.seed, "eval_noise"), self.device)
        init = torch.Generator().manual_seed(derive_seed(config.seed, "init"))
        build = Builder(self.device, self.precision, init, config.jit, learns, ranks)
        size = space.shape[0]
        self.wm = WorldModel(config, obs_space, size, build)

        new_ac = partial(ActorCritic, config, self.wm.feat_size, size, build)
        task = self.task_behavior = new_ac()
        self.expl_behavior = expl.make(config, self.wm, space, build, task, new_ac)
        self.kept_latents = self._latents_to_keep()
        # On a GPU with jit, these become CUDA graphs.
        graphs = [backend_for(self.device, config.jit) for _ in range(2)]
        self._update = Captured(self._learn, self.device, graphs[0], "an update")
        self._choose = Captured(self._act, self.device, graphs[1], "the policy")

    def _latents_to_keep(self) -> dict[str, np.ndarray]:
        """See `kept_latents`. Recorded episodes have been acted by another agent, and
        rows that are single sequences all begin with a reset."""
        replay, length = self.config.replay, self.config.dataset.length
        alike = replay.minlen == replay.maxlen == length
        if self.config.dataset.rows != "acted" or alike or self.config.offline:
            return {}
        return {LATENT: self.wm.rssm.pack(self.wm.rssm.initial(1))[0].cpu().numpy()}

    @torch.no_grad()
    def policy(
        self, obs: Data, state: tuple | None = None, mode: str = "train"
    ) -> tuple[dict[str, np.ndarray], tuple]:
        """Return {"action": (N, A) float32} for observations (N, ...), maybe with
        latents (N, L), and the state for the next call, forgotten where is_first.
        ``train`` samples the task's actor, ``explore`` that of exploration, ``eval``
        takes the task's mode."""
        if mode not in ("train", "explore", "eval"):
            raise ValueError(f"mode must be train, explore or eval, not '{mode}'.")
        if state is None:
            latent = self.wm.rssm.initial(count := len(obs["is_first"]))
            state = latent, latent["deter"].new_zeros(count, self.wm.action_size)
        noise = self.eval_noise if mode == "eval" else self.noise
        state = self._choose((_unlogged(obs), state), noise, mode)
        outputs = {"action": state[1].float().cpu().numpy()}
        if self.kept_latents and mode != "eval":
            outputs[LATENT] = self.wm.rssm.pack(state[0]).cpu().numpy()
        return outputs, state

    def _act(self, inputs: tuple, noise: NoiseFn, mode: str) -> tuple[dict, Tensor]:
        """Turn (observations, the state before them) into the state after them."""
        obs, (latent, action) = inputs
        noise, rssm = scoped(noise, "policy"), self.wm.rssm
        with self.precision.context():
            embed = self.wm.encoder(self.wm.preprocess(obs))
            draws = None
            if mode != "eval" or not self.config.eval_state_mean:
                shape = (len(action), *rssm.latent_shape)
                draws = noise("post", rssm.noise_kind, shape)
            latent = rssm.obs_step(latent, action, embed, obs["is_first"], draws)
            feat = rssm.get_feat(latent)
            if mode == "eval":
                action = self.task_behavior.actor(feat).mode(noise)
            elif mode == "explore":
                action = self.expl_behavior.act(feat, noise)
            else:
                action = expl.sample_actor(self.task_behavior.actor, feat, noise)
            config = self.config
            amount = config.eval_noise if mode == "eval" else config.expl_noise
            return latent, action_noise(action, amount, self.discrete, noise)

    def train(self, data: Data) -> Metrics:
        """Update everything once on arrays or tensors (B, T, ...): observations,
        signals, and ``action``, which led there. Returns metrics, 0-d on the device."""
        self._step.fill_(int(self._counter))
        count = len(data["is_first"])
        if self.carried is None or len(self.carried["stoch"]) != count:
            self.carried = self.wm.rssm.initial(count)
        data = _unlogged(data)
        if (kept := data.pop(LATENT, None)) is not None and self.kept_latents:
            kept = torch.as_tensor(kept).to(self.device, non_blocking=True)
            self.carried = self.wm.rssm.unpack(kept, self.carried)
        self.carried, metrics = self._update((data, self.carried), self.noise)
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """Return the state of all parts and what is carried to the next batch."""
        return {**super().state_dict(), "carried": self.carried or {}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what state_dict returned; with other random numbers, and a
        sentence, where it is of another kind of device."""
        state = {**state}
        carried = state.pop("carried") or None
        own = self.noise.state_dict()["generator"]
        if state["noise"]["generator"].shape != own.shape:
            print(
                "The networks' random numbers start anew, since the checkpoint is of "
                "another kind of device."
            )
            state["noise"] = self.noise.state_dict()
            state["eval_noise"] = self.eval_noise.state_dict()
        super().load_state_dict(state)
        self.carried = carried

    def acting_copy(self, step: Counter) -> "Agent":
        """Make an agent that acts beside this one, with the networks behind `policy`
        alone, whose weights must be copied, and noise of its own."""
        copy = Agent(self.config, *self.spaces, step, learns=False)
        copy.noise = Noise(derive_seed(self.config.seed, "acting_noise"), self.device)
        task, other = copy.task_behavior, copy.expl_behavior
        unused = [copy.wm.heads, task.critic, task.slow]
        if isinstance(other, expl.Seeker):
            unused += [other.predictors, other.ac.critic, other.ac.slow]
        for network in unused:
            network.to("meta")  # Frees its memory.
        return copy

    def wait(self) -> None:
        """Wait until the device has done what it was given."""
        if self.device.type == "cuda":  # Not run without a GPU.
            torch.cuda.current_stream(self.device).synchronize()

    def _learn(self, inputs: tuple, noise: NoiseFn) -> tuple[dict, Metrics]:
        """Turn (batch, latent before it) into (latent after it, metrics)."""
        data, state = inputs
        state, outs, metrics = self.wm.train(data, state, noise)
        start, terminal = outs["post"], data["is_terminal"]
        args = self.wm, start, terminal, self.wm.predict_reward
        metrics |= self.task_behavior.train(*args, scoped(noise, "task"), self._step)
        more = self.expl_behavior.train(start, outs, data, noise, self._step)
        metrics.update({f"expl_{key}": value for key, value in more.items()})
        return state, metrics

    @torch.no_grad()
    def report(self, data: Data) -> dict[str, np.ndarray]:
        """Make open-loop videos of every image key: ``openl_KEY`` (T, 3*H, 6*W, C)."""
        data = self.to_device(_unlogged(data))
        noise = scoped(self.eval_noise, "report")
        with self.precision.context():
            return {
                f"openl_{key}": self.wm.video_pred(data, key, noise).cpu().numpy()
                for key in self.wm.decoder.cnn_keys
            }

    @torch.no_grad()
    def report_vectors(self, data: Data) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Return the open loop of every vector key: (truth, model), each (6, T, D)."""
        data = self.to_device(_unlogged(data))
        noise = scoped(self.eval_noise, "report")
        found = {}
        with self.precision.context():
            for key in self.wm.decoder.mlp_keys:
                pair = self.wm.open_loop(data, key, noise)
                found[key] = tuple(x.float().cpu().numpy() for x in pair)
        return found

    @torch.no_grad()
    def follow(self, obs: Data, state: tuple) -> dict[str, np.ndarray]:
        """Return how far observations (N, ...) are from what the model expects, after
        the state of `policy`: {"kl", "KEY_loss" of what the decoder predicts: (N,)}."""
        latent, action = state
        data = {k: v[:, None] for k, v in self.to_device(_unlogged(obs)).items()}
        noise, wm = scoped(self.eval_noise, "follow"), self.wm
        with self.precision.context():  # Not by wm.loss, which asks the other ranks.
            data = wm.preprocess(data)
            args = action[:, None], data["is_first"], noise, latent
            post, prior = wm.rssm.observe(wm.encoder(data), *args)
            kl = wm.rssm.get_dist(post).kl(wm.rssm.get_dist(prior))  # (N, 1)
            found = wm.decoder(wm.rssm.get_feat(post)).items()
            losses = {f"{k}_loss": -dist.log_prob(data[k]) for k, dist in found}
        losses["kl"] = kl
        return {key: x[:, 0].float().cpu().numpy() for key, x in losses.items()}

    def to_tensors(self, data: Data) -> dict[str, Tensor]:
        """Turn arrays into tensors on the host, pinned to be copied faster to a GPU."""
        tensors = {key: torch.as_tensor(value) for key, value in data.items()}
        if self.device.type == "cuda":
            tensors = {key: value.pin_memory() for key, value in tensors.items()}
        return tensors

    def to_device(self, data: Data) -> dict[str, Tensor]:
        """Turn arrays into tensors on the device. Images are uint8 until there."""
        return {
            key: torch.as_tensor(value).to(self.device, non_blocking=True)
            for key, value in data.items()
        }

    def acting_networks(self) -> dict[str, nn.Module]:
        """Return the networks behind `policy`."""
        networks = {"encoder": self.wm.encoder, "rssm": self.wm.rssm}
        networks["actor"] = self.task_behavior.actor
        if isinstance(self.expl_behavior, expl.Seeker):
            networks["expl_actor"] = self.expl_behavior.ac.actor
        return networks

    def summary(self) -> str:
        """Return device, precision and sizes, for the terminal."""
        dtype = str(self.precision.compute).removeprefix("torch.")
        lines = [f"Device: {self.device}, computing in {dtype}."]
        if self.config.device == "auto" and self.device.type == "cpu":
            lines[0] += f" ({no_gpu()})"
        behavior = self.task_behavior
        networks = {"encoder": self.wm.encoder, "rssm": self.wm.rssm, **self.wm.heads}
        networks |= {"actor": behavior.actor, "critic": behavior.critic}
        sizes = {k: sum(p.numel() for p in v.parameters()) for k, v in networks.items()}
        listed = ", ".join(f"{key} {size:,}" for key, size in sizes.items())
        lines.append(f"Parameters: {sum(sizes.values()):,} ({listed}).")
        encoder, decoder = self.wm.encoder, self.wm.decoder
        seen = ", ".join(encoder.cnn_keys + encoder.mlp_keys)
        predicted = ", ".join(decoder.cnn_keys + decoder.mlp_keys)
        lines.append(f"The encoder sees {seen}; the decoder predicts {predicted}.")
        return "\n".join(lines)


class WorldModel(torchutils.Module):
    """Encoder, RSSM and heads, trained together (section 2.1 of the paper)."""

    parts = ("encoder", "rssm", "heads", "opt")

    def __init__(
        self, config: Config, obs_space: Data, action_size: int, build: Builder
    ):
        self.config, self.action_size = config, action_size
        self._precision, self._ranks = build.precision, build.ranks
        self._clip_rewards = CLIP_REWARDS[config.clip_rewards]
        shapes = {key: tuple(space.shape) for key, space in obs_space.items()}
        # Bytes need none: 0 to 255.
        self._ranges = {key: image_range(space) for key, space in obs_space.items()}
        self.encoder = build(nets.Encoder(shapes, **config.encoder))
        sizes = action_size, self.encoder.out_size
        self.rssm = build(nets.EnsembleRSSM(*sizes, **config.rssm))
        self.feat_size = self.rssm.feat_size
        heads = {
            "decoder": nets.Decoder(shapes, self.feat_size, **config.decoder),
            "reward": nets.MLP(self.feat_size, (), **config.reward_head),
        }
        if config.pred_discount:
            heads["discount"] = nets.MLP(self.feat_size, (), **config.discount_head)
        for name in config.grad_heads:
            if name not in heads:
                raise UsageError(
                    f"grad_heads names '{name}', but the heads are {', '.join(heads)}:"
                    " take it out of grad_heads, or turn on pred_discount."
                )
        self.heads = build(nn.ModuleDict(heads))
        networks = {"encoder": self.encoder, "rssm": self.rssm, **heads}
        self.opt = build.optimizer("model", networks, config.model_opt)
        self._scales = self._loss_scales()

    def _loss_scales(self) -> dict[str, float]:
        """Return the scale of every loss; UsageError for a scale without a loss."""
        given = dict(self.config.loss_scales)
        scales = dict.fromkeys(("kl", "reward", "discount"), 1.0)
        keys = (*self.decoder.cnn_keys, *self.decoder.mlp_keys)
        scales.update(dict.fromkeys(keys, given.pop("decoder")))
        if "proprio" not in keys and given.get("proprio") == 1:
            del given["proprio"]  # The reference's configs have it, without a loss.
        for name in given:
            if name not in scales:
                raise UsageError(
                    f"loss_scales.{name} is the scale of no loss: the losses are "
                    f"{', '.join(scales)}, and loss_scales.decoder is for all that the "
                    "decoder predicts."
                )
        return {**scales, **given}

    @property
    def decoder(self) -> nets.Decoder:
        return self.heads["decoder"]

    def train(
        self, data: dict[str, Tensor], state: dict | None, noise: NoiseFn
    ) -> tuple[dict, dict, Metrics]:
        """Step on a batch. Returns last posterior, outputs and metrics, see `loss`."""
        with self._precision.context():
            loss, state, outs, metrics = self.loss(data, state, noise)
        metrics.update(self.opt(loss))
        return state, outs, metrics

    def loss(
        self, data: dict[str, Tensor], state: dict | None, noise: NoiseFn
    ) -> tuple[Tensor, dict, dict, Metrics]:
        """Compute the loss (equation 2 of the paper) and what it is made from.

            loss = scale_kl * KL + sum over keys of -scale_key * log p(key | feat)

        Returns the 0-d loss; the last posterior (B, ...), detached; the outputs
        embed (B, T, E), feat (B, T, F), post, prior, kl (B, T) and log_prob
        {key: (B, T)}, all with gradients; and the metrics."""
        data = self.preprocess(data)
        embed = self.encoder(data)  # (B, T, E)
        led = data["action"], data["is_first"]
        post, prior = self.rssm.observe(embed, *led, noise, state)
        kl_loss, kl_value = self.rssm.kl_loss(
            post, prior, **self.config.kl, average=lambda x: self._ranks.mean(x.mean())
        )
        feat = self.rssm.get_feat(post)  # (B, T, F)
        losses, log_probs = {"kl": kl_loss}, {}
        for name, head in self.heads.items():
            out = head(feat if name in self.config.grad_heads else feat.detach())
            for key, dist in (out if isinstance(out, dict) else {name: out}).items():
                log_probs[key] = dist.log_prob(data[key])  # (B, T)
                losses[key] = -self._weighted(key, log_probs[key], data).mean()
        loss = sum(self._scales[key] * value for key, value in losses.items())
        outs = {"embed": embed, "feat": feat, "post": post, "prior": prior}
        outs.update(kl=kl_value, log_prob=log_probs)
        metrics = {f"{key}_loss": value.detach() for key, value in losses.items()}
        metrics["model_kl"] = kl_value.detach().mean()
        with torch.no_grad():
            metrics["prior_ent"] = self.rssm.get_dist(prior).entropy().mean()
            metrics["post_ent"] = self.rssm.get_dist(post).entropy().mean()
        # A number that is not finite would spoil all the batches to come.
        lasts = {k: x[:, -1].detach() for k, x in post.items()}  # (B, ...)
        lasts = {k: torch.nan_to_num(x, 0.0, 0.0, 0.0) for k, x in lasts.items()}
        return loss, lasts, outs, metrics

    def _weighted(self, key: str, log_prob: Tensor, data: Data) -> Tensor:
        """Have steps with a reward count `rare_rewards` times in the reward's loss."""
        if key != "reward" or self.config.rare_rewards == 1:
            return log_prob
        return torch.where(data[key] == 0, 1.0, self.config.rare_rewards) * log_prob

    def imagine(
        self,
        actor: nn.Module,
        start: dict[str, Tensor],
        is_terminal: Tensor,
        horizon: int,
        noise: NoiseFn,
    ) -> Dream:
        """Dream ahead from every state of a batch, acting by the actor.

            index     0      1      2    ...   H
            feat      f0     f1     f2   ...   fH       f0 from the data
            action    0      a1     a2   ...   aH       a1 ~ actor(f0), leads to f1
            discount  d0     d1     d2   ...   dH       d0 from the data
            weight    1      d0    d0*d1 ...

        States and is_terminal are (B, T, ...), flattened to N = B*T. noise draws
        ``imagine_action`` and ``imagine_state``, (H, N, ..). Returns feat (H+1, N, F),
        action (H+1, N, A), discount, weight (H+1, N), the H policies, with gradients in
        the actor alone, and the latents' ones (onehot.py)."""
        state = {k: v.detach().flatten(0, 1) for k, v in start.items()}  # (N, ...)
        feat = self.rssm.get_feat(state)  # (N, F)
        count = len(feat)
        shape = (horizon, count, *self.rssm.latent_shape)
        state_noise = noise("imagine_state", self.rssm.noise_kind, shape)
        members = self.rssm.draw_members(horizon, noise)
        action_noises = None
        feats, actions = [feat], [feat.new_zeros(count, self.action_size)]
        policies, ones = [], [self.rssm.find_ones(state)]
        for h in range(horizon):
            with torch.enable_grad():  # The actor's loss is made of these.
                policies.append(actor(feat.detach(), ones[h]))
            if action_noises is None:
                shape = (horizon, *policies[0].noise_shape)
                kind = policies[0].noise_kind
                action_noises = noise("imagine_action", kind, shape)
            action = policies[h].sample(action_noises[h])  # (N, A)
            state = self.rssm.img_step(
                state, action, state_noise[h], members[h], ones[h]
            )
            feat = self.rssm.get_feat(state)
            ones.append(self.rssm.find_ones(state))
            feats.append(feat)
            actions.append(action)
        seq = {"feat": torch.stack(feats), "action": torch.stack(actions)}
        seq["policies"], seq["ones"] = policies, stack_ones(ones)
        discount = seq["discount"] = self._discount(seq, is_terminal.flatten())
        before = torch.cat([torch.ones_like(discount[:1]), discount[:-1]])
        seq["weight"] = torch.cumprod(before, 0)
        return seq

    def _discount(self, seq: Dream, is_terminal: Tensor) -> Tensor:
        """An imagined sequence, is_terminal (N) -> discount (H+1, N)."""
        feat, ones = seq["feat"], seq["ones"]
        if "discount" not in self.heads:
            return torch.full_like(feat[..., 0], self.config.discount)
        discount = self.heads["discount"](feat[1:], ones and ones[1:]).mean()  # (H, N)
        first = (1 - is_terminal.to(discount.dtype)) * self.config.discount
        return torch.cat([first[None], discount])

    def predict_reward(self, seq: Dream) -> Tensor:
        """Return the reward head's mode in imagined features, (H+1, N)."""
        return self.heads["reward"](seq["feat"], seq.get("ones")).mode()

    def preprocess(self, obs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Turn raw batches into inputs: images in [-0.5, 0.5], rewards clipped."""
        dtype = self._precision.param
        obs = {key: self._numeric(key, value) for key, value in obs.items()}
        obs["reward"] = self._clip_rewards(obs["reward"])
        terminal = obs["is_terminal"].to(dtype)
        obs["discount"] = (1 - terminal) * self.config.discount
        return obs

    def _numeric(self, key: str, value: Tensor) -> Tensor:
        number = value.to(self._precision.param)
        if (ends := self._ranges.get(key)) is not None:
            low, high = ends
            return (number - low) / (high - low) - 0.5
        if value.dtype == torch.uint8:
            return number / 255.0 - 0.5
        return value if value.dtype == torch.bool else number

    def video_pred(self, data: Data, key: str, noise: NoiseFn) -> Tensor:
        """Make a video (T, 3*H, 6*W, C) of truth, model and error, sequences side by
        side, in [0, 1] but for overshoots; see `open_loop`."""
        truth, model = self.open_loop(data, key, noise)
        error = (model - truth + 1) / 2
        video = torch.cat([truth + 0.5, model + 0.5, error], 2)  # (B, T, 3*H, W, C)
        return video.permute(1, 2, 0, 3, 4).flatten(2, 3)

    def open_loop(self, data: Data, key: str, noise: NoiseFn) -> tuple[Tensor, Tensor]:
        """Return what a key was in at most 6 sequences, and what the model makes of it,
        which sees their first 5 steps, and dreams the others from the actions alone.
        Both are (6, T, ...), preprocessed."""
        data = {k: v[:6] for k, v in self.preprocess(data).items()}
        observed = min(5, data["action"].shape[1] - 1)
        before = {k: v[:, :observed] for k, v in data.items()}
        states, _ = self.rssm.observe(
            self.encoder(before), before["action"], before["is_first"], noise
        )
        seen = self.decoder(self.rssm.get_feat(states))[key].mode()
        last = {k: v[:, -1] for k, v in states.items()}
        dream = self.rssm.imagine(data["action"][:, observed:], last, noise)
        dreamt = self.decoder(self.rssm.get_feat(dream))[key].mode()
        return data[key], torch.cat([seen, dreamt], 1)


class ActorCritic(torchutils.Module):
    """An actor and a critic that learn in imagination (section 2.2 of the paper)."""

    parts = ("actor", "critic", "slow", "actor_opt", "critic_opt", "rewnorm", "updates")

    def __init__(
        self, config: Config, feat_size: int, action_size: int, build: Builder
    ):
        self.config = config
        self._precision = build.precision
        for text in (config.actor_ent, config.actor_grad_mix):
            parse_schedule(text)  # Raises now rather than at the first update.
        self.actor = build(nets.MLP(feat_size, action_size, **config.actor))
        self.critic = build(nets.MLP(feat_size, (), **config.critic))
        self.slow = build(nets.MLP(feat_size, (), **config.critic))
        self.slow.requires_grad_(False)
        actor, critic = {"actor": self.actor}, {"critic": self.critic}
        self.actor_opt = build.optimizer("actor", actor, config.actor_opt)
        self.critic_opt = build.optimizer("critic", critic, config.critic_opt)
        self.rewnorm = build.stream_norm(config.reward_norm)
        self.updates = torch.zeros((), dtype=torch.int64, device=build.device)

    def train(self, *args: Any) -> Metrics:
        """Step actor and critic in dreams, and nothing else; arguments as of `loss`."""
        with self._precision.context():
            actor_loss, critic_loss, _, metrics = self.loss(*args)
        metrics.update(self.actor_opt(actor_loss))
        metrics.update(self.critic_opt(critic_loss))
        self.update_slow_target()
        return metrics

    def loss(
        self,
        wm: WorldModel,
        start: dict[str, Tensor],
        is_terminal: Tensor,
        reward_fn: Callable[[Dream], Tensor],
        noise: NoiseFn,
        step: Tensor,
    ) -> tuple[Tensor, Tensor, Dream, Metrics]:
        """Compute both losses, the imagined sequence they are made from, and metrics.

        The sequence begins at ``start`` (B, T, ...); reward_fn maps it to rewards (H+1,
        N). It is that of WorldModel.imagine with ``reward`` (H+1, N), normed, ``value``
        (H+1, N), the slow critic's, and ``target`` (H, N)."""
        # Reinforce needs no gradients of the dream, so none are recorded.
        through = self.config.actor_grad != "reinforce"
        with torch.set_grad_enabled(through):
            horizon = self.config.imag_horizon
            seq = wm.imagine(self.actor, start, is_terminal, horizon, noise)
            seq["reward"], norm_metrics = self.rewnorm(reward_fn(seq))  # (H+1, N)
            slow = self._slow_critic(seq["feat"], seq["ones"])
            seq["value"] = slow.mode()  # (H+1, N)
            seq["target"] = self._target(seq)  # (H, N)
        if not through:
            # Older versions of PyTorch would go on with the 16-bit copies of weights
            # that were made here, and these have no gradient.
            torch.clear_autocast_cache()
        metrics = {f"reward_{key}": value for key, value in norm_metrics.items()}
        metrics["critic_slow"] = seq["value"].detach().mean()
        metrics["critic_target"] = seq["target"].detach().mean()
        actor_loss, more = self.actor_loss(seq, noise, step)
        metrics.update(more)
        critic_loss, more = self.critic_loss(seq)
        metrics.update(more)
        return actor_loss, critic_loss, seq, metrics

    @property
    def _slow_critic(self) -> nn.Module:
        return self.slow if self.config.slow_target else self.critic

    def _target(self, seq: Dream) -> Tensor:
        """Return the lambda-returns of the first H states, (H, N).

        feat       f0    f1   ...  fH-1    fH
        reward     r0    r1   ...  rH-1
        discount   d0    d1   ...  dH-1
        value      v0    v1   ...  vH-1    vH = bootstrap
        target     R0    R1   ...  RH-1"""
        reward, value, discount = (seq[k][:-1] for k in ("reward", "value", "discount"))
        bootstrap, lambda_ = seq["value"][-1], self.config.discount_lambda
        return lambda_return(reward, value, discount, bootstrap, lambda_)

    def actor_loss(
        self, seq: Dream, noise: NoiseFn, step: Tensor
    ) -> tuple[Tensor, Metrics]:
        """Compute the actor's loss (equation 6 of the paper), 0-d, and metrics.

            loss = -mean(weight * (mix * target
                   + (1 - mix) * log_prob(action) * sg(target - baseline)
                   + actor_ent * entropy)),  mix: 1 dynamics, 0 reinforce

        The action that the actor chooses at f[t] is a[t+1], and leads to f[t+1] with
        R[t+1]. R[0] depends on no action of the actor's, so it is left out.

            feat       f0    f1   ...  fH-2
            action     a1    a2   ...  aH-1
            target     R1    R2   ...  RH-1
            baseline   v0    v1   ...  vH-2
            weight     1     d0   ...
        """
        metrics = {}
        policy = dists.stack(seq["policies"][:-1])  # of (H-1, N)
        target = seq["target"][1:]  # (H-1, N)
        kind = self.config.actor_grad
        if kind == "dynamics":
            objective = target
        else:
            baseline = seq["value"][:-2]  # (H-1, N)
            if not self.config.slow_baseline:
                ones = seq["ones"]
                baseline = self.critic(seq["feat"][:-2], ones and ones[:-2]).mode()
            advantage = (target - baseline).detach()
            action = seq["action"][1:-1]  # (H-1, N, A)
            if kind == "reinforce":
                action = action.detach()
            objective = policy.log_prob(action) * advantage
        if kind == "both":
            mix = schedule(self.config.actor_grad_mix, step)
            objective = mix * target + (1 - mix) * objective
            metrics["actor_grad_mix"] = mix
        entropy = policy.entropy(noise)  # (H-1, N)
        scale = schedule(self.config.actor_ent, step)
        objective = objective + scale * entropy
        metrics["actor_ent"] = entropy.detach().mean()
        metrics["actor_ent_scale"] = scale
        weight = seq["weight"][:-2].detach()
        return -(weight * objective).mean(), metrics

    def critic_loss(self, seq: Dream) -> tuple[Tensor, Metrics]:
        """Compute the critic's loss (equation 5 of the paper), 0-d, and metrics: loss =
        -mean(weight * log p(target | feat)) over f0 .. fH-1."""
        ones = seq["ones"]
        dist = self.critic(seq["feat"][:-1].detach(), ones and ones[:-1])  # of (H, N)
        weight = seq["weight"][:-1].detach()  # (H, N)
        loss = -(dist.log_prob(seq["target"].detach()) * weight).mean()
        return loss, {"critic": dist.mode().detach().mean()}

    @torch.no_grad()
    def update_slow_target(self) -> None:
        """Move the slow critic: a full copy after update 0, then after each further
        slow_target_update updates slow = fraction * critic + (1 - fraction) * slow."""
        if self.config.slow_target:
            due = self.updates % self.config.slow_target_update == 0
            fraction = self.config.slow_target_fraction
            fraction = torch.where(self.updates == 0, 1.0, fraction)
            mix = torch.where(due, fraction, 0.0).to(self._precision.param)
            pairs = zip(self.slow.parameters(), self.critic.parameters(), strict=True)
            for slow, param in pairs:  # _foreach_lerp_ takes the mix from the host.
                slow.lerp_(param, mix)
        self.updates += 1


def resolve_auto(config: Config, discrete: bool) -> dict[str, str]:
    """Return what ``auto`` means for these actions; UsageError for misfits."""
    for key in ("expl_noise", "eval_noise") if discrete else ():
        if config[key] > 1:
            raise UsageError(
                f"{key} is {config[key]:g}, but with discrete actions it is the chance "
                "of a random one: it must be 1 or less."
            )
    fitting = ("onehot",) if discrete else ("trunc_normal", "tanh_normal", "normal")
    dist = config.actor.dist if config.actor.dist != "auto" else fitting[0]
    if dist not in fitting:
        kind = "discrete" if discrete else "continuous"
        raise UsageError(
            f"actor.dist '{dist}' does not fit {kind} actions: use auto or "
            f"{', '.join(fitting)}."
        )
    natural = "reinforce" if discrete else "dynamics"
    grad = natural if config.actor_grad == "auto" else config.actor_grad
    return {"actor.dist": dist, "actor_grad": grad}


def _unlogged(data: Data) -> dict[str, Any]:
    """Leave out what is logged and never reaches the networks."""
    return {key: x for key, x in data.items() if not key.startswith("log_")}
