"""The packed layers. Every tensor carries the pack as its first axis: row k is model k and meets no other row.

Legend: K models in the pack, B sequences, T tokens in a sequence, M = B T, D width, F fan-out, H heads, E = D / H, V
vocabulary. A pack of one runs the same code: special-casing it changes losses by 1e-6, and a run must not depend on
its company.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

EPS = 1e-5  # of every norm, as GPT-2


def linear(x_KMD: Tensor, weight_KDF: Tensor, bias_KF: Tensor | None) -> Tensor:
    """Row by row x W + b: shape (K, M, F)."""
    if bias_KF is None:
        return torch.bmm(x_KMD, weight_KDF)
    return torch.baddbmm(bias_KF.unsqueeze(1), x_KMD, weight_KDF)


def embedding(index_KM: Tensor, table_KVD: Tensor) -> Tensor:
    """Row by row lookup: shape (K, M, D). The offset k V makes K tables one."""
    K, V, D = table_KVD.shape
    offset = torch.arange(K, device=index_KM.device).unsqueeze(1) * V
    return F.embedding(index_KM + offset, table_KVD.reshape(K * V, D))


def layer_norm(x_KMD: Tensor, scale_KD: Tensor, shift_KD: Tensor | None) -> Tensor:
    """Layer norm with each row's own scale and shift (Ba et al. 2016, arXiv 1607.06450)."""
    unit = F.layer_norm(x_KMD, x_KMD.shape[-1:], eps=EPS)
    if shift_KD is None:
        return unit * scale_KD.unsqueeze(1)
    return torch.addcmul(shift_KD.unsqueeze(1), unit, scale_KD.unsqueeze(1))


def rms_norm(x_KMD: Tensor, scale_KD: Tensor) -> Tensor:
    """Root-mean-square norm with each row's own scale (Zhang & Sennrich 2019, arXiv 1910.07467)."""
    return F.rms_norm(x_KMD, x_KMD.shape[-1:], eps=EPS) * scale_KD.unsqueeze(1)


def causal_attention(q_NHTE: Tensor, k_NHTE: Tensor, v_NHTE: Tensor) -> Tensor:
    """softmax(QKᵀ / √E) V under a causal mask, shape (N, H, T, E) with N = K B (Vaswani et al. 2017).

    Fused where it pays. On the CPU in half precision the fused backward was measured at 64 % of a step at width 64, so
    the products stand explicitly there.
    """
    if q_NHTE.is_cpu and q_NHTE.dtype in (torch.bfloat16, torch.float16):
        T, E = q_NHTE.shape[-2:]
        scores = q_NHTE @ k_NHTE.transpose(-1, -2) * (1 / math.sqrt(E))
        future = torch.ones(T, T, dtype=torch.bool, device=scores.device).triu(1)
        return scores.masked_fill(future, float("-inf")).softmax(-1) @ v_NHTE
    return F.scaled_dot_product_attention(q_NHTE, k_NHTE, v_NHTE, is_causal=True)


def rotate(x_NHTE: Tensor, positions: Tensor) -> Tensor:
    """Rotary positions: pairs (e, e + E/2) turn by position * 10000^(-2e/E) (Su et al. 2021, arXiv 2104.09864)."""
    half = x_NHTE.shape[-1] // 2
    rate = 10_000.0 ** (-torch.arange(half, device=x_NHTE.device, dtype=torch.float64) / half)
    angle = positions.to(torch.float64)[:, None] * rate
    cos, sin = angle.cos().to(x_NHTE.dtype), angle.sin().to(x_NHTE.dtype)
    first, second = x_NHTE[..., :half], x_NHTE[..., half:]
    turned = torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)
    return turned.contiguous()  # cat keeps the strides of its input, on which fused attention rounds by pack size


def sinusoid(T: int, D: int, like: Tensor) -> Tensor:
    """Sinusoidal positions, shape (T, D): sine on even, cosine on odd columns (Vaswani et al. 2017, section 3.5)."""
    position = torch.arange(T, device=like.device, dtype=torch.float64)[:, None]
    rate = 10_000.0 ** (-torch.arange(0, D, 2, device=like.device, dtype=torch.float64) / D)
    return torch.stack([(position * rate).sin(), (position * rate).cos()], dim=-1).flatten(1).to(like.dtype)


def token_losses(logits_KMV: Tensor, targets_KM: Tensor) -> Tensor:
    """Cross-entropy of each target [nats], shape (K, M), in float32 or wider."""
    K, M, V = logits_KMV.shape
    wide = logits_KMV if logits_KMV.dtype == torch.float64 else logits_KMV.float()
    return F.cross_entropy(wide.reshape(K * M, V), targets_KM.reshape(-1), reduction="none").view(K, M)
