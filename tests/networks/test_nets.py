"""Encoder, decoder, heads and the layers they share."""

import math
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dreamerv2.common import dists
from dreamerv2.common.config import Config, load_presets
from dreamerv2.common.errors import UsageError
from dreamerv2.common.nets import CPU_ROWS, MLP, Decoder, Encoder, select_keys
from dreamerv2.common.networks.conv import (
    conv,
    decoded_size,
    decoder_kernels,
    encoder_kernels,
    to_nchw,
    to_nhwc,
    transposed_conv,
    transposed_conv_of_1x1,
)
from dreamerv2.common.networks.layers import (
    ACTIVATIONS,
    DistLayer,
    LayerNorm,
    NormLayer,
    elu_,
)
from dreamerv2.common.torchutils import init_weights

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPES = {"left": (8, 8, 1), "right": (8, 8, 3), "joints": (4,), "speed": (2,)}
ENCODER = {"cnn_depth": 2, "cnn_kernels": [4, 3], "mlp_layers": [8, 5]}
DECODER = {"cnn_depth": 2, "cnn_kernels": [3, 4], "mlp_layers": [8, 5]}


DEFAULTS = Config(load_presets()["defaults"])


def make_encoder(shapes, **changes):
    return Encoder(shapes, **{**DEFAULTS.encoder, **changes})


def make_decoder(shapes, inputs, **changes):
    return Decoder(shapes, inputs, **{**DEFAULTS.decoder, **changes})


def make_mlp(inputs, shape, **changes):
    return MLP(inputs, shape, **{**DEFAULTS.critic, **changes})


def seeded(module, seed=0):
    init_weights(module, torch.Generator().manual_seed(seed))
    return module


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def observations(*batch, seed=0):
    return {
        key: randn(*batch, *shape, seed=seed + i)
        for i, (key, shape) in enumerate(SHAPES.items())
    }


def test_keys_match_from_the_start_and_by_rank():
    shapes = {"image": (8, 8, 1), "image_stat": (3,), "my_image": (8, 8, 1), "n": ()}
    assert select_keys(shapes, "image", 3) == ["image"]
    assert select_keys(shapes, "image", 1) == ["image_stat"]
    assert select_keys(shapes, ".*", 3) == ["image", "my_image"]
    assert select_keys(shapes, "$^", 1) == []


def test_the_embedding_is_flattened_in_the_order_height_width_channel():
    encoder = make_encoder({"image": (8, 10, 1)}, cnn_depth=4, cnn_kernels=[4])
    with torch.no_grad():
        encoder.conv0.weight.zero_()
        encoder.conv0.bias.zero_()
        for channel in range(4):
            # Channel c is the pixel at the patch's corner plus 1000 * c.
            encoder.conv0.weight[channel, 0, 0, 0] = 1
            encoder.conv0.bias[channel] = 1000 * channel
    image = torch.arange(80.0).reshape(1, 8, 10, 1)
    expected = [
        10 * (2 * row) + 2 * column + 1000 * channel
        for row in range(3)
        for column in range(4)
        for channel in range(4)
    ]
    assert encoder.out_size == 48
    assert encoder({"image": image})[0].tolist() == expected


def test_the_embedding_joins_images_and_vectors_in_the_order_of_their_keys():
    encoder = seeded(make_encoder(SHAPES, **ENCODER))
    assert encoder.cnn_keys == ["left", "right"]
    assert encoder.mlp_keys == ["joints", "speed"]
    obs = observations(2, 3)
    embed = encoder(obs)
    assert embed.shape == (2, 3, encoder.out_size)
    images = torch.cat([obs["left"], obs["right"]], -1).flatten(0, 1)
    x = F.elu(encoder.conv0(images.permute(0, 3, 1, 2)))
    x = F.elu(encoder.conv1(x)).permute(0, 2, 3, 1).reshape(2, 3, -1)
    y = torch.cat([obs["joints"], obs["speed"]], -1)
    y = F.elu(encoder.dense1(F.elu(encoder.dense0(y))))
    torch.testing.assert_close(embed, torch.cat([x, y], -1))


def test_embeddings_of_a_batch_are_those_of_its_elements():
    encoder = seeded(make_encoder(SHAPES, **ENCODER, norm="layer"))
    obs = observations(2, 3)
    alone = encoder({key: value[1, 2] for key, value in obs.items()})
    torch.testing.assert_close(encoder(obs)[1, 2], alone)


def test_the_default_kernels_fit_images_of_64x64():
    shapes = {"image": (64, 64, 1)}
    encoder = seeded(make_encoder(shapes, cnn_depth=1))
    decoder = seeded(make_decoder(shapes, 7, cnn_depth=1))
    assert encoder.out_size == 2 * 2 * 8
    assert encoder({"image": torch.zeros(2, 64, 64, 1)}).shape == (2, 32)
    assert decoder(torch.zeros(2, 7))["image"].mode().shape == (2, 64, 64, 1)


def test_the_decoder_computes_transposed_convolutions_from_one_pixel():
    decoder = seeded(make_decoder({"image": (8, 8, 3)}, 7, **DECODER))
    feat = randn(5, 7)
    x = decoder.convin(feat)[:, :, None, None]  # (5, 32 * depth, 1, 1)
    assert x.shape[1] == 64
    x = F.elu(decoder.conv0(x))
    assert x.shape[1:] == (2, 3, 3)
    expected = decoder.conv1(x).permute(0, 2, 3, 1)
    torch.testing.assert_close(decoder(feat)["image"].mode(), expected)


def assert_same_with_gradients(ours, theirs, inputs):
    torch.testing.assert_close(ours, theirs)
    weight = randn(*ours.shape, seed=1)
    grads = [torch.autograd.grad((y * weight).sum(), inputs) for y in (ours, theirs)]
    for found, expected in zip(*grads, strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("size", [6, 8, 9, 16])
def test_of_few_places_it_is_the_convolution_which_elu_may_overwrite(size):
    layer = seeded(nn.Conv2d(128, 3, 4, stride=2))
    nn.init.normal_(layer.bias)
    x = to_nchw(randn(2, size, size, 128)).requires_grad_()
    inputs = [x, layer.weight, layer.bias]
    assert_same_with_gradients(elu_(conv(layer, x)), F.elu(layer(x)), inputs)


@pytest.mark.parametrize("kernel", [1, 5])
def test_of_1x1_images_it_is_the_transposed_convolution_with_its_gradient(kernel):
    layer = seeded(nn.ConvTranspose2d(6, 3, kernel, stride=2))
    nn.init.normal_(layer.bias)
    x = randn(4, 6).requires_grad_()
    inputs = [x, layer.weight, layer.bias]
    plain = layer(x[:, :, None, None])
    assert_same_with_gradients(transposed_conv_of_1x1(layer, x), plain, inputs)


@pytest.mark.parametrize("kernel", [2, 5, 6])
@pytest.mark.parametrize("channels", [1, 5])
def test_for_few_channels_it_is_the_transposed_convolution_with_its_gradient(
    kernel, channels
):
    layer = seeded(nn.ConvTranspose2d(6, channels, kernel, stride=2))
    nn.init.normal_(layer.bias)
    x = randn(4, 6, 3, 5).requires_grad_()
    inputs = [x, layer.weight, layer.bias]
    assert_same_with_gradients(transposed_conv(layer, x), layer(x), inputs)


def test_the_decoder_splits_its_image_back_into_the_keys():
    decoder = seeded(make_decoder(SHAPES, 7, **DECODER))
    feat = randn(2, 3, 7)
    out = decoder(feat)
    assert list(out) == ["left", "right", "joints", "speed"]
    for key, dist in out.items():
        assert isinstance(dist, dists.MSEDist)
        assert dist.mode().shape == (2, 3, *SHAPES[key])
        assert dist.log_prob(torch.zeros(2, 3, *SHAPES[key])).shape == (2, 3)
    joined = to_nhwc(
        decoder.conv1(
            F.elu(decoder.conv0(decoder.convin(feat.flatten(0, 1))[..., None, None]))
        )
    )
    joined = joined.reshape(2, 3, 8, 8, 4)
    torch.testing.assert_close(out["left"].mode(), joined[..., :1])
    torch.testing.assert_close(out["right"].mode(), joined[..., 1:])
    hidden = F.elu(decoder.dense1(F.elu(decoder.dense0(feat))))
    speed = decoder.dense_speed.out(hidden)
    torch.testing.assert_close(out["speed"].mode(), speed)


def test_the_images_likelihood_is_of_unit_variance_over_all_its_pixels():
    decoder = seeded(make_decoder({"image": (8, 8, 3)}, 7, **DECODER))
    dist = decoder(randn(1, 7))["image"]
    target = dist.mode() + 2.0
    expected = 8 * 8 * 3 * (-2.0 - 0.5 * math.log(2 * math.pi))
    assert dist.log_prob(target).item() == pytest.approx(expected, rel=1e-5)


def test_layer_norm_sits_between_every_map_and_its_activation_but_the_image():
    encoder = make_encoder(SHAPES, **ENCODER, norm="layer")
    decoder = make_decoder(SHAPES, 7, **DECODER, norm="layer")
    norms = [n for n, m in encoder.named_modules() if isinstance(m, LayerNorm)]
    assert norms == ["convnorm0", "convnorm1", "densenorm0", "densenorm1"]
    norms = [n for n, m in decoder.named_modules() if isinstance(m, LayerNorm)]
    assert norms == ["convnorm0", "densenorm0", "densenorm1"]
    head = seeded(make_mlp(4, (), layers=1, units=6, norm="layer"))
    x = randn(3, 4)
    hidden = head.dense0(x)
    center = hidden - hidden.mean(-1, keepdim=True)
    hidden = center / (hidden.var(-1, correction=0, keepdim=True) + 1e-3).sqrt()
    torch.testing.assert_close(
        head(x).mode(), head.out.out(F.elu(hidden))[..., 0], rtol=1e-4, atol=1e-5
    )


def test_layer_norm_has_an_epsilon_of_a_thousandth():
    x = torch.tensor([[0.01, -0.01, 0.02, -0.02]])
    variance = (2 * 0.01**2 + 2 * 0.02**2) / 4
    torch.testing.assert_close(LayerNorm(4)(x), x / math.sqrt(variance + 1e-3))


def test_layer_norm_normalizes_in_float32_and_keeps_the_dtype():
    x = randn(2, 64) * 100
    half = LayerNorm(64)(x.bfloat16())
    assert half.dtype == torch.bfloat16
    expected = LayerNorm(64)(x.bfloat16().float()).bfloat16()
    assert torch.equal(half, expected)
    assert isinstance(NormLayer("none", 64), nn.Identity)


@pytest.mark.parametrize("strange", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_elu_in_place_is_elu_and_has_its_gradient(dtype, strange):
    x = to_nchw(randn(3, 9, 7, 1000)).to(dtype).requires_grad_()  # Of some pieces.
    if strange:
        values = torch.tensor([torch.nan, torch.inf, -torch.inf, 0.0, 90.0, -200.0])
        x = values.to(dtype).requires_grad_()
    ours, theirs = elu_(y := x * 1), F.elu(x * 1, inplace=True)
    assert ours.data_ptr() == y.data_ptr() and ours.stride() == x.stride()
    torch.testing.assert_close(ours, theirs, equal_nan=True)
    seed = randn(*x.shape).to(dtype)
    grads = [torch.autograd.grad(y, x, seed)[0] for y in (ours, theirs)]
    torch.testing.assert_close(*grads, equal_nan=True)


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_every_activation_runs(name):
    out = seeded(make_mlp(4, 2, layers=2, units=6, act=name))(randn(3, 4)).mode()
    assert out.shape == (3, 2) and torch.isfinite(out).all()


def test_no_matching_key_is_an_error_that_lists_the_observations():
    described = r"left \(8, 8, 1\), right \(8, 8, 3\), joints \(4,\), speed \(2,\)"
    with pytest.raises(UsageError, match=f"encoder.cnn_keys 'img'.*{described}"):
        make_encoder(SHAPES, cnn_keys="img", mlp_keys="$^")
    with pytest.raises(UsageError, match=f"decoder.cnn_keys 'img'.*{described}"):
        make_decoder(SHAPES, 7, cnn_keys="img", mlp_keys="$^")


def test_images_of_two_sizes_are_an_error_that_names_both():
    shapes = {"near": (8, 8, 1), "far": (8, 16, 1)}
    for make in (make_encoder, lambda shapes: make_decoder(shapes, 7)):
        with pytest.raises(UsageError, match=r"near \(8, 8, 1\), far \(8, 16, 1\)"):
            make(shapes)
    # Choosing one of them is the way out that the message names.
    make_encoder(shapes, cnn_keys="near", cnn_kernels=[4])


def test_kernels_that_do_not_fit_the_image_are_an_error_with_the_sizes():
    shapes = {"image": (8, 8, 1)}
    fits = "use --encoder.cnn_kernels 4 --decoder.cnn_kernels 3 4"
    with pytest.raises(UsageError, match=f"layer 2 sees 1x1 .* kernel of 4; {fits}"):
        make_encoder(shapes, cnn_kernels=[4, 3, 4])
    with pytest.raises(UsageError, match=r"make images of 64x64.*\['image'\] are 8x8"):
        make_decoder(shapes, 7)
    with pytest.raises(UsageError, match=fits):
        make_decoder(shapes, 7)
    with pytest.raises(UsageError, match="64x64.*are 64x32: use square images"):
        make_decoder({"image": (64, 32, 1)}, 7)


def test_the_formula_in_the_decoders_error_is_right():
    for kernels in ([3], [3, 4], [5, 5, 6, 6], [2, 3, 4]):
        size = 1
        for kernel in kernels:
            size = 2 * (size - 1) + kernel
        shapes = {"image": (size, size, 1)}
        decoder = make_decoder(shapes, 3, cnn_depth=1, cnn_kernels=kernels)
        assert decoder(randn(1, 3))["image"].mode().shape == (1, size, size, 1)


@pytest.mark.parametrize("size", [16, 32, 63, 96, 128])
def test_the_kernels_that_errors_name_make_networks_of_that_size(size):
    shapes = {"image": (size, size, 1)}
    with pytest.raises(UsageError) as error:
        make_decoder(shapes, 3, cnn_kernels=[2])
    flags = re.findall(r"--(\w+)\.cnn_kernels ((?: ?\d+)+)", str(error.value))
    kernels = {name: [int(k) for k in text.split()] for name, text in flags}
    encoder = make_encoder(shapes, cnn_depth=1, cnn_kernels=kernels["encoder"])
    assert encoder({"image": torch.zeros(1, size, size, 1)}).shape[0] == 1
    decoder = make_decoder(shapes, 3, cnn_depth=1, cnn_kernels=kernels["decoder"])
    assert decoder(randn(1, 3))["image"].mode().shape == (1, size, size, 1)


def test_kernels_are_found_for_every_size():
    for size in range(16, 257):
        assert decoded_size(decoder_kernels(size)) == size
        assert set(decoder_kernels(size)) <= set(range(3, 9))
        left = size
        for kernel in encoder_kernels(size):
            assert left >= kernel
            left = (left - kernel) // 2 + 1
        assert left in range(2, 6)
    assert (encoder_kernels(64), decoder_kernels(64)) == ([4, 4, 4, 4], [5, 5, 6, 6])
    assert decoder_kernels(2) is None


HEADS = {
    "mse": dists.MSEDist,
    "normal": dists.NormalDist,
    "binary": dists.BinaryDist,
    "tanh_normal": dists.TanhNormalDist,
    "trunc_normal": dists.TruncNormalDist,
    "onehot": dists.OneHotDist,
}


@pytest.mark.parametrize("dist", ["mse", "binary", "onehot", *DistLayer.WITH_STD])
def test_every_head_gives_log_probs_of_the_batch_shape_in_float32(dist):
    head = seeded(make_mlp(4, 3, layers=1, units=6, dist=dist))
    with torch.autocast("cpu", torch.bfloat16):
        out = head(randn(2, 5, 4))
    assert isinstance(out, HEADS[dist])
    value = torch.zeros(2, 5, 3)
    value[..., 0] = 1.0
    log_prob = out.log_prob(value)
    assert log_prob.shape == (2, 5) and log_prob.dtype == torch.float32
    assert torch.isfinite(log_prob).all()


def test_scalar_heads_have_the_shape_of_the_batch():
    for dist in ("mse", "normal", "binary"):
        out = seeded(make_mlp(4, (), layers=1, units=6, dist=dist))(randn(2, 5, 4))
        assert out.mode().shape == out.log_prob(torch.ones(2, 5)).shape == (2, 5)


def test_a_normal_heads_std_is_positive_whatever_the_network_says():
    raw = torch.tensor([[-200.0, -1.0, 0.0, 30.0]])
    layer = DistLayer(4, (4,), "normal", min_std=0.01)
    std = layer.make(torch.zeros(1, 4), raw).std[0]
    expected = [0.01, 0.01 + math.log1p(math.exp(-1)), 0.01 + math.log(2), 30.01]
    assert std.tolist() == pytest.approx(expected)
    assert torch.isfinite(layer.make(raw, raw).log_prob(raw)).all()


def test_action_heads_map_to_mean_and_std_as_documented():
    out, raw = torch.tensor([[10.0, -0.5]]), torch.tensor([[1.0, -2.0]])
    trunc = DistLayer(4, (2,), "trunc_normal", min_std=0.1).make(out, raw)
    assert trunc.loc[0].tolist() == pytest.approx([math.tanh(10), math.tanh(-0.5)])
    sigmoid = [2 / (1 + math.exp(-s / 2)) + 0.1 for s in (1.0, -2.0)]
    assert trunc.std[0].tolist() == pytest.approx(sigmoid)
    tanh = DistLayer(4, (2,), "tanh_normal", min_std=0.1).make(out, raw)
    base = [5 * math.tanh(2), 5 * math.tanh(-0.1)]
    assert tanh._base.loc[0].tolist() == pytest.approx(base)
    softplus = [math.log1p(math.exp(s)) + 0.1 for s in (1.0, -2.0)]
    assert tanh._base.std[0].tolist() == pytest.approx(softplus)


def test_kernels_start_glorot_uniform_with_the_fans_of_keras_and_biases_at_zero():
    # A linear map, a convolution and a transposed one, each with its two fans.
    layers = [
        (nn.Linear(30, 50), 30, 50),
        (nn.Conv2d(8, 16, 4), 8 * 16, 16 * 16),
        (nn.ConvTranspose2d(16, 8, 5), 16 * 25, 8 * 25),
    ]
    for layer, fan_in, fan_out in layers:
        seeded(layer)
        limit = math.sqrt(6 / (fan_in + fan_out))
        weight = layer.weight.detach()
        assert 0.98 * limit < weight.abs().max() <= limit
        assert weight.std().item() == pytest.approx(limit / math.sqrt(3), rel=0.05)
        assert not layer.bias.any()


def test_channel_views_undo_each_other():
    x = randn(2, 3, 4, 5)
    assert to_nchw(x).shape == (2, 5, 3, 4)
    assert torch.equal(to_nhwc(to_nchw(x)), x)


def test_many_rows_go_through_dense_layers_in_pieces_with_the_same_result():
    torch.manual_seed(0)
    mlp = make_mlp(5, (), layers=2, units=7, norm="layer").double()
    x = torch.randn(3, CPU_ROWS, 5, dtype=torch.float64, requires_grad=True)
    found = mlp(x).mean()
    expected = torch.stack([mlp(rows).mean() for rows in x])
    assert found.shape == (3, CPU_ROWS)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    inputs = [x, *mlp.parameters()]
    grads = [torch.autograd.grad((y**2).sum(), inputs) for y in (found, expected)]
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)
