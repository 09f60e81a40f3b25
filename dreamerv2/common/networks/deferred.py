"""Linear maps of a recurrence whose weights get one gradient for all steps."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dreamerv2.common.networks.products import product


class DeferredLinear:
    """The linear map of every step of a recurrence, y[t] = x[t] @ weight.T + bias[t].

    Autograd would form the weight's gradient step by step, in products as small as the
    batch. Here the inputs are remembered, and all steps make one product: the same
    number to rounding, in a fraction of the time. The weight is (O, I); the bias (T, B,
    O), with whatever is known of y before the recurrence.

    Each step computes with `weight` and its element of `biases`, and hands its input
    (B, I) to `remember`, all within the precision's context.
    """

    def __init__(self, weight: Tensor, bias: Tensor):
        self._inputs: list[Tensor] = []
        self.biases: Sequence[Tensor] = _Tap.apply(bias, weight, self._inputs).unbind()
        self.weight = weight.detach()
        kind = weight.device.type
        if torch.is_autocast_enabled(kind):  # Once, rather than in each step.
            self.weight = self.weight.to(torch.get_autocast_dtype(kind))

    def remember(self, x: Tensor) -> None:
        """Note the input of the next step."""
        self._inputs.append(x.detach())


class _Tap(torch.autograd.Function):
    """bias -> bias. Its gradient is that of all y, from which the weight's follows."""

    @staticmethod
    def forward(ctx: Any, bias: Tensor, weight: Tensor, inputs: list[Tensor]) -> Tensor:
        ctx.inputs, ctx.dtype = inputs, weight.dtype
        return bias.view_as(bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None]:
        """grad (T, B, O) -> those of the bias and of the weight (O, I)."""
        if not ctx.needs_input_grad[1]:
            return grad, None, None
        inputs = torch.stack(ctx.inputs).to(grad.dtype)  # (T, B, I)
        found = product(grad.flatten(0, 1).t(), inputs.flatten(0, 1).t())
        return grad, found.to(ctx.dtype), None
