"""The MLP's forward pass: a pure function of the tensors' views.

Legend: K models in the pack, B problems, T tokens of a prompt, W = T + 1, F width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from scalectl.models import primitives as p
from scalectl.models.layers import Run, linear
from scalectl.models.mlp.spec import Options


def logits(views: Mapping[str, Tensor], prompts_KBT: Tensor, o: Options) -> Tensor:
    """Logits of the answer, shape (K, B, V)."""
    x_KBF = p.relu(p.symbols(prompts_KBT, views["layer0.weight"], views["layer0.bias"], o.vocab))
    for layer in range(1, o.n_layer):
        x_KBF = p.relu(linear(x_KBF, views, f"layer{layer}"))
    return linear(x_KBF, views, "head")


def token_losses(views: Mapping[str, Tensor], problems_KBW: Tensor, o: Options, _: Run | None = None) -> Tensor:
    """Cross-entropy of every answer [nats], shape (K, B). It has no blocks that could be recomputed or compiled."""
    return p.token_losses(logits(views, problems_KBW[..., :-1], o), problems_KBW[..., -1])


def judge(views: Mapping[str, Tensor], problems_KBW: Tensor, o: Options) -> tuple[Tensor, Tensor]:
    """`token_losses`, and whether each answer is the most likely symbol."""
    return p.judged(logits(views, problems_KBW[..., :-1], o), problems_KBW[..., -1])
