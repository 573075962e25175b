"""Arithmetic on shapes: parameters, FLOPs, bytes. Torch-free, so that a plan stays light.

Conventions for N:
    total          every trained number
    non_embedding  without token and position tables and without the output head, tied or not (Kaplan et al. 2020)
    matmul         what multiplies an activation at every token, the output head included, tied or not
The convention alone moves a fitted exponent (Porian et al. 2024, arXiv 2406.19146), so every number names its own.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

Convention = Literal["non_embedding", "total", "matmul"]
Role = Literal["matmul", "lookup", "vector"]
CONVENTIONS: tuple[Convention, ...] = get_args(Convention)

BYTES = {"fp32": 4, "bf16": 2, "fp16": 2, "tf32": 4}  # a number in forward and backward, by precision
INTEGERS = 32  # bytes a token: the batch, its inputs with the offset of their table, its targets


@dataclass(frozen=True)
class Tensor:
    """One named tensor of one model.

    shape: without the pack's leading axis; role: how a token uses it; std: of the normal initialisation, 0 for
    a constant; fill: that constant; decay: whether weight decay applies (matrices only); embedding: a token or
    position table or an output head (left out of N non-embedding); tied_head: a lookup that is also the head;
    parts: matrices side by side in the last axis (3 for query, key and value in one); grown_in, grown_out: fan-in and
    fan-out in units of those at muP's base width, 1 where the parametrisation is standard.
    """

    name: str
    shape: tuple[int, ...]
    role: Role
    std: float = 0.0
    fill: float = 0.0
    decay: bool = False
    embedding: bool = False
    tied_head: bool = False
    parts: int = 1
    grown_in: float = 1.0
    grown_out: float = 1.0

    @property
    def size(self) -> int:
        """Numbers in the tensor."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Ledger:
    """Everything a model costs, from its tensor table.

    attention_flops: forward FLOPs per token of products between activations (QKᵀ and AV), which no parameter counts.
    saved_activations: numbers kept per token for the backward pass, logits included; logits: those of the logits, kept
    in fp32; passing: what a layer makes and drops beside them; all by a CPU's layers.
    counted_flops: training FLOPs per token where they were counted on the model itself, or where the family says them,
    None where they follow from the table; recomputed_activations: numbers kept per token at most where blocks are
    recomputed, None where none are.
    """

    tensors: tuple[Tensor, ...]
    attention_flops: int
    saved_activations: int
    logits: int = 0
    passing: int = 0
    counted_flops: float | None = None
    recomputed_activations: int | None = None

    def params(self, convention: Convention) -> int:
        """N [parameters] by convention."""
        return self._counts[convention]

    @functools.cached_property
    def _counts(self) -> dict[Convention, int]:
        return {
            "total": sum(t.size for t in self.tensors),
            "non_embedding": sum(t.size for t in self.tensors if not t.embedding),
            "matmul": sum(t.size for t in self.tensors if t.role == "matmul" or t.tied_head),
        }

    def flops_per_token(self) -> float:
        """Exact training FLOPs per token: forward, and a backward of twice the forward.

        Source: 6N + 12 L d T of Kaplan et al. 2020 (arXiv 2001.08361, section 2.1) with the head counted
        (Porian et al. 2024) and no discount for the causal mask, as FlopCounterMode counts.
        """
        if self.counted_flops is not None:
            return self.counted_flops
        return 3 * (2 * self.params("matmul") + self.attention_flops)

    def flops_6n(self, convention: Convention = "non_embedding") -> int:
        """Approximate training FLOPs per token, 6N."""
        return 6 * self.params(convention)

    def train_bytes(
        self, tokens: int, precision: str = "fp32", *, state: int, scratch: int = 0, recompute: bool = False
    ) -> int:
        """Memory of one training run at its fullest [bytes], beside the bare process.

        Master weights, gradients, optimiser, compute copy; what the backward pass needs; and either the loss, which
        holds the logits, their powers in fp32 and, from a narrower type, the logits in fp32, or a layer's temporaries.
        Where more, in its place: parameters and state a second time, which exist outside of the pack when a run is
        seated; or what an update makes beside, in fp16 with the parameters and state before it.
        Ours, from the operations in `models.cpu`; within 15 % of what torch allocates (tests/train/test_memory.py).

        Args: tokens: tokens in one micro-batch; state: numbers that the optimiser keeps, in fp32; scratch: those that
        its step makes and drops; recompute: whether blocks are computed again in the backward pass.
        """
        kept = self.saved_activations
        if recompute and self.recomputed_activations is not None:
            kept = self.recomputed_activations
        width = BYTES[precision]
        weights = 8 if width == 4 else 8 + 2 * width
        loss = self.logits * (8 if width == 4 else 8 + width)
        beside = max(loss, width * self.passing) + INTEGERS
        held = 4 * (self.params("total") + state)
        update = 4 * scratch + (held if precision == "fp16" else 0)
        passing = max(held, update, (width * (kept - self.logits) + beside) * tokens)
        return held + (weights - 4) * self.params("total") + passing


def ledger_of_record(data: Mapping[str, Any]) -> Ledger:
    """A ledger from its record as plain JSON data (`dataclasses.asdict`)."""
    tensors = tuple(Tensor(**{**held, "shape": tuple(held["shape"])}) for held in data["tensors"])
    return Ledger(**{**data, "tensors": tensors})
