"""Forward and backward of the packed layers on a CPU core, where a step is bound by passes over memory and by calls.

Each function says what it saves. Measured on one core of an AMD EPYC (Zen 4), torch 2.13; legend as in `primitives`;
G = N H heads of all sequences.

Two rules keep a packed row bit-equal to its solo run: what chooses between two ways to compute is the shape of one row,
and a kernel meets each row as a whole number of its vectors (`sweep.pack.packable`), because the ragged end of an array
is rounded by other instructions.
"""

# ruff: noqa: D102 - the forward and the backward of a Function are documented by its class
from __future__ import annotations

import functools
import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import Function

from scalectl.models.blocks import spans

LOG2E = 1 / math.log(2)
NARROW = 16  # heads narrower than this are kept as (E, T): products of 8 columns run at 14 GFLOP/s, of 8 rows at 50
# In fp32 oneDNN multiplies by a matrix at 100 GFLOP/s where the default library reaches 85, and adds a bias in passing:
# a step x1.04 at width 64, x1.09 at 128, x1.2 at 256. Its only door in torch is the one that compiled graphs use.
ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
LARGE = 1 << 23  # multiplications of a product from which that pays


class Embedding(Function):
    """Row k of the result is looked up in table k."""

    @staticmethod
    def forward(ctx: Any, index_KM: Tensor, table_KVD: Tensor) -> Tensor:
        K, V, D = table_KVD.shape
        ctx.index_KM, ctx.V = index_KM + _offsets(K, V), V
        return torch.embedding(table_KVD.reshape(K * V, D), ctx.index_KM)

    @staticmethod
    def backward(ctx: Any, grad_KMD: Tensor) -> tuple[Tensor | None, ...]:
        K, _, D = grad_KMD.shape
        table = torch.ops.aten.embedding_dense_backward(grad_KMD, ctx.index_KM, K * ctx.V, -1, False)
        return None, table.view(K, ctx.V, D)


@functools.lru_cache(maxsize=64)
def _offsets(K: int, V: int) -> Tensor:
    return torch.arange(K).unsqueeze(1) * V


class Positions(Function):
    """x and the same table, of every row or of none, added to each of its B sequences."""

    constants = (1,)  # inputs that may be neither parameter nor activation: sinusoids

    @staticmethod
    def forward(ctx: Any, x_KMD: Tensor, table_KTD: Tensor, B: int) -> Tensor:
        K, M, D = x_KMD.shape
        ctx.B = B
        return (x_KMD.view(K, B, M // B, D) + table_KTD.unsqueeze(1)).view(K, M, D)

    @staticmethod
    def backward(ctx: Any, grad_KMD: Tensor) -> tuple[Tensor | None, ...]:
        K, M, D = grad_KMD.shape
        table = grad_KMD.view(K, ctx.B, M // ctx.B, D).sum(1) if ctx.needs_input_grad[1] else None
        return grad_KMD, table, None


class Linear(Function):
    """x W + b + onto. The residual sum costs no pass of its own: it is where the product accumulates."""

    @staticmethod
    def forward(ctx: Any, x_KMD: Tensor, weight_KDF: Tensor, bias_KF: Tensor | None, onto_KMF: Tensor | None) -> Tensor:
        ctx.save_for_backward(x_KMD, weight_KDF)
        ctx.biased, ctx.onto = bias_KF is not None, onto_KMF is not None
        return _product(x_KMD, weight_KDF, bias_KF, onto_KMF)

    @staticmethod
    def backward(ctx: Any, grad_KMF: Tensor) -> tuple[Tensor | None, ...]:
        x_KMD, weight_KDF = ctx.saved_tensors
        bias = grad_KMF.sum(1) if ctx.biased else None
        onto = grad_KMF if ctx.onto else None
        return _input_gradient(grad_KMF, weight_KDF), _weight_gradient(x_KMD, grad_KMF, weight_KDF), bias, onto


class Pixels(Function):
    """x W + b of whole numbers from 0 to `levels`, brought to -1 ... 1; they have no gradient."""

    @staticmethod
    def forward(ctx: Any, numbers_KMD: Tensor, weight_KDF: Tensor, bias_KF: Tensor, levels: int) -> Tensor:
        x_KMD = numbers_KMD.to(weight_KDF.dtype).mul_(2 / levels).sub_(1)
        ctx.save_for_backward(x_KMD, weight_KDF)
        return _product(x_KMD, weight_KDF, bias_KF, None)

    @staticmethod
    def backward(ctx: Any, grad_KMF: Tensor) -> tuple[Tensor | None, ...]:
        x_KMD, weight_KDF = ctx.saved_tensors
        return None, _weight_gradient(x_KMD, grad_KMF, weight_KDF), grad_KMF.sum(1), None


class Symbols(Function):
    """x W + b of symbols, a bit as its own number, others one-hot at each place; they have no gradient."""

    @staticmethod
    def forward(ctx: Any, tokens_KBT: Tensor, weight_KDF: Tensor, bias_KF: Tensor, V: int) -> Tensor:
        x_KBD = encoded(tokens_KBT, V, weight_KDF.dtype)
        ctx.save_for_backward(x_KBD, weight_KDF)
        return _product(x_KBD, weight_KDF, bias_KF, None)

    @staticmethod
    def backward(ctx: Any, grad_KBF: Tensor) -> tuple[Tensor | None, ...]:
        x_KBD, weight_KDF = ctx.saved_tensors
        return None, _weight_gradient(x_KBD, grad_KBF, weight_KDF), grad_KBF.sum(1), None


def encoded(tokens_KBT: Tensor, V: int, dtype: torch.dtype) -> Tensor:
    """Symbols as numbers: bits as they are, others one-hot, shape (K, B, T) or (K, B, T V)."""
    if V == 2:
        return tokens_KBT.to(dtype)
    symbol_V = torch.arange(V, device=tokens_KBT.device)
    return (tokens_KBT.unsqueeze(-1) == symbol_V).flatten(2).to(dtype)  # one_hot asks for the smallest token


class ScaledLinear(Function):
    """(u s + t) W + b with the scale s and the shift t of a norm folded into the matrix; saves u and the parameters."""

    @staticmethod
    def forward(
        ctx: Any,
        unit_KMD: Tensor,
        scale_KD: Tensor,
        shift_KD: Tensor | None,
        weight_KDF: Tensor,
        bias_KF: Tensor | None,
    ) -> Tensor:
        ctx.save_for_backward(unit_KMD, scale_KD, shift_KD, weight_KDF)
        ctx.biased = bias_KF is not None
        if shift_KD is not None:
            # a product of one row rounds by where it lies: sums of elements do not
            shifted_KF = (weight_KDF * shift_KD.unsqueeze(2)).sum(1)
            bias_KF = shifted_KF if bias_KF is None else shifted_KF.add_(bias_KF)
        return _product(unit_KMD, weight_KDF * scale_KD.unsqueeze(2), bias_KF, None)

    @staticmethod
    def backward(ctx: Any, grad_KMF: Tensor) -> tuple[Tensor | None, ...]:
        unit_KMD, scale_KD, shift_KD, weight_KDF = ctx.saved_tensors
        scale_KD1 = scale_KD.unsqueeze(2)
        unit = _input_gradient(grad_KMF, weight_KDF * scale_KD1)
        weight = _weight_gradient(unit_KMD, grad_KMF, weight_KDF)
        scale = (weight * weight_KDF).sum(2)
        weight.mul_(scale_KD1)
        bias = shift = None
        if ctx.biased or shift_KD is not None:
            bias = grad_KMF.sum(1)
        if shift_KD is not None:
            weight.addcmul_(shift_KD.unsqueeze(2), bias.unsqueeze(1))
            shift = (weight_KDF * bias.unsqueeze(1)).sum(2)
        return unit, scale, shift, weight, bias if ctx.biased else None


def _product(x_KMD: Tensor, weight_KDF: Tensor, bias_KF: Tensor | None, onto_KMF: Tensor | None) -> Tensor:
    if _is_large(x_KMD, weight_KDF):
        product_KMF = _large_product(x_KMD, weight_KDF, bias_KF)
        return product_KMF if onto_KMF is None else product_KMF.add_(onto_KMF)
    if onto_KMF is not None:
        if bias_KF is None:
            return torch.baddbmm(onto_KMF, x_KMD, weight_KDF)
        return (onto_KMF + bias_KF.unsqueeze(1)).baddbmm_(x_KMD, weight_KDF)
    if bias_KF is None:
        return torch.bmm(x_KMD, weight_KDF)
    return torch.baddbmm(bias_KF.unsqueeze(1), x_KMD, weight_KDF)


def _input_gradient(grad_KMF: Tensor, weight_KDF: Tensor) -> Tensor:
    if _is_large(grad_KMF, weight_KDF):
        return _large_product(grad_KMF, weight_KDF.mT, None)
    return torch.bmm(grad_KMF, weight_KDF.mT)


def _is_large(x_KMD: Tensor, weight_KDF: Tensor) -> bool:
    _, D, F = weight_KDF.shape
    return ONEDNN and x_KMD.dtype == torch.float32 and min(D, F) >= 64 and x_KMD.shape[1] * D * F >= LARGE


def _large_product(x_KMD: Tensor, weight_KDF: Tensor, bias_KF: Tensor | None) -> Tensor:
    """The product row by row: the engine takes such rows one at a time."""
    rows = [
        torch.ops.mkldnn._linear_pointwise(x_MD, weight_DF.mT, bias_F, "none", [], "")
        for x_MD, weight_DF, bias_F in zip(
            x_KMD.unbind(0), weight_KDF.unbind(0), [None] * len(x_KMD) if bias_KF is None else bias_KF, strict=True
        )
    ]
    return rows[0].unsqueeze(0) if len(rows) == 1 else torch.stack(rows)


def _weight_gradient(x_KMD: Tensor, grad_KMF: Tensor, weight_KDF: Tensor) -> Tensor:
    """xᵀ grad, laid out as the matrix is: a tied head is a transposed table."""
    if weight_KDF.stride(-1) != 1:
        return torch.bmm(grad_KMF.mT, x_KMD).mT
    return torch.bmm(x_KMD.mT, grad_KMF)


class Standardise(Function):
    """(x - mean) / √(variance + eps) along D; saves its result and the divisor."""

    @staticmethod
    def forward(ctx: Any, x_KMD: Tensor, eps: float) -> Tensor:
        D = x_KMD.shape[-1]
        # with scale and shift the kernel takes a path that is 1.8 times faster than without; in float32 beside bf16 it
        # keeps the deviations in float32
        one, zero = _constants(D, _wide(x_KMD.dtype))
        unit_KMD, _, inverse_KM1 = torch.native_layer_norm(x_KMD, (D,), one, zero, eps)
        ctx.save_for_backward(unit_KMD, inverse_KM1)
        return unit_KMD

    @staticmethod
    def backward(ctx: Any, grad_KMD: Tensor) -> tuple[Tensor | None, ...]:
        unit_KMD, inverse_KM1 = ctx.saved_tensors
        D = unit_KMD.shape[-1]
        one, zero = _constants(D, inverse_KM1.dtype)
        # the kernel's input is the unit itself, of mean 0 and deviation 1: one activation serves norm and matrix
        x_KMD, _, _ = torch.ops.aten.native_layer_norm_backward(
            grad_KMD, unit_KMD, (D,), *_standard(inverse_KM1.shape, inverse_KM1.dtype), one, zero, [True, False, False],
        )  # fmt: skip
        return x_KMD.mul_(inverse_KM1), None


@functools.lru_cache(maxsize=16)
def _standard(shape: torch.Size, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Mean and inverse deviation of what is standardised."""
    return torch.zeros(shape, dtype=dtype), torch.ones(shape, dtype=dtype)


class RootMeanSquare(Function):
    """x / √(mean square + eps) along D; saves its result and the divisor."""

    @staticmethod
    def forward(ctx: Any, x_KMD: Tensor, eps: float) -> Tensor:
        wide = _wide(x_KMD.dtype)
        norm_KM1 = torch.linalg.vector_norm(x_KMD, dim=-1, keepdim=True, dtype=wide)
        inverse_KM1 = norm_KM1.square_().div_(x_KMD.shape[-1]).add_(eps).rsqrt_()
        unit_KMD = torch.mul(x_KMD, inverse_KM1, out=torch.empty_like(x_KMD))
        ctx.save_for_backward(unit_KMD, inverse_KM1)
        return unit_KMD

    @staticmethod
    def backward(ctx: Any, grad_KMD: Tensor) -> tuple[Tensor | None, ...]:
        unit_KMD, inverse_KM1 = ctx.saved_tensors
        along_KM1 = (grad_KMD * unit_KMD).mean(-1, keepdim=True)
        x_KMD = torch.addcmul(grad_KMD, unit_KMD, along_KM1, value=-1)
        return x_KMD.mul_(inverse_KM1), None


class Scaled(Function):
    """u s + t, where no single matrix takes scale and shift of a norm."""

    @staticmethod
    def forward(ctx: Any, unit_KMD: Tensor, scale_KD: Tensor, shift_KD: Tensor | None) -> Tensor:
        ctx.save_for_backward(unit_KMD, scale_KD)
        ctx.shifted = shift_KD is not None
        by_scale = unit_KMD * scale_KD.unsqueeze(1)
        return by_scale if shift_KD is None else by_scale.add_(shift_KD.unsqueeze(1))

    @staticmethod
    def backward(ctx: Any, grad_KMD: Tensor) -> tuple[Tensor | None, ...]:
        unit_KMD, scale_KD = ctx.saved_tensors
        shift = grad_KMD.sum(1) if ctx.shifted else None
        return grad_KMD * scale_KD.unsqueeze(1), (grad_KMD * unit_KMD).sum(1), shift


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


@functools.lru_cache(maxsize=64)
def _constants(D: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return torch.ones(D, dtype=dtype), torch.zeros(D, dtype=dtype)


SLOPE = 2 * math.sqrt(2 / math.pi)  # gelu(x) = x sigmoid(u), u = SLOPE (x + CUBE x^3), in its tanh form
CUBE = 0.044715
CHUNK = (
    1 << 17
)  # numbers, a quarter of them in half precision: what stands between input and output stays in the caches


class Gelu(Function):
    """x sigmoid(u); saves the derivative.

    torch takes a tanh forward and another backward, 3.8 ns a number together; one sigmoid and passes in the caches
    that give value and derivative at once take 1.6 ns.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        wide = _wide(x.dtype)
        value, derivative = torch.empty_like(x), torch.empty_like(x)
        chunk = CHUNK if wide == x.dtype else CHUNK // 4
        for part, goes, slope in zip(*(held.view(-1).split(chunk) for held in (x, value, derivative)), strict=True):
            part = part.to(wide)
            u = torch.addcmul(_slope(wide), part, part, value=SLOPE * CUBE).mul_(part)
            share = torch.sigmoid(u)
            torch.mul(share, part, out=goes)
            # the derivative is share + share (1 - share) x u'(x), and x u'(x) = 3 u - 2 SLOPE x
            torch.add(part, u, alpha=-1.5 / SLOPE, out=u)
            torch.ops.aten.sigmoid_backward(u, share, grad_input=u)
            torch.add(share, u, alpha=-2 * SLOPE, out=slope)
        ctx.save_for_backward(derivative)
        return value

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor]:
        (derivative,) = ctx.saved_tensors
        return (grad * derivative,)


@functools.lru_cache(maxsize=4)
def _slope(dtype: torch.dtype) -> Tensor:
    return torch.tensor(SLOPE, dtype=dtype)


class ExactGelu(Function):
    """x Φ(x) by torch's kernels; saves x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.nn.functional.gelu(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor]:
        (x,) = ctx.saved_tensors
        return (torch.ops.aten.gelu_backward(grad, x),)


class Relu(Function):
    """max(x, 0); saves its result."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        value = torch.relu(x)
        ctx.save_for_backward(value)
        return value

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor]:
        (value,) = ctx.saved_tensors
        return (torch.ops.aten.threshold_backward(grad, value, 0),)


class Times(Function):
    """x by a number."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x * factor

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return grad * ctx.factor, None


class Attention(Function):
    """Attention of every head by products of matrices; saves q, k, v, the powers and the result.

    Queries, keys and values lie side by side, or queries alone beside the keys and values of other sequences. Under a
    causal mask by blocks of queries, so that most of the future, and of what lies before a window, is never computed;
    in powers of two, which cost a third of exp; normalised after the values are mixed, where a query has E numbers in
    place of T. window: of the causal mask, None for no mask.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x_KMX: Tensor,
        other_KOY: Tensor | None,
        B: int,
        H: int,
        scale: float,
        turns: tuple[Tensor, Tensor] | None,
        window: int | None,
    ) -> Tensor:
        K, M = x_KMX.shape[:2]
        N, T = K * B, M // B
        if other_KOY is None:
            heads_3NHTE = _to_heads(x_KMX, 3, N, H)
            if turns is not None:
                _turn(heads_3NHTE[:2], *turns)
            heads_3NHTE[0].mul_(scale * LOG2E)
            q_GTE, k_GSE, v_GSE = heads_3NHTE.flatten(1, 2).unbind(0)
        else:
            q_GTE = _to_heads(x_KMX, 1, N, H)[0].mul_(scale * LOG2E).flatten(0, 1)
            k_GSE, v_GSE = _to_heads(other_KOY, 2, N, H).flatten(1, 2).unbind(0)
        S, E = k_GSE.shape[1:]
        hidden_TT = None if window is None else _hidden(T, window, x_KMX.dtype)
        mixed_NTHE = x_KMX.new_empty((N, T, H, E))
        powers, sums = [], []
        for a, b, first, end in spans(T, S, window):
            q, k = q_GTE[:, a:b], k_GSE[:, first:end].mT
            power = torch.bmm(q, k) if hidden_TT is None else torch.baddbmm(hidden_TT[a:b, first:end], q, k)
            power.sub_(_highest(power)).exp2_()
            total = power.sum(-1, keepdim=True)
            mixed = _mix(power, v_GSE[:, first:end])
            mixed_NTHE[:, a:b].copy_(_by_token(mixed, N)).div_(_by_token(total, N))  # out= is lost on torch.compile
            powers.append(power)
            sums.append(total)
        sum_GT1 = sums[0] if len(sums) == 1 else torch.cat(sums, dim=1)
        ctx.save_for_backward(q_GTE, k_GSE, v_GSE, mixed_NTHE, sum_GT1, *(turns or ()), *powers)
        ctx.scale, ctx.turned, ctx.window, ctx.alone = scale, turns is not None, window, other_KOY is None
        return mixed_NTHE.view(K, M, H * E)

    @staticmethod
    def backward(ctx: Any, grad_KMD: Tensor) -> tuple[Tensor | None, ...]:
        q_GTE, k_GSE, v_GSE, mixed_NTHE, sum_GT1, *held = ctx.saved_tensors
        turns, powers = (held[:2], held[2:]) if ctx.turned else (None, held)
        K = len(grad_KMD)
        N, T, H, E = mixed_NTHE.shape
        S = k_GSE.shape[1]
        grad_NHTE = _heads(grad_KMD, 1, N, H, T, E)[0]
        torch.div(grad_KMD.reshape(N, T, H, E).transpose(1, 2), sum_GT1.view(N, H, T, 1), out=grad_NHTE)
        mean_GT1 = (grad_NHTE * mixed_NTHE.transpose(1, 2)).sum(-1).view(N * H, T, 1)
        grad_GTE = grad_NHTE.flatten(0, 1)
        if ctx.alone:
            slopes = (_heads(grad_KMD, 3, N, H, T, E),)
            slope_q, slope_k, slope_v = slopes[0].flatten(1, 2).unbind(0)
        else:
            slopes = _heads(grad_KMD, 1, N, H, T, E), _heads(grad_KMD, 2, N, H, S, E)
            slope_q, (slope_k, slope_v) = slopes[0][0].flatten(0, 1), slopes[1].flatten(1, 2).unbind(0)
        for (a, b, first, end), power in zip(reversed(spans(T, S, ctx.window)), reversed(powers), strict=True):
            score = torch.bmm(grad_GTE[:, a:b], v_GSE[:, first:end].mT).sub_(mean_GT1[:, a:b]).mul_(power)
            slope_q[:, a:b] = _mix(score, k_GSE[:, first:end])
            for slope, part in (
                (slope_k, _mix(score.mT, q_GTE[:, a:b])),
                (slope_v, _mix(power.mT, grad_GTE[:, a:b])),
            ):
                if b == T:  # the first to be computed: without a window it reaches every key
                    slope[:, first:].copy_(part)
                    if first:
                        slope[:, :first].zero_()
                else:
                    slope[:, first:end].add_(part)
        if turns is not None:
            _turn(slopes[0][:2], turns[0], -turns[1])
        slope_q.mul_(ctx.scale)
        slope_k.mul_(1 / LOG2E)  # q was saved with scale and LOG2E in it
        x, other = (*(_from_heads(slope, K) for slope in slopes), None)[:2]
        return x, other, None, None, None, None, None


SMALL = (
    1 << 18
)  # numbers up to which a copy in float32 costs less than torch's maximum over bf16: 28 against 59 us. Ours.


def _highest(power_GTU: Tensor) -> Tensor:
    """The largest of each query's. torch takes it of small blocks of bf16 twice as slowly as of float32."""
    held = power_GTU.to(_wide(power_GTU.dtype)) if power_GTU.numel() <= SMALL else power_GTU
    return held.amax(-1, keepdim=True).to(power_GTU.dtype)


def _heads(like: Tensor, parts: int, N: int, H: int, T: int, E: int) -> Tensor:
    """Room for heads, shape (parts, N, H, T, E), laid out as they are multiplied fastest."""
    if E < NARROW:
        return like.new_empty((parts, N, H, E, T)).mT
    return like.new_empty((parts, N, H, T, E))


def _to_heads(x_KMX: Tensor, parts: int, N: int, H: int) -> Tensor:
    """The parts that lie side by side in x, each by its heads: shape (parts, N, H, T, E)."""
    T, E = x_KMX.shape[0] * x_KMX.shape[1] // N, x_KMX.shape[2] // (parts * H)
    heads = _heads(x_KMX, parts, N, H, T, E)
    return heads.copy_(x_KMX.view(N, T, parts, H, E).permute(2, 0, 3, 1, 4))


def _from_heads(x_PNHTE: Tensor, K: int) -> Tensor:
    """P parts side by side, shape (K, M, P H E)."""
    P, N, H, T, E = x_PNHTE.shape
    x_KMX = x_PNHTE.new_empty((K, N // K * T, P * H * E))
    x_KMX.view(N, T, P, H, E).copy_(x_PNHTE.permute(1, 3, 0, 2, 4))
    return x_KMX


def _mix(weight_GTU: Tensor, value_GUE: Tensor) -> Tensor:
    """The values mixed by their weights, shape (G, T, E), in the layout of `_heads`."""
    if value_GUE.shape[-1] < NARROW:
        return torch.bmm(value_GUE.mT, weight_GTU.mT).mT
    return torch.bmm(weight_GTU, value_GUE)


def _by_token(x_GTE: Tensor, N: int) -> Tensor:
    return x_GTE.unflatten(0, (N, -1)).transpose(1, 2)


@functools.lru_cache(maxsize=16)
def _hidden(T: int, window: int, dtype: torch.dtype) -> Tensor:
    """Minus infinity where a key is later than its query, or `window` or more before it (0: any), shape (T, T)."""
    hidden = torch.full((T, T), -math.inf, dtype=dtype).triu_(1)
    return hidden + torch.full((T, T), -math.inf, dtype=dtype).tril_(-window) if window else hidden


def turned(x_NHTE: Tensor, cos_TE: Tensor, sin_TE: Tensor) -> tuple[Tensor, Tensor]:
    """The halves of heads whose pairs (e, e + E/2) are turned by the angles of their positions."""
    first, second = x_NHTE.chunk(2, dim=-1)
    return first * cos_TE - second * sin_TE, first * sin_TE + second * cos_TE


def _turn(x_NHTE: Tensor, cos_TE: Tensor, sin_TE: Tensor) -> None:
    for half, new in zip(x_NHTE.chunk(2, dim=-1), turned(x_NHTE, cos_TE, sin_TE), strict=True):
        half.copy_(new)


class Append(Function):
    """A token of each row at the end of each of its B sequences."""

    @staticmethod
    def forward(ctx: Any, x_KMD: Tensor, token_KD: Tensor, B: int) -> Tensor:
        K, M, D = x_KMD.shape
        ctx.B = B
        longer_KBTD = x_KMD.new_empty((K, B, M // B + 1, D))
        longer_KBTD[:, :, :-1] = x_KMD.view(K, B, M // B, D)
        longer_KBTD[:, :, -1] = token_KD.unsqueeze(1)
        return longer_KBTD.view(K, M + B, D)

    @staticmethod
    def backward(ctx: Any, grad_KMD: Tensor) -> tuple[Tensor | None, ...]:
        K, M, D = grad_KMD.shape
        grad_KBTD = grad_KMD.view(K, ctx.B, M // ctx.B, D)
        return grad_KBTD[:, :, :-1].reshape(K, M - ctx.B, D), grad_KBTD[:, :, -1].sum(1), None


class Last(Function):
    """The last A tokens of each of B sequences."""

    @staticmethod
    def forward(ctx: Any, x_KMD: Tensor, B: int, A: int) -> Tensor:
        K, M, D = x_KMD.shape
        ctx.B, ctx.T = B, M // B
        return x_KMD.view(K, B, M // B, D)[:, :, M // B - A :].reshape(K, B * A, D)

    @staticmethod
    def backward(ctx: Any, grad_KMD: Tensor) -> tuple[Tensor | None, ...]:
        K, M, D = grad_KMD.shape
        whole = grad_KMD.new_zeros((K, ctx.B, ctx.T, D))
        whole[:, :, ctx.T - M // ctx.B :] = grad_KMD.view(K, ctx.B, -1, D)
        return whole.view(K, -1, D), None, None


class CrossEntropy(Function):
    """-log softmax(x)[target] [nats]; saves exp(x - max) less its sum at the target: its gradient but for a factor."""

    @staticmethod
    def forward(ctx: Any, logits_KMV: Tensor, targets_KM: Tensor) -> Tensor:
        wide = logits_KMV.to(_wide(logits_KMV.dtype))
        power_KMV = wide - wide.amax(-1, keepdim=True)
        targets_KM1 = targets_KM.unsqueeze(2)
        at_KM1 = power_KMV.gather(2, targets_KM1)
        power_KMV.mul_(LOG2E).exp2_()
        sum_KM1 = power_KMV.sum(2, keepdim=True)
        loss_KM = sum_KM1.log().sub_(at_KM1).squeeze(2)
        if ctx.needs_input_grad[0]:
            power_KMV.scatter_add_(2, targets_KM1, -sum_KM1)
            ctx.save_for_backward(power_KMV, sum_KM1)
            ctx.kind = logits_KMV.dtype
        return loss_KM

    @staticmethod
    def backward(ctx: Any, grad_KM: Tensor) -> tuple[Tensor | None, ...]:
        power_KMV, sum_KM1 = ctx.saved_tensors
        logits_KMV = torch.empty_like(power_KMV, dtype=ctx.kind)
        return torch.mul(power_KMV, grad_KM.unsqueeze(2) / sum_KM1, out=logits_KMV), None
