"""A world model stepped by hand: filtering what is seen, or dreaming without."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dreamerv2.agent import Agent
from dreamerv2.common.networks.noise import Noise, scoped
from dreamerv2.common.networks.rssm import State
from dreamerv2.playing.canvas import bars


@dataclass(frozen=True)
class Reading:
    """Predictions of the heads from B states."""

    images: np.ndarray  # (B, H, W, C) uint8
    reward: np.ndarray  # (B,), clipped, as the agent learns it
    value: np.ndarray  # (B,)
    discount: np.ndarray  # (B,)


class Stepper:
    """Steps the world model of an agent, for B states side by side."""

    def __init__(self, agent: Agent, seed: int = 0):
        self._agent, self._wm, self._rssm = agent, agent.wm, agent.wm.rssm
        self._noise = scoped(Noise(seed, agent.device), "play")
        self.action_size, self.initial = agent.wm.action_size, agent.wm.rssm.initial

    def repeat(self, state: State, count: int) -> State:
        """Return the first state, `count` times."""
        return {k: v[:1].expand(count, *v.shape[1:]).clone() for k, v in state.items()}

    @torch.no_grad()
    def observe(
        self, state: State, action: np.ndarray, obs: Mapping[str, Any], is_first: bool
    ) -> tuple[State, float]:
        """Filter one step: return the posterior, and its KL from the prior in nats. The
        action (A,) led from the state to the observation; is_first forgets both."""
        obs = {k: np.asarray(v)[None] for k, v in obs.items() if k[:4] != "log_"}
        data = self._agent.to_device(obs)
        first = torch.tensor([is_first], device=self._agent.device)
        if is_first:
            state, action = self._rssm.initial(1), np.zeros_like(action)
        with self._agent.precision.context():
            embed = self._wm.encoder(self._wm.preprocess(data))
            (draws, member), led = self._draws(1), self._tensor(action[None])
            prior = self._rssm.img_step(state, led, None, member)
            post = self._rssm.obs_step(state, led, embed, first, draws)
        kl = self._rssm.get_dist(post).kl(self._rssm.get_dist(prior))
        return post, float(kl[0])

    @torch.no_grad()
    def imagine(self, state: State, action: np.ndarray) -> State:
        """Dream one step, by actions (B, A), without an observation."""
        with self._agent.precision.context():
            draws, member = self._draws(len(action))
            return self._rssm.img_step(state, self._tensor(action), draws, member)

    @torch.no_grad()
    def act(self, state: State) -> np.ndarray:
        """Draw the agent's actions (B, A) float32, as in training."""
        with self._agent.precision.context():
            dist = self._agent.task_behavior.actor(self._rssm.get_feat(state))
            noise = self._noise("action", dist.noise_kind, dist.noise_shape)
            return dist.sample(noise).float().cpu().numpy()

    @torch.no_grad()
    def read(self, state: State) -> Reading:
        """Predict by the heads from these states."""
        with self._agent.precision.context():
            feat = self._rssm.get_feat(state)
            decoded = {k: v.mode() for k, v in self._wm.decoder(feat).items()}
            reward = self._wm.heads["reward"](feat).mode()
            value = self._agent.task_behavior.critic(feat).mode()
            discount = torch.full_like(value, self._agent.config.discount)
            if "discount" in self._wm.heads:
                discount = self._wm.heads["discount"](feat).mean()
        return Reading(self._images(decoded), *map(_host, (reward, value, discount)))

    def picture(self, obs: Mapping[str, Any]) -> np.ndarray:
        """Return the decoder's target, an image or bars, as (H, W, C) uint8."""
        decoder = self._wm.decoder
        if decoder.cnn_keys:
            return np.asarray(obs[decoder.cnn_keys[0]])
        return bars(np.concatenate([np.ravel(obs[k]) for k in decoder.mlp_keys]))

    def _images(self, decoded: Mapping[str, Tensor]) -> np.ndarray:
        decoder = self._wm.decoder
        if decoder.cnn_keys:
            image = _host(decoded[decoder.cnn_keys[0]])
            return ((image + 0.5).clip(0, 1) * 255 + 0.5).astype(np.uint8)
        vectors = [_host(decoded[key]) for key in decoder.mlp_keys]
        return np.stack([bars(row) for row in np.concatenate(vectors, -1)])

    def _draws(self, batch: int) -> tuple[Tensor, Tensor]:
        shape = (batch, *self._rssm.latent_shape)
        draws = self._noise("state", self._rssm.noise_kind, shape)
        return draws, self._noise("member", "uniform", ())

    def _tensor(self, action: np.ndarray) -> Tensor:
        agent = self._agent
        return torch.as_tensor(action, dtype=agent.precision.param, device=agent.device)


def _host(x: Tensor) -> np.ndarray:
    return x.float().cpu().numpy()
