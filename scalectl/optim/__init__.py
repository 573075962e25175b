"""The optimisers. To add one: a file with its step on packed matrices, its options here, and a line in the tuple."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from scalectl.core.cost import Tensor

ALIGNED = 32  # numbers, 64 bytes of bf16; rows of parameters and of state are rounded up to it: `sweep.pack.packable`


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
class SGDOptions:
    """Stochastic gradient descent, as torch.optim.SGD: decay is added to the gradient, on matrices only.

    lr: peak learning rate; nesterov: look ahead by the momentum; clip: largest gradient norm of a run, 0 for none.
    """

    lr: float
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.0
    clip: float = 1.0


@dataclass(frozen=True)
class MuonOptions:
    """Muon (Jordan et al. 2024) for hidden matrices, AdamW for tables, head and vectors; decay is decoupled in both.

    lr: peak learning rate of Muon; adamw_lr: that of AdamW; adjust: what a shape does to Muon's rate, √max(1, fan-out /
    fan-in) (Jordan et al. 2024) or 0.2 √max(fan-in, fan-out) (Liu et al. 2025, arXiv 2502.16982); beta1, beta2, eps: of
    AdamW; clip: largest gradient norm of a run, 0 for none.
    """

    lr: float
    adamw_lr: float
    weight_decay: float = 0.1
    momentum: float = 0.95
    nesterov: bool = True
    adjust: Literal["original", "match_rms_adamw"] = "original"
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

    state: of a tensor table, the numbers in each slot of state that a model has; scratch: of the table, those that
    a step makes and drops on a CPU; rate: of a tensor and the options, the multiplier of its learning rate under muP,
    None where muP is not defined; shared: options that all rows of a pack have to agree on; turned: whether the step
    depends on which side of a matrix is the fan-in, which the code of an own model does not say.
    """

    name: str
    version: int
    options: type[Any]
    module: str
    state: Callable[[Sequence[Tensor]], tuple[int, ...]]
    scratch: Callable[[Sequence[Tensor]], int]
    rate: Callable[[Tensor, Any], float] | None = None
    shared: tuple[str, ...] = ()
    turned: bool = False


def _padded(tensors: Sequence[Tensor]) -> int:
    return -(-sum(tensor.size for tensor in tensors) // ALIGNED) * ALIGNED


def _two_moments(tensors: Sequence[Tensor]) -> tuple[int, ...]:
    return (_padded(tensors), _padded(tensors))


def _nothing(_: Sequence[Tensor]) -> int:
    """What torch's fused kernel makes."""
    return 0


def _adam_rate(tensor: Tensor, _: Any) -> float:
    """Entries of Adam's updates are of size 1, and fan-in of them add up (Yang et al. 2022, arXiv 2203.03466)."""
    return 1 / tensor.grown_in


def _momentum(tensors: Sequence[Tensor]) -> tuple[int, ...]:
    return (_padded(tensors),)


def _update(tensors: Sequence[Tensor]) -> int:
    return _padded(tensors)


def _sgd_rate(tensor: Tensor, _: Any) -> float:
    """Yang et al. 2022, arXiv 2203.03466, table 8: 1 for hidden matrices, fan-out for tables, head and vectors."""
    return tensor.grown_out / tensor.grown_in


def is_hidden(tensor: Tensor) -> bool:
    """Whether a tensor is a hidden matrix, between layers: neither a table, nor the head, nor a vector."""
    return tensor.role == "matmul" and not tensor.embedding and len(tensor.shape) == 2


def adjustment(tensor: Tensor, adjust: str, grown: bool = True) -> float:
    """What the shape of a hidden matrix does to Muon's rate, by the option of that name.

    Args: grown: whether at the tensor's own width, or at muP's base width.
    """
    fan_in, fan_out = float(tensor.shape[0]), tensor.shape[1] / tensor.parts
    if not grown:
        fan_in, fan_out = fan_in / tensor.grown_in, fan_out / tensor.grown_out
    return math.sqrt(max(1, fan_out / fan_in)) if adjust == "original" else 0.2 * math.sqrt(max(fan_in, fan_out))


def _hidden_and_rest(tensors: Sequence[Tensor]) -> tuple[int, ...]:
    hidden = sum(tensor.size for tensor in tensors if is_hidden(tensor))
    return (hidden, _padded(tensors) - hidden, _padded(tensors) - hidden)


def _newton_schulz(tensors: Sequence[Tensor]) -> int:
    """Gradient, update, a stack of equal shapes and its iteration in bf16: 3.7 numbers for each of hidden matrices."""
    return 4 * _hidden_and_rest(tensors)[0]


def _muon_rate(tensor: Tensor, o: MuonOptions) -> float:
    """An orthogonal update has spectral norm 1 and should have √(fan-out / fan-in), up to a constant.

    Source: Yang, Simon & Bernstein 2023, arXiv 2310.17813, condition 1; what `adjust` already gives is divided out.
    """
    if not is_hidden(tensor):
        return _adam_rate(tensor, o)
    wanted = math.sqrt(tensor.grown_out / tensor.grown_in)
    return wanted * adjustment(tensor, o.adjust, grown=False) / adjustment(tensor, o.adjust)


OPTIMIZERS: dict[str, Optimizer] = {
    optimizer.name: optimizer
    for optimizer in (
        Optimizer("adamw", 1, AdamWOptions, "scalectl.optim.adamw", _two_moments, _nothing, _adam_rate),
        Optimizer("sgd", 1, SGDOptions, "scalectl.optim.sgd", _momentum, _update, _sgd_rate, ("nesterov",)),
        Optimizer(
            "muon",
            1,
            MuonOptions,
            "scalectl.optim.muon",
            _hidden_and_rest,
            _newton_schulz,
            _muon_rate,
            ("nesterov", "adjust"),
            True,
        ),
    )
}
