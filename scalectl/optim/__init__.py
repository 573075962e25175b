"""The optimisers. To add one: a file with its step on packed matrices, its options here, and a line in the tuple."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from scalectl.core.cost import Tensor

ALIGNED = 32  # numbers; a slot is rounded up to it, as rows of parameters are, so that a pack rounds like a solo run


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
class Columns:
    """What a step knows of the P columns beside their numbers.

    decayed: so many of them are under weight decay, all at the front; hidden: first column and tensor of each hidden
    matrix; rates: multipliers of the learning rate, shape (1, P), None where all are 1.
    """

    decayed: int
    hidden: tuple[tuple[int, Tensor], ...] = ()
    rates: Any = None  # a tensor of torch, which this file does not import


@dataclass(frozen=True)
class Optimizer:
    """An optimiser: name, version of its mathematics, options, and the module of its step (torch, workers only).

    state: of a tensor table, the numbers in each slot of state that a model has; rate: of a tensor and the options, the
    multiplier of its learning rate under muP, None where muP is not defined; shared: options that all rows of a pack
    have to agree on.
    """

    name: str
    version: int
    options: type[Any]
    module: str
    state: Callable[[Sequence[Tensor]], tuple[int, ...]]
    rate: Callable[[Tensor, Any], float] | None = None
    shared: tuple[str, ...] = ()


def _padded(tensors: Sequence[Tensor]) -> int:
    return -(-sum(tensor.size for tensor in tensors) // ALIGNED) * ALIGNED


def _two_moments(tensors: Sequence[Tensor]) -> tuple[int, ...]:
    return (_padded(tensors), _padded(tensors))


def _adam_rate(tensor: Tensor, _: Any) -> float:
    """Entries of Adam's updates are of size 1, and fan-in of them add up (Yang et al. 2022, arXiv 2203.03466)."""
    return 1 / tensor.grown_in


OPTIMIZERS: dict[str, Optimizer] = {
    optimizer.name: optimizer
    for optimizer in (Optimizer("adamw", 1, AdamWOptions, "scalectl.optim.adamw", _two_moments, _adam_rate),)
}
