"""The decoder's options, its tensor table and its ledger. Torch-free: plans and counts read this file.

Sources: Radford et al. 2019 (GPT-2: pre-norm, learned positions, scaled residual initialisation, tied head);
Vaswani et al. 2017, arXiv 1706.03762 (sinusoidal positions); Su et al. 2021, arXiv 2104.09864 (rotary positions);
Zhang & Sennrich 2019, arXiv 1910.07467 (RMS norm);
Yang et al. 2022, arXiv 2203.03466, table 8 (muP in the form that allows a tied head).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from scalectl.core.cost import Ledger, Tensor
from scalectl.core.run import new_field
from scalectl.models.blocks import weights

INIT_STD = 0.02  # GPT-2
# The width at which muP is the standard parametrisation: that of the proxy of GPT-3 in Yang et al. 2022, section 7.4.
# Ours: measured against 64, at which a standard deviation of .02 and unscaled logits are too small (LOG.md).
MUP_BASE_WIDTH = 256
MUP_D_HEAD = 64  # the head width at which muP's attention scale is the standard one; GPT-2's and GPT-3's own


@dataclass(frozen=True)
class Options:
    """What a sweep file may say in [model] for family = "decoder".

    d_model: width; n_layer: blocks; n_head: attention heads (d_model must be a multiple); context: tokens in a
    sequence; position: how order enters; norm: layer or RMS; bias: on projections and norms; tie: one table for input
    and head; d_ff: width of the MLP, 0 for 4 d_model; vocab: symbols, set by the task; norm_first: norms before the
    layers and one at the end (GPT-2), or after each residual sum (Vaswani et al. 2017); activation: of the MLP; window:
    tokens that attention sees, a token's own and those just before it, 0 for all;
    mup_base_width: the width at which muP equals the standard parametrisation, 0 for the standard one at every width;
    answers: last targets of a sequence that alone are judged, 0 for all, set by the task.
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
    mup_base_width: int = new_field(default=0, as_before=0)
    answers: int = new_field(default=0, as_before=0)

    @property
    def judged(self) -> int:
        """Targets of a sequence that have logits."""
        return self.answers or self.context

    @property
    def d_head(self) -> int:
        """Width of one head."""
        return self.d_model // self.n_head

    @property
    def d_hidden(self) -> int:
        """Width of the MLP."""
        return self.d_ff or 4 * self.d_model

    @property
    def grown(self) -> float:
        """Width in units of muP's base width, 1 in the standard parametrisation."""
        return self.d_model / self.mup_base_width if self.mup_base_width else 1.0

    @property
    def logit_scale(self) -> float:
        """Multiplier of the logits: under muP they are divided by the fan-in of the head."""
        return 1 / self.grown

    @property
    def attention_scale(self) -> float:
        """Multiplier of QKᵀ: 1/√d_head, under muP 1/d_head up to a constant.

        Keys and queries become correlated in training, and then their product grows like d_head, not like its root
        (Yang et al. 2022, definition 4.1).
        """
        return math.sqrt(MUP_D_HEAD) / self.d_head if self.mup_base_width else 1 / math.sqrt(self.d_head)


def problems(o: Options) -> list[tuple[str, str]]:
    """What is wrong with a combination of options: (key, sentence with the remedy)."""
    counts = ("d_model", "n_layer", "n_head", "context", "vocab")
    found = [(key, f"{getattr(o, key)} is not a positive number") for key in counts if getattr(o, key) < 1]
    if o.d_ff < 0:
        found.append(("d_ff", f"{o.d_ff} is negative; 0 means 4 d_model"))
    if o.answers > o.context:
        found.append(("context", f"{o.context} is less than the {o.answers} answer tokens of the task"))
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
    """Every trained tensor, in the order of initialisation. Matrices are (fan in, fan out), as GPT-2 stores them.

    Under muP the standard deviation of a hidden matrix falls like the root of its fan-in; tables, the head and vectors
    keep theirs, and the logits are scaled instead (table 8 of Yang et al. 2022, which lets the head be tied).
    """
    d, hidden = o.d_model, o.d_hidden
    grown = o.grown
    grown_hidden = 1.0 if o.d_ff else grown
    residual_std = INIT_STD / (2 * o.n_layer) ** 0.5  # GPT-2: residual projections shrink with depth

    def lookup(name: str, rows: int, tied: bool = False) -> Tensor:
        shape = (rows, d)
        return Tensor(name, shape, "lookup", std=INIT_STD, decay=True, embedding=True, tied_head=tied, grown_out=grown)

    def norm(name: str) -> list[Tensor]:
        scale = [Tensor(f"{name}.scale", (d,), "vector", fill=1.0, grown_out=grown)]
        shift = [Tensor(f"{name}.shift", (d,), "vector", grown_out=grown)]
        return scale + (shift if o.norm == "layer" and o.bias else [])

    def linear(
        name: str, fan: tuple[int, int], std: float, wide: tuple[float, float] = (grown, grown), parts: int = 1
    ) -> list[Tensor]:
        weight = Tensor(
            f"{name}.weight",
            fan,
            "matmul",
            std=std / math.sqrt(wide[0]),
            decay=True,
            parts=parts,
            grown_in=wide[0],
            grown_out=wide[1],
        )
        return [weight] + ([Tensor(f"{name}.bias", (fan[1],), "vector", grown_out=wide[1])] if o.bias else [])

    table = [lookup("token", o.vocab, tied=o.tie)]
    if o.position == "learned":
        table.append(lookup("position", o.context))
    for layer in range(o.n_layer):
        at = f"layer{layer}"
        table += norm(f"{at}.norm1")
        table += linear(f"{at}.qkv", (d, 3 * d), INIT_STD, parts=3)
        table += linear(f"{at}.out", (d, d), residual_std)
        table += norm(f"{at}.norm2")
        table += linear(f"{at}.up", (d, hidden), INIT_STD, (grown, grown_hidden))
        table += linear(f"{at}.down", (hidden, d), residual_std, (grown_hidden, grown))
    if o.norm_first:
        table += norm("norm")
    if not o.tie:
        table.append(Tensor("head", (o.vocab, d), "matmul", std=INIT_STD, decay=True, embedding=True, grown_out=grown))
    return tuple(table)


def ledger(o: Options) -> Ledger:
    """Parameters, FLOPs and memory of one model.

    Attention: QKᵀ and AV cost 2 T d each per token and layer (Kaplan et al. 2020, table 1, without a discount for the
    causal mask or a window). Activations as the layers of `models.cpu` save them, per token: two normalised inputs;
    q, k, v, the mixture, and the weights of every head with their sum; the hidden layer after its activation and its
    derivative; with norms last, both outputs of the norms besides. Beside them stand in the last layer the gradients of
    the hidden layer, or of attention (the residual, the mixture twice, q, k, v twice, the weights of a block) where the
    last norm, the MLP and its norm are gone. Recomputed, each layer keeps its input, and one layer at a time the rest.
    The last norm and the head are of the judged tokens alone.
    """
    d, hidden = o.d_model, o.d_hidden
    held = weights(o.context, o.window)
    attention = 4 * d + o.n_head * (sum(held) // o.context + 1)
    passing = (8 if o.position == "rotary" else 7) * d + o.n_head * max(held) // o.context
    mlp = hidden if o.activation == "relu" else 2 * hidden
    per_layer = (2 if o.norm_first else 4) * (d + 1) + attention + mlp
    logits = -(-o.vocab * o.judged // o.context)
    last = -(-(d + 1) * o.judged // o.context) + logits
    every = Ledger(
        tensors=tensors(o),
        attention_flops=o.n_layer * 4 * o.context * d,
        saved_activations=o.n_layer * per_layer + last,
        recomputed_activations=o.n_layer * d + per_layer + last,
        logits=logits,
        passing=max(hidden, passing - mlp),
    )
    if not o.answers:
        return every
    unread = 6 * o.vocab * d * (o.context - o.answers) / o.context
    return replace(every, counted_flops=every.flops_per_token() - unread)
