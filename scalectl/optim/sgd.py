"""SGD with momentum on packed matrices.

The order of operations is that of torch.optim.SGD (no dampening): decay is added to the gradient, and the momentum is a
plain sum. Source: Sutskever et al. 2013 (Nesterov's form for a mini-batch).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from scalectl.optim import Columns, SGDOptions
from scalectl.optim.adamw import clip, columns_of


@dataclass(frozen=True)
class Rows:
    """Options of K rows as columns of shape (K, 1) in float64; nesterov is the same for all."""

    lr: Tensor
    momentum: Tensor
    weight_decay: Tensor
    clip: Tensor
    nesterov: bool

    @staticmethod
    def of(options: list[SGDOptions], device: torch.device) -> Rows:
        """The options of each row."""
        return Rows(*columns_of(options, ("lr", "momentum", "weight_decay", "clip"), device), options[0].nesterov)


@torch.no_grad()
def step(
    theta: Tensor, grad: Tensor, slots: tuple[Tensor, ...], rows: Rows, factor: Tensor, taken: Tensor, columns: Columns
) -> Tensor:
    """Clip each row by its norm, then update parameters and momentum in place.

    Under muP decay is divided by the multiplier of the rate, so that a step decays alike at every width, as in the
    authors' package (MuSGD, `decoupled_wd = False`).

    Args: theta, grad, slots[0]: (K, P); factor: (K, 1), the schedule's; taken: unused, for the shape of every step.
    Returns: gradient norms before clipping, shape (K, 1).
    """
    (buffer,) = slots
    norm = clip(grad, rows.clip)
    kind = theta.dtype
    decayed = columns.decayed
    decay = rows.weight_decay.to(kind)
    if columns.rates is not None:
        decay = decay / columns.rates[:, :decayed]
    grad[:, :decayed].addcmul_(theta[:, :decayed], decay)
    momentum = rows.momentum.to(kind)
    buffer.mul_(momentum).add_(grad)
    update = grad.addcmul_(buffer, momentum) if rows.nesterov else buffer
    size = (rows.lr * factor).to(kind)
    theta.sub_(update * (size if columns.rates is None else size * columns.rates))
    return norm
