"""The MLP's options, its tensor table and its ledger. Torch-free: plans and counts read this file.

Source: Michaud et al. 2023, arXiv 2303.13506: a ReLU network over the bits of a prompt, whose width is the size axis.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from scalectl.core.cost import Ledger, Tensor


@dataclass(frozen=True)
class Options:
    """What a sweep file may say in [model] for family = "mlp".

    width: of the hidden layers; n_layer: hidden layers.
    Set by the task: context: tokens of a prompt; vocab: symbols; answers: tokens of an answer.
    """

    width: int
    context: int
    vocab: int
    answers: int
    n_layer: int = 1

    @property
    def inputs(self) -> int:
        """Numbers that enter: one of each bit, or of each symbol at each place."""
        return self.context * (1 if self.vocab == 2 else self.vocab)


def problems(o: Options) -> list[tuple[str, str]]:
    """What is wrong with a combination of options: (key, sentence with the remedy)."""
    found = [
        (key, f"{getattr(o, key)} is not a positive number") for key in ("width", "n_layer") if getattr(o, key) < 1
    ]
    if o.answers != 1:
        found.append(("answers", f"an MLP answers with one token, and the task asks for {o.answers}"))
    return found


def tensors(o: Options) -> tuple[Tensor, ...]:
    """Every trained tensor, in the order of initialisation; matrices are (fan in, fan out).

    Nothing of it is a table, so every parameter counts in N non-embedding. Initialisation: He et al. 2015, arXiv
    1502.01852, the head by its fan-in.
    """
    table: list[Tensor] = []
    fan_in = o.inputs
    for layer in range(o.n_layer):
        weight = Tensor(f"layer{layer}.weight", (fan_in, o.width), "matmul", std=math.sqrt(2 / fan_in), decay=True)
        table += [weight, Tensor(f"layer{layer}.bias", (o.width,), "vector")]
        fan_in = o.width
    head = Tensor("head.weight", (fan_in, o.vocab), "matmul", std=1 / math.sqrt(fan_in), decay=True)
    return (*table, head, Tensor("head.bias", (o.vocab,), "vector"))


def ledger(o: Options) -> Ledger:
    """Parameters, FLOPs and memory of one model, per token of a prompt: a prompt of T tokens costs T times as much.

    Training costs three forward passes (`core.cost`) but for the first matrix: nobody asks for the gradient of its
    inputs. Activations as the layers of `models.cpu` save them: the inputs, each hidden layer, the logits.
    """
    first = o.inputs * o.width
    others = (o.n_layer - 1) * o.width**2 + o.width * o.vocab
    logits = -(-o.vocab // o.context)
    return Ledger(
        tensors=tensors(o),
        attention_flops=0,
        saved_activations=-(-(o.inputs + o.n_layer * o.width) // o.context) + logits,
        logits=logits,
        passing=-(-2 * o.width // o.context),
        counted_flops=(2 * 2 * first + 3 * 2 * others) / o.context,
    )
