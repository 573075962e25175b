"""The loss scale of fp16, one for each row: gradients below 6e-8 would be lost, and above 65504 overflow.

A row whose gradient overflows skips its own step and halves its scale, while the others step; after so many steps
without an overflow the scale doubles. The state is a row of the pack's matrices like any other: it is selected, kept
in checkpoints and copied with its run.

Source: dynamic loss scaling, Micikevicius et al. 2018, arXiv 1710.03740; the numbers are the defaults of
torch.amp.GradScaler, and the tests follow it step by step.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

INITIAL = 65536.0
GROWTH = 2.0
BACKOFF = 0.5
GROWTH_INTERVAL = 2000  # steps without an overflow
SMALLEST = 1.0  # ours: below it the gradient itself is beyond fp16, and the run has diverged
SCALE, STREAK, SKIPPED = range(3)  # columns: loss scale; steps since the last overflow or growth; steps skipped so far


def fresh(precision: str) -> Tensor:
    """The state of a run at step 0: shape (3,) in float64, of width 0 for a precision that needs no scale."""
    return torch.tensor([INITIAL, 0.0, 0.0] if precision == "fp16" else [], dtype=torch.float64)


def keep_finite(now: Sequence[Tensor], before: Sequence[Tensor], finite_K1: Tensor) -> None:
    """Put the rows whose gradient is not finite back to what they were. now, before: matrices of shape (K, P)."""
    for held, was in zip(now, before, strict=True):
        torch.where(finite_K1, held, was, out=held)


def advance(state_K3: Tensor, finite_K1: Tensor) -> None:
    """The state after a step, in place; it asks the device for no number. finite_K1: whether the gradient was."""
    scale, streak, skipped = state_K3.unbind(1)
    finite = finite_K1[:, 0]
    longer = torch.where(finite, streak + 1, 0.0)
    grows = longer >= GROWTH_INTERVAL
    grown = torch.where(grows, (scale * GROWTH).float(), scale)  # torch keeps the scale in float32
    scale.copy_(torch.where(finite, torch.where(grown.isfinite(), grown, scale), scale * BACKOFF))
    streak.copy_(torch.where(grows, 0.0, longer))
    skipped.add_(finite.logical_not())
