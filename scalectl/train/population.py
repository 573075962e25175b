"""K models as matrices: row k is model k.

Parameters, gradients and the optimiser's moments are matrices of shape (K, P); every tensor of a model is a view of
its columns. Clipping is a row norm, a learning rate is a column vector, a checkpoint is a row, dropping a diverged
member is an index. Columns under weight decay come first, so decay is one slice. Source: ours (engine notes in the
README).
"""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scalectl.core.cost import Tensor as Shape
from scalectl.optim import ALIGNED, Columns, is_hidden

INIT_STREAM = 0x1417
COMPUTE = {
    "fp32": torch.float32,
    "tf32": torch.float32,  # the device rounds the factors of its products (train.device)
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp64": torch.float64,
}

# The preset gradients are columns of one matrix, so in a pack their strides differ from a fresh tensor's. That costs
# nothing: accumulation is in place.
warnings.filterwarnings("ignore", message=r".*grad and param do not obey the gradient layout contract", module="torch")


@dataclass(frozen=True)
class Layout:
    """Where each tensor of a model lies in a row.

    spans: name -> (first column, end column, shape); decayed: columns under weight decay, all at the front; width: P,
    rounded up so that every row begins on a boundary of 64 bytes: kernels treat the ends of unaligned arrays apart, and
    row 1 of a pack would then round otherwise than the same model alone.
    """

    spans: dict[str, tuple[int, int, tuple[int, ...]]]
    decayed: int
    width: int

    @staticmethod
    def of(tensors: Sequence[Shape]) -> Layout:
        """The layout of a tensor table."""
        spans = {}
        at = 0
        ordered = [t for t in tensors if t.decay] + [t for t in tensors if not t.decay]
        for tensor in ordered:
            spans[tensor.name] = (at, at + tensor.size, tensor.shape)
            at += tensor.size
        return Layout(spans, sum(t.size for t in tensors if t.decay), -(-at // ALIGNED) * ALIGNED)

    def columns(
        self,
        tensors: Sequence[Shape],
        rate: Callable[[Shape, Any], float] | None,
        options: Any,
        like: Tensor,
    ) -> Columns:
        """What the optimiser is told about the columns.

        Args: tensors: the table; rate: of a tensor and the optimiser's options, the multiplier of its learning rate;
        like: a tensor of the device and type of the multipliers.
        """
        at = {tensor.name: self.spans[tensor.name][0] for tensor in tensors}
        hidden = tuple(sorted(((at[t.name], t) for t in tensors if is_hidden(t)), key=lambda pair: pair[0]))
        rates = torch.ones(1, self.width, dtype=like.dtype)
        for tensor in tensors:
            a, b, _ = self.spans[tensor.name]
            rates[:, a:b] = rate(tensor, options) if rate else 1.0
        return Columns(self.decayed, hidden, None if bool(rates.eq(1).all()) else rates.to(like.device))

    def views(self, matrix: Tensor) -> dict[str, Tensor]:
        """Every tensor as a view (K, *shape) of a (K, P) matrix."""
        return {name: matrix[:, a:b].view(-1, *shape) for name, (a, b, shape) in self.spans.items()}


def initial_row(tensors: Sequence[Shape], seed: int) -> Tensor:
    """Parameters of one model at step 0, shape (P,), float32.

    Each tensor draws from a stream of its own, named by (seed, tensor), so neither the pack nor another tensor moves
    it; numpy's Philox makes it the same on every machine and torch version.
    """
    layout = Layout.of(tensors)
    row = np.zeros(layout.width, dtype=np.float32)
    for tensor in tensors:
        a, b, _ = layout.spans[tensor.name]
        if tensor.std == 0:
            row[a:b] = tensor.fill
        else:
            key = np.random.SeedSequence([INIT_STREAM, seed, zlib.crc32(tensor.name.encode())])
            row[a:b] = np.random.Generator(np.random.Philox(key)).normal(0.0, tensor.std, b - a)
    return torch.from_numpy(row)


def row_of(tensors: Sequence[Shape], values: Mapping[str, Tensor]) -> Tensor:
    """Given parameters as a row, shape (P,), float32.

    Raises: ValueError if they are not the ones of the table.
    """
    layout = Layout.of(tensors)
    table, found = {t.name: t.shape for t in tensors}, {name: tuple(held.shape) for name, held in values.items()}
    if table != found:
        unlike = dict(set(table.items()) ^ set(found.items()))
        raise ValueError(f"the parameters {', '.join(sorted(unlike))} are not those of the plan")
    row = torch.zeros(layout.width)
    for name, (a, b, _) in layout.spans.items():
        row[a:b] = values[name].flatten()
    return row


@dataclass(frozen=True)
class Row:
    """One model taken out of the matrices.

    theta, each of slots: parameters and state of the optimiser, shape (P,); scaling: state of its loss scale, shape
    (3,) in fp16 and (0,) otherwise (`train.scaling`).
    """

    theta: Tensor
    slots: tuple[Tensor, ...]
    scaling: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))


@dataclass(frozen=True)
class Population:
    """The matrices of a pack, each (K, P).

    theta: master weights; grad: their gradients; slots: the optimiser's state; compute: what forward reads (theta
    itself, or its cast); compute_grad: gradients in the compute type; scaling: of each row's loss, (K, 3) or (K, 0).
    """

    layout: Layout
    theta: Tensor
    grad: Tensor
    slots: tuple[Tensor, ...]
    compute: Tensor
    compute_grad: Tensor
    scaling: Tensor

    @staticmethod
    def of(layout: Layout, rows: Sequence[Row], precision: str, device: torch.device) -> Population:
        """A population of the given rows."""
        theta = torch.stack([row.theta for row in rows]).to(device)
        if precision == "fp64":
            theta = theta.double()
        slots = tuple(
            torch.stack([row.slots[i] for row in rows]).to(device, theta.dtype) for i in range(len(rows[0].slots))
        )
        kind = COMPUTE[precision]
        grad = torch.zeros_like(theta)
        compute = theta if kind == theta.dtype else theta.to(kind)
        compute_grad = grad if kind == theta.dtype else torch.zeros_like(compute)
        scaling = torch.stack([row.scaling for row in rows]).to(device)
        return Population(layout, theta, grad, slots, compute, compute_grad, scaling)

    def views(self, rows: slice) -> dict[str, Tensor]:
        """Every tensor of these rows in the compute type, its gradient preset to the same columns."""
        views = self.layout.views(self.compute[rows])
        for name, gradient in self.layout.views(self.compute_grad[rows]).items():
            views[name] = views[name].detach().requires_grad_()
            views[name].grad = gradient
        return views

    def __len__(self) -> int:
        return self.theta.shape[0]

    @property
    def held(self) -> tuple[Tensor, ...]:
        """What makes up its models from step to step: parameters, the optimiser's state, the loss scales."""
        return (self.theta, *self.slots, self.scaling)

    def row(self, k: int) -> Row:
        """A copy of model k on the CPU."""
        theta, *slots, scaling = (held[k].cpu().clone() for held in self.held)
        return Row(theta, tuple(slots), scaling)

    def refresh(self) -> None:
        """Cast the master weights to the compute type; gradients to zero."""
        if self.compute is not self.theta:
            self.compute.copy_(self.theta)
            self.compute_grad.zero_()
        self.grad.zero_()

    def collect(self) -> None:
        """Add the compute type's gradients to the master gradients."""
        if self.compute_grad is not self.grad:
            self.grad.add_(self.compute_grad)
            self.compute_grad.zero_()
