"""The encoder-decoder's options, its tensor table and its ledger. Torch-free: plans and counts read this file.

Source: Vaswani et al. 2017, arXiv 1706.03762: two stacks, cross-attention, one table for prompt, answer and head. Norms
first, learned positions and GELU are the defaults, as of the decoder, so that the families differ in nothing else; the
paper's model is position = "sinusoidal", norm_first = false, activation = "relu", but for its factor √d of the table: a
tied head would then begin above a uniform guess, at width 512 by 2.5 nats.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from scalectl.core.cost import Ledger, Tensor
from scalectl.models.blocks import weights
from scalectl.models.tables import INIT_STD, block, linear, norm, residual_std


@dataclass(frozen=True)
class Options:
    """What a sweep file may say in [model] for family = "encoder-decoder".

    d_model: width; n_layer: blocks of each stack; n_head: attention heads (d_model must be a multiple); n_encoder,
    n_decoder: blocks of one stack, 0 for n_layer; position: how order enters; tie: the table is the head too; d_ff:
    width of the MLP, 0 for 4 d_model; norm_first: norms before the layers and one at the end of each stack, or after
    each residual sum; activation: of the MLP.
    Set by the task: vocab: symbols; answers: tokens of an answer; context: inputs of a problem as a decoder reads it,
    all its tokens but the last.
    """

    d_model: int
    n_layer: int
    n_head: int
    context: int
    answers: int
    vocab: int
    n_encoder: int = 0
    n_decoder: int = 0
    position: Literal["learned", "sinusoidal"] = "learned"
    tie: bool = True
    d_ff: int = 0
    norm_first: bool = True
    activation: Literal["gelu_tanh", "gelu", "relu"] = "gelu_tanh"

    @property
    def prompt(self) -> int:
        """Tokens of a prompt."""
        return self.context + 1 - self.answers

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of a problem that meet in one layer: those of the prompt, those of the answer."""
        return (self.prompt, self.answers)

    @property
    def encoders(self) -> int:
        """Blocks of the encoder."""
        return self.n_encoder or self.n_layer

    @property
    def decoders(self) -> int:
        """Blocks of the decoder."""
        return self.n_decoder or self.n_layer

    @property
    def d_hidden(self) -> int:
        """Width of the MLP."""
        return self.d_ff or 4 * self.d_model


def problems(o: Options) -> list[tuple[str, str]]:
    """What is wrong with a combination of options: (key, sentence with the remedy)."""
    counts = ("d_model", "n_layer", "n_head")
    found = [(key, f"{getattr(o, key)} is not a positive number") for key in counts if getattr(o, key) < 1]
    found += [
        (key, f"{getattr(o, key)} is negative; 0 means {default}")
        for key, default in (("d_ff", "4 d_model"), ("n_encoder", "n_layer"), ("n_decoder", "n_layer"))
        if getattr(o, key) < 0
    ]
    if found:
        return found
    if o.d_model % o.n_head:
        low = o.d_model // o.n_head * o.n_head
        near = " or ".join(str(d) for d in (low, low + o.n_head) if d > 0)
        found.append(("d_model", f"{o.d_model} is not a multiple of n_head = {o.n_head}; use {near}"))
    elif o.position == "sinusoidal" and o.d_model % 2:
        found.append(("d_model", f"sinusoidal positions need an even width, and {o.d_model} is odd"))
    return found


def tensors(o: Options) -> tuple[Tensor, ...]:
    """Every trained tensor, in the order of initialisation. Matrices are (fan in, fan out)."""
    d, hidden = o.d_model, o.d_hidden

    def lookup(name: str, rows: int, tied: bool = False) -> Tensor:
        return Tensor(name, (rows, d), "lookup", std=INIT_STD, decay=True, embedding=True, tied_head=tied)

    table = [lookup("token", o.vocab, tied=o.tie)]
    if o.position == "learned":
        table += [lookup("encoder.position", o.prompt), lookup("decoder.position", o.answers)]
    for layer in range(o.encoders):
        table += block(f"encoder{layer}", d, hidden, 2 * o.encoders)
    for layer in range(o.decoders):
        at, end = f"decoder{layer}", residual_std(3 * o.decoders)
        table += block(at, d, hidden, 3 * o.decoders)
        table += norm(f"{at}.cross.norm", d)
        table += linear(f"{at}.cross.q", (d, d))
        table += linear(f"{at}.cross.kv", (d, 2 * d), parts=2)
        table += linear(f"{at}.cross.out", (d, d), end)
    if o.norm_first:
        table += [*norm("encoder.norm", d), *norm("decoder.norm", d)]
    if not o.tie:
        table.append(Tensor("head", (o.vocab, d), "matmul", std=INIT_STD, decay=True, embedding=True))
    return tuple(table)


def ledger(o: Options) -> Ledger:
    """Parameters, FLOPs and memory of one model, per token of `Options.context`.

    The encoder's matrices and those of keys and values meet the tokens of the prompt, the others those of the answer.
    Activations as the layers of `models.cpu` save them: see `decoder.spec.ledger`. Cross-attention keeps its input, q
    and the mixture of each answer token with a weight for each token of the prompt, and k and v of the prompt.
    """
    d, hidden, T, A, H = o.d_model, o.d_hidden, o.prompt, o.answers, o.n_head
    inner = 4 * d * d + 2 * d * hidden
    products = o.encoders * T * inner + o.decoders * (A * (inner + 2 * d * d) + T * 2 * d * d) + A * d * o.vocab
    attention = o.encoders * 4 * T * T * d + o.decoders * 4 * (A + T) * A * d
    normed = (1 if o.norm_first else 2) * (d + 1)
    mlp = hidden if o.activation == "relu" else 2 * hidden
    encoder = T * (2 * normed + 4 * d + H * (T + 1) + mlp)
    decoder = A * (3 * normed + 6 * d + H * (T + 2) + mlp) + H * sum(weights(A, 0)) + T * 2 * d
    last = A * (d + 1 + o.vocab) + T * (d + 1)
    passing = A * max(hidden, 7 * d + H * A)
    return Ledger(
        tensors=tensors(o),
        attention_flops=-(-attention // o.context),
        saved_activations=-(-(o.encoders * encoder + o.decoders * decoder + last) // o.context),
        recomputed_activations=-(-(d * (o.encoders * T + o.decoders * A) + max(encoder, decoder) + last) // o.context),
        logits=-(-A * o.vocab // o.context),
        passing=-(-passing // o.context),
        counted_flops=3 * (2 * products + attention) / o.context,
    )
