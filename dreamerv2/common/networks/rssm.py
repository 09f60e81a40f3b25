"""The recurrent state-space model: the dynamics in which the agent dreams.

Shapes: B batch, T time, S latents, C classes, D deter, E embed, F features, A actions,
U hidden units. `...` is B, or B and T, or the N dreams of an imagination.

One equation, `_recur`, is applied in two ways that compute the same:

- In dreams (`img_step`) the maps into the recurrence are the layers themselves, or, on
  a CPU, rows of their weights (onehot.py).
- In training (`observe`) they are DeferredLinear: what does not depend on the step
  before (the shares of action and embedding, the biases) is computed for all T at
  once, and so are the gradients of the weights. `_filter` is what is left to do step
  by step: `_recur`, and the posterior from what it gives.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dreamerv2.common import dists
from dreamerv2.common.networks.deferred import DeferredLinear
from dreamerv2.common.networks.layers import GRUCell, NormLayer, get_act
from dreamerv2.common.networks.noise import NoiseFn
from dreamerv2.common.networks.onehot import Ones, find_ones
from dreamerv2.common.networks.products import Linear, linear
from dreamerv2.common.torchutils import at_least_float32, compiled

State = dict[str, Tensor]
LinearMap = Callable[[Tensor], Tensor]

STD_ACTS = {
    "softplus": F.softplus,
    "sigmoid": torch.sigmoid,
    "sigmoid2": lambda x: 2 * torch.sigmoid(x / 2),
}


class EnsembleRSSM(nn.Module):
    """Deterministic and stochastic latents over time (equation 1 of the paper).

    A state is a dict of float32 tensors of the same leading dimensions:
    ``deter`` (..., D); ``stoch`` (..., S, C) one-hot, with ``logit`` of that shape;
    or, with ``discrete=0``, ``stoch``, ``mean`` and ``std`` (..., S).

        deter[t]  = gru([stoch[t-1], action[t]], deter[t-1])
        prior[t]  ~ p(deter[t])               what the dream goes on with
        post[t]   ~ q(deter[t], embed[t])     what the agent sees

        action     a1      a2      a3         a[t] led to the observation
        embed      e1      e2      e3         behind e[t]; where is_first[t],
        post    s0 ->  s1  ->  s2  ->  s3     a[t] and s[t-1] count as zero
        prior          p1      p2      p3

    Of the ``ensemble`` members that predict the prior, one is picked at random at
    each step.
    """

    def __init__(
        self,
        action_size: int,
        embed_size: int,
        ensemble: int,
        stoch: int,
        deter: int,
        hidden: int,
        discrete: int,
        act: str,
        norm: str,
        std_act: str,
        min_std: float,
    ):
        super().__init__()
        self._ensemble = ensemble
        self._stoch = stoch
        self._deter = deter
        self._discrete = int(discrete)
        self._act = get_act(act)
        self._std_act = STD_ACTS[std_act]
        self._min_std = min_std
        self.stoch_size = stoch * (self._discrete or 1)
        self.feat_size = self.stoch_size + deter
        stats = stoch * (self._discrete or 2)
        self.img_in = Linear(self.stoch_size + action_size, hidden)
        self.img_in_norm = NormLayer(norm, hidden)
        self.gru = GRUCell(hidden, deter)
        for k in range(ensemble):
            self.add_module(f"img_out_{k}", Linear(deter, hidden))
            self.add_module(f"img_out_norm_{k}", NormLayer(norm, hidden))
            self.add_module(f"img_dist_{k}", Linear(hidden, stats))
        self.obs_out = Linear(deter + embed_size, hidden)
        self.obs_out_norm = NormLayer(norm, hidden)
        self.obs_dist = Linear(hidden, stats)

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """(S, C), or (S,) for Gaussian latents."""
        return (self._stoch, self._discrete) if self._discrete else (self._stoch,)

    @property
    def noise_kind(self) -> str:
        """The kind of noise that samples a latent, see noise.Noise."""
        return "gumbel" if self._discrete else "normal"

    def initial(self, batch: int) -> State:
        """Return the state of zeros before anything, (batch, ...)."""
        weight = self.img_in.weight
        zeros = weight.new_zeros(batch, *self.latent_shape)
        state = {"deter": weight.new_zeros(batch, self._deter), "stoch": zeros}
        names = ("logit",) if self._discrete else ("mean", "std")
        return {**state, **{name: torch.zeros_like(zeros) for name in names}}

    def pack(self, state: State) -> Tensor:
        """Return what is needed to go on from a state (B, ...) as bytes (B, L).

        In float16: of classes the index, from 1 on, since no class is zeros.
        """
        stoch = state["stoch"]
        if self._discrete:
            stoch = (stoch.argmax(-1) + 1) * stoch.any(-1)  # (B, S)
        return torch.cat([stoch, state["deter"]], -1).half().view(torch.uint8)

    def unpack(self, packed: Tensor, other: State) -> State:
        """Turn what `pack` returned (B, L) into states; `other` where that is zeros.

        They have the statistics of `other`: no step is made from these.
        """
        numbers = packed.view(torch.float16).to(other["deter"].dtype)  # (B, S + D)
        kept = numbers.any(-1)
        stoch, deter = numbers.split([self._stoch, self._deter], -1)
        if self._discrete:
            classes = torch.arange(1, self._discrete + 1, device=stoch.device)
            stoch = (stoch[..., None] == classes).to(deter.dtype)  # (B, S, C)
        new = {"stoch": stoch, "deter": deter}
        return {
            k: torch.where(kept.view(-1, *[1] * (v.ndim - 1)), new.get(k, v), v)
            for k, v in other.items()
        }

    def get_feat(self, state: State) -> Tensor:
        """Return what heads, actor and critic see, [stoch, deter] (..., F)."""
        return torch.cat([self._join_classes(state["stoch"]), state["deter"]], -1)

    def find_ones(self, state: State) -> Ones | None:
        """Find the latents' ones in a state, for whoever has rows taken for them."""
        return find_ones(state["stoch"]) if self._discrete else None

    def get_dist(self, state: State) -> dists.OneHotDist | dists.NormalDist:
        """Return the distribution of a state's latents, all S of them one event."""
        if self._discrete:
            return dists.OneHotDist(state["logit"], latents=True)
        return dists.NormalDist(state["mean"], state["std"], event_dims=1)

    def sample(self, stats: State, noise: Tensor | None) -> Tensor:
        """Return the latents for the given noise; their mode for None."""
        dist = self.get_dist(stats)
        return dist.mode() if noise is None else dist.sample(noise)

    def observe(
        self,
        embed: Tensor,
        action: Tensor,
        is_first: Tensor,
        noise: NoiseFn,
        state: State | None = None,
    ) -> tuple[State, State]:
        """Filter a batch of sequences -> posterior and prior, (B, T, ...), this without
        ``stoch``.

        embed, action, is_first are (B, T, E), (B, T, A) and (B, T) bool; noise draws
        ``observe_post`` (T, B, S, C); state is the posterior before, zeros for None.
        """
        batch, length = action.shape[:2]
        state = state or self.initial(batch)
        keep = 1 - is_first.to(action.dtype)[..., None]  # (B, T, 1)
        maps = self._maps(action * keep, embed)
        weights = tuple(m.weight for m in maps)
        shape = (length, batch, *self.latent_shape)
        draws = noise("observe_post", self.noise_kind, shape)
        stoch, deter = state["stoch"], state["deter"]  # (B, S, C), (B, D)
        steps = []
        for t in range(length):
            biases = tuple(m.biases[t] for m in maps)
            state, inputs = self._filter(
                stoch, deter, keep[:, t], weights, biases, draws[t]
            )
            for m, x in zip(maps, inputs, strict=True):
                m.remember(x)
            stoch, deter = state["stoch"], state["deter"]
            steps.append(state)
        post = {k: torch.stack([step[k] for step in steps], 1) for k in steps[0]}
        members = None
        if self._ensemble > 1:
            members = noise("observe_member", "uniform", (length,))[None, :, None]
        prior = {"deter": post["deter"], **self._prior_stats(post["deter"], members)}
        return post, prior

    def imagine(self, action: Tensor, state: State, noise: NoiseFn) -> State:
        """Follow given actions (B, T, A) from a state (B, ...) without observing -> the
        prior (B, T, ...); noise draws ``imagine_state`` (T, B, S, C)."""
        batch, length = action.shape[:2]
        shape = (length, batch, *self.latent_shape)
        draws = noise("imagine_state", self.noise_kind, shape)
        members = self.draw_members(length, noise)
        steps = []
        for t in range(length):
            state = self.img_step(state, action[:, t], draws[t], members[t])
            steps.append(state)
        return {k: torch.stack([step[k] for step in steps], 1) for k in steps[0]}

    def draw_members(self, length: int, noise: NoiseFn) -> list[Tensor | None]:
        """Draw what picks an ensemble member, for each of ``length`` steps."""
        if self._ensemble == 1:
            return [None] * length
        return list(noise("imagine_member", "uniform", (length,)))

    def img_step(
        self,
        state: State,
        action: Tensor,
        noise: Tensor | None = None,
        member: Tensor | None = None,
        ones: Ones | None = None,
    ) -> State:
        """Dream one step: a state and the action after it -> the next prior.

        action (..., A). noise (..., S, C) samples the latents; None takes their mode.
        member, a uniform draw, picks the ensemble member where there are several.
        ones, those of the state's latents, see onehot.py.
        """
        stoch = self._join_classes(state["stoch"])
        weight = self.img_in.weight[:, : self.stoch_size]
        product = linear if ones is None else ones.product
        x = product(stoch, weight) + self._action_in(action)  # (..., U)
        return self._dream(x, state["deter"], noise, member)

    def obs_step(
        self,
        state: State,
        action: Tensor,
        embed: Tensor,
        is_first: Tensor,
        noise: Tensor | None = None,
    ) -> State:
        """Filter one step -> the posterior.

        action (B, A) led to the observation behind embed (B, E). noise (B, S, C)
        samples the latents; None takes their mode. The prior is left out: only
        training needs it, and gets it from observe().
        """
        keep = 1 - is_first.to(action.dtype)[..., None]  # (B, 1)
        maps = self._maps((action * keep)[:, None], embed[:, None])
        weights = tuple(m.weight for m in maps)
        biases = tuple(m.biases[0] for m in maps)
        stoch, deter = state["stoch"], state["deter"]
        return self._filter(stoch, deter, keep, weights, biases, noise)[0]

    def kl_loss(
        self,
        post: State,
        prior: State,
        forward: bool,
        balance: float,
        free: float,
        free_avg: bool,
        average: Callable[[Tensor], Tensor] = torch.mean,
    ) -> tuple[Tensor, Tensor]:
        """Return the KL loss, balanced (Algorithm 2 of the paper), and the KL (B, T).

            balance * KL(sg(post) || prior) + (1 - balance) * KL(post || sg(prior))

        With ``forward`` the arguments of the KL swap, and the mix with them. Each
        term is at least ``free`` nats: its average with free_avg, else each element.
        At balance 0.5 there is one KL, each element at least ``free``.
        """
        lhs, rhs = (prior, post) if forward else (post, prior)
        mix = balance if forward else 1 - balance
        if balance == 0.5:
            value = self.get_dist(lhs).kl(self.get_dist(rhs))
            return value.clamp(min=free).mean(), value
        value = self.get_dist(lhs).kl(self.get_dist(_detach(rhs)))  # (B, T)
        value_rhs = self.get_dist(_detach(lhs)).kl(self.get_dist(rhs))
        if free_avg:
            loss_lhs = average(value).clamp(min=free)
            loss_rhs = average(value_rhs).clamp(min=free)
        else:
            loss_lhs = value.clamp(min=free).mean()
            loss_rhs = value_rhs.clamp(min=free).mean()
        return mix * loss_lhs + (1 - mix) * loss_rhs, value

    def compile_parts(self) -> None:
        """Compile the two steps that must run one after another."""
        self._filter = compiled(self._filter)
        self._dream = compiled(self._dream)

    def _maps(self, action: Tensor, embed: Tensor) -> list[DeferredLinear]:
        """Return the maps of _filter for action (B, T, A) and embed (B, T, E), in its
        order: into the recurrence, of the GRU, into the posterior, of its
        statistics."""
        weight = self.obs_out.weight[:, self._deter :]
        embed_in = linear(embed, weight, self.obs_out.bias).transpose(0, 1)
        action_in = self._action_in(action).transpose(0, 1)  # (T, B, U)

        def everywhere(layer: nn.Linear) -> Tensor:
            bias = layer.bias.to(action_in.dtype)
            return bias.expand(*action_in.shape[:2], -1)  # (T, B, outputs)

        gru, dist = self.gru.linear, self.obs_dist
        return [
            DeferredLinear(self.img_in.weight[:, : self.stoch_size], action_in),
            DeferredLinear(gru.weight, everywhere(gru)),
            DeferredLinear(self.obs_out.weight[:, : self._deter], embed_in),
            DeferredLinear(dist.weight, everywhere(dist)),
        ]

    def _filter(
        self,
        stoch: Tensor,
        deter: Tensor,
        keep: Tensor,
        weights: tuple[Tensor, ...],
        biases: tuple[Tensor, ...],
        noise: Tensor | None,
    ) -> tuple[State, tuple[Tensor, ...]]:
        """Do of obs_step what cannot be done for all steps at once.

        stoch (B, S, C), deter (B, D), keep (B, 1); weights and biases (B, outputs)
        of the four maps, see _maps. Returns the posterior, and the maps' inputs.
        """
        inputs = []

        def linear_map(index: int) -> LinearMap:
            def apply(x: Tensor) -> Tensor:
                inputs.append(x)
                return torch.addmm(biases[index], x, weights[index].t())

            return apply

        stoch, deter = self._join_classes(stoch) * keep, deter * keep
        deter = self._recur(linear_map(0)(stoch), deter, linear_map(1))
        x = self._act(self.obs_out_norm(linear_map(2)(deter)))  # (B, U)
        stats = self._stats(linear_map(3)(x))
        state = {"deter": deter, "stoch": self.sample(stats, noise), **stats}
        return state, tuple(inputs)

    def _dream(
        self, x: Tensor, deter: Tensor, noise: Tensor | None, member: Tensor | None
    ) -> State:
        """Do of img_step what comes after img_in, whose output is x (..., U)."""
        deter = self._recur(x, deter, self.gru.linear)
        stats = self._prior_stats(deter, member)
        return {"deter": deter, "stoch": self.sample(stats, noise), **stats}

    def _recur(self, x: Tensor, deter: Tensor, gru: LinearMap) -> Tensor:
        """Return the next deter, (..., D), by the given linear map of the GRU; x (...,
        U) is what img_in makes of the latents and the action."""
        x = self._act(self.img_in_norm(x))
        return self.gru.gate(gru(self.gru.join(x, deter)), deter)

    def _join_classes(self, stoch: Tensor) -> Tensor:
        """(..., S, C) -> (..., S*C)."""
        return stoch.flatten(-2) if self._discrete else stoch

    def _action_in(self, action: Tensor) -> Tensor:
        """Return the action's share of img_in, bias included, (..., U)."""
        weight = self.img_in.weight[:, self.stoch_size :]
        return linear(action, weight, self.img_in.bias)

    def _prior_stats(self, deter: Tensor, member: Tensor | None) -> State:
        """Return the statistics of p(deter); member, uniform draws that broadcast to
        the leading dimensions, is read with several members only."""
        outs = []
        for k in range(self._ensemble):
            x = getattr(self, f"img_out_{k}")(deter)
            x = self._act(getattr(self, f"img_out_norm_{k}")(x))  # (..., U)
            outs.append(getattr(self, f"img_dist_{k}")(x))
        if self._ensemble == 1:
            return self._stats(outs[0])
        index = (member * self._ensemble).long().expand(outs[0].shape)
        return self._stats(torch.stack(outs).gather(0, index[None])[0])

    def _stats(self, x: Tensor) -> State:
        """Split the last linear map's output into logit, or mean and std, in float32:
        (..., S*C) -> (..., S, C); or (..., 2 S) -> (..., S) each."""
        x = at_least_float32(x)
        if self._discrete:
            return {"logit": x.unflatten(-1, (self._stoch, self._discrete))}
        mean, std = x.chunk(2, -1)
        return {"mean": mean, "std": self._std_act(std) + self._min_std}


def _detach(state: State) -> State:
    return {key: value.detach() for key, value in state.items()}
