"""The packed layers. Every tensor carries the pack as its first axis: row k is model k and meets no other row.

Legend: K models in the pack, B sequences, T tokens in a sequence, M = B T, N = K B, D width, F fan-out, H heads,
E = D / H, V vocabulary. A pack of one runs the same code: special-casing it changes losses by 1e-6, and a run must not
depend on its company. For the same reason what chooses between two ways to compute is the shape of one row, never K.

On the CPU the layers have backward passes of their own (`models.cpu`); elsewhere torch's, which compilers can fuse.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from scalectl.models import cpu
from scalectl.models.cpu import encoded, turned
from scalectl.models.tape import apply

EPS = 1e-5  # of every norm, as GPT-2


class Normed(NamedTuple):
    """A normalised activation whose scale and shift wait for the matrix that they multiply.

    unit_KMD: mean 0 and variance 1 (or mean square 1) along D; scale_KD, shift_KD: of each row, shift None for none.
    """

    unit_KMD: Tensor
    scale_KD: Tensor
    shift_KD: Tensor | None


def linear(
    x_KMD: Tensor | Normed, weight_KDF: Tensor, bias_KF: Tensor | None, onto_KMF: Tensor | None = None
) -> Tensor:
    """Row by row x W + b, plus `onto` where there is one: shape (K, M, F).

    On the CPU scale and shift of a norm go into the matrix, (u s + t) W + b = u (s W) + (t W + b): D F numbers are
    scaled in place of M D, forward and backward, and one activation less is kept.
    """
    if isinstance(x_KMD, Normed):
        x_KMD, scale_KD, shift_KD = x_KMD
        if x_KMD.is_cpu and onto_KMF is None:
            return apply(cpu.ScaledLinear, x_KMD, scale_KD, shift_KD, weight_KDF, bias_KF)
        x_KMD = scaled(Normed(x_KMD, scale_KD, shift_KD))
    if x_KMD.is_cpu:
        return apply(cpu.Linear, x_KMD, weight_KDF, bias_KF, onto_KMF)
    if onto_KMF is not None:
        added = onto_KMF if bias_KF is None else onto_KMF + bias_KF.unsqueeze(1)
        return torch.baddbmm(added, x_KMD, weight_KDF)
    if bias_KF is None:
        return torch.bmm(x_KMD, weight_KDF)
    return torch.baddbmm(bias_KF.unsqueeze(1), x_KMD, weight_KDF)


def pixels(numbers_KMD: Tensor, weight_KDF: Tensor, bias_KF: Tensor, levels: int) -> Tensor:
    """Whole numbers from 0 to `levels`, brought to -1 ... 1, times W + b: shape (K, M, F)."""
    if weight_KDF.is_cpu:
        return apply(cpu.Pixels, numbers_KMD, weight_KDF, bias_KF, levels)
    return linear(numbers_KMD.to(weight_KDF.dtype) * (2 / levels) - 1, weight_KDF, bias_KF)


def embedding(index_KM: Tensor, table_KVD: Tensor) -> Tensor:
    """Row by row lookup: shape (K, M, D). The offset k V makes K tables one."""
    if table_KVD.is_cpu:
        return apply(cpu.Embedding, index_KM, table_KVD)
    K, V, D = table_KVD.shape
    offset = torch.arange(K, device=index_KM.device).unsqueeze(1) * V
    return F.embedding(index_KM + offset, table_KVD.reshape(K * V, D))


def symbols(tokens_KBT: Tensor, weight_KDF: Tensor, bias_KF: Tensor, V: int) -> Tensor:
    """Row by row x W + b of the symbols of a prompt: shape (K, B, F). x: `cpu.encoded`, bits or one-hot."""
    if weight_KDF.is_cpu:
        return apply(cpu.Symbols, tokens_KBT, weight_KDF, bias_KF, V)
    return torch.baddbmm(bias_KF.unsqueeze(1), encoded(tokens_KBT, V, weight_KDF.dtype), weight_KDF)


def add_positions(x_KMD: Tensor, table_KTD: Tensor, B: int) -> Tensor:
    """A table of positions added to each of B sequences: shape (K, M, D). table_KTD: of each row, or one for all."""
    if x_KMD.is_cpu:
        return apply(cpu.Positions, x_KMD, table_KTD, B)
    K, M, D = x_KMD.shape
    return (x_KMD.view(K, B, M // B, D) + table_KTD.unsqueeze(1)).view(K, M, D)


def append_token(x_KMD: Tensor, token_KD: Tensor, B: int) -> Tensor:
    """The token of each row at the end of each of its B sequences: shape (K, M + B, D)."""
    if x_KMD.is_cpu:
        return apply(cpu.Append, x_KMD, token_KD, B)
    K, M, D = x_KMD.shape
    token_KB1D = token_KD.view(K, 1, 1, D).expand(K, B, 1, D)
    return torch.cat([x_KMD.view(K, B, M // B, D), token_KB1D], dim=2).view(K, M + B, D)


def layer_norm(x_KMD: Tensor, scale_KD: Tensor, shift_KD: Tensor | None) -> Normed:
    """Layer norm with each row's own scale and shift (Ba et al. 2016, arXiv 1607.06450)."""
    unit = apply(cpu.Standardise, x_KMD, EPS) if x_KMD.is_cpu else F.layer_norm(x_KMD, x_KMD.shape[-1:], eps=EPS)
    return Normed(unit, scale_KD, shift_KD)


def rms_norm(x_KMD: Tensor, scale_KD: Tensor) -> Normed:
    """Root-mean-square norm with each row's own scale (Zhang & Sennrich 2019, arXiv 1910.07467)."""
    unit = apply(cpu.RootMeanSquare, x_KMD, EPS) if x_KMD.is_cpu else F.rms_norm(x_KMD, x_KMD.shape[-1:], eps=EPS)
    return Normed(unit, scale_KD, None)


def scaled(x: Normed) -> Tensor:
    """The activation itself, where no single matrix takes scale and shift: shape (K, M, D)."""
    if x.unit_KMD.is_cpu:
        return apply(cpu.Scaled, *x)
    by_scale = x.unit_KMD * x.scale_KD.unsqueeze(1)
    return by_scale if x.shift_KD is None else by_scale + x.shift_KD.unsqueeze(1)


def gelu(x: Tensor) -> Tensor:
    """GELU in its tanh form (Hendrycks & Gimpel 2016, arXiv 1606.08415), as GPT-2."""
    return apply(cpu.Gelu, x) if x.is_cpu else F.gelu(x, approximate="tanh")


def exact_gelu(x: Tensor) -> Tensor:
    """GELU by the error function (Hendrycks & Gimpel 2016, arXiv 1606.08415), as torch.nn.GELU."""
    return apply(cpu.ExactGelu, x) if x.is_cpu else F.gelu(x)


def relu(x: Tensor) -> Tensor:
    """max(x, 0)."""
    return apply(cpu.Relu, x) if x.is_cpu else F.relu(x)


def times(x: Tensor, factor: float) -> Tensor:
    """An activation by a number."""
    return apply(cpu.Times, x, factor) if x.is_cpu else x * factor


def causal_attention(
    qkv_KMX: Tensor,
    B: int,
    H: int,
    turns: tuple[Tensor, Tensor] | None = None,
    scale: float | None = None,
    window: int = 0,
) -> Tensor:
    """softmax(scale QKᵀ) V of every head under a causal mask (Vaswani et al. 2017), shape (K, M, D).

    Args: qkv_KMX: queries, keys and values side by side, X = 3 D; B: sequences; H: heads; turns: `rotary_turns` of
    queries and keys, None to leave them; scale: None for 1/√E; window: keys that a query sees, its own and those just
    before it (Child et al. 2019, arXiv 1904.10509), 0 for all.
    """
    return _attention(qkv_KMX, None, B, H, turns, scale, window)


def full_attention(qkv_KMX: Tensor, B: int, H: int, scale: float | None = None) -> Tensor:
    """`causal_attention` without its mask: every token sees its whole sequence."""
    return _attention(qkv_KMX, None, B, H, None, scale, None)


def cross_attention(q_KMD: Tensor, kv_KOY: Tensor, B: int, H: int, scale: float | None = None) -> Tensor:
    """Every token sees the whole of another sequence (Vaswani et al. 2017, section 3.2.3), shape (K, M, D).

    Args: kv_KOY: keys and values of the B other sequences side by side, Y = 2 D; B, H, scale: as of `causal_attention`.
    """
    return _attention(q_KMD, kv_KOY, B, H, None, scale, None)


def _attention(
    x_KMX: Tensor,
    other_KOY: Tensor | None,
    B: int,
    H: int,
    turns: tuple[Tensor, Tensor] | None,
    scale: float | None,
    window: int | None,
) -> Tensor:
    """Keys and values from `other` where there is one. window: of the causal mask, None for no mask."""
    K, M, X = x_KMX.shape
    D = X // 3 if other_KOY is None else X
    scale = 1 / math.sqrt(D // H) if scale is None else scale
    if x_KMX.is_cpu:
        return apply(cpu.Attention, x_KMX, other_KOY, B, H, scale, turns, window)
    if other_KOY is None:
        q, k, v = _heads(x_KMX, 3, B, H)
    else:
        (q,), (k, v) = _heads(x_KMX, 1, B, H), _heads(other_KOY, 2, B, H)
    if turns is not None:
        q, k = (torch.cat(turned(x, *turns), dim=-1) for x in (q, k))
    band_TT = _band(M // B, window, x_KMX.device) if window else None
    causal = window is not None and band_TT is None
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=band_TT, is_causal=causal, scale=scale)
    return mixed.transpose(1, 2).reshape(K, M, D)


def _heads(x_KMX: Tensor, parts: int, B: int, H: int) -> tuple[Tensor, ...]:
    """The parts that lie side by side in x, each by its heads: shape (N, H, T, E)."""
    K, M, X = x_KMX.shape
    return x_KMX.view(K * B, M // B, parts, H, X // (parts * H)).permute(2, 0, 3, 1, 4).unbind(0)


@functools.lru_cache(maxsize=16)
def _band(T: int, window: int, device: torch.device) -> Tensor:
    """Whether a query sees a key, shape (T, T)."""
    return torch.ones(T, T, dtype=torch.bool, device=device).tril_().triu_(1 - window)


@functools.lru_cache(maxsize=64)
def rotary_turns(T: int, E: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Rotary positions (Su et al. 2021, arXiv 2104.09864): cosine and sine of position * 10000^(-2e/E), (T, E/2)."""
    half = E // 2
    rate = 10_000.0 ** (-torch.arange(half, device=device, dtype=torch.float64) / half)
    angle = torch.arange(T, device=device, dtype=torch.float64)[:, None] * rate
    return angle.cos().to(dtype), angle.sin().to(dtype)


@functools.lru_cache(maxsize=64)
def sinusoid(T: int, D: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Sinusoidal positions, shape (T, D): sine on even, cosine on odd columns (Vaswani et al. 2017, section 3.5)."""
    position = torch.arange(T, device=device, dtype=torch.float64)[:, None]
    rate = 10_000.0 ** (-torch.arange(0, D, 2, device=device, dtype=torch.float64) / D)
    return torch.stack([(position * rate).sin(), (position * rate).cos()], dim=-1).flatten(1).to(dtype)


def last_tokens(x_KMD: Tensor, B: int, A: int) -> Tensor:
    """The last A tokens of each of B sequences, shape (K, B A, D): the rest is not judged."""
    if x_KMD.is_cpu:
        return apply(cpu.Last, x_KMD, B, A)
    K, M, D = x_KMD.shape
    return x_KMD.view(K, B, M // B, D)[:, :, -A:].reshape(K, B * A, D)


def token_losses(logits_KMV: Tensor, targets_KM: Tensor) -> Tensor:
    """Cross-entropy of each target [nats], shape (K, M), in float32 or wider."""
    if logits_KMV.is_cpu:
        return apply(cpu.CrossEntropy, logits_KMV, targets_KM)
    K, M, V = logits_KMV.shape
    wide = logits_KMV if logits_KMV.dtype == torch.float64 else logits_KMV.float()
    return F.cross_entropy(wide.reshape(K * M, V), targets_KM.reshape(-1), reduction="none").view(K, M)


def judged(logits_KMV: Tensor, targets_KM: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy of each target [nats], and whether it is the most likely symbol, both of shape (K, M)."""
    return token_losses(logits_KMV, targets_KM), logits_KMV.argmax(-1) == targets_KM
