"""Computes what units.npz holds: single parts, outside any agent."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from dreamerv2.common import dists, other
from dreamerv2.common.config import load_presets
from dreamerv2.common.networks import layers
from dreamerv2.common.networks.rssm import EnsembleRSSM
from dreamerv2.common.torchutils import Optimizer
from dreamerv2.common.when import Every, Until
from dreamerv2.running import reference
from recordings.recording import Recording

INPUTS = re.compile(
    r"lambda_return/(reward|value|pcont|bootstrap)|onehot/(logits2?|x)"
    r"|trunc_normal/(loc|scale|u|x)|dist_layer/(out|std|\w+/x)"
    r"|gru/(input|state|kernel|bias|norm_scale|norm_offset)|stream_norm/.*/in\d+"
    r"|optimizer/\w+/([a-z]0|g[a-z]\d+)|schedule_steps|when_steps"
    r"|kl/\d+/(post|prior)_\w+"
)
"""Names of the arrays that the parts are given; they must compute all the others."""

OPTIMIZER = {"lr": 1e-2, "eps": 1e-5, "clip": 1.5, "wd": 1e-3}

RSSM = load_presets()["defaults"]["rssm"]

Results = Iterator[tuple[str, Any]]
Read = Callable[[str], Tensor]


def compute(recording: Recording, dtype: torch.dtype, device: str) -> dict[str, Any]:
    """Everything in units.npz, computed here, by the file's names."""

    def read(name: str) -> Tensor:
        return torch.as_tensor(recording[name]).to(device, dtype)

    families = {
        "lambda_return": lambda_returns,
        "onehot": onehot,
        "trunc_normal": trunc_normal,
        "dist_layer": dist_layer,
        "gru": gru,
        "stream_norm": stream_norms,
        "optimizer": optimizers,
        "schedule": schedules,
        "every": questions,
        "until": questions,
        "kl": kls,
    }
    results: dict[str, Any] = {}
    for family, function in families.items():
        names = [f"{family}/{name}" for name in recording.group(family)]
        if names:
            results.update(function(read, names))
    return results


def _matches(pattern: str, names: list[str]) -> Iterator[re.Match]:
    return filter(None, (re.fullmatch(pattern, name) for name in names))


def lambda_returns(read: Read, names: list[str]) -> Results:
    parts = ("reward", "value", "pcont", "bootstrap")
    inputs = {part: read(f"lambda_return/{part}") for part in parts}
    for match in _matches(r"lambda_return/out_(.*)", names):
        yield match[0], other.lambda_return(**inputs, lambda_=float(match[1]))


def onehot(read: Read, names: list[str]) -> Results:
    dist = dists.OneHotDist(read("onehot/logits"))
    yield "onehot/log_prob", dist.log_prob(read("onehot/x"))
    yield "onehot/entropy", dist.entropy()
    yield "onehot/mode", dist.mode()
    yield "onehot/kl", dist.kl(dists.OneHotDist(read("onehot/logits2")))


def trunc_normal(read: Read, names: list[str]) -> Results:
    loc = read("trunc_normal/loc").requires_grad_()
    scale = read("trunc_normal/scale").requires_grad_()
    # The file has no event dimension, and our distribution one: here of size 1.
    dist = dists.TruncNormalDist(loc[..., None], scale[..., None])
    sample = dist.sample(read("trunc_normal/u")[..., None])[..., 0]
    entropy = dist.entropy()
    yield "trunc_normal/sample_from_u", sample
    yield "trunc_normal/log_prob", dist.log_prob(read("trunc_normal/x")[..., None])
    yield "trunc_normal/entropy", entropy
    yield "trunc_normal/mean", dist.mean()[..., 0]
    yield "trunc_normal/mode", dist.mode()[..., 0]
    for name, value in {"sample": sample, "entropy": entropy}.items():
        grads = torch.autograd.grad(value.sum(), [loc, scale], retain_graph=True)
        yield f"trunc_normal/d{name}_dloc", grads[0]
        yield f"trunc_normal/d{name}_dscale", grads[1]


def dist_layer(read: Read, names: list[str]) -> Results:
    for match in _matches(r"(dist_layer/(\w+)/)x", names):
        prefix, kind = match[1], match[2].removesuffix("_edges")
        x = read(f"{prefix}x")
        # The edges are asked of the first rows alone.
        out, std = read("dist_layer/out")[: len(x)], read("dist_layer/std")[: len(x)]
        if kind == "normal":  # Here the file gave the standard deviation itself.
            dist = dists.NormalDist(out, std.abs() + 0.1)
        else:
            layer = layers.DistLayer(1, out.shape[1:], kind, min_std=0.1)
            dist = layer.make(out, std)
        yield f"{prefix}log_prob", dist.log_prob(x)
        if kind != "tanh_normal":  # Its others are estimates from random draws.
            yield f"{prefix}mode", dist.mode()
            yield f"{prefix}mean", dist.mean()
            yield f"{prefix}entropy", dist.entropy()


@torch.no_grad()
def gru(read: Read, names: list[str]) -> Results:
    x, state = read("gru/input"), read("gru/state")
    cell = layers.GRUCell(x.shape[-1], state.shape[-1]).to(x)
    for name, param in reference.named_parameters(cell, "gru").items():
        stored = name.replace("norm/", "norm_")
        param.copy_(reference.from_layout(read(stored)))
    yield "gru/output", cell(x, state)


def stream_norms(read: Read, names: list[str]) -> Results:
    settings = {name.split("/")[1] for name in names}
    for setting in sorted(settings):
        momentum, scale = re.fullmatch(r"m(.*)_s(.*)", setting).groups()
        prefix = f"stream_norm/{setting}/"
        norm = None
        for k in range(len(names)):
            if f"{prefix}in{k}" not in names:
                break
            x = read(f"{prefix}in{k}")
            norm = norm or other.StreamNorm(
                float(momentum), float(scale), 1e-8, device=x.device, dtype=x.dtype
            )
            yield f"{prefix}out{k}", norm(x)[0]


def optimizers(read: Read, names: list[str]) -> Results:
    kinds = {name.split("/")[1] for name in names}
    for kind in sorted(kinds):
        prefix = f"optimizer/{kind}/"
        keys = [match[1] for match in _matches(prefix + r"g([a-z])0", names)]
        params = {key: nn.Parameter(read(f"{prefix}{key}0")) for key in keys}
        optimizer = Optimizer("test", params, **OPTIMIZER, opt=kind)
        for k in range(len(names)):
            if f"{prefix}g{keys[0]}{k}" not in names:
                break
            grads = [read(f"{prefix}g{key}{k}") for key in keys]
            yield f"{prefix}norm{k}", optimizer.apply(grads)
            for key, param in params.items():
                yield f"{prefix}{key}{k + 1}", param.detach().clone()


def schedules(read: Read, names: list[str]) -> Results:
    steps = read("schedule_steps")
    for match in _matches(r"schedule/(.*)", names):
        values = [other.schedule(match[1], step) for step in steps]
        yield match[0], torch.stack(values)


def questions(read: Read, names: list[str]) -> Results:
    steps = [int(step) for step in read("when_steps")]
    for match in _matches(r"(every|until)/(\d+)", names):
        number = int(match[2])
        # The reference's Every catches up after a gap; ours does so when asked to.
        every = match[1] == "every"
        ask = Every(number, catch_up=True) if every else Until(number)
        yield match[0], [ask(step) for step in steps]


def kls(read: Read, names: list[str]) -> Results:
    pattern = r"(kl/(\d+)/fwd(\d)_bal(.*)_free(.*)_avg(\d)/)loss"
    for match in _matches(pattern, names):
        prefix, kind, forward, balance, free, average = match.groups()
        stats = {
            name: read(name).requires_grad_()
            for name in names
            if re.fullmatch(rf"kl/{kind}/(post|prior)_\w+", name)
        }
        states: dict[str, dict] = {"post": {}, "prior": {}}
        for name, value in stats.items():
            side, key = name.split("/")[-1].split("_")
            states[side][key] = value
        size = next(iter(stats.values())).shape[2]
        rssm = EnsembleRSSM(1, 1, **{**RSSM, "stoch": size, "discrete": int(kind)})
        loss, value = rssm.kl_loss(
            **states,
            forward=bool(int(forward)),
            balance=float(balance),
            free=float(free),
            free_avg=bool(int(average)),
        )
        yield f"{prefix}loss", loss
        yield f"{prefix}value", value
        inputs = list(stats.values())
        if loss.requires_grad:
            grads = torch.autograd.grad(loss, inputs, materialize_grads=True)
        else:
            grads = [torch.zeros_like(x) for x in inputs]
        for name, grad in zip(stats, grads, strict=True):
            yield f"{prefix}grad_{name.split('/')[-1]}", grad
