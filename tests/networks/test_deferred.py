"""A recurrence's weight has the gradient that autograd would add up step by step."""

import pytest
import torch

from dreamerv2.common.networks.deferred import DeferredLinear

T, B, SIZE = 5, 3, 4


def recurrence(deferred, dtype=torch.float64):
    """Gradients of weight and bias, of a loss of all steps of x = tanh(linear(x))."""
    torch.manual_seed(0)
    weight = torch.randn(SIZE, SIZE).to(dtype).requires_grad_()
    bias = torch.randn(T, B, SIZE).to(dtype).requires_grad_()
    x, loss = torch.ones(B, SIZE, dtype=dtype), 0
    layer = DeferredLinear(weight, bias) if deferred else None
    for t in range(T):
        if deferred:
            layer.remember(x)
            x = torch.tanh(torch.addmm(layer.biases[t], x, layer.weight.t()))
        else:
            x = torch.tanh(torch.addmm(bias[t], x, weight.t()))
        loss = loss + (x**2 * (t + 1)).sum()
    return torch.autograd.grad(loss, [weight, bias])


def test_the_gradient_of_all_steps_is_the_sum_of_those_of_each():
    for found, expected in zip(recurrence(True), recurrence(False), strict=True):
        assert expected.abs().max() > 0.1
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_in_16_bits_it_is_nearer_to_the_true_sum_than_step_by_step():
    exact = recurrence(False)[0].float()
    with torch.autocast("cpu", torch.bfloat16):
        deferred, stepwise = (
            recurrence(way, torch.float32)[0] for way in (True, False)
        )
    assert deferred.dtype == torch.float32
    errors = [(x - exact).norm() / exact.norm() for x in (deferred, stepwise)]
    assert errors[0] < 0.02 and errors[0] < 1.2 * errors[1]


def test_without_a_gradient_in_the_weight_none_is_formed():
    weight, bias = torch.eye(SIZE), torch.zeros(1, B, SIZE, requires_grad=True)
    layer = DeferredLinear(weight, bias)
    (grad,) = torch.autograd.grad(layer.biases[0].sum(), [bias])
    assert grad.tolist() == torch.ones(1, B, SIZE).tolist()


def test_the_weight_that_steps_compute_with_follows_the_precision():
    weight, bias = torch.eye(SIZE), torch.zeros(1, B, SIZE)
    assert DeferredLinear(weight, bias).weight.data_ptr() == weight.data_ptr()
    with torch.autocast("cpu", torch.bfloat16):
        assert DeferredLinear(weight, bias).weight.dtype == torch.bfloat16


@pytest.mark.parametrize("count", [1, 4])
def test_as_many_inputs_as_steps_must_be_remembered(count):
    weight = torch.eye(SIZE, requires_grad=True)
    layer = DeferredLinear(weight, torch.zeros(3, B, SIZE, requires_grad=True))
    for _ in range(count):
        layer.remember(torch.ones(B, SIZE))
    with pytest.raises(RuntimeError):
        torch.autograd.grad(sum(x.sum() for x in layer.biases), [weight])
