"""The decoder's forward pass: a pure function of the tensors' views.

Legend: K models in the pack, B sequences, T tokens, M = B T, A judged tokens of a sequence, D width, H heads,
E = D / H, V vocabulary; N = K B; S tokens that a cache has room for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from scalectl.models import primitives as p
from scalectl.models.cpu import turned
from scalectl.models.decoder.spec import Options

ACTIVATIONS = {"gelu_tanh": p.gelu, "gelu": p.exact_gelu, "relu": p.relu}


Run = Callable[..., Tensor]


def logits(views: Mapping[str, Tensor], tokens_KBT: Tensor, o: Options, run: Run | None = None) -> Tensor:
    """Next-token logits, shape (K, B T, V), or (K, B A, V) of the last A = o.answers tokens where those are judged.

    Args: views: tensors by name, each (K, *shape of spec.tensors); tokens_KBT: integers below V, T at most o.context;
    run: calls a block, run(block, *arguments), where it is to be recomputed or compiled; None to call it plainly.
    """
    B = tokens_KBT.shape[1]
    x_KMD = _embedded(views, tokens_KBT, o)
    for layer in range(o.n_layer):
        at = f"layer{layer}"
        if run is None:
            x_KMD = _block(x_KMD, views, at, o, B)
        else:  # by names that all layers share, so that one compiled block serves them
            own = {name.removeprefix(at): view for name, view in views.items() if name.startswith(f"{at}.")}
            x_KMD = run(_block, x_KMD, own, "", o, B)
    return _read(p.last_tokens(x_KMD, B, o.answers) if o.answers else x_KMD, views, o)


def token_losses(views: Mapping[str, Tensor], tokens_KBT1: Tensor, o: Options, run: Run | None = None) -> Tensor:
    """Cross-entropy of every judged target [nats], shape (K, B T) or (K, B A).

    Args: tokens_KBT1: T inputs and the target of the last.
    """
    return p.token_losses(logits(views, tokens_KBT1[..., :-1], o, run), _targets(tokens_KBT1, o))


def judge(views: Mapping[str, Tensor], tokens_KBT1: Tensor, o: Options) -> tuple[Tensor, Tensor]:
    """`token_losses`, and whether each judged target is the most likely symbol after what stands before it."""
    return p.judged(logits(views, tokens_KBT1[..., :-1], o), _targets(tokens_KBT1, o))


def generate(views: Mapping[str, Tensor], prompts_KBT: Tensor, answers: int, o: Options) -> Tensor:
    """The most likely symbol after each prompt, then after that, and so on: shape (K, B, answers).

    Keys and values are kept, so that each symbol costs one token. T + answers is at most o.context + 1.
    """
    B, T = prompts_KBT.shape[1:]
    cache = _Cache(T + answers - 1)
    written: list[Tensor] = []
    tokens_KBT = prompts_KBT
    while True:
        x_KMD = _embedded(views, tokens_KBT, o, cache.held)
        for layer in range(o.n_layer):
            x_KMD = _block(x_KMD, views, f"layer{layer}", o, B, cache)
        cache.held += tokens_KBT.shape[2]
        tokens_KBT = _read(p.last_tokens(x_KMD, B, 1), views, o).argmax(-1, keepdim=True)
        written.append(tokens_KBT)
        if len(written) == answers:
            return torch.cat(written, dim=2)


class _Cache:
    """Keys and values of the tokens so far, by layer. size: S; held: tokens in it, before those of this pass."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.held = 0
        self.layers: dict[str, Tensor] = {}

    def attend(self, qkv_KMX: Tensor, B: int, o: Options, at: str) -> Tensor:
        """`causal_attention` of new tokens over those held and themselves, which are held from here on."""
        K, M, X = qkv_KMX.shape
        N, T = K * B, M // B
        begin, end = self.held, self.held + T
        q_NHTE, k, v = qkv_KMX.view(N, T, 3, o.n_head, o.d_head).permute(2, 0, 3, 1, 4).unbind(0)
        if o.position == "rotary":
            whole = p.rotary_turns(self.size, o.d_head, qkv_KMX.dtype, qkv_KMX.device)
            turns = whole[0][begin:end], whole[1][begin:end]
            q_NHTE, k = (torch.cat(turned(x, *turns), dim=-1) for x in (q_NHTE, k))
        if at not in self.layers:
            self.layers[at] = qkv_KMX.new_empty((2, N, o.n_head, self.size, o.d_head))
        kept_2NHSE = self.layers[at]
        kept_2NHSE[:, :, :, begin:end] = torch.stack([k, v])
        k_NHSE, v_NHSE = kept_2NHSE[:, :, :, :end].unbind(0)
        query, key = torch.arange(begin, end, device=q_NHTE.device)[:, None], torch.arange(end, device=q_NHTE.device)
        hidden_TS = (key > query) | (key <= query - o.window if o.window else False)
        scores = (q_NHTE @ k_NHSE.mT * o.attention_scale).masked_fill(hidden_TS, -torch.inf)
        return (scores.softmax(-1) @ v_NHSE).transpose(1, 2).reshape(K, M, X // 3)


def _targets(tokens_KBT1: Tensor, o: Options) -> Tensor:
    return tokens_KBT1[..., -o.answers if o.answers else 1 :].flatten(1)


def _embedded(views: Mapping[str, Tensor], tokens_KBT: Tensor, o: Options, begin: int = 0) -> Tensor:
    """What enters the first block, shape (K, M, D). begin: position of the first token."""
    K, B, T = tokens_KBT.shape
    x_KMD = p.embedding(tokens_KBT.reshape(K, B * T), views["token"])
    if o.position == "learned":
        return p.add_positions(x_KMD, views["position"][:, begin : begin + T], B)
    if o.position == "sinusoidal":
        table_TD = p.sinusoid(begin + T, o.d_model, x_KMD.dtype, x_KMD.device)[begin:]
        return p.add_positions(x_KMD, table_TD.unsqueeze(0), B)
    return x_KMD


def _read(x_KMD: Tensor, views: Mapping[str, Tensor], o: Options) -> Tensor:
    """Logits of what leaves the last block, shape (K, M, V)."""
    last_KMD = _norm(x_KMD, views, "norm", o) if o.norm_first else x_KMD
    found = p.linear(last_KMD, views["token" if o.tie else "head"].transpose(1, 2), None)
    return found if o.logit_scale == 1 else p.times(found, o.logit_scale)


def _block(
    x_KMD: Tensor, views: Mapping[str, Tensor], at: str, o: Options, B: int, cache: _Cache | None = None
) -> Tensor:
    if o.norm_first:
        x_KMD = _attention(_norm(x_KMD, views, f"{at}.norm1", o), views, at, o, B, x_KMD, cache)
        return _mlp(_norm(x_KMD, views, f"{at}.norm2", o), views, at, o, onto=x_KMD)
    x_KMD = p.scaled(_norm(_attention(x_KMD, views, at, o, B, x_KMD, cache), views, f"{at}.norm1", o))
    return p.scaled(_norm(_mlp(x_KMD, views, at, o, onto=x_KMD), views, f"{at}.norm2", o))


def _attention(
    x_KMD: Tensor | p.Normed,
    views: Mapping[str, Tensor],
    at: str,
    o: Options,
    B: int,
    onto: Tensor,
    cache: _Cache | None,
) -> Tensor:
    qkv = _linear(x_KMD, views, f"{at}.qkv")
    if cache is not None:
        return _linear(cache.attend(qkv, B, o, at), views, f"{at}.out", onto)
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
