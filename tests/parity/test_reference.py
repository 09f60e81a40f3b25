"""Parameters by the reference's names, there and back."""

import numpy as np
import pytest
import torch
from agent_tools import make_agent
from torch import nn

from dreamerv2.common.errors import UsageError
from dreamerv2.running import reference


@pytest.fixture
def agent():
    return make_agent({r".*\.norm": "layer", "expl_behavior": "Plan2Explore"})


def test_names_are_those_of_the_reference(agent):
    names = set(reference.to_reference(agent))
    assert {
        "encoder/conv0/kernel",
        "encoder/convnorm0/scale",
        "encoder/dense0/bias",
        "encoder/densenorm0/offset",
        "rssm/gru/kernel",
        "rssm/gru/norm/scale",
        "rssm/img_out_norm_0/offset",
        "rssm/obs_dist/bias",
        "decoder/convin/kernel",
        "decoder/conv1/kernel",
        "decoder/convnorm0/offset",
        "decoder/dense_vector/out/kernel",
        "reward/norm0/scale",
        "discount/out/out/bias",
        "actor/out/out/kernel",
        "target_critic/dense0/kernel",
        "expl_head0/dense0/kernel",
        "expl_actor/dense0/kernel",
        "expl_target_critic/out/out/bias",
    } <= names
    # The last transposed convolution has no norm, and nothing ends otherwise.
    assert "decoder/convnorm1/scale" not in names
    leaves = {name.rsplit("/")[-1] for name in names}
    assert leaves == {"kernel", "bias", "scale", "offset"}


def test_every_parameter_comes_back_as_it_was(agent):
    params = reference.to_reference(agent)
    rng = np.random.default_rng(0)
    other = {k: rng.normal(size=v.shape).astype(v.dtype) for k, v in params.items()}
    reference.load_reference(agent, other)
    loaded = reference.to_reference(agent)
    assert loaded.keys() == other.keys()
    assert all(np.array_equal(loaded[name], other[name]) for name in other)
    assert not np.array_equal(
        params["actor/dense0/kernel"], other["actor/dense0/kernel"]
    )


def test_returned_arrays_do_not_change_when_the_agent_learns(agent):
    params = reference.to_reference(agent)
    kept = params["critic/out/out/bias"].copy()
    with torch.no_grad():
        agent.task_behavior.critic.out.out.bias.add_(1.0)
    assert np.array_equal(params["critic/out/out/bias"], kept)


def test_a_dense_kernel_multiplies_from_the_right():
    layer = nn.Linear(2, 3)
    params = reference.named_parameters(layer, "net")
    kernel = reference.to_layout(params["net/kernel"])
    x = torch.tensor([[1.0, -2.0]])
    assert torch.allclose(x @ kernel + params["net/bias"], layer(x))


def test_convolution_kernels_are_height_width_in_out():
    conv = nn.Conv2d(3, 5, (2, 4))
    kernel = reference.to_layout(conv.weight)
    assert kernel.shape == (2, 4, 3, 5)
    assert kernel[1, 3, 2, 4] == conv.weight[4, 2, 1, 3]
    deconv = nn.ConvTranspose2d(3, 5, (2, 4))
    kernel = reference.to_layout(deconv.weight)
    assert kernel.shape == (2, 4, 5, 3)
    assert kernel[1, 3, 4, 2] == deconv.weight[2, 4, 1, 3]
    assert torch.equal(reference.from_layout(kernel), deconv.weight)


def test_what_does_not_fit_is_named_and_nothing_is_changed(agent):
    before = reference.to_reference(agent)
    params = {name: value + 1 for name, value in before.items()}
    del params["rssm/gru/bias"]
    params["actor/dense9/bias"] = np.zeros(3, np.float32)
    params["critic/out/out/kernel"] = params["critic/out/out/kernel"].T
    message = (
        r"1 missing \(rssm/gru/bias\), 1 extra \(actor/dense9/bias\), "
        r"1 misshapen \(critic/out/out/kernel is 1x8 where 8x1 is needed\)"
    )
    with pytest.raises(UsageError, match=message):
        reference.load_reference(agent, params)
    after = reference.to_reference(agent)
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_without_a_slow_critic_the_target_is_the_critic():
    agent = make_agent({"slow_target": False})
    params = reference.to_reference(agent)
    target = params["target_critic/out/out/kernel"]
    assert np.array_equal(target, params["critic/out/out/kernel"])
    left_out = {k: v + 1 for k, v in params.items() if "target_critic" not in k}
    reference.load_reference(agent, left_out)
    loaded = reference.to_reference(agent)
    assert np.array_equal(
        loaded["critic/out/out/bias"], params["critic/out/out/bias"] + 1
    )
