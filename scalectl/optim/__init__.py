"""The optimisers. To add one: a file with its step on packed matrices, its options here, and a line in the tuple."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class AdamWOptions:
    """AdamW (Loshchilov & Hutter 2019, arXiv 1711.05101): decay is decoupled and on matrices only.

    lr: peak learning rate; weight_decay: per unit of learning rate; clip: largest gradient norm of a run, 0 for none.
    """

    lr: float
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    clip: float = 1.0


@dataclass(frozen=True)
class Optimizer:
    """An optimiser: name, version of its mathematics, options, and the module of its step (torch, workers only)."""

    name: str
    version: int
    options: type[Any]
    module: str


OPTIMIZERS: dict[str, Optimizer] = {
    optimizer.name: optimizer for optimizer in (Optimizer("adamw", 1, AdamWOptions, "scalectl.optim.adamw"),)
}
