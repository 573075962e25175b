"""The vision transformer's options, its tensor table and its ledger. Torch-free: plans and counts read this file.

Source: Dosovitskiy et al. 2020, arXiv 2010.11929: pre-norm blocks, GELU, a learned token and learned positions, and a
head of zeros (section 3.2), so that every run begins at the loss of a uniform guess.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from scalectl.core.cost import Ledger, Tensor
from scalectl.models.tables import INIT_STD, block, norm


@dataclass(frozen=True)
class Options:
    """What a sweep file may say in [model] for family = "vit".

    d_model: width; n_layer: blocks; n_head: attention heads (d_model must be a multiple); patch: side of a patch
    [pixels]; d_ff: width of the MLP, 0 for 4 d_model; activation: of the MLP.
    Set by the task: image: side of an image [pixels]; channels: numbers of a pixel; levels: the largest of them;
    classes: of images.
    """

    d_model: int
    n_layer: int
    n_head: int
    patch: int
    image: int
    channels: int
    levels: int
    classes: int
    d_ff: int = 0
    activation: Literal["gelu", "gelu_tanh", "relu"] = "gelu"

    @property
    def patches(self) -> int:
        """Patches of an image."""
        return (self.image // self.patch) ** 2

    @property
    def context(self) -> int:
        """Tokens of an image: its patches, and the one that the head reads."""
        return self.patches + 1

    @property
    def answers(self) -> int:
        """Judged numbers of a sample: its class."""
        return 1

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of an image that meet in one layer: all of them, the patches, the one that the head reads."""
        return (self.context, self.patches, 1)

    @property
    def d_patch(self) -> int:
        """Numbers in a patch."""
        return self.channels * self.patch**2

    @property
    def d_hidden(self) -> int:
        """Width of the MLP."""
        return self.d_ff or 4 * self.d_model


def problems(o: Options) -> list[tuple[str, str]]:
    """What is wrong with a combination of options: (key, sentence with the remedy)."""
    counts = ("d_model", "n_layer", "n_head", "patch")
    found = [(key, f"{getattr(o, key)} is not a positive number") for key in counts if getattr(o, key) < 1]
    if o.d_ff < 0:
        found.append(("d_ff", f"{o.d_ff} is negative; 0 means 4 d_model"))
    if found:
        return found
    if o.d_model % o.n_head:
        low = o.d_model // o.n_head * o.n_head
        near = " or ".join(str(d) for d in (low, low + o.n_head) if d > 0)
        found.append(("d_model", f"{o.d_model} is not a multiple of n_head = {o.n_head}; use {near}"))
    if o.image % o.patch:
        whole = ", ".join(str(side) for side in range(1, o.image + 1) if o.image % side == 0)
        found.append(("patch", f"{o.patch} does not divide the side of the images; use one of {whole}"))
    return found


def tensors(o: Options) -> tuple[Tensor, ...]:
    """Every trained tensor, in the order of initialisation. Matrices are (fan in, fan out).

    The map of patches, the token, the positions and the head are what tables and head are to a language model: N
    non-embedding leaves them out.
    """
    d = o.d_model
    table = [
        Tensor("patch.weight", (o.d_patch, d), "matmul", std=INIT_STD, decay=True, embedding=True),
        Tensor("patch.bias", (d,), "vector", embedding=True),
        Tensor("class", (d,), "vector", std=INIT_STD, embedding=True),
        Tensor("position", (o.context, d), "lookup", std=INIT_STD, decay=True, embedding=True),
    ]
    for layer in range(o.n_layer):
        table += block(f"layer{layer}", d, o.d_hidden, 2 * o.n_layer)
    table += norm("norm", d)
    table += [
        Tensor("head.weight", (d, o.classes), "matmul", decay=True, embedding=True),
        Tensor("head.bias", (o.classes,), "vector", embedding=True),
    ]
    return tuple(table)


def ledger(o: Options) -> Ledger:
    """Parameters, FLOPs and memory of one model, per token of `Options.context`.

    Outside of the blocks the map of patches meets all tokens but one, the head one alone. Training costs three forward
    passes (`core.cost`) but for the map of patches: nobody asks for the gradient of pixels.
    Activations as the layers of `models.cpu` save them: see `decoder.spec.ledger`; the weights of a head are all T².
    """
    d, hidden, T = o.d_model, o.d_hidden, o.context
    inner = o.n_layer * (4 * d * d + 2 * d * hidden)
    attention = o.n_layer * 4 * T * d
    patches, head = o.patches * o.d_patch * d, d * o.classes
    per_layer = 2 * (d + 1) + 4 * d + o.n_head * (T + 1) + (hidden if o.activation == "relu" else 2 * hidden)
    logits = -(-o.classes // T)
    last = -(-(d + 1 + o.patches * o.d_patch) // T) + logits
    return Ledger(
        tensors=tensors(o),
        attention_flops=attention,
        saved_activations=o.n_layer * per_layer + last,
        recomputed_activations=o.n_layer * d + per_layer + last,
        logits=logits,
        passing=7 * d + o.n_head * T,
        counted_flops=3 * (2 * inner + attention) + (2 * 2 * patches + 3 * 2 * head) / T,
    )
