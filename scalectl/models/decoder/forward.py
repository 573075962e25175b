"""The decoder's forward pass: a pure function of the tensors' views.

Legend: K models in the pack, B sequences, T tokens, M = B T, D width, H heads, E = D / H, V vocabulary; N = K B.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from scalectl.models import primitives as p
from scalectl.models.decoder.spec import Options

ACTIVATIONS = {"gelu_tanh": p.gelu, "gelu": p.exact_gelu, "relu": p.relu}


Run = Callable[..., Tensor]


def logits(views: Mapping[str, Tensor], tokens_KBT: Tensor, o: Options, run: Run | None = None) -> Tensor:
    """Next-token logits, shape (K, B T, V).

    Args: views: tensors by name, each (K, *shape of spec.tensors); tokens_KBT: integers below V, T at most o.context;
    run: calls a block, run(block, *arguments), where it is to be recomputed or compiled; None to call it plainly.
    """
    K, B, T = tokens_KBT.shape
    x_KMD = p.embedding(tokens_KBT.reshape(K, B * T), views["token"])
    if o.position == "learned":
        x_KMD = p.add_positions(x_KMD, views["position"][:, :T], B)
    elif o.position == "sinusoidal":
        x_KMD = p.add_positions(x_KMD, p.sinusoid(T, o.d_model, x_KMD.dtype, x_KMD.device).unsqueeze(0), B)
    for layer in range(o.n_layer):
        at = f"layer{layer}"
        if run is None:
            x_KMD = _block(x_KMD, views, at, o, B)
        else:  # by names that all layers share, so that one compiled block serves them
            own = {name.removeprefix(at): view for name, view in views.items() if name.startswith(f"{at}.")}
            x_KMD = run(_block, x_KMD, own, "", o, B)
    last_KMD = _norm(x_KMD, views, "norm", o) if o.norm_first else x_KMD
    found = p.linear(last_KMD, views["token" if o.tie else "head"].transpose(1, 2), None)
    return found if o.logit_scale == 1 else p.times(found, o.logit_scale)


def token_losses(views: Mapping[str, Tensor], tokens_KBT1: Tensor, o: Options, run: Run | None = None) -> Tensor:
    """Cross-entropy of every target [nats], shape (K, B T); tokens hold T inputs and the target of the last."""
    K = tokens_KBT1.shape[0]
    return p.token_losses(logits(views, tokens_KBT1[..., :-1], o, run), tokens_KBT1[..., 1:].reshape(K, -1))


def _block(x_KMD: Tensor, views: Mapping[str, Tensor], at: str, o: Options, B: int) -> Tensor:
    if o.norm_first:
        x_KMD = _attention(_norm(x_KMD, views, f"{at}.norm1", o), views, at, o, B, onto=x_KMD)
        return _mlp(_norm(x_KMD, views, f"{at}.norm2", o), views, at, o, onto=x_KMD)
    x_KMD = p.scaled(_norm(_attention(x_KMD, views, at, o, B, onto=x_KMD), views, f"{at}.norm1", o))
    return p.scaled(_norm(_mlp(x_KMD, views, at, o, onto=x_KMD), views, f"{at}.norm2", o))


def _attention(
    x_KMD: Tensor | p.Normed, views: Mapping[str, Tensor], at: str, o: Options, B: int, onto: Tensor
) -> Tensor:
    qkv = _linear(x_KMD, views, f"{at}.qkv")
    turns = None
    if o.position == "rotary":
        turns = p.rotary_turns(qkv.shape[1] // B, o.d_head, qkv.dtype, qkv.device)
    return _linear(p.causal_attention(qkv, B, o.n_head, turns, o.attention_scale, o.window), views, f"{at}.out", onto)


def _mlp(x_KMD: Tensor | p.Normed, views: Mapping[str, Tensor], at: str, o: Options, onto: Tensor) -> Tensor:
    return _linear(ACTIVATIONS[o.activation](_linear(x_KMD, views, f"{at}.up")), views, f"{at}.down", onto)


def _linear(x: Tensor | p.Normed, views: Mapping[str, Tensor], at: str, onto: Tensor | None = None) -> Tensor:
    return p.linear(x, views[f"{at}.weight"], views.get(f"{at}.bias"), onto)


def _norm(x_KMD: Tensor, views: Mapping[str, Tensor], at: str, o: Options) -> p.Normed:
    if o.norm == "rms":
        return p.rms_norm(x_KMD, views[f"{at}.scale"])
    return p.layer_norm(x_KMD, views[f"{at}.scale"], views.get(f"{at}.shift"))
