"""The decoder's options, its tensor table and its ledger. Torch-free: plans and counts read this file.

Sources: Radford et al. 2019 (GPT-2: pre-norm, learned positions, scaled residual initialisation, tied head);
Vaswani et al. 2017, arXiv 1706.03762 (sinusoidal positions); Su et al. 2021, arXiv 2104.09864 (rotary positions);
Zhang & Sennrich 2019, arXiv 1910.07467 (RMS norm).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from scalectl.core.cost import Ledger, Tensor
from scalectl.core.run import new_field

INIT_STD = 0.02  # GPT-2


@dataclass(frozen=True)
class Options:
    """What a sweep file may say in [model] for family = "decoder".

    d_model: width; n_layer: blocks; n_head: attention heads (d_model must be a multiple); context: tokens in a
    sequence; position: how order enters; norm: layer or RMS; bias: on projections and norms; tie: one table for input
    and head; d_ff: width of the MLP, 0 for 4 d_model; vocab: symbols, set by the task; norm_first: norms before the
    layers and one at the end (GPT-2), or after each residual sum (Vaswani et al. 2017); activation: of the MLP; window:
    tokens that attention sees, a token's own and those just before it, 0 for all.
    """

    d_model: int
    n_layer: int
    n_head: int
    context: int
    vocab: int
    position: Literal["learned", "sinusoidal", "rotary"] = "learned"
    norm: Literal["layer", "rms"] = "layer"
    bias: bool = True
    tie: bool = True
    d_ff: int = 0
    norm_first: bool = new_field(default=True, as_before=True)
    activation: Literal["gelu_tanh", "gelu", "relu"] = new_field(default="gelu_tanh", as_before="gelu_tanh")
    window: int = new_field(default=0, as_before=0)

    @property
    def d_head(self) -> int:
        """Width of one head."""
        return self.d_model // self.n_head

    @property
    def d_hidden(self) -> int:
        """Width of the MLP."""
        return self.d_ff or 4 * self.d_model


def problems(o: Options) -> list[tuple[str, str]]:
    """What is wrong with a combination of options: (key, sentence with the remedy)."""
    counts = ("d_model", "n_layer", "n_head", "context", "vocab")
    found = [(key, f"{getattr(o, key)} is not a positive number") for key in counts if getattr(o, key) < 1]
    if o.d_ff < 0:
        found.append(("d_ff", f"{o.d_ff} is negative; 0 means 4 d_model"))
    if o.window and not 0 < o.window < o.context:
        found.append(("window", f"{o.window} is no part of context = {o.context}; 0 means all of it"))
    if found:
        return found
    if o.d_model % o.n_head:
        low = o.d_model // o.n_head * o.n_head
        near = " or ".join(str(d) for d in (low, low + o.n_head) if d > 0)
        found.append(("d_model", f"{o.d_model} is not a multiple of n_head = {o.n_head}; use {near}"))
    elif o.position == "rotary" and o.d_head % 2:
        found.append(
            ("d_model", f"rotary positions need an even head width, and {o.d_model} / {o.n_head} = {o.d_head}")
        )
    elif o.position == "sinusoidal" and o.d_model % 2:
        found.append(("d_model", f"sinusoidal positions need an even width, and {o.d_model} is odd"))
    return found


def tensors(o: Options) -> tuple[Tensor, ...]:
    """Every trained tensor, in the order of initialisation. Matrices are (fan in, fan out), as GPT-2 stores them."""
    d, hidden = o.d_model, o.d_hidden
    residual_std = INIT_STD / (2 * o.n_layer) ** 0.5  # GPT-2: residual projections shrink with depth
    table = [Tensor("token", (o.vocab, d), "lookup", std=INIT_STD, decay=True, embedding=True, tied_head=o.tie)]
    if o.position == "learned":
        table.append(Tensor("position", (o.context, d), "lookup", std=INIT_STD, decay=True, embedding=True))

    def norm(name: str) -> list[Tensor]:
        scale = [Tensor(f"{name}.scale", (d,), "vector", fill=1.0)]
        return scale + ([Tensor(f"{name}.shift", (d,), "vector")] if o.norm == "layer" and o.bias else [])

    def linear(name: str, fan_in: int, fan_out: int, std: float) -> list[Tensor]:
        weight = [Tensor(f"{name}.weight", (fan_in, fan_out), "matmul", std=std, decay=True)]
        return weight + ([Tensor(f"{name}.bias", (fan_out,), "vector")] if o.bias else [])

    for layer in range(o.n_layer):
        at = f"layer{layer}"
        table += norm(f"{at}.norm1")
        table += linear(f"{at}.qkv", d, 3 * d, INIT_STD)
        table += linear(f"{at}.out", d, d, residual_std)
        table += norm(f"{at}.norm2")
        table += linear(f"{at}.up", d, hidden, INIT_STD)
        table += linear(f"{at}.down", hidden, d, residual_std)
    if o.norm_first:
        table += norm("norm")
    if not o.tie:
        table.append(Tensor("head", (o.vocab, d), "matmul", std=INIT_STD, decay=True, embedding=True))
    return tuple(table)


def ledger(o: Options) -> Ledger:
    """Parameters, FLOPs and memory of one model.

    Attention: QKᵀ and AV cost 2 T d each per token and layer (Kaplan et al. 2020, table 1, without a discount for the
    causal mask or a window). Saved activations per token and layer, in units of d, as the eager backward keeps them:
    two normalised inputs and their inputs (4), q, k, v (3), the attention's output (1), two residual sums (2), and the
    hidden layer before and after its activation; then the logits and their log-softmax. Ours, from the operations in
    forward.py.
    """
    per_layer = 10 * o.d_model + 2 * o.d_hidden
    return Ledger(
        tensors=tensors(o),
        attention_flops=o.n_layer * 4 * o.context * o.d_model,
        saved_activations=o.n_layer * per_layer + 4 * o.d_model + 2 * o.vocab,
    )
