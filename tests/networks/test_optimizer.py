"""The optimizer, and device and precision by name."""

import math

import pytest
import torch
from torch import nn

from dreamerv2.common.errors import UsageError
from dreamerv2.common.torchutils import (
    Optimizer,
    Precision,
    resolve_device,
    restore_unless,
    zero_unless,
)

pytestmark = pytest.mark.usefixtures("one_thread")

B1, B2 = 0.9, 0.999
KINDS = ("adam", "nadam", "adamax", "sgd", "momentum")


def make_params(seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: nn.Parameter(torch.randn(shape, generator=generator, dtype=dtype))
        for name, shape in {"net.kernel": (3, 2), "net.bias": (2,)}.items()
    }


def make_grads(seed=1, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    shapes = ((3, 2), (2,))
    return [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]


def make(params, opt="sgd", lr=0.1, eps=1e-5, **kwargs):
    off = {"clip": 0.0, "wd": 0.0}
    return Optimizer("test", params, lr=lr, eps=eps, opt=opt, **{**off, **kwargs})


def copies(params):
    return [p.detach().clone() for p in params.values()]


def scalar(value=1.0):
    return nn.Parameter(torch.tensor([value]))


def test_adams_first_steps_are_those_computed_by_hand():
    lr, eps, x = 0.01, 1e-3, 2.0
    param = scalar(x)
    opt = make({"x": param}, "adam", lr=lr, eps=eps)
    m = v = 0.0
    for t, g in enumerate([0.002, -0.5, 0.03], 1):
        m = B1 * m + (1 - B1) * g
        v = B2 * v + (1 - B2) * g * g
        if t == 1:  # The same, written out.
            assert m == pytest.approx(0.1 * g) and v == pytest.approx(0.001 * g * g)
        size = lr * math.sqrt(1 - B2**t) / (1 - B1**t)
        x -= size * m / (math.sqrt(v) + eps)
        opt.apply([torch.tensor([g])])
        assert param.item() == pytest.approx(x, abs=2e-7)


def test_adams_epsilon_is_not_bias_corrected():
    g, eps, lr = 0.01, 1e-2, 1.0
    param = scalar(0.0)
    make({"x": param}, "adam", lr=lr, eps=eps).apply([torch.tensor([g])])
    ours = -math.sqrt(0.001) * g / (math.sqrt(0.001) * g + eps)
    corrected = -g / (g + eps)  # What torch.optim.Adam does.
    assert param.item() == pytest.approx(ours, rel=1e-4)
    assert abs(ours - corrected) > 0.4


def torch_optimizer(name, params, lr, eps):
    return {
        "nadam": lambda: torch.optim.NAdam(params, lr=lr, eps=eps),
        "adamax": lambda: torch.optim.Adamax(params, lr=lr, eps=eps),
        "sgd": lambda: torch.optim.SGD(params, lr=lr),
        "momentum": lambda: torch.optim.SGD(params, lr=lr, momentum=0.9),
    }[name]()


@pytest.mark.parametrize("name", KINDS[1:])
def test_the_other_optimizers_are_torchs_own(name):
    params, theirs = (make_params(dtype=torch.float64) for _ in range(2))
    opt = make(params, name, lr=0.05, eps=1e-3)
    expected = torch_optimizer(name, theirs.values(), 0.05, 1e-3)
    for step in range(5):
        grads = make_grads(step, torch.float64)
        opt.apply(grads)
        for param, grad in zip(theirs.values(), grads, strict=True):
            param.grad = grad
        expected.step()
        for ours, other in zip(params.values(), theirs.values(), strict=True):
            torch.testing.assert_close(ours, other, rtol=1e-7, atol=1e-8)


def test_the_loss_is_minimized_and_its_gradient_norm_reported():
    param = nn.Parameter(torch.tensor([3.0, 4.0]))
    opt = make({"x": param}, lr=0.1)
    metrics = opt((param**2).sum() / 2)
    assert {key: value.item() for key, value in metrics.items()} == {
        "test_loss": 12.5,
        "test_grad_norm": 5.0,
    }
    torch.testing.assert_close(param.detach(), torch.tensor([2.7, 3.6]))


def test_a_parameter_that_the_loss_does_not_reach_keeps_still():
    used, unused = scalar(1.0), scalar(1.0)
    for kind in KINDS:
        make({"used": used, "unused": unused}, kind)((used**2).sum())
    assert used.item() < 1 and unused.item() == 1


def test_gradients_are_clipped_by_their_common_norm_and_reported_unclipped():
    params = {"a": scalar(0.0), "b": scalar(0.0)}
    opt = make(params, lr=1.0, clip=1.0)
    norm = opt.apply([torch.tensor([3.0]), torch.tensor([-4.0])])
    assert norm.item() == pytest.approx(5)
    assert params["a"].item() == pytest.approx(-0.6)
    assert params["b"].item() == pytest.approx(0.8)


def test_gradients_below_the_clip_are_left_alone():
    for clip in (10.0, None, 0.0):
        param = scalar(0.0)
        make({"x": param}, lr=1.0, clip=clip).apply([torch.tensor([5.0])])
        assert param.item() == -5


def test_weight_decay_is_a_factor_before_the_step_whatever_the_lr():
    for lr in (0.5, 0.0):
        param = scalar(2.0)
        make({"x": param}, lr=lr, wd=0.1).apply([torch.tensor([1.0])])
        assert param.item() == pytest.approx(2.0 * 0.9 - lr)


def test_weight_decay_leaves_the_moments_alone():
    states = []
    for wd in (0.0, 0.1):
        param = scalar(2.0)
        opt = make({"x": param}, "adam", wd=wd)
        opt.apply([torch.tensor([1.0])])
        states.append((opt.state_dict()["m.x"].item(), param.item()))
    (m, plain), (decayed_m, decayed) = states
    assert m == decayed_m == pytest.approx(0.1)
    assert decayed == pytest.approx(plain - 0.2)


@pytest.mark.parametrize("wd", [None, 0.0])
def test_no_weight_decay_is_no_error(wd):
    param = scalar(2.0)
    make({"x": param}, lr=0.5, wd=wd).apply([torch.tensor([1.0])])
    assert param.item() == 1.5


def test_only_parameters_that_match_the_pattern_decay():
    expected = {r".*": (0.9, 0.9), r".*kernel": (0.9, 1.0), r"kernel": (1.0, 1.0)}
    for pattern, factors in expected.items():
        params = make_params()
        before = copies(params)
        opt = make(params, lr=0.0, wd=0.1, wd_pattern=pattern)
        opt.apply([torch.zeros(3, 2), torch.zeros(2)])
        for old, new, factor in zip(before, params.values(), factors, strict=True):
            torch.testing.assert_close(new.detach(), old * factor)


def odd_tensors(dtype):
    """Numbers of every kind, in several layouts."""
    values = [math.nan, math.inf, -math.inf, 1e-40, -0.0, 3e38, -2.5, 0.1]
    x = torch.tensor(values, dtype=dtype)
    images = x.reshape(1, 2, 2, 2).to(memory_format=torch.channels_last)
    turned = x.clone().reshape(2, 4).t()
    return [x, images.clone(), turned, torch.tensor(math.nan, dtype=dtype)]


def bits(tensors):
    kind = {4: torch.int32, 8: torch.int64}[tensors[0].element_size()]
    return [x.contiguous().view(kind).tolist() for x in tensors]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_masked_numbers_are_zero_whatever_they_were_and_others_stay_to_the_bit(dtype):
    for x in odd_tensors(dtype):
        before = bits([x])
        zero_unless(torch.tensor(True), x)
        assert bits([x]) == before
        zero_unless(torch.tensor(False), x)
        assert bits([x]) == bits([torch.zeros_like(x)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_step_is_taken_back_to_the_bit(dtype):
    for keep in (True, False):
        new = odd_tensors(dtype)
        old = [torch.full_like(x, math.pi) for x in new]
        expected = bits(new) if keep else bits(old)
        restore_unless(torch.tensor(keep), new, old)
        assert bits(new) == expected


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_step_with_bad_gradients_is_skipped_and_halves_the_loss_scale(kind, bad):
    params = make_params()
    opt = make(params, kind, wd=0.1, clip=1.0, loss_scaling=True)
    opt.apply(make_grads())
    before = copies(params)
    saved = {key: value.clone() for key, value in opt.state_dict().items()}
    assert saved["scale"] == 2**15 and saved["step"] == 1
    bad_grads = make_grads(2)
    bad_grads[1][0] = bad
    assert not torch.isfinite(opt.apply(bad_grads))
    for old, param in zip(before, params.values(), strict=True):
        assert torch.equal(old, param)  # Neither stepped nor decayed.
    for key, value in opt.state_dict().items():
        expected = {"scale": saved["scale"] / 2, "good_steps": 0 * value}
        assert torch.equal(value, expected.get(key, saved[key])), key
    # It goes on as if the bad step had never been.
    other = make_params()
    unspoilt = make(other, kind, wd=0.1, clip=1.0, loss_scaling=True)
    unspoilt.apply(make_grads())
    for each in (opt, unspoilt):
        each.apply(make_grads(3))
    for ours, theirs in zip(params.values(), other.values(), strict=True):
        assert torch.equal(ours, theirs)


def test_the_loss_scale_doubles_after_enough_good_steps_and_stays_above_one():
    opt = make({"x": scalar()}, loss_scaling=True)
    opt._good_steps.fill_(Optimizer.GROWTH_INTERVAL - 2)
    scales = []
    for _ in range(3):
        opt.apply([torch.tensor([0.0])])
        scales.append(opt.state_dict()["scale"].item())
    assert scales == [2**15, 2**16, 2**16]
    for _ in range(20):
        opt.apply([torch.tensor([math.nan])])
    assert opt.state_dict()["scale"] == 1


def test_the_loss_scale_keeps_small_float16_gradients_and_is_undone():
    def loss_of(param):
        # In float16, a gradient of 1e-8 is zero.
        return (param.half() * 1e-4).float().sum() * 1e-4

    found = {}
    for scaling in (False, True):
        param = scalar(0.0)
        opt = make({"x": param}, lr=1.0, loss_scaling=scaling)
        metrics = opt(loss_of(param))
        found[scaling] = -param.item()
    assert found[False] == 0
    assert found[True] == pytest.approx(1e-8, rel=0.05)
    assert metrics["test_loss_scale"] == 2**15
    assert metrics["test_grad_norm"].item() == pytest.approx(1e-8, rel=0.05)


def test_an_overflow_of_the_scaled_loss_skips_the_step_and_reports_the_scale():
    param = scalar(1.0)
    opt = make({"x": param}, loss_scaling=True)

    def loss_of(x):
        return (x.half() * 8.0).float().sum()  # 8 * 2^15 is beyond float16.

    metrics = opt(loss_of(param))
    assert param.item() == 1 and not torch.isfinite(metrics["test_grad_norm"])
    scales = [opt(loss_of(param))["test_loss_scale"].item() for _ in range(4)]
    assert scales == [2**13, 2**12, 2**12, 2**12]
    assert param.item() == pytest.approx(1 - 2 * 0.1 * 8)


@pytest.mark.parametrize("scaling", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_an_optimizer_goes_on_identically_from_its_saved_state(kind, scaling):
    settings = {"wd": 0.01, "clip": 1.0, "loss_scaling": scaling}
    params = make_params()
    opt = make(params, kind, **settings)
    # The loss scale doubles after the restart.
    opt._good_steps.fill_(Optimizer.GROWTH_INTERVAL - 5)
    for step in range(3):
        opt.apply(make_grads(step))
    saved = {key: value.clone() for key, value in opt.state_dict().items()}
    other = {key: nn.Parameter(p.detach().clone()) for key, p in params.items()}
    restored = make(other, kind, **settings)
    restored.load_state_dict(saved)
    for each in (opt, restored):
        for step in range(3, 6):
            each.apply(make_grads(step))
    for ours, theirs in zip(params.values(), other.values(), strict=True):
        assert torch.equal(ours, theirs)
    for key, value in opt.state_dict().items():
        assert torch.equal(value, restored.state_dict()[key]), key


def test_a_saved_state_that_does_not_fit_is_an_error_that_names_what():
    opt = make(make_params(), "adam")
    state = {key: value.clone() for key, value in opt.state_dict().items()}
    state["m.net.bias"] = torch.zeros(5)
    with pytest.raises(UsageError, match=r"test optimizer.*m\.net\.bias is 5 where 2"):
        opt.load_state_dict(state)
    del state["m.net.bias"]
    with pytest.raises(UsageError, match=r"1 missing \(m\.net\.bias\)"):
        opt.load_state_dict(state)


def test_precision_16_on_a_cpu_computes_in_float32():
    cpu = torch.device("cpu")
    expected = {
        "16": (torch.float32, torch.float32),
        "32": (torch.float32, torch.float32),
        "float32": (torch.float32, torch.float32),
        "bfloat16": (torch.bfloat16, torch.float32),
        "float16": (torch.float16, torch.float32),
        "float64": (torch.float64, torch.float64),
    }
    for name, (compute, param) in expected.items():
        precision = Precision(name, cpu)
        assert (precision.compute, precision.param) == (compute, param), name
        assert precision.loss_scaling == (name == "float16")
        with precision.context():
            x = torch.ones(2, 2, dtype=param)
            assert (x @ x).dtype == compute
            assert (x + x).dtype == param


def test_unknown_devices_are_errors_that_say_what_is_known():
    with pytest.raises(UsageError, match="device 'gpu': expected auto, cpu, cuda"):
        resolve_device("gpu")
    with pytest.raises(UsageError, match="device 'meta': expected auto, cpu, cuda"):
        resolve_device("meta")
    with pytest.raises(UsageError, match="'cuda:99' was asked for.*--device cpu"):
        resolve_device("cuda:99")


def test_device_auto_is_the_gpu_where_there_is_one():
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert resolve_device("auto").type == expected
    assert resolve_device("cpu").type == "cpu"
