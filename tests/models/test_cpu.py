"""The hand-written passes of the CPU: gradients against finite differences, values against torch's own layers, and
packs against their rows alone."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck

from scalectl.models import primitives as p

K, B, T, D, OUT, H = 2, 2, 5, 6, 4, 2
M = B * T
CPU = torch.device("cpu")


def draw(*shape, seed=0):
    held = torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)), dtype=torch.float64)
    return held.requires_grad_()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("onto", [True, False])
def test_gradients_of_a_linear_layer(bias, onto):
    held = draw(K, M, D), draw(K, D, OUT), draw(K, OUT) if bias else None, draw(K, M, OUT) if onto else None
    assert gradcheck(p.linear, held)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shift", [True, False])
def test_gradients_of_a_norm_and_the_matrix_that_takes_its_scale(bias, shift):
    def layer(x, scale, shift, weight, bias):
        return p.linear(p.layer_norm(x, scale, shift), weight, bias)

    shifts, biases = draw(K, D, seed=1) if shift else None, draw(K, OUT) if bias else None
    assert gradcheck(layer, (draw(K, M, D), draw(K, D), shifts, draw(K, D, OUT), biases))


@pytest.mark.parametrize("norm", ["layer", "rms"])
def test_gradients_of_a_tied_head(norm):
    def head(x, scale, table):
        normed = p.layer_norm(x, scale, None) if norm == "layer" else p.rms_norm(x, scale)
        return p.linear(normed, table.transpose(1, 2), None)

    assert gradcheck(head, (draw(K, M, D), draw(K, D), draw(K, 7, D)))


@pytest.mark.parametrize("length", [5, 96])  # whole, and in blocks of queries
@pytest.mark.parametrize("width", [4, 16])  # heads as columns, and as rows
@pytest.mark.parametrize("rotary", [True, False])
def test_gradients_of_attention(length, width, rotary):
    turns = p.rotary_turns(length, width, torch.float64, CPU) if rotary else None
    qkv = draw(1, 2 * length, 3 * H * width)
    assert gradcheck(lambda held: p.causal_attention(held, 2, H, turns), (qkv,), fast_mode=True)


@pytest.mark.parametrize(("length", "other"), [(5, 3), (5, 9), (96, 70)])
@pytest.mark.parametrize("width", [4, 16])
def test_gradients_of_attention_without_a_mask(length, other, width):
    qkv, kv = draw(K, 2 * length, 3 * H * width), draw(K, 2 * other, 2 * H * width)
    q = draw(K, 2 * length, H * width, seed=1)
    assert gradcheck(lambda x: p.full_attention(x, 2, H), (qkv,), fast_mode=True)
    assert gradcheck(lambda x, y: p.cross_attention(x, y, 2, H), (q, kv), fast_mode=True)


@pytest.mark.parametrize(("T", "S"), [(7, 7), (7, 96), (96, 7)])
@pytest.mark.parametrize("width", [8, 16])
def test_attention_without_a_mask_equals_torch_multihead_attention_and_its_gradients(T, S, width):
    heads, N = 3, 2
    D = heads * width
    mha = torch.nn.MultiheadAttention(D, heads, batch_first=True, dtype=torch.float64)
    x, y = draw(N, T, D), draw(N, S, D, seed=1)
    to_q, to_kv = mha.in_proj_weight.T.split((D, 2 * D), dim=1)

    def ours(x, y):
        q = x @ to_q + mha.in_proj_bias[:D]
        kv = y @ to_kv + mha.in_proj_bias[D:]
        if y is x:
            mixed = p.full_attention(torch.cat([q, kv], dim=-1).view(1, N * T, 3 * D), N, heads)
        else:
            mixed = p.cross_attention(q.view(1, N * T, D), kv.view(1, N * S, 2 * D), N, heads)
        return mha.out_proj(mixed.view(N, T, D))

    for other in (x, y):
        asked = [x, *([y] if other is y else []), *mha.parameters()]
        found, expected = ours(x, other), mha(x, other, other)[0]
        assert (found - expected).abs().max() < 1e-12
        slope = torch.linspace(-1, 1, expected.numel(), dtype=torch.float64).view_as(expected)
        for a, b in zip(*(torch.autograd.grad(held, asked, slope) for held in (found, expected)), strict=True):
            assert (a - b).abs().max() < 1e-12


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_attention_without_a_mask_in_half_precision_is_near_the_exact_one(dtype):
    q, kv = (
        torch.randn(2, 3 * T, X, generator=torch.Generator().manual_seed(T)).to(dtype) for T, X in ((40, 24), (96, 48))
    )
    exact = p.cross_attention(q.double(), kv.double(), 3, 3)
    assert (p.cross_attention(q, kv, 3, 3).double() - exact).abs().max() < 0.02


def test_gradients_of_gelu_and_of_the_loss():
    targets = torch.randint(7, (K, M), generator=torch.Generator().manual_seed(0))
    assert gradcheck(p.gelu, (draw(3, 8),))
    assert gradcheck(lambda logits: p.token_losses(logits, targets), (draw(K, M, 7),))


def test_values_are_those_of_torch():
    x, scale, shift, weight, bias = (draw(*shape) for shape in ((K, M, D), (K, D), (K, D), (K, D, OUT), (K, OUT)))
    for k in range(K):
        normed = F.layer_norm(x[k], (D,), scale[k], shift[k])
        found = p.linear(p.layer_norm(x, scale, shift), weight, bias)[k]
        assert (found - (normed @ weight[k] + bias[k])).abs().max() < 1e-12
        found = p.linear(p.rms_norm(x, scale), weight, bias)[k]
        assert (found - (F.rms_norm(x[k], (D,), scale[k], eps=p.EPS) @ weight[k] + bias[k])).abs().max() < 1e-12
    wide = 9 * draw(50, 64)
    assert (p.gelu(wide) - F.gelu(wide, approximate="tanh")).abs().max() < 1e-12
    logits, targets = 30 * draw(1, 9, 64), torch.arange(9)[None]
    expected = F.cross_entropy(logits[0], targets[0], reduction="none")
    assert (p.token_losses(logits, targets)[0] - expected).abs().max() < 1e-12


def test_a_loss_far_beyond_what_a_probability_can_hold_is_still_finite():
    logits = torch.tensor([[[0.0, 500.0]]])
    assert p.token_losses(logits, torch.tensor([[0]])).item() == 500.0


def test_nothing_is_kept_for_a_backward_pass_that_will_not_come():
    x = draw(1, 4, 8)
    with torch.no_grad():
        assert torch.equal(p.gelu(x), p.gelu(x.detach().requires_grad_()))


LAYERS = {
    "linear": (lambda x, w, b: p.linear(x, w, b), ("MD", "DF", "F")),
    "residual": (lambda x, w, b, onto: p.linear(x, w, b, onto), ("MF", "FD", "D", "MD")),
    "normed": (lambda x, s, t, w, b: p.linear(p.layer_norm(x, s, t), w, b), ("MD", "D", "D", "DF", "F")),
    "rms": (lambda x, s, w: p.linear(p.rms_norm(x, s), w, None), ("MD", "D", "DF")),
    "head": (lambda x, s, t, w: p.linear(p.layer_norm(x, s, t), w.transpose(1, 2), None), ("MD", "D", "D", "VD")),
    "gelu": (lambda x: p.gelu(x), ("MF",)),
    "loss": (lambda x: p.token_losses(x, torch.arange(x.shape[1]).expand(len(x), -1) % x.shape[2]), ("MV",)),
}


def outcome(layer, held):
    """The result and every gradient."""
    held = [x.clone().requires_grad_() for x in held]
    result = layer(*held)
    slope = torch.linspace(-1, 1, result[0].numel()).view(1, *result.shape[1:]).to(result.dtype)
    result.backward(slope.expand_as(result).contiguous())
    return [result.detach(), *(x.grad for x in held)]


def assert_packs_equal_rows(layer, held):
    packed = outcome(layer, held)
    for k in range(len(held[0])):
        alone = outcome(layer, [x[k : k + 1] for x in held])
        assert all(torch.equal(whole[k : k + 1], one) for whole, one in zip(packed, alone, strict=True))


@pytest.mark.parametrize("k", [2, 8, 32])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(32, 8), (96, 16), (256, 16), (64, 64)], ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_a_packed_layer_equals_its_rows_alone_bit_for_bit(name, shape, dtype, k):
    layer, letters = LAYERS[name]
    sizes = {"M": shape[0], "D": shape[1], "F": 4 * shape[1], "V": 64}
    held = [
        torch.randn(k, *(sizes[letter] for letter in one), generator=torch.Generator().manual_seed(i)).to(dtype)
        for i, one in enumerate(letters)
    ]
    assert_packs_equal_rows(layer, held)


@pytest.mark.parametrize("k", [2, 8, 32])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("rotary", [True, False])
@pytest.mark.parametrize("shape", [(1, 32, 4, 2), (4, 24, 4, 4), (2, 96, 2, 8), (2, 128, 2, 16)], ids=str)
def test_packed_attention_equals_its_rows_alone_bit_for_bit(shape, rotary, dtype, k):
    sequences, length, heads, width = shape
    turns = p.rotary_turns(length, width, dtype, CPU) if rotary else None
    qkv = torch.randn(k, sequences * length, 3 * heads * width, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert_packs_equal_rows(lambda x: p.causal_attention(x, sequences, heads, turns), [qkv])


@pytest.mark.parametrize("k", [2, 8, 32])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "shape", [(32, 5, 32, 4, 2), (4, 24, 40, 4, 4), (32, 17, 9, 2, 8), (2, 128, 96, 2, 16)], ids=str
)
def test_packed_attention_without_a_mask_equals_its_rows_alone_bit_for_bit(shape, dtype, k):
    sequences, length, other, heads, width = shape
    D = heads * width
    held = [
        torch.randn(k, sequences * T, X, generator=torch.Generator().manual_seed(X)).to(dtype)
        for T, X in ((length, 3 * D), (length, D), (other, 2 * D))
    ]
    assert_packs_equal_rows(lambda x: p.full_attention(x, sequences, heads), held[:1])
    assert_packs_equal_rows(lambda x, y: p.cross_attention(x, y, sequences, heads), held[1:])


def test_a_row_that_is_not_a_number_meets_no_other_row():
    qkv = torch.randn(2, 96, 3 * 16, generator=torch.Generator().manual_seed(0))
    sick = qkv.clone()
    sick[1, 5, 3] = math.nan
    well, ill = (outcome(lambda x: p.causal_attention(x, 1, 4), [held]) for held in (qkv, sick))
    assert all(torch.equal(a[0], b[0]) for a, b in zip(well, ill, strict=True))
    assert ill[0][1].isnan().any()
