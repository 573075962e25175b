"""The decoder's forward pass: a pure function of the tensors' views.

Legend: K models in the pack, B sequences, T tokens, M = B T, D width, H heads, E = D / H, V vocabulary; N = K B.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, arange

from scalectl.models import primitives as p
from scalectl.models.decoder.spec import Options


def logits(views: Mapping[str, Tensor], tokens_KBT: Tensor, o: Options) -> Tensor:
    """Next-token logits, shape (K, B T, V).

    Args: views: tensors by name, each (K, *shape of spec.tensors); tokens_KBT: integers below V, T at most o.context.
    """
    K, B, T = tokens_KBT.shape
    x_KMD = p.embedding(tokens_KBT.reshape(K, B * T), views["token"])
    if o.position == "learned":
        x_KMD = _add_positions(x_KMD, views["position"][:, :T], B)
    elif o.position == "sinusoidal":
        x_KMD = _add_positions(x_KMD, p.sinusoid(T, o.d_model, x_KMD).unsqueeze(0), B)
    for layer in range(o.n_layer):
        x_KMD = _block(x_KMD, views, f"layer{layer}", o, B)
    x_KMD = _norm(x_KMD, views, "norm", o)
    return p.linear(x_KMD, views["token" if o.tie else "head"].transpose(1, 2), None)


def token_losses(views: Mapping[str, Tensor], tokens_KBT1: Tensor, o: Options) -> Tensor:
    """Cross-entropy of every target [nats], shape (K, B T); tokens hold T inputs and the target of the last."""
    K = tokens_KBT1.shape[0]
    return p.token_losses(logits(views, tokens_KBT1[..., :-1], o), tokens_KBT1[..., 1:].reshape(K, -1))


def _add_positions(x_KMD: Tensor, table_KTD: Tensor, B: int) -> Tensor:
    K, M, D = x_KMD.shape
    return (x_KMD.view(K, B, M // B, D) + table_KTD.unsqueeze(1)).view(K, M, D)


def _block(x_KMD: Tensor, views: Mapping[str, Tensor], at: str, o: Options, B: int) -> Tensor:
    x_KMD = x_KMD + _attention(_norm(x_KMD, views, f"{at}.norm1", o), views, at, o, B)
    return x_KMD + _mlp(_norm(x_KMD, views, f"{at}.norm2", o), views, at)


def _attention(x_KMD: Tensor, views: Mapping[str, Tensor], at: str, o: Options, B: int) -> Tensor:
    K, M, D = x_KMD.shape
    T = M // B
    qkv = p.linear(x_KMD, views[f"{at}.qkv.weight"], views.get(f"{at}.qkv.bias"))
    q, k, v = qkv.view(K * B, T, 3, o.n_head, o.d_head).permute(2, 0, 3, 1, 4).unbind(0)  # each (N, H, T, E)
    if o.position == "rotary":
        positions = arange(T, device=x_KMD.device)
        q, k = p.rotate(q, positions), p.rotate(k, positions)
    mixed = p.causal_attention(q, k, v).transpose(1, 2).reshape(K, M, D)
    return p.linear(mixed, views[f"{at}.out.weight"], views.get(f"{at}.out.bias"))


def _mlp(x_KMD: Tensor, views: Mapping[str, Tensor], at: str) -> Tensor:
    hidden = p.linear(x_KMD, views[f"{at}.up.weight"], views.get(f"{at}.up.bias"))
    return p.linear(F.gelu(hidden, approximate="tanh"), views[f"{at}.down.weight"], views.get(f"{at}.down.bias"))


def _norm(x_KMD: Tensor, views: Mapping[str, Tensor], at: str, o: Options) -> Tensor:
    if o.norm == "rms":
        return p.rms_norm(x_KMD, views[f"{at}.scale"])
    return p.layer_norm(x_KMD, views[f"{at}.scale"], views.get(f"{at}.shift"))
